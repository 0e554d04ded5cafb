/* Products of bfloat16 rows and weights by everything that was built in and that this processor
 * runs: one line each, which must be the same.
 *
 * Exit status 1 where they differ, where plain C's differ from the definition, where bits depend on
 * how tiles are cut, or where what the caller has set of its processor matters or is lost.
 */
#include "inputs.h"

#include <float.h>
#include <math.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { LANES = LL_WORD_LANES, TILE_ROWS = 144, GAP = 5, BY_DEFINITION = -1 };
static const float untouched = -0x1.234p5f;

static const ll_bf16 *product;
static int failed;

/* ---- the definition ------------------------------------------------------------------------ */

static float flush(float a) { return fabsf(a) < FLT_MIN ? copysignf(0, a) : a; }

static float widen(uint16_t half)
{
    const uint32_t pattern = (uint32_t)half << 16;
    float r;

    memcpy(&r, &pattern, sizeof r);
    return flush(r);
}

/* a * b + c, rounded once, as if exponents had no end, and 0 if that is below the smallest normal
 * number: small ones are computed 2^64 times as large. */
static float fused(float a, float b, float c)
{
    if (!(fabs((double)a * (double)b) < 0x1p-60 && fabsf(c) < 0x1p-60f))
        return fmaf(a, b, c);
    const float r = fabsf(a) < fabsf(b) ? fmaf(a * 0x1p64f, b, c * 0x1p64f)
                                        : fmaf(a, b * 0x1p64f, c * 0x1p64f);
    return fabsf(r) < 0x1p-62f ? copysignf(0, r) : r * 0x1p-64f;
}

/* Steps of LL_STEP_K features: two chains, of the even ones and of the odd ones. */
static float logit(const uint16_t *x, const uint16_t *w, ptrdiff_t k, float bias)
{
    float sum = 0;

    for (ptrdiff_t step = 0; step < k; step += LL_STEP_K) {
        float chain[2] = { 0, 0 };
        for (ptrdiff_t p = step; p < step + LL_STEP_K; p++)
            chain[p % 2] = fused(p < k ? widen(x[p]) : 0, p < k ? widen(w[p]) : 0, chain[p % 2]);
        sum = flush(sum + flush(chain[0] + chain[1]));
    }
    return flush(sum + flush(bias));
}

/* ---- inputs -------------------------------------------------------------------------------- */

/* What numbers are like: of one size; with a few special ones; any bits; so that products are about
 * as large as the smallest normal number, or much smaller, too; so that sums overflow. */
enum kind { EVEN, STREWN, ANY, SMALL, UNEVEN, LARGE, KINDS };

static uint16_t special(uint64_t r)
{
    static const uint16_t numbers[] = { 0, 0x8000, 1, 0x8001, 0x7f, 0x807f, 0x80, 0x8080, 0x7f7f,
                                        0xff7f, 0x7f80, 0xff80, 0x7fc0, 0x7f81 };
    return numbers[r % (sizeof numbers / sizeof *numbers)];
}

static uint16_t number(enum kind kind)
{
    static const unsigned uneven[] = { 0, 1, 20, 37, 62, 63, 64, 65 };
    const uint64_t r = draw();
    const unsigned choice = (unsigned)(r >> 32), fraction = r >> 24 & 1 ? r & 0x7f : 0;
    const unsigned sign = r >> 16 & 0x8000;
    unsigned exponent = 0;

    switch (kind) {
    case EVEN: exponent = 120 + choice % 10; break;
    case STREWN: exponent = 120 + choice % 10; break;
    case SMALL: exponent = choice % 9 ? 60 + choice % 7 : 0; break;
    case UNEVEN: exponent = uneven[choice % 8]; break;
    case LARGE: exponent = 186 + choice % 10; break;
    default: return (uint16_t)(r >> 8);
    }
    if (kind == STREWN && choice % 61 == 0)
        return special(r >> 8);
    return (uint16_t)(sign | exponent << 7 | fraction);
}

/* As large as the sums. */
static float bias_number(enum kind kind)
{
    const uint16_t half = number(kind);
    uint32_t pattern = (uint32_t)half << 16 | (draw() & 0xffff);
    float r;

    if (kind == SMALL || kind == UNEVEN)
        pattern = (pattern & 0x807fffffu) | (uint32_t)(draw() % 3) << 23;
    memcpy(&r, &pattern, sizeof r);
    return r;
}

