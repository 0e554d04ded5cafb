/* Which instruction sets this processor and its operating system can run; names of enums. */
#include "logitless.h"

const char *const ll_field_names[] = { LL_FIELDS(LL_NAME) };
const char *const ll_int_field_names[] = { LL_INT_FIELDS(LL_NAME) };
const char *const ll_coefficient_names[] = { LL_COEFFICIENT_LIST(LL_NAME) };
const char *const ll_function_names[] = { LL_FUNCTIONS(LL_NAME) };

#if defined(__x86_64__) || defined(_M_X64)
#define LL_X86
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#ifdef LL_HAVE_BF16_BFMLAL
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

/* Which sets were built is the build's knowledge: it defines LL_HAVE_*. */
#if defined(LL_HAVE_BF16_AMX) || defined(LL_HAVE_SCREEN_AMX)
#define LL_HAVE_AMX
#endif
#if defined(LL_X86) && (defined(LL_HAVE_AVX2) || defined(LL_HAVE_AVX512))
enum { EAX, EBX, ECX, EDX };

static void cpuid(unsigned leaf, unsigned r[4])
{
    r[EAX] = r[EBX] = r[ECX] = r[EDX] = 0;
#ifdef _MSC_VER
    int info[4];
    __cpuid(info, 0);
    if ((unsigned)info[0] < leaf)
        return;
    __cpuidex(info, (int)leaf, 0);
    for (int i = 0; i < 4; i++)
        r[i] = (unsigned)info[i];
#else
    if (!__get_cpuid_count(leaf, 0, &r[EAX], &r[EBX], &r[ECX], &r[EDX]))
        r[EAX] = r[EBX] = r[ECX] = r[EDX] = 0;
#endif
}

/* Register files the operating system saves on a context switch; only valid with OSXSAVE. */
static unsigned saved_registers(void)
{
#ifdef _MSC_VER
    return (unsigned)_xgetbv(0);
#else
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return low;
#endif
}

static int has(unsigned flags, unsigned wanted) { return (flags & wanted) == wanted; }

#define XMM_YMM 0x06u

static int avx2_supported(void)
{
    unsigned one[4], seven[4];
    cpuid(1, one);
    cpuid(7, seven);
    return has(one[ECX], 1u << 27 /* OSXSAVE */ | 1u << 28 /* AVX */ | 1u << 12 /* FMA */
                             | 1u << 29 /* F16C */)
        && has(saved_registers(), XMM_YMM) && has(seven[EBX], 1u << 5 /* AVX2 */);
}

#ifdef LL_HAVE_AVX512
#define XMM_YMM_ZMM_MASKS 0xe6u

static int avx512_supported(void)
{
    unsigned seven[4];
    cpuid(7, seven);
    return avx2_supported() && has(saved_registers(), XMM_YMM_ZMM_MASKS)
        && has(seven[EBX], 1u << 16 /* F */ | 1u << 17 /* DQ */);
}
#endif

#if defined(LL_HAVE_SCREEN_VNNI) || defined(LL_HAVE_AMX)
static int vnni_supported(void)
{
    unsigned seven[4];
    cpuid(7, seven);
    return avx512_supported() && has(seven[EBX], 1u << 30 /* BW */)
        && has(seven[ECX], 1u << 11 /* VNNI */);
}
#endif

#ifdef LL_HAVE_BF16_DOT
/* Intel's take a tenth of the rate of AMX and half of that of multiply-adds. */
static int bf16_dot_supported(void)
{
    unsigned zero[4], seven[4];
    cpuid(0, zero);
#ifdef _MSC_VER
    int info[4];
    __cpuidex(info, 7, 1);
    seven[EAX] = (unsigned)info[EAX];
#else
    if (!__get_cpuid_count(7, 1, &seven[EAX], &seven[EBX], &seven[ECX], &seven[EDX]))
        return 0;
#endif
    return avx512_supported() && has(seven[EAX], 1u << 5 /* AVX512_BF16 */)
        && zero[EBX] != 0x756e6547u /* Genu, of GenuineIntel */;
}
#endif

#ifdef LL_HAVE_AMX
#define TILES (1u << 17 | 1u << 18) /* their configuration and themselves */

/* Linux keeps the registers of a process that has asked for them. */
static int amx_permitted(void)
{
#ifdef __linux__
    return syscall(SYS_arch_prctl, 0x1023L /* ARCH_REQ_XCOMP_PERM */, 18L /* tiles */) == 0;
#else
    return 0;
#endif
}

