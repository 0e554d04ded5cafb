/* The product of rows of which only what is not zero is held: its price is that of the entries.
 *
 * The chains are those of dense rows without the links that are zero. A panel of classes goes by
 * all rows of a tile, so that what they have in common of it is in the caches.
 */

/* Besides the types of packed weights: weights that lie where the caller has them. */
enum { LL_STRIDED = LL_FLOAT16 + 1 };

/* Weights of some panels of classes. */
typedef struct {
    const ll_product *from;
    const void *at;
    ptrdiff_t panel; /* from one to the next: reals, or words */
    ptrdiff_t count; /* classes from here on */
} panels_of;

/* Weights of feature f, of the j-th panel. */
LL_TEMPLATE vec weights_at(const int how, const panels_of *w, ptrdiff_t f, ptrdiff_t j)
{
    if (how == LL_STRIDED)
        return gather_weights(w->from, w->at, f * w->from->w_col, w->from->w_row, w->count);
#if LL_REAL == 32
    if (how != LL_REALS) {
        const uint32_t *words = (const uint32_t *)w->at + j * w->panel + f / 2 * LL_WORD_LANES;
        return f % 2 ? vhigh(how, words) : vlow(how, words);
    }
#endif
    return vload((const real *)w->at + j * w->panel + f * LL_LANES);
}

LL_TEMPLATE void fetch_weights(const int how, const int width, const panels_of *w, ptrdiff_t f)
{
    if (how == LL_STRIDED)
        return;
    LL_UNROLL
    for (ptrdiff_t j = 0; j < width; j++)
        prefetch(how == LL_REALS ? (const void *)((const real *)w->at + j * w->panel + f * LL_LANES)
                                 : (const uint32_t *)w->at + j * w->panel + f / 2 * LL_WORD_LANES);
}

/* Entries [e, end) of a row with `width` panels; those after them, up to `last`, are next. */
LL_TEMPLATE void entries_kernel(const int how, const int width, const panels_of *w, int64_t e,
                                int64_t end, int64_t last, const real *bias, real *z)
{
    const int32_t *index = w->from->x_index;
    const real *value = w->from->x_value;
    vec total[LL_ENTRY_PANELS];

    LL_UNROLL
    for (int j = 0; j < width; j++)
        total[j] = vset(0);
    while (e < end) {
        const int32_t limit = index[e] | (LL_KC - 1);
        vec sum[LL_ENTRY_PANELS];
        LL_UNROLL
        for (int j = 0; j < width; j++)
            sum[j] = vset(0);
        do {
            const vec v = vset(value[e]);
            if (e + LL_ENTRIES_AHEAD < last)
                fetch_weights(how, width, w, index[e + LL_ENTRIES_AHEAD]);
            LL_UNROLL
            for (int j = 0; j < width; j++)
                sum[j] = vfma(v, weights_at(how, w, index[e], j), sum[j]);
            e++;
        } while (e < end && index[e] <= limit);
        LL_UNROLL
        for (int j = 0; j < width; j++)
            total[j] = vadd(total[j], sum[j]);
    }
    LL_UNROLL
    for (int j = 0; j < width; j++)
        vstore(z + j * LL_LANES, vadd(total[j], vload(bias + j * LL_LANES)));
}

/* The same of few classes, whose chains are those of LL_LANES lanes: in one of these lie features
 * that are so many apart. */
LL_TEMPLATE void few_entries_kernel(const int how, const panels_of *w, int64_t e, int64_t end,
                                    int64_t last, const real *bias, real *z)
{
    const int32_t *index = w->from->x_index;
    const real *value = w->from->x_value;
    real chains[LL_LANES * LL_LANES] = { 0 };

    for (; e < end; e++) {
        real *chain = chains + index[e] % LL_LANES * LL_LANES;
        if (e + LL_ENTRIES_AHEAD < last)
            fetch_weights(how, 1, w, index[e + LL_ENTRIES_AHEAD]);
        vstore(chain, vfma(vset(value[e]), weights_at(how, w, index[e], 0), vload(chain)));
    }
    for (ptrdiff_t half = LL_LANES / 2; half > 0; half /= 2)
        for (ptrdiff_t l = 0; l < half; l++) {
            real *low = chains + l * LL_LANES;
            vstore(low, vadd(vload(low), vload(low + half * LL_LANES)));
        }
    vstore(z, vadd(vload(chains), vload(bias)));
}

/* Rows i, ... of a tile with `width` panels. */
LL_TEMPLATE void tile_entries(const int how, const int width, const int few, const ll_job *job,
                              ptrdiff_t i, ptrdiff_t rows, const panels_of *w, const real *bias,
                              real *z, ptrdiff_t z_row)
{
    const int64_t *start = job->product.x_start + i, last = job->product.x_start[job->rows];

    for (ptrdiff_t r = 0; r < rows; r++, z += z_row)
        if (few)
            few_entries_kernel(how, w, start[r], start[r + 1], last, bias, z);
        else
            entries_kernel(how, width, w, start[r], start[r + 1], last, bias, z);
}

