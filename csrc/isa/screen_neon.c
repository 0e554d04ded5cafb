/* The screen in NEON. */
#define LL_REAL 32
#define LL_ISA neon
#define LL_VOCABULARY "../simd/neon.h"
#define LL_BYTES "../simd/bytes_neon.h"
#define LL_SCREEN neon
#include "../screen/screen.inc.h"
