/* The vocabulary in plain C: the oracle of all others, and the code of processors without
 * fused multiply-add vectors. Slow there: each fused multiply-add is a call. */
#ifndef LL_SIMD_SCALAR_H
#define LL_SIMD_SCALAR_H

#include <math.h>
#include <string.h>

#if LL_REAL == 32
#define LL_LANES 16
#define LL_FMA fmaf
#define LL_RINT rintf
#define LL_LDEXP ldexpf
#define LL_COPYSIGN copysignf
#define LL_FABS fabsf
static inline real ll_exponent(real a)
{
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    return (real)((int32_t)(bits >> 23) - 127);
}
#else
#define LL_LANES 8
#define LL_FMA fma
#define LL_RINT rint
#define LL_LDEXP ldexp
#define LL_COPYSIGN copysign
#define LL_FABS fabs
static inline real ll_exponent(real a)
{
    uint64_t bits;
    memcpy(&bits, &a, sizeof bits);
    return (real)((int64_t)(bits >> 52) - 1023);
}
#endif

typedef struct { real at[LL_LANES]; } vec;
typedef struct { unsigned bits; } mask;

#define LL_EACH for (int i = 0; i < LL_LANES; i++)
#define LL_VECTOR(value) vec r; LL_EACH r.at[i] = (value); return r
#define LL_MASK(value) mask r = { 0 }; LL_EACH r.bits |= (unsigned)(value) << i; return r

static inline vec vset(real a) { LL_VECTOR(a); }
static inline vec vload(const real *p) { LL_VECTOR(p[i]); }
static inline void vstore(real *p, vec a) { LL_EACH p[i] = a.at[i]; }
static inline vec vadd(vec a, vec b) { LL_VECTOR(a.at[i] + b.at[i]); }
static inline vec vsub(vec a, vec b) { LL_VECTOR(a.at[i] - b.at[i]); }
static inline vec vmul(vec a, vec b) { LL_VECTOR(a.at[i] * b.at[i]); }
static inline vec vdiv(vec a, vec b) { LL_VECTOR(a.at[i] / b.at[i]); }
static inline vec vfma(vec a, vec b, vec c) { LL_VECTOR(LL_FMA(a.at[i], b.at[i], c.at[i])); }
static inline vec vnfma(vec a, vec b, vec c) { LL_VECTOR(LL_FMA(-a.at[i], b.at[i], c.at[i])); }
static inline vec vmax(vec a, vec b) { LL_VECTOR(a.at[i] > b.at[i] ? a.at[i] : b.at[i]); }
static inline vec vmin(vec a, vec b) { LL_VECTOR(a.at[i] < b.at[i] ? a.at[i] : b.at[i]); }
static inline vec vabs(vec a) { LL_VECTOR(LL_FABS(a.at[i])); }
static inline vec vcopysign(vec a, vec sign) { LL_VECTOR(LL_COPYSIGN(a.at[i], sign.at[i])); }
static inline vec vround(vec a) { LL_VECTOR(LL_RINT(a.at[i])); }
/* What is no exponent: NaN, which scales a NaN anyway, and whatever idle lanes hold. */
static inline int ll_integer(real n) { return n > -9999 && n < 9999 ? (int)n : 0; }
static inline vec vscale(vec a, vec n) { LL_VECTOR(LL_LDEXP(a.at[i], ll_integer(n.at[i]))); }
static inline vec vscale_down(vec a, vec n) { return vscale(a, n); } /* n <= 0 */
static inline vec vexponent(vec a) { LL_VECTOR(ll_exponent(a.at[i])); }
static inline mask vlt(vec a, vec b) { LL_MASK(a.at[i] < b.at[i]); }
static inline mask vnlt(vec a, vec b) { LL_MASK(!(a.at[i] < b.at[i])); }
static inline mask vle(vec a, vec b) { LL_MASK(a.at[i] <= b.at[i]); }
static inline mask veq(vec a, vec b) { LL_MASK(a.at[i] == b.at[i]); }
static inline mask vunordered(vec a, vec b) { LL_MASK(isunordered(a.at[i], b.at[i]) != 0); }
static inline mask mor(mask a, mask b)
{
    a.bits |= b.bits;
    return a;
}
static inline unsigned mbits(mask a) { return a.bits; }
static inline vec vselect(mask m, vec a, vec b)
{
    LL_VECTOR((m.bits >> i & 1u) ? a.at[i] : b.at[i]);
}

/* A register: here all of a vector. */
#define LL_PARTS 1
typedef vec reg;
static inline reg rzero(void) { return vset(0); }
static inline reg rload(const real *p) { return vload(p); }
static inline void rstore(real *p, reg a) { vstore(p, a); }
static inline reg rfma(reg a, reg b, reg c) { return vfma(a, b, c); }

/* The tree every instruction set follows: halves onto halves. */
static inline real vsum(vec a)
{
    for (int half = LL_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a.at[i] = a.at[i] + a.at[i + half];
    return a.at[0];
}
static inline real vtop(vec a)
{
    for (int half = LL_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a.at[i] = a.at[i] > a.at[i + half] ? a.at[i] : a.at[i + half];
    return a.at[0];
}
/* The sums of LL_LANES vectors `step` apart, of which the first `count` matter. */
static inline vec vsums(const real *p, ptrdiff_t step, ptrdiff_t count)
{
    real sums[LL_LANES] = { 0 };
    for (ptrdiff_t i = 0; i < count; i++)
        sums[i] = vsum(vload(p + i * step));
    return vload(sums);
}

static inline void vtranspose(const real *const *row, ptrdiff_t col, vec *out)
{
    for (int j = 0; j < LL_LANES; j++)
        LL_EACH out[j].at[i] = row[i][col + j];
}

#endif
