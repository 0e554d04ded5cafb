/* Products of bytes in NEON: the dot product instruction where the processor aimed at has it,
 * otherwise products in 16 bits, added in pairs into 32: both exact. Weights lose their 128. */
#ifndef LL_SIMD_BYTES_NEON_H
#define LL_SIMD_BYTES_NEON_H

#define LL_BYTE_OFFSET 0 /* what is left of the 128 that weights have too much */

typedef int32x4_t ireg;
typedef int8x16_t breg;
typedef int32_t word;

static inline ireg riset(int32_t a) { return vdupq_n_s32(a); }
static inline void ristore(int32_t *p, ireg a) { vst1q_s32(p, a); }
static inline breg rbload(const uint8_t *p)
{
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(128)));
}
static inline word make_word(const int8_t *q)
{
    word r;
    memcpy(&r, q, sizeof r);
    return r;
}
static inline ireg ridot(ireg sum, breg b, word x)
{
    int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(x));
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, b, a);
#else
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(b), vget_low_s8(a)));
    int32x4_t high = vpaddlq_s16(vmull_high_s8(b, a));
    return vaddq_s32(sum, vpaddq_s32(low, high));
#endif
}
static inline reg rconvert(const int32_t *p) { return vcvtq_f32_s32(vld1q_s32(p)); }
static inline void rbstore(uint8_t *p, const reg *q)
{
    uint32x4_t bytes = vdupq_n_u32(0), low = vdupq_n_u32(255);
    for (int j = 3; j >= 0; j--) {
        uint32x4_t whole = vreinterpretq_u32_s32(vcvtnq_s32_f32(q[j]));
        bytes = vorrq_u32(vshlq_n_u32(bytes, 8), vandq_u32(whole, low));
    }
    vst1q_u8(p, veorq_u8(vreinterpretq_u8_u32(bytes), vdupq_n_u8(128)));
}
static inline void rqstore(int8_t *p, reg q)
{
    int16x4_t words = vmovn_s32(vcvtnq_s32_f32(q));
    int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
    memcpy(p, &bytes, 4);
}
static inline reg rhalves(const int shift, const uint8_t *p)
{
    uint32_t some;
    memcpy(&some, p, sizeof some);
    uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(some));
    uint32x4_t b = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
    b = vandq_u32(vshlq_u32(b, vdupq_n_s32(-shift)), vdupq_n_u32(15));
    return vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(b), vdupq_n_s32(8)));
}

#include "bytes_parts.h"
#endif
