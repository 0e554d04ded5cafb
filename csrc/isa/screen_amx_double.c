/* The same in plain C, for tests. */
#define LL_REAL 32
#define LL_ISA scalar
#define LL_VOCABULARY "../simd/scalar.h"
#define LL_BYTES "../simd/bytes_scalar.h"
#define LL_AMX "../simd/amx_double.h"
#define LL_SCREEN amx_double
#include "../screen/screen.inc.h"
