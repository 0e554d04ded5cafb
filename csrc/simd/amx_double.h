/* The vocabulary of tiles in plain C, with the bits of AMX: for tests where no processor has it. What
 * a processor would refuse ends the program. */
#ifndef LL_SIMD_AMX_DOUBLE_H
#define LL_SIMD_AMX_DOUBLE_H

#include <stdlib.h>

#include "../base/flush.inc.h"
#include "amx_config.h"

typedef struct {
    unsigned char at[LL_AMX_ROWS][LL_AMX_BYTES];
} amx_register;

/* Those of a thread, whichever file is at work. */
__attribute__((weak)) _Thread_local amx_config amx_current;
__attribute__((weak)) _Thread_local amx_register amx_registers[LL_AMX_REGISTERS];

static inline void amx_insist(int allowed)
{
    if (!allowed)
        abort();
}

static inline void amx_save(amx_config *to) { *to = amx_current; }
static inline void amx_release(void)
{
    memset(&amx_current, 0, sizeof amx_current);
    memset(amx_registers, 0, sizeof amx_registers);
}
static inline void amx_configure(const amx_config *from)
{
    amx_release();
    amx_insist(from->palette <= 1 && from->start_row == 0);
    for (size_t i = 0; i < sizeof from->zeros; i++)
        amx_insist(from->zeros[i] == 0);
    for (int t = 0; t < 16; t++) {
        amx_insist(from->rows[t] <= LL_AMX_ROWS && from->bytes[t] <= LL_AMX_BYTES);
        amx_insist(!from->rows[t] == !from->bytes[t] && (t < LL_AMX_REGISTERS || !from->rows[t]));
    }
    if (from->palette)
        amx_current = *from;
}

static inline void amx_double_zero(int t)
{
    amx_insist(amx_current.palette == 1 && amx_current.rows[t] > 0);
    memset(&amx_registers[t], 0, sizeof amx_registers[t]);
}
static inline void amx_double_load(int t, const void *p, ptrdiff_t row)
{
    amx_double_zero(t);
    for (int r = 0; r < amx_current.rows[t]; r++)
        memcpy(amx_registers[t].at[r], (const char *)p + r * row, amx_current.bytes[t]);
}
static inline void amx_double_store(int t, void *p, ptrdiff_t row)
{
    amx_insist(amx_current.palette == 1 && amx_current.rows[t] > 0);
    for (int r = 0; r < amx_current.rows[t]; r++)
        memcpy((char *)p + r * row, amx_registers[t].at[r], amx_current.bytes[t]);
}

/* One step of a sum: even features are a chain from zero, odd ones another. */
static inline void amx_word_bf16(float *sum, const unsigned char *a, ptrdiff_t words,
                                 const unsigned char *b)
{
    float even = 0, odd = 0;

    for (ptrdiff_t q = 0; q < words; q++) {
        uint16_t x[2];
        uint32_t w;
        memcpy(x, a + 4 * q, sizeof x);
        memcpy(&w, b + LL_AMX_BYTES * q, sizeof w);
        even = flushed_fma(ll_widen(LL_BFLOAT16, x[0]), ll_widen(LL_BFLOAT16, w & 0xffff), even);
        odd = flushed_fma(ll_widen(LL_BFLOAT16, x[1]), ll_widen(LL_BFLOAT16, w >> 16), odd);
    }
    *sum = flushed_sum(*sum, flushed_sum(even, odd));
}
/* The same of bytes, modulo 2^32. */
static inline void amx_word_bytes(uint32_t *sum, const unsigned char *a, ptrdiff_t words,
                                  const unsigned char *b)
{
    for (ptrdiff_t q = 0; q < words; q++)
        for (int j = 0; j < 4; j++)
            *sum += (uint32_t)((int)(int8_t)a[4 * q + j] * b[LL_AMX_BYTES * q + j]);
}

static inline void amx_double_dot(int sum, int a, int b, int of_bf16)
{
    const int rows = amx_current.rows[sum], bytes = amx_current.bytes[sum];

    amx_insist(amx_current.palette == 1 && sum != a && a != b && b != sum);
    amx_insist(rows > 0 && rows == amx_current.rows[a] && bytes == amx_current.bytes[b]);
    amx_insist(amx_current.bytes[a] == 4 * amx_current.rows[b]);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < bytes; c += 4) {
            unsigned char *at = amx_registers[sum].at[r] + c;
            const unsigned char *from = amx_registers[a].at[r], *with = amx_registers[b].at[0] + c;
            float number;
            uint32_t whole;
            if (of_bf16) {
                memcpy(&number, at, sizeof number);
                amx_word_bf16(&number, from, amx_current.rows[b], with);
                memcpy(at, &number, sizeof number);
            } else {
                memcpy(&whole, at, sizeof whole);
                amx_word_bytes(&whole, from, amx_current.rows[b], with);
                memcpy(at, &whole, sizeof whole);
            }
        }
}

#define amx_load(t, p, row) amx_double_load(t, p, row)
#define amx_store(t, p, row) amx_double_store(t, p, row)
#define amx_zero(t) amx_double_zero(t)
#define amx_dot_bf16(sum, a, b) amx_double_dot(sum, a, b, 1)
#define amx_dot_bytes(sum, a, b) amx_double_dot(sum, a, b, 0)

#endif
