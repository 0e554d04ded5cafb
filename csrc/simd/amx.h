/* The vocabulary of tiles in AMX: eight registers, named by literal numbers.
 *
 * In assembler, as the intrinsics of some compilers do not say all that they read of memory. */
#ifndef LL_SIMD_AMX_H
#define LL_SIMD_AMX_H

#if !defined(__GNUC__) || !defined(__x86_64__)
#error "AMX is of x86-64, and in assembler as gcc and clang have it"
#endif

#include "amx_config.h"

static inline void amx_save(amx_config *to) { __asm__ volatile("sttilecfg %0" : "=m"(*to)); }
static inline void amx_configure(const amx_config *from)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*from));
}
static inline void amx_release(void) { __asm__ volatile("tilerelease" : :); }

/* All that the configuration says of register t, at p, ... with `row` bytes from a row to the next. */
#define amx_load(t, p, row)                                                                      \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"(p), "r"((ptrdiff_t)(row)) : "memory")
#define amx_store(t, p, row)                                                                     \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)"                                         \
                     : : "r"(p), "r"((ptrdiff_t)(row)) : "memory")
#define amx_zero(t) __asm__ volatile("tilezero %%tmm" #t : :)
/* sum += a * b: each word of a row of a, and that row of b, are two numbers of bfloat16, or four
 * bytes, signed in a and unsigned in b. */
#define amx_dot_bf16(sum, a, b)                                                                  \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)
#define amx_dot_bytes(sum, a, b)                                                                 \
    __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

#endif
