/* NEON of 64-bit ARM. Built twice, with LL_REAL 32 and 64. */
#define LL_ISA neon
#define LL_VOCABULARY "../simd/neon.h"
#include "../kernels.inc.h"
