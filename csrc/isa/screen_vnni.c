/* The screen in AVX-512 VNNI. */
#define LL_REAL 32
#define LL_ISA avx512
#define LL_VOCABULARY "../simd/avx512.h"
#define LL_BYTES "../simd/bytes_vnni.h"
#define LL_SCREEN vnni
#include "../screen/screen.inc.h"
