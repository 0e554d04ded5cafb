/* Products of bfloat16 by chains in the registers of LL_PART classes, as the file that includes this
 * adds a word to them.
 *
 * Features are taken LL_STEP_K at a time: the even ones are one chain of fused multiply-adds from
 * zero, the odd ones another, and sum = sum + (even + odd). Zeros stand in behind the last feature;
 * then the bias. Sums wait in the tile from step to step.
 *
 * Rows are packed in micro-panels of up to LL_BF16_ROWS, KC features after the other, word by word,
 * LL_ROW_NUMBERS to a word; with KC a whole number of steps. Behind the last are LL_NUMBERS_AHEAD
 * that may be read. Rows of a tile are whole micro-panels. */

LL_HOLDS(LL_TILE_ROWS % LL_BF16_ROWS == 0);

/* Features up to the end of their last step. */
static inline ptrdiff_t step_end(ptrdiff_t k)
{
    return (k + LL_STEP_K - 1) / LL_STEP_K * LL_STEP_K;
}

/* Numbers of a row that so many features take. */
static inline ptrdiff_t row_numbers(ptrdiff_t features) { return features / 2 * LL_ROW_NUMBERS; }

static size_t row_bytes(ptrdiff_t rows, ptrdiff_t k)
{
    return (size_t)(rows * row_numbers(step_end(k)) + LL_NUMBERS_AHEAD) * sizeof(row_number);
}

static void pack_rows(const uint16_t *x, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t x_row, void *packed_)
{
    row_number *packed = packed_;

    for (ptrdiff_t pc = 0; pc < k; pc += LL_KC) {
        const ptrdiff_t end = pc + least(LL_KC, step_end(k) - pc);
        for (ptrdiff_t i = 0, height; i < rows; i += height) {
            height = least(LL_BF16_ROWS, rows - i);
            for (ptrdiff_t p = pc; p < end; p += 2 / LL_ROW_NUMBERS)
                for (ptrdiff_t r = 0; r < height; r++)
                    *packed++ = pack_number(x + (i + r) * x_row, p, k);
        }
    }
}

/* `kc` features of a panel and of row i of a micro-panel, number by number. */
static void row_by_number(ptrdiff_t height, ptrdiff_t i, ptrdiff_t kc, const row_number *a,
                          const uint32_t *b, float *sums, int first)
{
    for (ptrdiff_t c = 0; c < LL_WORD_LANES; c++) {
        float sum = first ? 0 : sums[c];
        for (ptrdiff_t step = 0; step < kc; step += LL_STEP_K) {
            float even = 0, odd = 0;
            for (ptrdiff_t p = step; p < step + LL_STEP_K; p += 2) {
                const uint32_t word = p < kc ? b[p / 2 * LL_WORD_LANES + c] : 0;
                const row_number *at = a + row_numbers(p) * height;
                even = flushed_fma(feature(at, height, i, 0), ll_widen(LL_BFLOAT16, word & 0xffff),
                                   even);
                odd = flushed_fma(feature(at, height, i, 1), ll_widen(LL_BFLOAT16, word >> 16),
                                  odd);
            }
            sum = flushed_sum(sum, flushed_sum(even, odd));
        }
        sums[c] = sum;
    }
}

#if LL_FLUSHES

/* One register of the sums of `height` rows: a step of `kc` features. */
LL_TEMPLATE void chain_step(const int height, ptrdiff_t kc, const row_number *a, const uint32_t *b,
                            float *tile, ptrdiff_t t_row, int first)
{
    reg even[LL_BF16_ROWS], odd[LL_BF16_ROWS];

    LL_UNROLL
    for (int i = 0; i < height; i++)
        even[i] = odd[i] = rset(0);
    LL_ROLLED
    for (ptrdiff_t p = 0; p < kc; p += 2, a += LL_ROW_NUMBERS * height, b += LL_WORD_LANES)
        add_word(height, even, odd, a, b);
    if (kc < LL_STEP_K) /* what zeros add */
        LL_UNROLL
        for (int i = 0; i < height; i++) {
            even[i] = radd(even[i], rset(0));
            odd[i] = radd(odd[i], rset(0));
        }
    LL_UNROLL
    for (int i = 0; i < height; i++) {
        reg sum = first ? rset(0) : rload(tile + i * t_row);
        rstore(tile + i * t_row, radd(sum, radd(even[i], odd[i])));
    }
}

