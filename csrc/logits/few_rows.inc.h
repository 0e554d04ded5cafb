/* Logits of one vector of classes that few rows use: its weights are transposed in registers, not
 * packed. The chains are those of the micro-kernel. */

/* LL_LANES rows of k weights, `ahead` of some others, on their way into the cache. The next part
 * begins at `col` of row `first`. */
typedef struct {
    const real *const *row;
    ptrdiff_t k, ahead, first, col;
} fetched;

/* LL_LANES lines of them, as much as one vector of each of the others: of `streams` rows side by
 * side, of those after them when these are done. */
static inline void fetch(const ptrdiff_t streams, fetched *next)
{
    const ptrdiff_t width = LL_LANES / streams * LL_LANES;

    LL_UNROLL
    for (ptrdiff_t r = 0; r < streams; r++)
        LL_UNROLL
        for (ptrdiff_t j = 0; j < width; j += LL_LANES)
            prefetch_to_l2(next->row[next->first + r] + next->ahead + next->col + j);
    next->col += width;
    if (next->col >= next->k) {
        next->col = 0;
        next->first = (next->first + streams) % LL_LANES;
    }
}

/* One feature of LL_LANES classes with each of `rows` rows. */
LL_TEMPLATE void add_feature(const int rows, const real *x, vec w, vec sum[LL_MR])
{
    LL_UNROLL
    for (int i = 0; i < rows; i++)
        sum[i] = vfma(vset(x[i]), w, sum[i]);
}

/* Logits of LL_LANES classes with each of `rows` packed rows, into the tile. What lies `ahead` of
 * the weights is needed next and fetched from `streams` rows at a time. */
LL_TEMPLATE void few_rows_kernel(const int rows, const ptrdiff_t streams, ptrdiff_t k,
                                 const real *x, const real *const *w, ptrdiff_t ahead, vec bias,
                                 real *tile, ptrdiff_t t_row)
{
    vec total[LL_MR], wp[LL_LANES];
    fetched next = { w, k, ahead, 0, 0 };

    LL_UNROLL
    for (int i = 0; i < rows; i++)
        total[i] = vset(0);
    for (ptrdiff_t pc = 0; pc < k; pc += LL_KC) {
        const ptrdiff_t end = least(pc + LL_KC, k);
        vec sum[LL_MR];
        LL_UNROLL
        for (int i = 0; i < rows; i++)
            sum[i] = vset(0);
        for (ptrdiff_t p = pc, count; p < end; p += count) {
            count = least(LL_LANES, end - p);
            fetch(streams, &next);
            transpose_features(w, p, count, 1, wp);
            if (count == LL_LANES) {
                LL_UNROLL
                for (ptrdiff_t q = 0; q < LL_LANES; q++)
                    add_feature(rows, x + (p + q) * rows, wp[q], sum);
            } else
                for (ptrdiff_t q = 0; q < count; q++)
                    add_feature(rows, x + (p + q) * rows, wp[q], sum);
        }
        LL_UNROLL
        for (int i = 0; i < rows; i++)
            total[i] = pc ? vadd(total[i], sum[i]) : sum[i];
    }
    LL_UNROLL
    for (int i = 0; i < rows; i++)
        vstore(tile + i * t_row, vadd(total[i], bias));
}

typedef void few_rows_function(ptrdiff_t, const real *, const real *const *, ptrdiff_t, vec, real *,
                               ptrdiff_t);
#define LL_FEW_ROWS_OF(name, rows, streams)                                                       \
    static void name(ptrdiff_t k, const real *x, const real *const *w, ptrdiff_t ahead, vec bias, \
                     real *tile, ptrdiff_t t_row)                                                 \
    {                                                                                             \
        few_rows_kernel(rows, streams, k, x, w, ahead, bias, tile, t_row);                        \
    }
#define LL_FEW_ROWS(rows, _) LL_FEW_ROWS_OF(few_rows_##rows, rows, LL_STREAMS)
#define LL_FEW_ROWS_NAME(rows, _) few_rows_##rows,

LL_HEIGHTS(LL_FEW_ROWS, )
LL_FEW_ROWS_OF(few_rows_wide_1, 1, LL_LANES)
LL_FEW_ROWS_OF(few_rows_wide_2, 2, LL_LANES)
LL_FEW_ROWS_OF(few_rows_wide_3, 3, LL_LANES)

static few_rows_function *const few_rows_functions[LL_MR] = { LL_HEIGHTS(LL_FEW_ROWS_NAME, ) };
static few_rows_function *const wide_functions[] = { few_rows_wide_1, few_rows_wide_2,
                                                     few_rows_wide_3 };

/* All rows are fetched side by side where little else is done with them; but not those that share
 * sets of L1, a multiple of 4 KiB apart. Both were measured. */
static inline few_rows_function *few_rows_kernel_for(ptrdiff_t rows, ptrdiff_t w_row)
{
    const int share = w_row % (4096 / (ptrdiff_t)sizeof(real)) == 0;
    return rows <= 3 && !share ? wide_functions[rows - 1] : few_rows_functions[rows - 1];
}
