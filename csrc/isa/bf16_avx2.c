/* Products of bfloat16 in AVX2, widened. */
#define LL_REAL 32
#define LL_ISA avx2
#define LL_VOCABULARY "../simd/avx2.h"
#define LL_BF16 avx2
#define LL_BF16_KERNEL "widening.inc.h"
#include "../bf16/bf16.inc.h"
