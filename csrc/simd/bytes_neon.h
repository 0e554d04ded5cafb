/* Products of bytes in NEON: the dot product instruction where the processor aimed at has it,
 * otherwise products in 16 bits, added in pairs into 32: both exact. Weights lose their 128. */
#ifndef LL_SIMD_BYTES_NEON_H
#define LL_SIMD_BYTES_NEON_H

#define LL_BYTE_OFFSET 0   /* what is left of the 128 that weights have too much */

typedef struct { int32x4_t at[4]; } ivec;
typedef struct { int8x16_t at[4]; } quad_bytes;
typedef int32_t word;

static inline ivec iset(int32_t a)
{
    ivec r;
    for (int i = 0; i < 4; i++)
        r.at[i] = vdupq_n_s32(a);
    return r;
}
static inline void istore(int32_t *p, ivec a)
{
    for (int i = 0; i < 4; i++)
        vst1q_s32(p + 4 * i, a.at[i]);
}
static inline quad_bytes bload(const uint8_t *p)
{
    quad_bytes r;
    for (int i = 0; i < 4; i++)
        r.at[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * i), vdupq_n_u8(128)));
    return r;
}
static inline word make_word(const int8_t *q)
{
    word r;
    memcpy(&r, q, sizeof r);
    return r;
}
static inline ivec idot(ivec sum, quad_bytes b, word x)
{
    int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(x));
    for (int i = 0; i < 4; i++) {
#ifdef __ARM_FEATURE_DOTPROD
        sum.at[i] = vdotq_s32(sum.at[i], b.at[i], a);
#else
        int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(b.at[i]), vget_low_s8(a)));
        int32x4_t high = vpaddlq_s16(vmull_high_s8(b.at[i], a));
        sum.at[i] = vaddq_s32(sum.at[i], vpaddq_s32(low, high));
#endif
    }
    return sum;
}
static inline vec vconvert(const int32_t *p)
{
    vec r;
    for (int i = 0; i < 4; i++)
        r.at[i] = vcvtq_f32_s32(vld1q_s32(p + 4 * i));
    return r;
}
/* Whole numbers from -127 to 127 of four features, as bload wants them. */
static inline void bstore(uint8_t *p, const vec *q)
{
    for (int i = 0; i < 4; i++) {
        uint32x4_t bytes = vdupq_n_u32(0), low = vdupq_n_u32(255);
        for (int j = 3; j >= 0; j--) {
            uint32x4_t whole = vreinterpretq_u32_s32(vcvtnq_s32_f32(q[j].at[i]));
            bytes = vorrq_u32(vshlq_n_u32(bytes, 8), vandq_u32(whole, low));
        }
        vst1q_u8(p + 16 * i, veorq_u8(vreinterpretq_u8_u32(bytes), vdupq_n_u8(128)));
    }
}
/* Whole numbers from -127 to 127 as bytes. */
static inline void qstore(int8_t *p, vec q)
{
    int16x4_t part[4];
    for (int i = 0; i < 4; i++)
        part[i] = vmovn_s32(vcvtnq_s32_f32(q.at[i]));
    vst1_s8(p, vmovn_s16(vcombine_s16(part[0], part[1])));
    vst1_s8(p + 8, vmovn_s16(vcombine_s16(part[2], part[3])));
}

#endif
