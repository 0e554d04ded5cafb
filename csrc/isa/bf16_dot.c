/* Products of bfloat16 in AVX512-BF16. */
#define LL_REAL 32
#define LL_ISA avx512
#define LL_VOCABULARY "../simd/avx512.h"
#define LL_BF16 dot
#define LL_BF16_KERNEL "dot.inc.h"
#include "../bf16/bf16.inc.h"
