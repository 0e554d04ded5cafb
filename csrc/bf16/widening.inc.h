/* Products of bfloat16 by multiply-adds of float32: numbers are widened, rows when they are packed,
 * weights in registers.
 *
 * Features are taken LL_STEP_K at a time: the even ones are one chain of fused multiply-adds from
 * zero, the odd ones another, and sum = sum + (even + odd). Zeros stand in behind the last feature;
 * then the bias. Sums wait in the tile from step to step.
 *
 * Rows are packed in micro-panels of up to LL_BF16_ROWS, KC features after the other, feature by
 * feature, as float32; with KC a whole number of steps. Rows of a tile are whole micro-panels. */
#include "../base/flush.inc.h"

#define LL_BF16_ROWS LL_FOR(12, 6, 6, 6)

/* Features up to the end of their last step. */
static inline ptrdiff_t step_end(ptrdiff_t k)
{
    return (k + LL_STEP_K - 1) / LL_STEP_K * LL_STEP_K;
}

static size_t row_bytes(ptrdiff_t rows, ptrdiff_t k)
{
    return (size_t)rows * (size_t)step_end(k) * sizeof(float);
}

static void pack_rows(const uint16_t *x, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t x_row, void *packed_)
{
    float *packed = packed_;

    for (ptrdiff_t pc = 0; pc < k; pc += LL_KC) {
        const ptrdiff_t kc = least(LL_KC, step_end(k) - pc);
        for (ptrdiff_t i = 0, height; i < rows; i += height) {
            height = least(LL_BF16_ROWS, rows - i);
            for (ptrdiff_t p = pc; p < pc + kc; p++)
                for (ptrdiff_t r = 0; r < height; r++)
                    *packed++ = p < k ? ll_widen(LL_BFLOAT16, x[(i + r) * x_row + p]) : 0;
        }
    }
}

/* One register of the sums of `height` rows: a step of `kc` features. */
LL_TEMPLATE void widening_step(const int height, const int by_number, ptrdiff_t kc, const float *a,
                               const uint32_t *b, float *tile, ptrdiff_t t_row, int first)
{
    reg even[LL_BF16_ROWS], odd[LL_BF16_ROWS];

    LL_UNROLL
    for (int i = 0; i < height; i++)
        even[i] = odd[i] = rset(0);
    LL_ROLLED
    for (ptrdiff_t p = 0; p < kc; p += 2, a += 2 * height, b += LL_WORD_LANES) {
        reg low = rlow(LL_BFLOAT16, b), high = rhigh(LL_BFLOAT16, b);
        LL_UNROLL
        for (int i = 0; i < height; i++) {
            even[i] = chain_fma(by_number, rset(a[i]), low, even[i]);
            odd[i] = chain_fma(by_number, rset(a[height + i]), high, odd[i]);
        }
    }
    if (kc < LL_STEP_K) /* what zeros add */
        LL_UNROLL
        for (int i = 0; i < height; i++) {
            even[i] = chain_add(by_number, even[i], rset(0));
            odd[i] = chain_add(by_number, odd[i], rset(0));
        }
    LL_UNROLL
    for (int i = 0; i < height; i++) {
        reg sum = first ? rset(0) : rload(tile + i * t_row);
        rstore(tile + i * t_row, chain_add(by_number, sum, chain_add(by_number, even[i], odd[i])));
    }
}

/* `kc` features of a panel and a micro-panel. */
LL_TEMPLATE void widening_kernel(const int height, const int by_number, ptrdiff_t kc,
                                 const float *a, const uint32_t *b, float *tile, ptrdiff_t t_row,
                                 int first)
{
    for (ptrdiff_t q = 0; q < LL_LANES; q += LL_PART)
        for (ptrdiff_t p = 0; p < kc; p += LL_STEP_K)
            widening_step(height, by_number, least(LL_STEP_K, kc - p), a + p * height,
                          b + p / 2 * LL_WORD_LANES + q, tile + q, t_row, first && p == 0);
}

typedef void widening_function(ptrdiff_t, const float *, const uint32_t *, float *, ptrdiff_t, int);
#define LL_WIDENING_OF(name, height, by_number)                                                  \
    LL_APART void name(ptrdiff_t kc, const float *a, const uint32_t *b, float *tile,             \
                       ptrdiff_t t_row, int first)                                               \
    {                                                                                            \
        widening_kernel(height, by_number, kc, a, b, tile, t_row, first);                        \
    }
