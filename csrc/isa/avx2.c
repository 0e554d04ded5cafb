/* AVX2 and FMA. Built twice, with LL_REAL 32 and 64. */
#define LL_ISA avx2
#define LL_VOCABULARY "../simd/avx2.h"
#include "../kernels.inc.h"
