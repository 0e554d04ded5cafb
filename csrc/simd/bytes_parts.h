/* The vocabulary of bytes, lifted as parts.h lifts that of reals. Included at the end of an
 * instruction set's file of bytes, which says what it does with one register. */
#ifndef LL_SIMD_BYTES_PARTS_H
#define LL_SIMD_BYTES_PARTS_H

/* Sums of LL_LANES classes; four features of these. */
#if LL_PARTS == 1
typedef ireg ivec;
typedef breg quad_bytes;
#else
typedef struct { ireg at[LL_PARTS]; } ivec;
typedef struct { breg at[LL_PARTS]; } quad_bytes;
#endif

static inline ivec iset(int32_t a)
{
    ivec r;
    LL_EACH(AT(r) = riset(a))
    return r;
}
static inline void istore(int32_t *p, ivec a) { LL_EACH(ristore(p + LL_PART * i, AT(a))) }
static inline quad_bytes bload(const uint8_t *p)
{
    quad_bytes r;
    LL_EACH(AT(r) = rbload(p + 4 * LL_PART * i))
    return r;
}
/* sum + the products with four features of a row */
static inline ivec idot(ivec sum, quad_bytes b, word x)
{
    LL_EACH(AT(sum) = ridot(AT(sum), AT(b), x))
    return sum;
}
static inline vec vconvert(const int32_t *p) { LL_VECTOR(rconvert(p + LL_PART * i)); }
/* Whole numbers from -127 to 127 of four features, as bload wants them, and as bytes. */
static inline void bstore(uint8_t *p, const vec *q)
{
    for (int i = 0; i < LL_PARTS; i++) {
        const reg part[4] = { AT(q[0]), AT(q[1]), AT(q[2]), AT(q[3]) };
        rbstore(p + 4 * LL_PART * i, part);
    }
}
static inline void qstore(int8_t *p, vec q) { LL_EACH(rqstore(p + LL_PART * i, AT(q))) }
/* Half bytes, less 8: the low ones (shift 0) or the high ones (4). */
static inline vec vhalves(const int shift, const uint8_t *p)
{
    LL_VECTOR(rhalves(shift, p + LL_PART * i));
}

#endif
