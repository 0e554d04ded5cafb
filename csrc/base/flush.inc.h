/* Arithmetic in which subnormal numbers count as zero, inputs and results, with the sign they have:
 * that of products of bfloat16. A result is subnormal if rounding it with an unbounded exponent
 * leaves it below the smallest normal number.
 *
 * Processors have a mode for it, set here for the time of a computation; what the caller had set is
 * put back. ARM's decides before it rounds, but says when it has flushed a result: such sums are
 * computed once more as plain C does all of them, number by number. */
#ifndef LL_FLUSH_H
#define LL_FLUSH_H

#define LL_FLUSHES (LL_PARTS < LL_LANES) /* plain C does not */

#if LL_FLUSHES && (defined(__x86_64__) || defined(_M_X64))
typedef unsigned flush_mode;
/* Flush, round to nearest, and no exceptions. */
static inline flush_mode begin_flushing(void)
{
    const flush_mode before = _mm_getcsr();
    _mm_setcsr(0x9fc0u);
    return before;
}
static inline void end_flushing(flush_mode before) { _mm_setcsr(before); }
/* Whether what was computed last must be computed number by number. */
static inline int is_by_number(void) { return 0; }
#elif LL_FLUSHES
typedef struct {
    uint64_t control, status;
} flush_mode;
#ifdef _MSC_VER
static inline uint64_t read_control(void) { return (uint64_t)_ReadStatusReg(ARM64_FPCR); }
static inline uint64_t read_status(void) { return (uint64_t)_ReadStatusReg(ARM64_FPSR); }
static inline void write_control(uint64_t to) { _WriteStatusReg(ARM64_FPCR, (__int64)to); }
static inline void write_status(uint64_t to) { _WriteStatusReg(ARM64_FPSR, (__int64)to); }
#else
static inline uint64_t read_control(void)
{
    uint64_t r;
    __asm__ volatile("mrs %0, fpcr" : "=r"(r) : : "memory");
    return r;
}
static inline uint64_t read_status(void)
{
    uint64_t r;
    __asm__ volatile("mrs %0, fpsr" : "=r"(r) : : "memory");
    return r;
}
static inline void write_control(uint64_t to)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(to) : "memory");
}
static inline void write_status(uint64_t to)
{
    __asm__ volatile("msr fpsr, %0" : : "r"(to) : "memory");
}
#endif
static inline flush_mode begin_flushing(void)
{
    const flush_mode before = { read_control(), read_status() };
    write_status(0);
    write_control(1u << 24 /* FZ */);
    return before;
}
static inline void end_flushing(flush_mode before)
{
    write_control(before.control);
    write_status(before.status);
}
/* Inputs are flushed as they should be, and are told of apart from results. */
static inline int is_by_number(void)
{
    if (!(read_status() & 1u << 3 /* UFC */))
        return 0;
    write_status(0);
    return 1;
}
#else
typedef int flush_mode;
static inline flush_mode begin_flushing(void) { return 0; }
static inline void end_flushing(flush_mode before) { (void)before; }
static inline int is_by_number(void) { return 1; }
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

/* Of bfloat16 and a sum: the product is exact in double, and so is what is near 2^-126 beside it. A
 * processor that flushes may have made 0 of 2^-126. */
static inline float flushed_fma(float a, float b, float c)
{
    const float r = fmaf(flushed(a), flushed(b), flushed(c));

    if (fabsf(r) > FLT_MIN || isnan(r))
        return r;
    const double exact = (double)flushed(a) * (double)flushed(b) + (double)flushed(c);
    return copysignf(fabs(exact) < (double)FLT_MIN - 0x1p-151 ? 0 : FLT_MIN, r);
}

/* The sum of two registers. */
static inline reg flushed_add(reg a, reg b)
{
#if LL_FLUSHES
    return radd(a, b);
#else
    return flushed_sum(a, b);
#endif
}

#endif
