/* Products of bfloat16 by an instruction that adds two products of a word to a sum, one after the
 * other.
 *
 * Its two products are neighbours in a chain of even or of odd features (see widening.inc.h for the
 * order), while weights have an even and an odd feature in a word. So words are crossed: those of
 * rows when they are packed, those of weights KC features at a time on the way, or in registers for
 * few rows, whose weights come from memory.
 *
 * Rows are packed in micro-panels of up to LL_PAIR_ROWS, KC features after the other: four features
 * of each row as two crossed words, first those of the even features of all rows. */
#include "../base/flush.inc.h"
#include "../simd/bf16_avx512.h"

#define LL_PAIR_ROWS 6   /* rows by panels: two chains each, in registers */
#define LL_PAIR_PANELS 2
#define LL_PAIR_FEW 12   /* so many rows cross weights in registers */
#define LL_STEP_WORDS (LL_STEP_K / 2)
#define LL_KC_WORDS (LL_KC / 2)

/* Features up to the end of their last step. */
static inline ptrdiff_t step_end(ptrdiff_t k)
{
    return (k + LL_STEP_K - 1) / LL_STEP_K * LL_STEP_K;
}

static size_t row_bytes(ptrdiff_t rows, ptrdiff_t k)
{
    return (size_t)rows * (size_t)step_end(k) * sizeof(uint16_t);
}

static inline uint32_t word_of(const uint16_t *x, ptrdiff_t low, ptrdiff_t high, ptrdiff_t k)
{
    return (low < k ? (uint32_t)x[low] : 0) | (high < k ? (uint32_t)x[high] << 16 : 0);
}

static void pack_rows(const uint16_t *x, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t x_row, void *packed_)
{
    uint32_t *packed = packed_;

    for (ptrdiff_t pc = 0; pc < k; pc += LL_KC) {
        const ptrdiff_t end = pc + least(LL_KC, step_end(k) - pc);
        for (ptrdiff_t i = 0, height; i < rows; i += height) {
            height = least(LL_PAIR_ROWS, rows - i);
            for (ptrdiff_t p = pc; p < end; p += 4, packed += 2 * height)
                for (ptrdiff_t r = 0; r < height; r++) {
                    const uint16_t *row = x + (i + r) * x_row;
                    packed[r] = word_of(row, p + 2, p, k);
                    packed[height + r] = word_of(row, p + 3, p + 1, k);
                }
        }
    }
}

/* Four features of `width` panels, of which `words` words are there: 2 but at an end. */
LL_TEMPLATE void load_crossed(const int width, const int crossed, const int count,
                              const uint32_t *b, ptrdiff_t b_panel, pairs *even, pairs *odd)
{
    LL_UNROLL
    for (int j = 0; j < width; j++, b += b_panel) {
        pairs first = load_pairs(b), second = count == 2 ? load_pairs(b + LL_WORD_LANES) : no_pairs();
        even[j] = crossed ? first : cross_even(first, second);
        odd[j] = crossed ? second : cross_odd(first, second);
    }
}

/* Those of `height` rows. */
LL_TEMPLATE void pair_step(const int height, const int width, const int crossed, const int count,
                           reg even[LL_PAIR_ROWS][LL_PAIR_PANELS],
                           reg odd[LL_PAIR_ROWS][LL_PAIR_PANELS], const uint32_t *a,
                           const uint32_t *b, ptrdiff_t b_panel)
{
    pairs low[LL_PAIR_PANELS], high[LL_PAIR_PANELS];

    load_crossed(width, crossed, count, b, b_panel, low, high);
    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++) {
            even[i][j] = dot_pairs(even[i][j], low[j], a[i]);
            odd[i][j] = dot_pairs(odd[i][j], high[j], a[height + i]);
        }
}

