/* Products of bfloat16 by an instruction that adds two products of a word to a sum, one after the
 * other.
 *
 * Its two products are neighbours in a chain of even or of odd features (see widening.inc.h for the
 * order), while weights have an even and an odd feature in a word. So words are crossed: those of
 * rows when they are packed, those of weights by the first rows that use them, for all rows of the
 * tile.
 *
 * Rows are packed in micro-panels of up to LL_PAIR_ROWS, KC features after the other: four features
 * of each row as two crossed words, first those of the even features of all rows. */
#include "../base/flush.inc.h"
#include "../simd/bf16_avx512.h"

#define LL_PAIR_ROWS 6   /* rows by panels: two chains each, in registers */
#define LL_PAIR_PANELS 2
#define LL_STEP_WORDS (LL_STEP_K / 2)
#define LL_KC_WORDS (LL_KC / 2)

/* Features up to the end of their last step. */
static inline ptrdiff_t step_end(ptrdiff_t k)
{
    return (k + LL_STEP_K - 1) / LL_STEP_K * LL_STEP_K;
}

/* Height of the micro-panel that begins at row i: the last ones are equally high, as few as do. */
static inline ptrdiff_t pair_height(ptrdiff_t i, ptrdiff_t rows)
{
    const ptrdiff_t step = 2 * LL_PAIR_ROWS, left = least(step - i % step, rows - i);
    return left <= LL_PAIR_ROWS ? left : (left + 1) / 2;
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
            height = pair_height(i, rows);
            for (ptrdiff_t p = pc; p < end; p += 4, packed += 2 * height)
                for (ptrdiff_t r = 0; r < height; r++) {
                    const uint16_t *row = x + (i + r) * x_row;
                    packed[r] = word_of(row, p + 2, p, k);
                    packed[height + r] = word_of(row, p + 3, p + 1, k);
                }
        }
    }
}

/* How words come: crossed, or to be crossed and left so for the rows that follow, if any do. */
enum { LL_CROSSED, LL_FIRST, LL_ONLY };

/* Four features of `width` panels, of which `count` words are there: 2 but at an end. */
LL_TEMPLATE void load_crossed(const int width, const int come, const int count,
                              const uint32_t *b, ptrdiff_t b_panel, uint32_t *own, pairs *even,
                              pairs *odd)
{
    LL_UNROLL
    for (int j = 0; j < width; j++, b += b_panel, own += LL_KC_WORDS * LL_WORD_LANES) {
        pairs first = load_pairs(b);
        pairs second = count == 2 ? load_pairs(b + LL_WORD_LANES) : no_pairs();
        even[j] = come == LL_CROSSED ? first : cross_even(first, second);
        odd[j] = come == LL_CROSSED ? second : cross_odd(first, second);
        if (come == LL_FIRST) {
            store_pairs(own, even[j]);
            store_pairs(own + LL_WORD_LANES, odd[j]);
        }
    }
}

/* Those of `height` rows. */
LL_TEMPLATE void pair_step(const int height, const int width, const int come, const int count,
                           reg even[LL_PAIR_ROWS][LL_PAIR_PANELS],
                           reg odd[LL_PAIR_ROWS][LL_PAIR_PANELS], const uint32_t *a,
                           const uint32_t *b, ptrdiff_t b_panel, uint32_t *own)
{
    pairs low[LL_PAIR_PANELS], high[LL_PAIR_PANELS];

    load_crossed(width, come, count, b, b_panel, own, low, high);
    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++) {
            even[i][j] = dot_pairs(even[i][j], low[j], a[i]);
            odd[i][j] = dot_pairs(odd[i][j], high[j], a[height + i]);
        }
}

/* What a kernel reads beside its rows: words of panels, KC features or fewer; where they are left
 * crossed, KC apart; and those needed next, which come into the cache. */
typedef struct {
    const uint32_t *b;
    ptrdiff_t b_panel, count;
    uint32_t *own;
    const uint32_t *next;
} pair_panels;