#if LL_FLUSHES
#define LL_WIDENING(height, _) LL_WIDENING_OF(widening_##height, height, 0)
#define LL_WIDENING_NAME(height, _) widening_##height,
LL_JOIN(LL_UP_TO, LL_BF16_ROWS)(LL_WIDENING, )
static widening_function *const widening_functions[] = {
    LL_JOIN(LL_UP_TO, LL_BF16_ROWS)(LL_WIDENING_NAME, )
};
#endif
#if LL_BY_NUMBER
#define LL_NUMBERS(height, _) LL_WIDENING_OF(by_number_##height, height, 1)
#define LL_NUMBERS_NAME(height, _) by_number_##height,
LL_JOIN(LL_UP_TO, LL_BF16_ROWS)(LL_NUMBERS, )
static widening_function *const by_number_functions[] = {
    LL_JOIN(LL_UP_TO, LL_BF16_ROWS)(LL_NUMBERS_NAME, )
};
#endif

#if LL_FLUSHES && LL_BY_NUMBER
/* What the processor has flushed is computed once more. */
static void widen_and_look(ptrdiff_t height, ptrdiff_t kc, const float *a, const uint32_t *b,
                           float *tile, ptrdiff_t t_row, int first)
{
    float before[LL_BF16_ROWS * LL_LANES];

    for (ptrdiff_t i = 0; i < height && !first; i++)
        memcpy(before + i * LL_LANES, tile + i * t_row, LL_LANES * sizeof(float));
    flush_mode mode = begin_flushing();
    widening_functions[height - 1](kc, a, b, tile, t_row, first);
    if (!end_flushing(mode))
        return;
    for (ptrdiff_t i = 0; i < height && !first; i++)
        memcpy(tile + i * t_row, before + i * LL_LANES, LL_LANES * sizeof(float));
    by_number_functions[height - 1](kc, a, b, tile, t_row, first);
}
#elif LL_FLUSHES
static void widen_and_look(ptrdiff_t height, ptrdiff_t kc, const float *a, const uint32_t *b,
                           float *tile, ptrdiff_t t_row, int first)
{
    widening_functions[height - 1](kc, a, b, tile, t_row, first);
}
#else
static void widen_and_look(ptrdiff_t height, ptrdiff_t kc, const float *a, const uint32_t *b,
                           float *tile, ptrdiff_t t_row, int first)
{
    by_number_functions[height - 1](kc, a, b, tile, t_row, first);
}
#endif

/* Sums become logits. */
LL_APART void add_bias(const ll_bf16_tile *t)
{
    for (ptrdiff_t i = 0; i < t->rows; i++)
        for (ptrdiff_t c = 0; c < t->n_panels * LL_LANES; c += LL_PART) {
            float *sum = t->tile + i * t->t_row + c;
            rstore(sum, chain_add(LL_BY_NUMBER, t->k ? rload(sum) : rset(0), rload(t->bias + c)));
        }
}

/* All features of the tile: KC of a panel, while they are in L1, with all rows. */
static void multiply_widened(const ll_bf16_tile *t)
{
    for (ptrdiff_t j = 0; j < t->n_panels; j++)
        for (ptrdiff_t pc = t->k_first; pc < t->k_last; pc += LL_KC) {
            const ptrdiff_t kc = least(LL_KC, t->k_last - pc), own = least(LL_KC, step_end(t->k) - pc);
            const float *a = (const float *)t->x + pc * t->all_rows + t->first_row * own;
            const uint32_t *b = t->panels + j * t->panel_words
                              + (pc - t->k_first) / 2 * LL_WORD_LANES;
            for (ptrdiff_t i = 0, height; i < t->rows; i += height) {
                height = least(LL_BF16_ROWS, t->rows - i);
                widen_and_look(height, kc, a + i * own, b,
                               t->tile + i * t->t_row + j * LL_LANES, t->t_row, pc == 0);
            }
        }
    if (t->k_last == t->k)
        add_bias(t);
}

static void multiply(const ll_bf16_tile *tile)
{
#if LL_BY_NUMBER
    multiply_widened(tile);
#else
    const flush_mode mode = begin_flushing();
    multiply_widened(tile);
    end_flushing(mode);
#endif
}

/* As many chains as the kernel has. */
static double spin(ptrdiff_t rounds)
{
    reg even[LL_BF16_ROWS], odd[LL_BF16_ROWS], a = rset(0.5f), b = rset(1), all = rset(0);

    LL_UNROLL
    for (int i = 0; i < LL_BF16_ROWS; i++) {
        even[i] = rset((float)i);
        odd[i] = rset((float)-i);
    }
    for (ptrdiff_t r = 0; r < rounds; r++)
        LL_UNROLL
        for (int i = 0; i < LL_BF16_ROWS; i++) {
            even[i] = rfma(even[i], a, b);
            odd[i] = rfma(odd[i], a, b);
        }
    LL_UNROLL
    for (int i = 0; i < LL_BF16_ROWS; i++)
        all = radd(all, radd(even[i], odd[i]));
    /* Every chain tends to 2: looking at the sum keeps the work alive. */
    return rsum(all) < 0 ? 0 : 4.0 * LL_PART * LL_BF16_ROWS * (double)rounds;
}