/* LL_STEP_K features, or those of `words` words, into the sums. */
LL_TEMPLATE void sum_step(const int height, const int width, const int crossed, ptrdiff_t count,
                          const uint32_t *a, const uint32_t *b, ptrdiff_t b_panel, float *tile,
                          ptrdiff_t t_row, int first)
{
    reg even[LL_PAIR_ROWS][LL_PAIR_PANELS], odd[LL_PAIR_ROWS][LL_PAIR_PANELS];
    ptrdiff_t q = 0;

    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++)
            even[i][j] = odd[i][j] = rset(0);
    LL_ROLLED
    for (; q + 2 <= count; q += 2, a += 2 * height, b += 2 * LL_WORD_LANES) {
        LL_UNROLL
        for (int j = 0; j < width && !crossed; j++) {
            prefetch_to_l2(b + j * b_panel + LL_STREAM_AHEAD * LL_WORD_LANES);
            prefetch_to_l2(b + j * b_panel + (LL_STREAM_AHEAD + 1) * LL_WORD_LANES);
        }
        pair_step(height, width, crossed, 2, even, odd, a, b, b_panel);
    }
    if (q < count)
        pair_step(height, width, crossed, 1, even, odd, a, b, b_panel);
    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++) {
            float *to = tile + i * t_row + j * LL_LANES;
            reg sum = first ? rset(0) : rload(to), more = radd(even[i][j], odd[i][j]);
            rstore(to, radd(sum, more));
        }
}

/* `count` words of a micro-panel and of panels, at most KC features. */
LL_TEMPLATE void pair_kernel(const int height, const int width, const int crossed, ptrdiff_t count,
                             const uint32_t *a, const uint32_t *b, ptrdiff_t b_panel, float *tile,
                             ptrdiff_t t_row, int first)
{
    for (ptrdiff_t q = 0; q < count; q += LL_STEP_WORDS)
        sum_step(height, width, crossed, least(LL_STEP_WORDS, count - q), a + q * height,
                 b + q * LL_WORD_LANES, b_panel, tile, t_row, first && q == 0);
}

typedef void pair_function(ptrdiff_t, const uint32_t *, const uint32_t *, ptrdiff_t, float *,
                           ptrdiff_t, int);
#define LL_PAIRS_OF(name, height, width, crossed)                                                \
    LL_APART void name(ptrdiff_t count, const uint32_t *a, const uint32_t *b, ptrdiff_t b_panel, \
                       float *tile, ptrdiff_t t_row, int first)                                  \
    {                                                                                            \
        pair_kernel(height, width, crossed, count, a, b, b_panel, tile, t_row, first);           \
    }
#define LL_CROSSED(height, width) LL_PAIRS_OF(crossed_##height##_##width, height, width, 1)
#define LL_CROSSED_NAME(height, width) crossed_##height##_##width,
#define LL_STREAMED_PAIRS(height, width) LL_PAIRS_OF(straight_##height##_##width, height, width, 0)
#define LL_STREAMED_PAIRS_NAME(height, width) straight_##height##_##width,
LL_UP_TO_6(LL_CROSSED, 1)
LL_UP_TO_6(LL_CROSSED, 2)
LL_UP_TO_6(LL_STREAMED_PAIRS, 1)
LL_UP_TO_6(LL_STREAMED_PAIRS, 2)
static pair_function *const crossed_functions[][LL_PAIR_ROWS] = {
    { LL_UP_TO_6(LL_CROSSED_NAME, 1) },
    { LL_UP_TO_6(LL_CROSSED_NAME, 2) },
};
static pair_function *const straight_functions[][LL_PAIR_ROWS] = {
    { LL_UP_TO_6(LL_STREAMED_PAIRS_NAME, 1) },
    { LL_UP_TO_6(LL_STREAMED_PAIRS_NAME, 2) },
};

/* `count` words of panels, crossed; the next ones come into the cache. */
static void cross_panels(ptrdiff_t width, ptrdiff_t count, const uint32_t *b, ptrdiff_t b_panel,
                         uint32_t *crossed)
{
    for (ptrdiff_t j = 0; j < width; j++, b += b_panel, crossed += LL_KC_WORDS * LL_WORD_LANES)
        for (ptrdiff_t q = 0; q < count; q += 2) {
            const uint32_t *at = b + q * LL_WORD_LANES;
            pairs first = load_pairs(at);
            pairs second = q + 1 < count ? load_pairs(at + LL_WORD_LANES) : no_pairs();
            store_pairs(crossed + q * LL_WORD_LANES, cross_even(first, second));
            store_pairs(crossed + (q + 1) * LL_WORD_LANES, cross_odd(first, second));
            prefetch_to_l2(at + LL_KC_WORDS * LL_WORD_LANES);
            prefetch_to_l2(at + (LL_KC_WORDS + 1) * LL_WORD_LANES);
        }
}