typedef struct {
    ptrdiff_t rows, panels, k, x_row;
    uint16_t *x, *weight;
    uint32_t *words;
    float *bias;
} factors;

static factors make_factors(ptrdiff_t rows, ptrdiff_t panels, ptrdiff_t k, enum kind kind)
{
    const ptrdiff_t n = panels * LANES, words = (k + 1) / 2;
    factors f = { rows, panels, k, k + 3, NULL, NULL, NULL, NULL };

    seed = (uint64_t)(rows * 1000003 + panels * 1009 + k) * KINDS + kind;
    f.x = array((rows - 1) * f.x_row + k, sizeof *f.x);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t p = 0; p < k; p++)
            f.x[i * f.x_row + p] = number(kind);
    f.weight = array(n * k, sizeof *f.weight);
    f.words = array(n * words, sizeof *f.words);
    memset(f.words, 0, (size_t)(n * words) * sizeof *f.words);
    for (ptrdiff_t c = 0; c < n; c++)
        for (ptrdiff_t p = 0; p < k; p++) {
            const uint16_t w = f.weight[c * k + p] = number(kind);
            f.words[(c / LANES * words + p / 2) * LANES + c % LANES] |= (uint32_t)w << p % 2 * 16;
        }
    f.bias = array(n, sizeof *f.bias);
    for (ptrdiff_t c = 0; c < n; c++)
        f.bias[c] = bias_number(kind);
    return f;
}

/* ---- products ------------------------------------------------------------------------------ */

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* All logits, rows out_row apart, `step` features after the other. */
static void multiply(const factors *f, ptrdiff_t step, float *out, ptrdiff_t out_row)
{
    const size_t bytes = product->row_bytes(f->rows, f->k);
    const ptrdiff_t panel = (f->k + 1) / 2 * LANES;
    void *x = array((ptrdiff_t)(bytes / sizeof(float)), sizeof(float));

    product->pack_rows(f->x, f->rows, f->k, f->x_row, x);
    for (ptrdiff_t i = 0; i < f->rows; i += TILE_ROWS)
        for (ptrdiff_t pc = 0; pc == 0 || pc < f->k; pc += step) {
            const ll_bf16_tile tile = {
                least(TILE_ROWS, f->rows - i), i, f->rows, f->k, x, pc, least(pc + step, f->k),
                f->words + pc / 2 * LANES, panel, f->panels, f->bias, out + i * out_row, out_row,
            };
            product->multiply(&tile);
        }
}

static void define(const factors *f, float *out, ptrdiff_t out_row)
{
    for (ptrdiff_t i = 0; i < f->rows; i++)
        for (ptrdiff_t c = 0; c < f->panels * LANES; c++)
            out[i * out_row + c] = logit(f->x + i * f->x_row, f->weight + c * f->k, f->k,
                                         f->bias[c]);
}

/* The hash of all logits, by `step` features or by definition. Nothing is written behind a row. */
static uint64_t hash_of(const factors *f, ptrdiff_t step)
{
    const ptrdiff_t n = f->panels * LANES, out_row = n + GAP;
    float *out = array(f->rows * out_row, sizeof *out);

    for (ptrdiff_t i = 0; i < f->rows * out_row; i++)
        out[i] = untouched;
    if (step == BY_DEFINITION)
        define(f, out, out_row);
    else
        multiply(f, step, out, out_row);
    start_hash();
    for (ptrdiff_t i = 0; i < f->rows; i++, out += out_row) {
        mix_reals(out, n);
        for (ptrdiff_t c = n; c < out_row; c++)
            mix(out[c] != untouched, 1);
    }
    return hash;
}

static void complain(const factors *f, enum kind kind, const char *what)
{
    fprintf(stderr, "%s: %td rows, %td panels, %td features, numbers %d: %s\n",
            product->name, f->rows, f->panels, f->k, (int)kind, what);
    failed = 1;
}

/* ---- what the caller has set --------------------------------------------------------------- */

typedef struct {
    uint64_t control, status;
} processor;

