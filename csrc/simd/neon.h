/* The vocabulary in NEON (AArch64): four q registers are one vector of virtual lanes. */
#ifndef LL_SIMD_NEON_H
#define LL_SIMD_NEON_H

#if !defined(__aarch64__) && !defined(_M_ARM64)
#error "compile this file for 64-bit ARM"
#endif
#include <arm_neon.h>

#define LL_PARTS 4

#if LL_REAL == 32

typedef float32x4_t reg;
typedef uint32x4_t reg_mask;
#define Q(op) op##_f32
static inline reg rscale(reg a, reg n)
{
    int32x4_t e = vcvtq_s32_f32(n), e0 = vshrq_n_s32(e, 1), e1 = vsubq_s32(e, e0);
    int32x4_t one = vdupq_n_s32(127);
    reg s0 = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e0, one), 23));
    reg s1 = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e1, one), 23));
    return vmulq_f32(vmulq_f32(a, s0), s1);
}
static inline reg rscale_down(reg a, reg n)
{
    int32x4_t sum = vreinterpretq_s32_f32(vaddq_f32(n, vdupq_n_f32(0x1.8p23f + 204)));
    reg power = vreinterpretq_f32_s32(vshlq_n_s32(sum, 23));
    return vmulq_f32(vmulq_f32(a, power), vdupq_n_f32(0x1p-77f));
}
static inline reg rexponent(reg a)
{
    int32x4_t e = vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_f32(a), 23));
    return vcvtq_f32_s32(vsubq_s32(e, vdupq_n_s32(127)));
}
static inline reg_mask ror(reg_mask a, reg_mask b) { return vorrq_u32(a, b); }
static inline reg_mask ll_not(reg_mask a) { return vmvnq_u32(a); }
static inline reg rcopysign(reg a, reg sign)
{
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, a);
}
static inline unsigned rbits(reg_mask m)
{
    const uint32_t weight[4] = { 1, 2, 4, 8 };
    return vaddvq_u32(vandq_u32(m, vld1q_u32(weight)));
}
static inline reg rnarrow(const int type, const uint16_t *p)
{
    uint16x4_t half = vld1_u16(p);
    return type == LL_FLOAT16 ? vcvt_f32_f16(vreinterpret_f16_u16(half))
                              : vreinterpretq_f32_u32(vshll_n_u16(half, 16));
}
static inline reg rlow(const int type, const uint32_t *p)
{
    uint32x4_t words = vld1q_u32(p);
    return type == LL_FLOAT16 ? vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(words)))
                              : vreinterpretq_f32_u32(vshlq_n_u32(words, 16));
}
static inline reg rhigh(const int type, const uint32_t *p)
{
    uint32x4_t words = vld1q_u32(p);
    return type == LL_FLOAT16
               ? vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(words, 16)))
               : vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xffff0000u)));
}
static inline real rsum(reg a)
{
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}
static inline reg rsums(const reg *a)
{
    reg b[2];
    for (int i = 0; i < 2; i++) /* lanes i + (i + 2): two registers to one */
        b[i] = vaddq_f32(vcombine_f32(vget_low_f32(a[2 * i]), vget_low_f32(a[2 * i + 1])),
                         vcombine_f32(vget_high_f32(a[2 * i]), vget_high_f32(a[2 * i + 1])));
    return vpaddq_f32(b[0], b[1]); /* i + (i + 1) */
}
static inline void rtranspose(const real *const *row, ptrdiff_t col, reg *out)
{
    reg r0 = vld1q_f32(row[0] + col), r1 = vld1q_f32(row[1] + col);
    reg r2 = vld1q_f32(row[2] + col), r3 = vld1q_f32(row[3] + col);
    float64x2_t a0 = vreinterpretq_f64_f32(vtrn1q_f32(r0, r1));
    float64x2_t a1 = vreinterpretq_f64_f32(vtrn2q_f32(r0, r1));
    float64x2_t a2 = vreinterpretq_f64_f32(vtrn1q_f32(r2, r3));
    float64x2_t a3 = vreinterpretq_f64_f32(vtrn2q_f32(r2, r3));
    out[0] = vreinterpretq_f32_f64(vtrn1q_f64(a0, a2));
    out[1] = vreinterpretq_f32_f64(vtrn1q_f64(a1, a3));
    out[2] = vreinterpretq_f32_f64(vtrn2q_f64(a0, a2));
    out[3] = vreinterpretq_f32_f64(vtrn2q_f64(a1, a3));
}