/* Features [pc, pc + LL_KC) or to the end, of all rows by `width` panels. */
static void multiply_panels(const ll_bf16_tile *t, ptrdiff_t j, ptrdiff_t width, ptrdiff_t pc)
{
    _Alignas(64) uint32_t own[LL_PAIR_PANELS * LL_KC_WORDS * LL_WORD_LANES];
    const ptrdiff_t kc = least(LL_KC, t->k_last - pc), packed = least(LL_KC, step_end(t->k) - pc);
    const uint32_t *a = (const uint32_t *)t->x + (pc * t->all_rows + t->first_row * packed) / 2;
    const uint32_t *b = t->panels + j * t->panel_words + (pc - t->k_first) / 2 * LL_WORD_LANES;
    const int crosses = t->rows > LL_PAIR_FEW;
    ptrdiff_t b_panel = t->panel_words, count = word_count(kc);

    if (crosses) {
        cross_panels(width, count, b, b_panel, own);
        b = own;
        b_panel = LL_KC_WORDS * LL_WORD_LANES;
        count += count % 2;
    }
    for (ptrdiff_t i = 0, height; i < t->rows; i += height) {
        height = least(LL_PAIR_ROWS, t->rows - i);
        (crosses ? crossed_functions : straight_functions)[width - 1][height - 1](
            count, a + i * packed / 2, b, b_panel, t->tile + i * t->t_row + j * LL_LANES, t->t_row,
            pc == 0);
    }
}

/* Sums become logits. After an incomplete step come zeros, which make -0 of a sum 0. */
LL_APART void add_bias(const ll_bf16_tile *t)
{
    for (ptrdiff_t i = 0; i < t->rows; i++)
        for (ptrdiff_t c = 0; c < t->n_panels * LL_LANES; c += LL_LANES) {
            float *to = t->tile + i * t->t_row + c;
            reg sum = t->k ? rload(to) : rset(0);
            if (t->k % LL_STEP_K)
                sum = radd(sum, rset(0));
            rstore(to, radd(sum, rload(t->bias + c)));
        }
}

static void multiply(const ll_bf16_tile *t)
{
    const flush_mode mode = begin_flushing();

    for (ptrdiff_t j = 0, width; j < t->n_panels; j += width) {
        width = least(LL_PAIR_PANELS, t->n_panels - j);
        for (ptrdiff_t pc = t->k_first; pc < t->k_last; pc += LL_KC)
            multiply_panels(t, j, width, pc);
    }
    if (t->k_last == t->k)
        add_bias(t);
    end_flushing(mode);
}

/* As many chains as the kernel has. */
static double spin(ptrdiff_t rounds)
{
    enum { CHAINS = 2 * LL_PAIR_ROWS * LL_PAIR_PANELS };
    reg sum[CHAINS], all = rset(0);
    const uint32_t ones[LL_WORD_LANES] = { 0x3f803f80u };
    pairs one = load_pairs(ones);

    LL_UNROLL
    for (int i = 0; i < CHAINS; i++)
        sum[i] = rset((float)i);
    for (ptrdiff_t r = 0; r < rounds; r++)
        LL_UNROLL
        for (int i = 0; i < CHAINS; i++)
            sum[i] = dot_pairs(sum[i], one, 0x00003f80u);
    LL_UNROLL
    for (int i = 0; i < CHAINS; i++)
        all = radd(all, sum[i]);
    /* Sums grow: looking at them keeps the work alive. */
    return rsum(all) < 0 ? 0 : 4.0 * LL_LANES * CHAINS * (double)rounds;
}