#if defined(__x86_64__)
/* Flags of exceptions are in the same register, as is which of them stop the program. */
static processor settings(void) { return (processor){ _mm_getcsr(), 0 }; }
static void set(processor to) { _mm_setcsr((unsigned)to.control); }
static const processor unusual[] = {
    { 0xffd5, 0 }, /* subnormals are 0, rounding towards 0; some flags */
    { 0x5f80, 0 }, /* rounding up */
    { 0x0000, 0 }, /* all exceptions stop the program */
};
#elif defined(__aarch64__)
static processor settings(void)
{
    processor p;
    __asm__ volatile("mrs %0, fpcr" : "=r"(p.control) : : "memory");
    __asm__ volatile("mrs %0, fpsr" : "=r"(p.status) : : "memory");
    return p;
}
static void set(processor to)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(to.control) : "memory");
    __asm__ volatile("msr fpsr, %0" : : "r"(to.status) : "memory");
}
static const processor unusual[] = {
    { 1u << 24 | 3u << 22, 0x13 }, /* subnormals are 0, rounding towards 0; some flags */
    { 1u << 22, 0 },               /* rounding up */
};
#else
static processor settings(void) { return (processor){ 0, 0 }; }
static void set(processor to) { (void)to; }
static const processor unusual[] = { { 0, 0 } };
#endif

/* Nothing but the product is computed in between. Plain C is as its caller is. */
static void try_settings(const factors *f, enum kind kind)
{
    const ptrdiff_t out_row = f->panels * LANES;
    const size_t bytes = (size_t)(f->rows * out_row) * sizeof(float);
    float *expected = array(f->rows * out_row, sizeof *expected);
    float *out = array(f->rows * out_row, sizeof *out);
    const processor usual = settings();

    multiply(f, LL_KC, expected, out_row);
    for (size_t i = 0; i < sizeof unusual / sizeof *unusual; i++) {
        set(unusual[i]);
        multiply(f, LL_KC, out, out_row);
        const processor after = settings();
        set(usual);
        if (memcmp(&after, &unusual[i], sizeof after))
            complain(f, kind, "settings of the processor are lost");
        if (memcmp(out, expected, bytes))
            complain(f, kind, "settings of the processor matter");
    }
}

/* ---- all ----------------------------------------------------------------------------------- */

enum { MOST_CASES = 2000 };
static uint64_t hashes[MOST_CASES]; /* of plain C, which comes first */
static uint64_t together;
static int is_plain, n_cases;

static void try_factors(ptrdiff_t rows, ptrdiff_t panels, ptrdiff_t k, enum kind kind)
{
    const factors f = make_factors(rows, panels, k, kind);
    const uint64_t value = hash_of(&f, LL_KC);

    if (n_cases == MOST_CASES) {
        fprintf(stderr, "too many cases\n");
        exit(2);
    }
    if (is_plain)
        hashes[n_cases] = value;
    if (value != hashes[n_cases])
        complain(&f, kind, "not the bits of plain C");
    if (k > LL_KC && hash_of(&f, k) != value)
        complain(&f, kind, "bits depend on how features are cut");
    if (is_plain && hash_of(&f, BY_DEFINITION) != value)
        complain(&f, kind, "not the definition's bits");
    if (!is_plain && k == LL_STEP_K)
        try_settings(&f, kind);
    together = together * 31 + value;
    n_cases++;
    release(0);
}

static void try_all(void)
{
    static const ptrdiff_t rows[] = { 1, 2, 5, 6, 7, 12, 13, 25, 48, 49, 144, 145 };
    static const ptrdiff_t k[] = { 0, 1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 66, 68, 255, 256,
                                   257, 600 };
    int turn = 0;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof k / sizeof *k; j++, turn++) {
            const ptrdiff_t size = rows[i] * k[j], panels = size > 3000 ? 1 : 1 + turn % 5;
            for (enum kind kind = 0; size <= 5000 && kind < KINDS; kind++)
                try_factors(rows[i], panels, k[j], kind);
        }
    for (enum kind kind = 0; kind < KINDS; kind++)
        try_factors(TILE_ROWS + 13, 1, LL_KC + 35, kind);
}

int main(void)
{
    bits = 32;
    item = sizeof(float);
    for (int i = ll_bf16_count - 1; i >= 0; i--) {
        if (!ll_bf16s[i].supported())
            continue;
        product = ll_bf16s[i].product;
        is_plain = i == ll_bf16_count - 1;
        n_cases = 0;
        together = 0;
        try_all();
        if (product->spin(2) != 2 * product->spin(1)) /* for sanitizers */
            failed = 1;
        printf("%s of %s %016llx\n", product->name, ll_bf16s[i].isa, (unsigned long long)together);
    }
    return failed;
}
