/* The vocabulary in NEON (AArch64): four q registers are one vector of virtual lanes. */
#ifndef LL_SIMD_NEON_H
#define LL_SIMD_NEON_H

#if !defined(__aarch64__) && !defined(_M_ARM64)
#error "compile this file for 64-bit ARM"
#endif
#include <arm_neon.h>

#if LL_REAL == 32

#define LL_LANES 16
typedef float32x4_t quad;
typedef uint32x4_t quad_mask;
#define Q(op) op##_f32
#define QUAD 4
static inline quad ll_scale(quad a, quad n)
{
    int32x4_t e = vcvtq_s32_f32(n), e0 = vshrq_n_s32(e, 1), e1 = vsubq_s32(e, e0);
    int32x4_t one = vdupq_n_s32(127);
    quad s0 = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e0, one), 23));
    quad s1 = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e1, one), 23));
    return vmulq_f32(vmulq_f32(a, s0), s1);
}
static inline quad ll_scale_down(quad a, quad n)
{
    int32x4_t sum = vreinterpretq_s32_f32(vaddq_f32(n, vdupq_n_f32(0x1.8p23f + 204)));
    quad power = vreinterpretq_f32_s32(vshlq_n_s32(sum, 23));
    return vmulq_f32(vmulq_f32(a, power), vdupq_n_f32(0x1p-77f));
}
static inline quad ll_exponent(quad a)
{
    int32x4_t e = vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_f32(a), 23));
    return vcvtq_f32_s32(vsubq_s32(e, vdupq_n_s32(127)));
}
static inline quad_mask ll_or(quad_mask a, quad_mask b) { return vorrq_u32(a, b); }
static inline quad_mask ll_not(quad_mask a) { return vmvnq_u32(a); }
static inline quad ll_copysign(quad a, quad sign)
{
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, a);
}
static inline unsigned ll_bits(quad_mask m)
{
    const uint32_t weight[4] = { 1, 2, 4, 8 };
    return vaddvq_u32(vandq_u32(m, vld1q_u32(weight)));
}
static inline real ll_sum(quad a)
{
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}
static inline void ll_transpose(const real *const *row, ptrdiff_t col, quad *out)
{
    quad r0 = vld1q_f32(row[0] + col), r1 = vld1q_f32(row[1] + col);
    quad r2 = vld1q_f32(row[2] + col), r3 = vld1q_f32(row[3] + col);
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

#define LL_LANES 8
typedef float64x2_t quad;
typedef uint64x2_t quad_mask;
#define Q(op) op##_f64
#define QUAD 2
static inline quad ll_scale(quad a, quad n)
{
    int64x2_t e = vcvtq_s64_f64(n), e0 = vshrq_n_s64(e, 1), e1 = vsubq_s64(e, e0);
    int64x2_t one = vdupq_n_s64(1023);
    quad s0 = vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(e0, one), 52));
    quad s1 = vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(e1, one), 52));
    return vmulq_f64(vmulq_f64(a, s0), s1);
}
static inline quad ll_scale_down(quad a, quad n)
{
    int64x2_t sum = vreinterpretq_s64_f64(vaddq_f64(n, vdupq_n_f64(0x1.8p52 + 1536)));
    quad power = vreinterpretq_f64_s64(vshlq_n_s64(sum, 52));
    return vmulq_f64(vmulq_f64(a, power), vdupq_n_f64(0x1p-513));
}
static inline quad ll_exponent(quad a)
{
    int64x2_t e = vreinterpretq_s64_u64(vshrq_n_u64(vreinterpretq_u64_f64(a), 52));
    return vcvtq_f64_s64(vsubq_s64(e, vdupq_n_s64(1023)));
}
static inline quad_mask ll_or(quad_mask a, quad_mask b) { return vorrq_u64(a, b); }
static inline quad_mask ll_not(quad_mask a)
{
    return vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(a)));
}
static inline quad ll_copysign(quad a, quad sign)
{
    return vbslq_f64(vdupq_n_u64(0x8000000000000000u), sign, a);
}
static inline unsigned ll_bits(quad_mask m)
{
    return (unsigned)(vgetq_lane_u64(m, 0) & 1u) | (unsigned)(vgetq_lane_u64(m, 1) & 2u);
}
static inline real ll_sum(quad a) { return vgetq_lane_f64(a, 0) + vgetq_lane_f64(a, 1); }
static inline void ll_transpose(const real *const *row, ptrdiff_t col, quad *out)
{
    quad r0 = vld1q_f64(row[0] + col), r1 = vld1q_f64(row[1] + col);
    out[0] = vtrn1q_f64(r0, r1);
    out[1] = vtrn2q_f64(r0, r1);
}

#endif

/* A register: a part of a vector. */
#define LL_PARTS 4
typedef quad reg;
static inline reg rzero(void) { return Q(vdupq_n)(0); }
static inline reg rload(const real *p) { return Q(vld1q)(p); }
static inline void rstore(real *p, reg a) { Q(vst1q)(p, a); }
static inline reg rfma(reg a, reg b, reg c) { return Q(vfmaq)(c, a, b); }

typedef struct { quad at[4]; } vec;
typedef struct { quad_mask at[4]; } mask;

