/* Products of bfloat16 in AMX, beside AVX-512. */
#define LL_REAL 32
#define LL_ISA avx512
#define LL_VOCABULARY "../simd/avx512.h"
#define LL_AMX "../simd/amx.h"
#define LL_BF16 amx
#define LL_BF16_KERNEL "amx.inc.h"
#include "../bf16/bf16.inc.h"
