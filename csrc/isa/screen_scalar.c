/* The screen in plain C: the oracle of all others. */
#define LL_REAL 32
#define LL_ISA scalar
#define LL_VOCABULARY "../simd/scalar.h"
#define LL_BYTES "../simd/bytes_scalar.h"
#define LL_SCREEN scalar
#include "../screen/screen.inc.h"
