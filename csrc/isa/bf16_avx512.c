/* Products of bfloat16 in AVX-512 F and DQ, widened. */
#define LL_REAL 32
#define LL_ISA avx512
#define LL_VOCABULARY "../simd/avx512.h"
#define LL_BF16 avx512
#define LL_BF16_KERNEL "widening.inc.h"
#include "../bf16/bf16.inc.h"
