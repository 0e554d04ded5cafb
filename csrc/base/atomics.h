/* Numbers that threads share: each operation is whole, and in one order for all of them. */
#ifndef LL_ATOMICS_H
#define LL_ATOMICS_H
#include <stdint.h>

#ifdef _MSC_VER
#include <intrin.h>
#endif

static inline int64_t ll_read(int64_t *p)
{
#ifdef _MSC_VER
    return _InterlockedOr64(p, 0);
#else
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
#endif
}

/* Add, and give back what was there. */
static inline int64_t ll_add(int64_t *p, int64_t value)
{
#ifdef _MSC_VER
    return _InterlockedExchangeAdd64(p, value);
#else
    return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
#endif
}

/* Put `value` in the place of `old`, unless something else is there. */
static inline int ll_replace(int64_t *p, int64_t old, int64_t value)
{
#ifdef _MSC_VER
    return _InterlockedCompareExchange64(p, value, old) == old;
#else
    return __atomic_compare_exchange_n(p, &old, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
#endif
}

/* A turn of a loop that waits for another thread. */
static inline void ll_relax(void)
{
#if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
    _mm_pause();
#elif defined(_MSC_VER)
    __isb(_ARM64_BARRIER_SY);
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory"); /* some 10 ns; a yield is none */
#endif
}

#endif