typedef void entries_function(const ll_job *, ptrdiff_t, ptrdiff_t, const panels_of *, const real *,
                              real *, ptrdiff_t);
#define LL_ENTRIES_OF(name, how, width, few)                                             \
    static void name(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, const panels_of *w, \
                     const real *bias, real *z, ptrdiff_t z_row)                         \
    {                                                                                    \
        tile_entries(how, width, few, job, i, rows, w, bias, z, z_row);                  \
    }
#define LL_ENTRIES(width, how) LL_ENTRIES_OF(entries_of_##how##_##width, LL_ENTRIES_##how, width, 0)
#define LL_ENTRIES_NAME(width, how) entries_of_##how##_##width,
#define LL_ENTRIES_reals LL_REALS
#define LL_ENTRIES_bfloat16 LL_BFLOAT16
#define LL_ENTRIES_float16 LL_FLOAT16
#define LL_ENTRY_WIDTHS(of, with) LL_JOIN(LL_UP_TO, LL_ENTRY_PANELS)(of, with)

LL_ENTRIES_OF(few_entries_packed, LL_REALS, 1, 1)
LL_ENTRIES_OF(few_entries_strided, LL_STRIDED, 1, 1)
LL_ENTRIES_OF(entries_strided, LL_STRIDED, 1, 0)
LL_ENTRY_WIDTHS(LL_ENTRIES, reals)
#if LL_REAL == 32
LL_ENTRY_WIDTHS(LL_ENTRIES, bfloat16)
LL_ENTRY_WIDTHS(LL_ENTRIES, float16)
#endif
static entries_function *const entries_functions[][LL_ENTRY_PANELS] = {
    { LL_ENTRY_WIDTHS(LL_ENTRIES_NAME, reals) }, /* by the numbers of the types */
#if LL_REAL == 32
    { LL_ENTRY_WIDTHS(LL_ENTRIES_NAME, bfloat16) },
    { LL_ENTRY_WIDTHS(LL_ENTRIES_NAME, float16) },
#endif
};

/* All features of one panel, of `count` classes from c on. */
static void make_panel(const ll_product *p, const void *weight, ptrdiff_t c, ptrdiff_t count,
                       real *panel)
{
    for (ptrdiff_t pc = 0; pc < p->k; pc += LL_KC)
        make_panels(p, weight, c, least(LL_LANES, count), pc, least(LL_KC, p->k - pc),
                    panel + pc * LL_LANES);
}

/* Logits of rows i, ... against `width` classes, a block of them or what there is. */
static void product_of_entries(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, const void *weight,
                               ptrdiff_t width, const workspace *w)
{
    const ll_product *p = &job->product;
    const int few = job->n <= LL_SMALL_N, narrow = p->packed && is_narrow(p);
    const ptrdiff_t vecs = vectors(width);

    for (ptrdiff_t v = 0, group; v < vecs; v += group) {
        const ptrdiff_t c = v * LL_LANES;
        panels_of from = { p, class_at(p, weight, c), 0, width - c };
        entries_function *function = few ? few_entries_packed : entries_functions[0][0];

        group = p->packed ? least(LL_ENTRY_PANELS, vecs - v) : 1;
        if (p->packed) {
            from.panel = narrow ? word_count(p->k) * LL_WORD_LANES : p->k * LL_LANES;
            function = entries_functions[narrow ? p->type : LL_REALS][group - 1];
        } else if (p->x_panels) {
            make_panel(p, weight, c, width - c, w->panels);
            from.at = w->panels;
        } else
            function = few ? few_entries_strided : entries_strided;
        function(job, i, rows, &from, w->bias + c, w->tile + c, w->tile_row);
    }
}

/* The weight of one class and feature f; the class is the lane-th after c, the first of a panel. */
static real one_weight(const ll_product *p, ptrdiff_t c, ptrdiff_t lane, ptrdiff_t f)
{
    const void *at = class_at(p, p->weight, c);

    if (!p->packed)
        return read_weight(p, at, lane * p->w_row + f * p->w_col);
#if LL_REAL == 32
    if (is_narrow(p)) {
        uint32_t word = ((const uint32_t *)at)[f / 2 * LL_WORD_LANES + lane];
        return ll_widen(p->type, f % 2 ? word >> 16 : word & 0xffff);
    }
#endif
    return ((const real *)at)[f * LL_LANES + lane];
}

/* The logit, before the bias, of row i and class c. */
static real entry_product(const ll_product *p, ptrdiff_t i, ptrdiff_t c)
{
    const int64_t end = p->x_start[i + 1];
    const ptrdiff_t lane = c % LL_LANES;
    real total = 0, link[LL_LANES];

    for (int64_t e = p->x_start[i]; e < end;) {
        const int32_t limit = p->x_index[e] | (LL_KC - 1);
        vec sum = vset(0);
        for (; e < end && p->x_index[e] <= limit; e++)
            sum = vfma(vset(((const real *)p->x_value)[e]),
                       vset(one_weight(p, c - lane, lane, p->x_index[e])), sum);
        vstore(link, sum);
        total += link[0];
    }
    return total;
}
