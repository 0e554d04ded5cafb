/* AVX-512 F and DQ. Built twice, with LL_REAL 32 and 64. */
#define LL_ISA avx512
#define LL_VOCABULARY "../simd/avx512.h"
#include "../kernels.inc.h"
