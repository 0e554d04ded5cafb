/* The screen in AVX2. */
#define LL_REAL 32
#define LL_ISA avx2
#define LL_VOCABULARY "../simd/avx2.h"
#define LL_BYTES "../simd/bytes_avx2.h"
#define LL_SCREEN avx2
#include "../screen/screen.inc.h"
