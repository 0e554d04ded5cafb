/* Products of bytes in plain C: sums of 16 classes in int32, four features at a time. */
#ifndef LL_SIMD_BYTES_SCALAR_H
#define LL_SIMD_BYTES_SCALAR_H

#define LL_BYTE_OFFSET 128 /* what weights have too much */

typedef struct { int32_t at[16]; } ivec;
typedef struct { uint8_t at[64]; } quad_bytes; /* four features of 16 classes, each plus 128 */
typedef struct { int8_t at[4]; } word;         /* four features of a row */

static inline ivec iset(int32_t a)
{
    ivec r;
    for (int i = 0; i < 16; i++)
        r.at[i] = a;
    return r;
}
static inline void istore(int32_t *p, ivec a) { memcpy(p, a.at, sizeof a.at); }
static inline quad_bytes bload(const uint8_t *p)
{
    quad_bytes r;
    memcpy(r.at, p, sizeof r.at);
    return r;
}
static inline word make_word(const int8_t *q)
{
    word r;
    memcpy(r.at, q, sizeof r.at);
    return r;
}
static inline ivec idot(ivec sum, quad_bytes b, word x)
{
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++)
            sum.at[i] += b.at[4 * i + j] * x.at[j];
    return sum;
}
static inline vec vconvert(const int32_t *p)
{
    vec r;
    for (int i = 0; i < 16; i++)
        r.at[i] = (real)p[i];
    return r;
}
/* Whole numbers from -127 to 127 of four features, as bload wants them. */
static inline void bstore(uint8_t *p, const vec *q)
{
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++)
            p[4 * i + j] = (uint8_t)((int)q[j].at[i] + 128);
}
/* Whole numbers from -127 to 127 as bytes. */
static inline void qstore(int8_t *p, vec q)
{
    for (int i = 0; i < 16; i++)
        p[i] = (int8_t)q.at[i];
}

#endif
