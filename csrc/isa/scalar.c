/* Plain C. Built twice, with LL_REAL 32 and 64. */
#define LL_ISA scalar
#define LL_VOCABULARY "../simd/scalar.h"
#include "../kernels.inc.h"