#define LL_EACH for (int i = 0; i < 4; i++)
#define LL_VECTOR(value) vec r; LL_EACH r.at[i] = (value); return r
#define LL_MASK(value) mask r; LL_EACH r.at[i] = (value); return r

/* a > b ? a : b, as x86 has it: the second where either is NaN. */
static inline quad ll_max(quad a, quad b) { return Q(vbslq)(Q(vcgtq)(a, b), a, b); }
static inline quad ll_min(quad a, quad b) { return Q(vbslq)(Q(vcltq)(a, b), a, b); }

static inline vec vset(real a) { LL_VECTOR(Q(vdupq_n)(a)); }
static inline vec vload(const real *p) { LL_VECTOR(Q(vld1q)(p + QUAD * i)); }
static inline void vstore(real *p, vec a) { LL_EACH Q(vst1q)(p + QUAD * i, a.at[i]); }
static inline vec vadd(vec a, vec b) { LL_VECTOR(Q(vaddq)(a.at[i], b.at[i])); }
static inline vec vsub(vec a, vec b) { LL_VECTOR(Q(vsubq)(a.at[i], b.at[i])); }
static inline vec vmul(vec a, vec b) { LL_VECTOR(Q(vmulq)(a.at[i], b.at[i])); }
static inline vec vdiv(vec a, vec b) { LL_VECTOR(Q(vdivq)(a.at[i], b.at[i])); }
static inline vec vfma(vec a, vec b, vec c) { LL_VECTOR(Q(vfmaq)(c.at[i], a.at[i], b.at[i])); }
static inline vec vnfma(vec a, vec b, vec c) { LL_VECTOR(Q(vfmsq)(c.at[i], a.at[i], b.at[i])); }
static inline vec vmax(vec a, vec b) { LL_VECTOR(ll_max(a.at[i], b.at[i])); }
static inline vec vmin(vec a, vec b) { LL_VECTOR(ll_min(a.at[i], b.at[i])); }
static inline vec vabs(vec a) { LL_VECTOR(Q(vabsq)(a.at[i])); }
static inline vec vcopysign(vec a, vec sign) { LL_VECTOR(ll_copysign(a.at[i], sign.at[i])); }
static inline vec vround(vec a) { LL_VECTOR(Q(vrndnq)(a.at[i])); }
static inline vec vscale(vec a, vec n) { LL_VECTOR(ll_scale(a.at[i], n.at[i])); }
/* The same for 0.7 < a < 1.42 and n from -1077 (float32: -151) to 0. The last bits of n plus a
 * large number are an exponent to multiply with; what it is too large by comes off in the only
 * rounding. */
static inline vec vscale_down(vec a, vec n)
{
    LL_VECTOR(ll_scale_down(a.at[i], n.at[i]));
}
static inline vec vexponent(vec a) { LL_VECTOR(ll_exponent(a.at[i])); }
static inline mask vlt(vec a, vec b) { LL_MASK(Q(vcltq)(a.at[i], b.at[i])); }
static inline mask vnlt(vec a, vec b) { LL_MASK(ll_not(Q(vcltq)(a.at[i], b.at[i]))); }
static inline mask vle(vec a, vec b) { LL_MASK(Q(vcleq)(a.at[i], b.at[i])); }
static inline mask veq(vec a, vec b) { LL_MASK(Q(vceqq)(a.at[i], b.at[i])); }
static inline mask vunordered(vec a, vec b)
{
    LL_MASK(ll_not(ll_or(Q(vcgeq)(a.at[i], b.at[i]), Q(vcltq)(a.at[i], b.at[i]))));
}
static inline mask mor(mask a, mask b) { LL_MASK(ll_or(a.at[i], b.at[i])); }
static inline unsigned mbits(mask a)
{
    unsigned bits = 0;
    LL_EACH bits |= ll_bits(a.at[i]) << (QUAD * i);
    return bits;
}
static inline vec vselect(mask m, vec a, vec b)
{
    LL_VECTOR(Q(vbslq)(m.at[i], a.at[i], b.at[i]));
}
static inline real vsum(vec a)
{
    return ll_sum(Q(vaddq)(Q(vaddq)(a.at[0], a.at[2]), Q(vaddq)(a.at[1], a.at[3])));
}
static inline real vtop(vec a)
{
    real lane[QUAD];
    Q(vst1q)(lane, ll_max(ll_max(a.at[0], a.at[2]), ll_max(a.at[1], a.at[3])));
    for (int half = QUAD / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
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
    quad square[QUAD];
    for (int j = 0; j < LL_LANES; j += QUAD)
        for (int q = 0; q < 4; q++) {
            ll_transpose(row + QUAD * q, col + j, square);
            for (int i = 0; i < QUAD; i++)
                out[j + i].at[q] = square[i];
        }
}

/* LL_SQUARE rows by as many columns, turned and stored. */
#define LL_SQUARE (LL_LANES / 4)
static inline void vsquare(const real *const *row, ptrdiff_t col, real *out, ptrdiff_t out_row)
{
    quad square[QUAD];
    ll_transpose(row, col, square);
    for (int i = 0; i < QUAD; i++)
        Q(vst1q)(out + i * out_row, square[i]);
}

#undef LL_EACH
#undef LL_VECTOR
#undef LL_MASK
#undef Q
#undef QUAD
#endif