/* LL_STEP_K features, or those of `count` words from the q-th on, into the sums. */
LL_TEMPLATE void sum_step(const int height, const int width, const int come, ptrdiff_t q,
                          ptrdiff_t count, const uint32_t *a, const pair_panels *p, float *tile,
                          ptrdiff_t t_row, int first)
{
    reg even[LL_PAIR_ROWS][LL_PAIR_PANELS], odd[LL_PAIR_ROWS][LL_PAIR_PANELS];
    const uint32_t *b = p->b + q * LL_WORD_LANES, *next = p->next + q * LL_WORD_LANES;
    uint32_t *own = p->own + q * LL_WORD_LANES;
    const int whole = count == LL_STEP_WORDS;

    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++)
            even[i][j] = odd[i][j] = rset(0);
    LL_ROLLED
    for (; count >= 2; count -= 2, a += 2 * height) {
        LL_UNROLL
        for (int j = 0; j < width && come != LL_CROSSED; j++) {
            prefetch_to_l2(next + j * p->b_panel);
            prefetch_to_l2(next + j * p->b_panel + LL_WORD_LANES);
        }
        pair_step(height, width, come, 2, even, odd, a, b, p->b_panel, own);
        b += 2 * LL_WORD_LANES;
        next += 2 * LL_WORD_LANES;
        own += 2 * LL_WORD_LANES;
    }
    if (count)
        pair_step(height, width, come, 1, even, odd, a, b, p->b_panel, own);
    if (!whole) /* what zeros add */
        LL_UNROLL
        for (int i = 0; i < height; i++)
            LL_UNROLL
            for (int j = 0; j < width; j++) {
                even[i][j] = radd(even[i][j], rset(0));
                odd[i][j] = radd(odd[i][j], rset(0));
            }
    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++) {
            float *to = tile + i * t_row + j * LL_LANES;
            reg sum = first ? rset(0) : rload(to), more = radd(even[i][j], odd[i][j]);
            rstore(to, radd(sum, more));
        }
}

LL_TEMPLATE void pair_kernel(const int height, const int width, const int come,
                             const uint32_t *a, const pair_panels *p, float *tile,
                             ptrdiff_t t_row, int first)
{
    for (ptrdiff_t q = 0; q < p->count; q += LL_STEP_WORDS)
        sum_step(height, width, come, q, least(LL_STEP_WORDS, p->count - q), a + q * height, p,
                 tile, t_row, first && q == 0);
}

typedef void pair_function(const uint32_t *, const pair_panels *, float *, ptrdiff_t, int);
#define LL_PAIRS_OF(name, height, width, come)                                                   \
    LL_APART void name(const uint32_t *a, const pair_panels *p, float *tile, ptrdiff_t t_row,    \
                       int first)                                                                \
    {                                                                                            \
        pair_kernel(height, width, come, a, p, tile, t_row, first);                              \
    }
