/* Everything of one instruction set and one precision: included by the ISA's file after
 * LL_REAL (32 or 64, by the build) and LL_ISA. */
#include <math.h>
#include <string.h>

#ifdef _MSC_VER
#include <intrin.h>
#endif

#include "../logitless.h"

#if LL_REAL == 32
typedef float real;
#define R(x) x##f
#elif LL_REAL == 64
typedef double real;
#define R(x) x
#else
#error "LL_REAL must be 32 or 64"
#endif

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

/* A hint; the address need not be readable. */
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

#include LL_VOCABULARY

#define LL_BLOCK (LL_BLOCK_VECS * LL_LANES)
#define LL_SPAN (LL_SPAN_BLOCKS * LL_BLOCK)
#define LL_INF ((real)INFINITY)

#include "elementary.inc.h"
#include "pack.inc.h"
#include "gemm.inc.h"
#include "dot.inc.h"
#include "topk.inc.h"
#include "softmax.inc.h"
#include "square.inc.h"
#include "state.inc.h"
#include "score.inc.h"
#include "finish.inc.h"
#include "derivative.inc.h"
#include "gradient.inc.h"
#include "limits.inc.h"

#define LL_PASTE(isa, bits) ll_kernels_##isa##_##bits
#define LL_TABLE(isa, bits) LL_PASTE(isa, bits)
extern const ll_kernels LL_TABLE(LL_ISA, LL_REAL);
const ll_kernels LL_TABLE(LL_ISA, LL_REAL) = {
    LL_LANES, LL_MR, LL_BLOCK, LL_SPAN,
    pack_x, pack_weight, scratch_bytes, init_state, score, target_logits, merge_rows,
    merge_top, normalise, finish, sort_top, group_rows, keep_size, pack_columns, gradient_bytes,
    gradient_logits, gradient_x, map_function, nll_rows, spin_fma, spin_read,
};
