/* The same in plain C, for tests. */
#define LL_REAL 32
#define LL_ISA scalar
#define LL_VOCABULARY "../simd/scalar.h"
#define LL_AMX "../simd/amx_double.h"
#define LL_BF16 amx_double
#define LL_BF16_KERNEL "amx.inc.h"
#include "../bf16/bf16.inc.h"
