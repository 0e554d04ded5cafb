/* Products of bfloat16 in plain C, widened. */
#define LL_REAL 32
#define LL_ISA scalar
#define LL_VOCABULARY "../simd/scalar.h"
#define LL_BF16 scalar
#define LL_BF16_KERNEL "widening.inc.h"
#include "../bf16/bf16.inc.h"
