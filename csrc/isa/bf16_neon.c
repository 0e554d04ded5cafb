/* Products of bfloat16 in NEON, widened. */
#define LL_REAL 32
#define LL_ISA neon
#define LL_VOCABULARY "../simd/neon.h"
#define LL_BF16 neon
#define LL_BF16_KERNEL "widening.inc.h"
#include "../bf16/bf16.inc.h"