/* Asked once; threads that ask at the same time get the same answer. */
static int amx_supported(void)
{
    static _Atomic int answer; /* 1 for yes, -1 for no */
    unsigned seven[4];

    if (!answer) {
        cpuid(7, seven);
        int has_it = vnni_supported() && has(saved_registers(), TILES)
                  && has(seven[EDX], 1u << 22 /* BF16 */ | 1u << 24 /* TILE */ | 1u << 25 /* INT8 */);
        answer = has_it && amx_permitted() ? 1 : -1;
    }
    return answer > 0;
}
#endif
#endif

#ifdef LL_HAVE_BF16_BFMLAL
static int bfmlal_supported(void)
{
#if defined(__linux__)
    return (getauxval(AT_HWCAP2) & 1ul << 14 /* HWCAP2_BF16 */) != 0;
#elif defined(__APPLE__)
    int has_it = 0;
    size_t size = sizeof has_it;
    return sysctlbyname("hw.optional.arm.FEAT_BF16", &has_it, &size, NULL, 0) == 0 && has_it;
#else
    return 0;
#endif
}
#endif

static int always(void) { return 1; }

extern const ll_kernels ll_kernels_avx512_32, ll_kernels_avx512_64;
extern const ll_kernels ll_kernels_avx2_32, ll_kernels_avx2_64;
extern const ll_kernels ll_kernels_neon_32, ll_kernels_neon_64;
extern const ll_kernels ll_kernels_scalar_32, ll_kernels_scalar_64;

const ll_isa ll_isas[] = {
#ifdef LL_HAVE_AVX512
    { "avx512", avx512_supported, &ll_kernels_avx512_32, &ll_kernels_avx512_64 },
#endif
#ifdef LL_HAVE_AVX2
    { "avx2", avx2_supported, &ll_kernels_avx2_32, &ll_kernels_avx2_64 },
#endif
#ifdef LL_HAVE_NEON
    { "neon", always, &ll_kernels_neon_32, &ll_kernels_neon_64 },
#endif
    { "scalar", always, &ll_kernels_scalar_32, &ll_kernels_scalar_64 },
};
const int ll_isa_count = (int)(sizeof ll_isas / sizeof *ll_isas);

extern const ll_screener ll_screener_amx, ll_screener_vnni, ll_screener_avx2, ll_screener_neon,
    ll_screener_scalar;

const ll_screen_isa ll_screens[] = {
#ifdef LL_HAVE_SCREEN_AMX
    { "avx512", amx_supported, &ll_screener_amx },
#endif
#ifdef LL_HAVE_SCREEN_VNNI
    { "avx512", vnni_supported, &ll_screener_vnni },
#endif
#ifdef LL_HAVE_SCREEN_AVX2
#ifdef LL_HAVE_AVX512
    { "avx512", avx2_supported, &ll_screener_avx2 },
#endif
    { "avx2", avx2_supported, &ll_screener_avx2 },
#endif
#ifdef LL_HAVE_SCREEN_NEON
    { "neon", always, &ll_screener_neon },
#endif
    { "scalar", always, &ll_screener_scalar },
};
const int ll_screen_count = (int)(sizeof ll_screens / sizeof *ll_screens);

extern const ll_bf16 ll_bf16_amx, ll_bf16_dot, ll_bf16_avx512, ll_bf16_avx2, ll_bf16_bfmlal,
    ll_bf16_neon, ll_bf16_scalar;

const ll_bf16_isa ll_bf16s[] = {
#ifdef LL_HAVE_BF16_AMX
    { "avx512", amx_supported, &ll_bf16_amx },
#endif
#ifdef LL_HAVE_BF16_DOT
    { "avx512", bf16_dot_supported, &ll_bf16_dot },
#endif
#ifdef LL_HAVE_BF16_AVX512
    { "avx512", avx512_supported, &ll_bf16_avx512 },
#endif
#ifdef LL_HAVE_BF16_AVX2
    { "avx2", avx2_supported, &ll_bf16_avx2 },
#endif
#ifdef LL_HAVE_BF16_BFMLAL
    { "neon", bfmlal_supported, &ll_bf16_bfmlal },
#endif
#ifdef LL_HAVE_BF16_NEON
    { "neon", always, &ll_bf16_neon },
#endif
    { "scalar", always, &ll_bf16_scalar },
};
const int ll_bf16_count = (int)(sizeof ll_bf16s / sizeof *ll_bf16s);
