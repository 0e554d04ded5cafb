/* The vocabulary in plain C, where a register is one number: the oracle of all others, and the
 * code of processors without fused multiply-add vectors. Slow there: each fused multiply-add is a
 * call. */
#ifndef LL_SIMD_SCALAR_H
#define LL_SIMD_SCALAR_H

#include <math.h>
#include <string.h>

#if defined(__MINGW32__) && !defined(__FMA__)
#error "logitless needs an fma that rounds once, and that of MinGW's library does not: use MSVC"
#endif

#define LL_PARTS LL_LANES
typedef real reg;
typedef int reg_mask;

#if LL_REAL == 32
static inline reg rnarrow(const int type, const uint16_t *p) { return ll_widen(type, *p); }
static inline reg rlow(const int type, const uint32_t *p) { return ll_widen(type, *p & 0xffff); }
static inline reg rhigh(const int type, const uint32_t *p) { return ll_widen(type, *p >> 16); }
static inline reg rexponent(reg a)
{
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    return (real)((int32_t)(bits >> 23) - 127);
}
#else
static inline reg rexponent(reg a)
{
    uint64_t bits;
    memcpy(&bits, &a, sizeof bits);
    return (real)((int64_t)(bits >> 52) - 1023);
}
#endif

static inline reg rset(real a) { return a; }
static inline reg rload(const real *p) { return *p; }
static inline void rstore(real *p, reg a) { *p = a; }
static inline reg radd(reg a, reg b) { return a + b; }
static inline reg rsub(reg a, reg b) { return a - b; }
static inline reg rmul(reg a, reg b) { return a * b; }
static inline reg rdiv(reg a, reg b) { return a / b; }
static inline reg rfma(reg a, reg b, reg c) { return R(fma)(a, b, c); }
static inline reg rnfma(reg a, reg b, reg c) { return R(fma)(-a, b, c); }
static inline reg rmax(reg a, reg b) { return a > b ? a : b; }
static inline reg rmin(reg a, reg b) { return a < b ? a : b; }
static inline reg rabs(reg a) { return R(fabs)(a); }
static inline reg rcopysign(reg a, reg sign) { return R(copysign)(a, sign); }
static inline reg rround(reg a) { return R(rint)(a); }
/* What is no exponent: NaN, which scales a NaN anyway, and whatever idle lanes hold. */
static inline int ll_integer(real n) { return n > -9999 && n < 9999 ? (int)n : 0; }
static inline reg rscale(reg a, reg n) { return R(ldexp)(a, ll_integer(n)); }
static inline reg rscale_down(reg a, reg n) { return rscale(a, n); }
static inline reg_mask rlt(reg a, reg b) { return a < b; }
static inline reg_mask rnlt(reg a, reg b) { return !(a < b); }
static inline reg_mask rle(reg a, reg b) { return a <= b; }
static inline reg_mask req(reg a, reg b) { return a == b; }
static inline reg_mask runordered(reg a, reg b) { return isunordered(a, b) != 0; }
static inline reg_mask ror(reg_mask a, reg_mask b) { return a | b; }
static inline unsigned rbits(reg_mask a) { return (unsigned)a; }
static inline reg rselect(reg_mask m, reg a, reg b) { return m ? a : b; }
static inline real rsum(reg a) { return a; }
static inline real rtop(reg a) { return a; }
static inline reg rsums(const reg *a) { return a[0]; }
static inline void rtranspose(const real *const *row, ptrdiff_t col, reg *out)
{
    memcpy(out, row[0] + col, sizeof *out); /* of any alignment */
}

#include "parts.h"
#endif