#else

typedef float64x2_t reg;
typedef uint64x2_t reg_mask;
#define Q(op) op##_f64
static inline reg rscale(reg a, reg n)
{
    int64x2_t e = vcvtq_s64_f64(n), e0 = vshrq_n_s64(e, 1), e1 = vsubq_s64(e, e0);
    int64x2_t one = vdupq_n_s64(1023);
    reg s0 = vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(e0, one), 52));
    reg s1 = vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(e1, one), 52));
    return vmulq_f64(vmulq_f64(a, s0), s1);
}
static inline reg rscale_down(reg a, reg n)
{
    int64x2_t sum = vreinterpretq_s64_f64(vaddq_f64(n, vdupq_n_f64(0x1.8p52 + 1536)));
    reg power = vreinterpretq_f64_s64(vshlq_n_s64(sum, 52));
    return vmulq_f64(vmulq_f64(a, power), vdupq_n_f64(0x1p-513));
}
static inline reg rexponent(reg a)
{
    int64x2_t e = vreinterpretq_s64_u64(vshrq_n_u64(vreinterpretq_u64_f64(a), 52));
    return vcvtq_f64_s64(vsubq_s64(e, vdupq_n_s64(1023)));
}
static inline reg_mask ror(reg_mask a, reg_mask b) { return vorrq_u64(a, b); }
static inline reg_mask ll_not(reg_mask a)
{
    return vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(a)));
}
static inline reg rcopysign(reg a, reg sign)
{
    return vbslq_f64(vdupq_n_u64(0x8000000000000000u), sign, a);
}
static inline unsigned rbits(reg_mask m)
{
    return (unsigned)(vgetq_lane_u64(m, 0) & 1u) | (unsigned)(vgetq_lane_u64(m, 1) & 2u);
}
static inline real rsum(reg a) { return vgetq_lane_f64(a, 0) + vgetq_lane_f64(a, 1); }
static inline reg rsums(const reg *a) { return vpaddq_f64(a[0], a[1]); }
static inline void rtranspose(const real *const *row, ptrdiff_t col, reg *out)
{
    reg r0 = vld1q_f64(row[0] + col), r1 = vld1q_f64(row[1] + col);
    out[0] = vtrn1q_f64(r0, r1);
    out[1] = vtrn2q_f64(r0, r1);
}

#endif

static inline reg rset(real a) { return Q(vdupq_n)(a); }
static inline reg rload(const real *p) { return Q(vld1q)(p); }
static inline void rstore(real *p, reg a) { Q(vst1q)(p, a); }
static inline reg radd(reg a, reg b) { return Q(vaddq)(a, b); }
static inline reg rsub(reg a, reg b) { return Q(vsubq)(a, b); }
static inline reg rmul(reg a, reg b) { return Q(vmulq)(a, b); }
static inline reg rdiv(reg a, reg b) { return Q(vdivq)(a, b); }
static inline reg rfma(reg a, reg b, reg c) { return Q(vfmaq)(c, a, b); }
static inline reg rnfma(reg a, reg b, reg c) { return Q(vfmsq)(c, a, b); }
static inline reg rmax(reg a, reg b) { return Q(vbslq)(Q(vcgtq)(a, b), a, b); }
static inline reg rmin(reg a, reg b) { return Q(vbslq)(Q(vcltq)(a, b), a, b); }
static inline reg rabs(reg a) { return Q(vabsq)(a); }
static inline reg rround(reg a) { return Q(vrndnq)(a); }
static inline reg_mask rlt(reg a, reg b) { return Q(vcltq)(a, b); }
static inline reg_mask rnlt(reg a, reg b) { return ll_not(rlt(a, b)); }
static inline reg_mask rle(reg a, reg b) { return Q(vcleq)(a, b); }
static inline reg_mask req(reg a, reg b) { return Q(vceqq)(a, b); }
static inline reg_mask runordered(reg a, reg b) { return ll_not(ror(Q(vcgeq)(a, b), rlt(a, b))); }
static inline reg rselect(reg_mask m, reg a, reg b) { return Q(vbslq)(m, a, b); }
static inline real rtop(reg a)
{
    real lane[LL_LANES / LL_PARTS];
    rstore(lane, a);
    for (int half = LL_LANES / LL_PARTS / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}

#include "parts.h"
#undef Q
#endif