#define LL_PAIRS(height, width)                                                                  \
    LL_PAIRS_OF(crossed_##height##_##width, height, width, LL_CROSSED)                           \
    LL_PAIRS_OF(first_##height##_##width, height, width, LL_FIRST)
#define LL_PAIRS_ONLY(height, _) LL_PAIRS_OF(only_##height, height, 1, LL_ONLY)
#define LL_CROSSED_NAME(height, width) crossed_##height##_##width,
#define LL_FIRST_NAME(height, width) first_##height##_##width,
#define LL_ONLY_NAME(height, _) only_##height,
LL_UP_TO_6(LL_PAIRS, 1)
LL_UP_TO_6(LL_PAIRS, 2)
LL_UP_TO_6(LL_PAIRS_ONLY, )

static pair_function *const crossed_functions[][LL_PAIR_ROWS] = {
    { LL_UP_TO_6(LL_CROSSED_NAME, 1) },
    { LL_UP_TO_6(LL_CROSSED_NAME, 2) },
};
static pair_function *const first_functions[][LL_PAIR_ROWS] = {
    { LL_UP_TO_6(LL_FIRST_NAME, 1) },
    { LL_UP_TO_6(LL_FIRST_NAME, 2) },
};
static pair_function *const only_functions[] = { LL_UP_TO_6(LL_ONLY_NAME, ) };

/* For rows from i on. */
static inline pair_function *pair_function_for(ptrdiff_t i, ptrdiff_t rows, ptrdiff_t height,
                                               ptrdiff_t width)
{
    if (height == rows && width == 1)
        return only_functions[height - 1];
    return (i ? crossed_functions : first_functions)[width - 1][height - 1];
}

/* Features [pc, pc + LL_KC) or to the end, of all rows by `width` panels. The first rows cross
 * them. */
static void multiply_panels(const ll_bf16_tile *t, ptrdiff_t j, ptrdiff_t width, ptrdiff_t pc)
{
    _Alignas(64) uint32_t own[LL_PAIR_PANELS * LL_KC_WORDS * LL_WORD_LANES];
    const ptrdiff_t kc = least(LL_KC, t->k_last - pc), packed = least(LL_KC, step_end(t->k) - pc);
    const uint32_t *a = (const uint32_t *)t->x + (pc * t->all_rows + t->first_row * packed) / 2;
    const uint32_t *b = t->panels + j * t->panel_words + (pc - t->k_first) / 2 * LL_WORD_LANES;
    pair_panels p = { b, t->panel_words, word_count(kc), own, b + LL_KC_WORDS * LL_WORD_LANES };

    if (pc + LL_KC >= t->k_last)
        p.next = t->panels + (j + width) * t->panel_words;
    for (ptrdiff_t i = 0, height; i < t->rows; i += height) {
        height = pair_height(i, t->rows);
        pair_function_for(i, t->rows, height, width)(
            a + i * packed / 2, &p, t->tile + i * t->t_row + j * LL_LANES, t->t_row, pc == 0);
        p.b = own;
        p.b_panel = LL_KC_WORDS * LL_WORD_LANES;
        p.count += p.count % 2;
    }
}

/* Sums become logits. */
LL_APART void add_bias(const ll_bf16_tile *t)
{
    for (ptrdiff_t i = 0; i < t->rows; i++)
        for (ptrdiff_t c = 0; c < t->n_panels * LL_LANES; c += LL_LANES) {
            float *to = t->tile + i * t->t_row + c;
            rstore(to, radd(t->k ? rload(to) : rset(0), rload(t->bias + c)));
        }
}

static void multiply(const ll_bf16_tile *t)
{
    const flush_mode mode = begin_flushing();

    for (ptrdiff_t j = 0, width; j < t->n_panels; j += width) {
        width = least(t->rows > LL_STREAM_MOST ? LL_PAIR_PANELS : 1, t->n_panels - j);
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
    enum { WIDE = 2 * LL_PAIR_PANELS };
    const uint32_t ones[LL_WORD_LANES] = { 0x3f803f80u };
    reg sum[LL_PAIR_ROWS][WIDE], all = rset(0);
    pairs one = load_pairs(ones);

    LL_UNROLL
    for (int i = 0; i < LL_PAIR_ROWS; i++)
        LL_UNROLL
        for (int j = 0; j < WIDE; j++)
            sum[i][j] = rset((float)(i * WIDE + j));
    for (ptrdiff_t r = 0; r < rounds; r++)
        LL_UNROLL
        for (int i = 0; i < LL_PAIR_ROWS; i++)
            LL_UNROLL
            for (int j = 0; j < WIDE; j++)
                sum[i][j] = dot_pairs(sum[i][j], one, 0x00003f80u);
    LL_UNROLL
    for (int i = 0; i < LL_PAIR_ROWS; i++)
        LL_UNROLL
        for (int j = 0; j < WIDE; j++)
            all = radd(all, sum[i][j]);
    /* Sums grow: looking at them keeps the work alive. */
    return rsum(all) < 0 ? 0 : 4.0 * LL_LANES * LL_PAIR_ROWS * WIDE * (double)rounds;
}
