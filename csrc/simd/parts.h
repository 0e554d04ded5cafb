/* The vocabulary: vectors of LL_LANES virtual lanes, each of LL_PARTS registers. Included at the
 * end of an instruction set's file, which says what it does with one register (`reg`; `reg_mask` is
 * what comparisons give): the functions in r that are lifted here to the same in v. */
#ifndef LL_SIMD_PARTS_H
#define LL_SIMD_PARTS_H

#define LL_PART (LL_LANES / LL_PARTS) /* lanes of a register */

#if LL_PARTS == 1
typedef reg vec;
typedef reg_mask mask;
#define LL_AT(a, i) (a)
#else
typedef struct { reg at[LL_PARTS]; } vec;
typedef struct { reg_mask at[LL_PARTS]; } mask;
#define LL_AT(a, i) (a).at[i]
#endif
#define AT(a) LL_AT(a, i)

/* A statement for each register i. Two are written out: compilers inline more where they see no
 * loop. The last comes first: measured with few classes, gcc then makes them 5 % faster. */
#define LL_ONE(number, statement) { enum { i = number }; statement; }
#if LL_PARTS == 1
#define LL_EACH(statement) LL_ONE(0, statement)
#elif LL_PARTS == 2
#define LL_EACH(statement) LL_ONE(1, statement) LL_ONE(0, statement)
#else
#define LL_EACH(statement) for (int i = 0; i < LL_PARTS; i++) { statement; }
#endif
#define LL_VECTOR(value) vec r; LL_EACH(AT(r) = (value)) return r
#define LL_MASK(value) mask r; LL_EACH(AT(r) = (value)) return r

static inline vec vset(real a) { LL_VECTOR(rset(a)); }
static inline vec vload(const real *p) { LL_VECTOR(rload(p + LL_PART * i)); }
static inline void vstore(real *p, vec a) { LL_EACH(rstore(p + LL_PART * i, AT(a))) }
#if LL_REAL == 32
/* LL_LANES numbers of 16 bits, and the lower and upper halves of as many words. */
static inline vec vnarrow(const int type, const uint16_t *p)
{
    LL_VECTOR(rnarrow(type, p + LL_PART * i));
}
static inline vec vlow(const int type, const uint32_t *p) { LL_VECTOR(rlow(type, p + LL_PART * i)); }
static inline vec vhigh(const int type, const uint32_t *p)
{
    LL_VECTOR(rhigh(type, p + LL_PART * i));
}
#endif
static inline vec vadd(vec a, vec b) { LL_VECTOR(radd(AT(a), AT(b))); }
static inline vec vsub(vec a, vec b) { LL_VECTOR(rsub(AT(a), AT(b))); }
static inline vec vmul(vec a, vec b) { LL_VECTOR(rmul(AT(a), AT(b))); }
static inline vec vdiv(vec a, vec b) { LL_VECTOR(rdiv(AT(a), AT(b))); }
/* a * b + c and c - a * b, rounded once */
static inline vec vfma(vec a, vec b, vec c) { LL_VECTOR(rfma(AT(a), AT(b), AT(c))); }
static inline vec vnfma(vec a, vec b, vec c) { LL_VECTOR(rnfma(AT(a), AT(b), AT(c))); }
/* a > b ? a : b, and with <: the second where either is NaN */
static inline vec vmax(vec a, vec b) { LL_VECTOR(rmax(AT(a), AT(b))); }
static inline vec vmin(vec a, vec b) { LL_VECTOR(rmin(AT(a), AT(b))); }
static inline vec vabs(vec a) { LL_VECTOR(rabs(AT(a))); }
static inline vec vcopysign(vec a, vec sign) { LL_VECTOR(rcopysign(AT(a), AT(sign))); }
static inline vec vround(vec a) { LL_VECTOR(rround(AT(a))); }
/* a * 2^n for whole n, and the same for 0.7 < a < 1.42 and n from -1077 (float32: -151) to 0 */
static inline vec vscale(vec a, vec n) { LL_VECTOR(rscale(AT(a), AT(n))); }
static inline vec vscale_down(vec a, vec n) { LL_VECTOR(rscale_down(AT(a), AT(n))); }
/* n of a = 2^n m with 1 <= m < 2, for normal a > 0 */
static inline vec vexponent(vec a) { LL_VECTOR(rexponent(AT(a))); }
static inline mask vlt(vec a, vec b) { LL_MASK(rlt(AT(a), AT(b))); }
static inline mask vnlt(vec a, vec b) { LL_MASK(rnlt(AT(a), AT(b))); }
static inline mask vle(vec a, vec b) { LL_MASK(rle(AT(a), AT(b))); }
static inline mask veq(vec a, vec b) { LL_MASK(req(AT(a), AT(b))); }
static inline mask vunordered(vec a, vec b) { LL_MASK(runordered(AT(a), AT(b))); }
static inline mask mor(mask a, mask b) { LL_MASK(ror(AT(a), AT(b))); }
static inline unsigned mbits(mask a)
{
    unsigned bits = 0;
    LL_EACH(bits |= rbits(AT(a)) << (LL_PART * i))
    return bits;
}
static inline vec vselect(mask m, vec a, vec b) { LL_VECTOR(rselect(AT(m), AT(a), AT(b))); }

/* The tree that every instruction set follows, halves onto halves: here down to one register. */
static inline reg vfold(vec a)
{
    for (int half = LL_PARTS / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            AT(a) = radd(AT(a), LL_AT(a, i + half));
    return LL_AT(a, 0);
}
static inline real vsum(vec a) { return rsum(vfold(a)); }
static inline real vtop(vec a)
{
    for (int half = LL_PARTS / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            AT(a) = rmax(AT(a), LL_AT(a, i + half));
    return rtop(LL_AT(a, 0));
}
/* The sums of LL_LANES vectors `step` apart, of which the first `count` matter: the tree of vsum,
 * many at a time. */
static inline vec vsums(const real *p, ptrdiff_t step, ptrdiff_t count)
{
    vec sums = vset(0);
    for (int i = 0; i < LL_PARTS && LL_PART * i < count; i++) {
        reg folded[LL_PART];
        LL_UNROLL
        for (int j = 0; j < LL_PART; j++)
            folded[j] = vfold(vload(p + (LL_PART * i + j) * step));
        AT(sums) = rsums(folded);
    }
    return sums;
}

/* LL_LANES rows by as many columns, turned: square after square of a register's lanes. */
static inline void vtranspose(const real *const *row, ptrdiff_t col, vec *out)
{
#if LL_PARTS == 1
    rtranspose(row, col, out);
#else
    reg square[LL_PART];
    for (int j = 0; j < LL_LANES; j += LL_PART)
        for (int q = 0; q < LL_PARTS; q++) {
            rtranspose(row + LL_PART * q, col + j, square);
            for (int i = 0; i < LL_PART; i++)
                out[j + i].at[q] = square[i];
        }
#endif
}

#endif
