/* Products of bfloat16 by NEON's BFMLALB and BFMLALT, multiply-adds of the lower and of the upper
 * halves of words: of the even and of the odd features of a row, whose word meets those of classes. */
#include "../base/flush.inc.h"

#if !defined(_MSC_VER) && !defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#error "compile this file with bfloat16 enabled"
#endif

#define LL_BF16_ROWS 12
#define LL_ROW_NUMBERS 1   /* to a word */
#define LL_NUMBERS_AHEAD 3 /* rows are loaded by fours */
typedef uint32_t row_number;

static inline row_number pack_number(const uint16_t *x, ptrdiff_t p, ptrdiff_t k)
{
    return (p < k ? (uint32_t)x[p] : 0) | (p + 1 < k ? (uint32_t)x[p + 1] << 16 : 0);
}

/* Number by number: a word's feature of row i of a micro-panel. */
static inline float feature(const row_number *a, ptrdiff_t height, ptrdiff_t i, ptrdiff_t odd)
{
    (void)height;
    return ll_widen(LL_BFLOAT16, odd ? a[i] >> 16 : a[i] & 0xffff);
}

/* Those of row i + r, which is a constant here and in the instruction. */
#define LL_ADD_ROW(r)                                                                            \
    if (i + (r) < height) {                                                                      \
        even[i + (r)] = vbfmlalbq_laneq_f32(even[i + (r)], w, x, 2 * (r));                       \
        odd[i + (r)] = vbfmlaltq_laneq_f32(odd[i + (r)], w, x, 2 * (r) + 1);                     \
    }

/* A word of each row and of a register of classes, into their two chains. */
LL_TEMPLATE void add_word(const int height, reg *even, reg *odd, const row_number *a,
                          const uint32_t *b)
{
    const bfloat16x8_t w = vreinterpretq_bf16_u32(vld1q_u32(b));

    LL_UNROLL
    for (int i = 0; i < height; i += 4) {
        const bfloat16x8_t x = vreinterpretq_bf16_u32(vld1q_u32(a + i));
        LL_ADD_ROW(0)
        LL_ADD_ROW(1)
        LL_ADD_ROW(2)
        LL_ADD_ROW(3)
    }
}

/* The same without memory. Of the constant 1 gcc 12 makes one of float16. */
static inline void spin_word(reg *even, reg *odd)
{
    const bfloat16x8_t one = vreinterpretq_bf16_u32(vdupq_n_u32(0x3f813f81u));

    *even = vbfmlalbq_f32(*even, one, one);
    *odd = vbfmlaltq_f32(*odd, one, one);
}

#include "chains.inc.h"
