/* Products of bytes in plain C: sums of 16 classes in int32, four features at a time. */
#ifndef LL_SIMD_BYTES_SCALAR_H
#define LL_SIMD_BYTES_SCALAR_H

#define LL_BYTE_OFFSET 128 /* what weights have too much */

typedef int32_t ireg;
typedef struct { uint8_t at[4]; } breg;
typedef struct { int8_t at[4]; } word;

static inline ireg riset(int32_t a) { return a; }
static inline void ristore(int32_t *p, ireg a) { *p = a; }
static inline breg rbload(const uint8_t *p)
{
    breg r;
    memcpy(r.at, p, sizeof r.at);
    return r;
}
static inline word make_word(const int8_t *q)
{
    word r;
    memcpy(r.at, q, sizeof r.at);
    return r;
}
static inline ireg ridot(ireg sum, breg b, word x)
{
    for (int j = 0; j < 4; j++)
        sum += b.at[j] * x.at[j];
    return sum;
}
static inline reg rconvert(const int32_t *p) { return (reg)*p; }
static inline void rbstore(uint8_t *p, const reg *q)
{
    for (int j = 0; j < 4; j++)
        p[j] = (uint8_t)((int)q[j] + 128);
}
static inline void rqstore(int8_t *p, reg q) { *p = (int8_t)q; }
static inline reg rhalves(const int shift, const uint8_t *p)
{
    return (reg)((*p >> shift & 15) - 8);
}

#include "bytes_parts.h"
#endif