/* `kc` features of a panel and a micro-panel. */
LL_TEMPLATE void chain_kernel(const int height, ptrdiff_t kc, const row_number *a,
                              const uint32_t *b, float *tile, ptrdiff_t t_row, int first)
{
    for (ptrdiff_t q = 0; q < LL_LANES; q += LL_PART)
        for (ptrdiff_t p = 0; p < kc; p += LL_STEP_K)
            chain_step(height, least(LL_STEP_K, kc - p), a + row_numbers(p) * height,
                       b + p / 2 * LL_WORD_LANES + q, tile + q, t_row, first && p == 0);
}

typedef void chain_function(ptrdiff_t, const row_number *, const uint32_t *, float *, ptrdiff_t, int);
#define LL_CHAINS_OF(height, _)                                                                  \
    LL_APART void chains_##height(ptrdiff_t kc, const row_number *a, const uint32_t *b,          \
                                  float *tile, ptrdiff_t t_row, int first)                       \
    {                                                                                            \
        chain_kernel(height, kc, a, b, tile, t_row, first);                                      \
    }
#define LL_CHAINS_NAME(height, _) chains_##height,
LL_JOIN(LL_UP_TO, LL_BF16_ROWS)(LL_CHAINS_OF, )
static chain_function *const chain_functions[] = {
    LL_JOIN(LL_UP_TO, LL_BF16_ROWS)(LL_CHAINS_NAME, )
};
#endif

/* The same of all rows of a micro-panel, as the processor does it where it does it right. */
static void add_features(ptrdiff_t height, ptrdiff_t kc, const row_number *a, const uint32_t *b,
                         float *tile, ptrdiff_t t_row, int first)
{
#if LL_FLUSHES
    float before[LL_BF16_ROWS * LL_LANES];

    for (ptrdiff_t i = 0; i < height && !first; i++)
        memcpy(before + i * LL_LANES, tile + i * t_row, LL_LANES * sizeof(float));
    chain_functions[height - 1](kc, a, b, tile, t_row, first);
    if (!is_by_number())
        return;
    for (ptrdiff_t i = 0; i < height && !first; i++)
        memcpy(tile + i * t_row, before + i * LL_LANES, LL_LANES * sizeof(float));
#endif
    for (ptrdiff_t i = 0; i < height; i++)
        row_by_number(height, i, kc, a, b, tile + i * t_row, first);
}

/* Sums become logits. */
LL_APART void add_bias(const ll_bf16_tile *t)
{
    for (ptrdiff_t i = 0; i < t->rows; i++)
        for (ptrdiff_t c = 0; c < t->n_panels * LL_LANES; c += LL_PART) {
            float *sum = t->tile + i * t->t_row + c;
            rstore(sum, flushed_add(t->k ? rload(sum) : rset(0), rload(t->bias + c)));
        }
}

/* All features of the tile: KC of a panel, while they are in L1, with all rows. */
static void multiply(const ll_bf16_tile *t)
{
    const flush_mode mode = begin_flushing();

    for (ptrdiff_t j = 0; j < t->n_panels; j++)
        for (ptrdiff_t pc = t->k_first; pc < t->k_last; pc += LL_KC) {
            const ptrdiff_t kc = least(LL_KC, t->k_last - pc);
            const ptrdiff_t packed = row_numbers(least(LL_KC, step_end(t->k) - pc));
            const row_number *a = (const row_number *)t->x + row_numbers(pc) * t->all_rows
                                + t->first_row * packed;
            const uint32_t *b = t->panels + j * t->panel_words
                              + (pc - t->k_first) / 2 * LL_WORD_LANES;
            for (ptrdiff_t i = 0, height; i < t->rows; i += height) {
                height = least(LL_BF16_ROWS, t->rows - i);
                add_features(height, kc, a + i * packed, b, t->tile + i * t->t_row + j * LL_LANES,
                             t->t_row, pc == 0);
            }
        }
    if (t->k_last == t->k)
        add_bias(t);
    end_flushing(mode);
}

/* As many chains as the kernel has. */
static double spin(ptrdiff_t rounds)
{
    reg even[LL_BF16_ROWS], odd[LL_BF16_ROWS], all = rset(0);

    LL_UNROLL
    for (int i = 0; i < LL_BF16_ROWS; i++) {
        even[i] = rset((float)i);
        odd[i] = rset((float)-i);
    }
    for (ptrdiff_t r = 0; r < rounds; r++)
        LL_UNROLL
        for (int i = 0; i < LL_BF16_ROWS; i++)
            spin_word(&even[i], &odd[i]);
    LL_UNROLL
    for (int i = 0; i < LL_BF16_ROWS; i++)
        all = radd(all, radd(even[i], odd[i]));
    /* No sum is negative: looking at it keeps the work alive. */
    return rsum(all) < 0 ? 0 : 4.0 * LL_PART * LL_BF16_ROWS * (double)rounds;
}
