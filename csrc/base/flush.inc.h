/* Arithmetic in which subnormal numbers count as zero, inputs and results, with the sign they have:
 * that of products of bfloat16. A result is subnormal if rounding it with an unbounded exponent
 * leaves it below the smallest normal number.
 *
 * Processors have a mode for it, set here for the time of a computation; what the caller had set is
 * put back. ARM's decides before it rounds, but says when it has flushed anything: such sums are
 * computed once more as plain C does all of them, number by number. */
#ifndef LL_FLUSH_H
#define LL_FLUSH_H

#if LL_PARTS == LL_LANES
#define LL_FLUSHES 0 /* plain C: number by number */
#else
#define LL_FLUSHES 1
#endif
/* Whether sums may have to be computed number by number. */
#if LL_FLUSHES && (defined(__x86_64__) || defined(_M_X64))
#define LL_BY_NUMBER 0
#else
#define LL_BY_NUMBER 1
#endif

#if LL_FLUSHES && (defined(__x86_64__) || defined(_M_X64))
typedef unsigned flush_mode;
/* Flush, round to nearest, and no exceptions. */
static inline flush_mode begin_flushing(void)
{
    const flush_mode before = _mm_getcsr();
    _mm_setcsr(0x9fc0u);
    return before;
}
/* Whether all must be computed once more, number by number. */
static inline int end_flushing(flush_mode before)
{
    _mm_setcsr(before);
    return 0;
}
#elif LL_FLUSHES
typedef struct {
    uint64_t control, status;
} flush_mode;
static inline flush_mode begin_flushing(void)
{
    flush_mode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before.control));
    __asm__ volatile("mrs %0, fpsr" : "=r"(before.status));
    __asm__ volatile("msr fpsr, %0" : : "r"((uint64_t)0));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24 /* FZ */) : "memory");
    return before;
}
static inline int end_flushing(flush_mode before)
{
    uint64_t status;
    __asm__ volatile("mrs %0, fpsr" : "=r"(status) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(before.control));
    __asm__ volatile("msr fpsr, %0" : : "r"(before.status) : "memory");
    return (status & (1u << 7 | 1u << 3)) != 0; /* an input, a result */
}
#else
typedef int flush_mode;
static inline flush_mode begin_flushing(void) { return 0; }
static inline int end_flushing(flush_mode before) { return before; }
#endif

/* What the compiler must not move out of the time between begin_flushing and end_flushing. */
#if defined(_MSC_VER)
#define LL_APART static __declspec(noinline)
#elif defined(__GNUC__)
#define LL_APART static __attribute__((noinline))
#else
#define LL_APART static
#endif

static inline float flushed(float a) { return fabsf(a) < FLT_MIN ? copysignf(0, a) : a; }

static inline float flushed_sum(float a, float b) { return flushed(flushed(a) + flushed(b)); }

/* Of bfloat16 and a sum: the product is exact in double, and so is what is near 2^-126 beside it. */
static inline float flushed_fma(float a, float b, float c)
{
    const float r = fmaf(flushed(a), flushed(b), flushed(c));

    if (fabsf(r) <= FLT_MIN
        && fabs((double)flushed(a) * (double)flushed(b) + (double)flushed(c))
               < (double)FLT_MIN - 0x1p-151)
        return copysignf(0, r);
    return r;
}

/* Both in registers, number by number or as the processor does it. */
LL_TEMPLATE reg chain_fma(const int by_number, reg a, reg b, reg c)
{
    real p[LL_PART], q[LL_PART], r[LL_PART];

    if (!by_number)
        return rfma(a, b, c);
    rstore(p, a);
    rstore(q, b);
    rstore(r, c);
    for (ptrdiff_t i = 0; i < LL_PART; i++)
        r[i] = flushed_fma(p[i], q[i], r[i]);
    return rload(r);
}
LL_TEMPLATE reg chain_add(const int by_number, reg a, reg b)
{
    real p[LL_PART], q[LL_PART];

    if (!by_number)
        return radd(a, b);
    rstore(p, a);
    rstore(q, b);
    for (ptrdiff_t i = 0; i < LL_PART; i++)
        p[i] = flushed_sum(p[i], q[i]);
    return rload(p);
}

#endif
