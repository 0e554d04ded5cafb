/* What all kernel files share: the type of a real, attributes and pragmas of the compilers, the
 * vocabulary. Included after LL_REAL (32 or 64), LL_ISA and LL_VOCABULARY. */
#ifndef LL_BASE_H
#define LL_BASE_H
#include <float.h>
#include <math.h>
#include <string.h>

#ifdef _MSC_VER
#include <intrin.h>
#endif

#include "../logitless.h"

/* Each operation must round to its own type, and none may be reordered: the bits depend on it. */
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "logitless needs float arithmetic in float: -std=gnu11, on 32-bit x86 -msse2 -mfpmath=sse"
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "logitless needs exact arithmetic: build it without -ffast-math and -Ofast"
#endif

#if LL_REAL == 32
typedef float real;
#define R(x) x##f
#elif LL_REAL == 64
typedef double real;
#define R(x) x
#else
#error "LL_REAL must be 32 or 64"
#endif

/* Virtual lanes of a vector, on every instruction set. */
#define LL_LANES (512 / LL_REAL)

/* For functions that are templates: their constant arguments must reach the loops. */
#if defined(_MSC_VER)
#define LL_TEMPLATE static __forceinline
#elif defined(__GNUC__)
#define LL_TEMPLATE static inline __attribute__((always_inline))
#else
#define LL_TEMPLATE static inline
#endif

/* For loops over registers: an array of vectors stays in registers only when each index is a
 * constant. */
#if defined(__clang__)
#define LL_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define LL_UNROLL _Pragma("GCC unroll 16")
#else
#define LL_UNROLL
#endif

/* For loops over features: as many turns as it has. */
#if defined(__clang__)
#define LL_ROLLED _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define LL_ROLLED _Pragma("GCC unroll 1")
#else
#define LL_ROLLED
#endif

/* Hints; the address need not be readable. The second leaves L1 to what is in use. */
static inline void prefetch(const void *p)
{
#if defined(__GNUC__)
    __builtin_prefetch(p);
#elif defined(_M_X64)
    _mm_prefetch((const char *)p, _MM_HINT_T0);
#else
    (void)p;
#endif
}
static inline void prefetch_to_l2(const void *p)
{
#if defined(__GNUC__)
    __builtin_prefetch(p, 0, 2);
#elif defined(_M_X64)
    _mm_prefetch((const char *)p, _MM_HINT_T1);
#else
    (void)p;
#endif
}

/* The place of the lowest bit that is set; there is one. */
static inline ptrdiff_t lowest_bit(unsigned bits)
{
#if defined(_MSC_VER)
    unsigned long place;
    _BitScanForward(&place, bits);
    return (ptrdiff_t)place;
#elif defined(__GNUC__)
    return __builtin_ctz(bits);
#else
    ptrdiff_t place = 0;
    while (!(bits >> place & 1u))
        place++;
    return place;
#endif
}

/* A number of 16 bits, LL_BFLOAT16 or LL_FLOAT16. */
static inline float ll_widen(const int type, uint32_t half)
{
    uint32_t number = half & 0x7fffu, bits = half << 16;
    float r;

    if (type == LL_FLOAT16) { /* 5 bits of exponent, 10 of fraction */
        if (number < 0x400)   /* subnormal there */
            return half == number ? 0x1p-24f * (float)number : -0x1p-24f * (float)number;
        bits = ((half - number) << 16) + (number << 13)
             + (number < 0x7c00 ? 112u << 23 : 0x70000000u);
    }
    memcpy(&r, &bits, sizeof r);
    return r;
}

#define LL_PASTE(name, suffix) name##_##suffix
#define LL_JOIN(name, suffix) LL_PASTE(name, suffix)

#include LL_VOCABULARY
#include "shapes.h"

#define LL_INF ((real)INFINITY)

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t vectors(ptrdiff_t count) { return (count + LL_LANES - 1) / LL_LANES; }
/* Of 16 bits, those of one class. */
static inline ptrdiff_t word_count(ptrdiff_t k) { return (k + 1) / 2; }

#endif
