/* Products of bfloat16 in NEON with the extension for bfloat16. */
#define LL_REAL 32
#define LL_ISA neon
#define LL_VOCABULARY "../simd/neon.h"
#define LL_BF16 bfmlal
#define LL_BF16_KERNEL "bfmlal.inc.h"
#include "../bf16/bf16.inc.h"
