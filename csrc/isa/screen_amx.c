/* The screen in AMX, beside AVX-512 VNNI. */
#define LL_REAL 32
#define LL_ISA avx512
#define LL_VOCABULARY "../simd/avx512.h"
#define LL_BYTES "../simd/bytes_vnni.h"
#define LL_AMX "../simd/amx.h"
#define LL_SCREEN amx
#include "../screen/screen.inc.h"
