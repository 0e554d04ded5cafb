/* Gradients of weights by sparse rows, whose price is that of the entries. Derivatives stay row by row
 * where the logits were; the entries of a feature go through them in ascending order of rows. The
 * chains are those of dense rows without the links that are zero.
 */

static void derive_rows(const ll_job *job, const ll_gradient *grad)
{
    gradient_space w = gradient_lay_out(job);

    for (ptrdiff_t c = job->first; c < job->last; c += LL_BLOCK) {
        segment s = { .first = c, .width = least(LL_BLOCK, job->last - c) };
        real *tile = kept_tile(job, c);
        s.vecs = vectors(s.width);
        for (ptrdiff_t i = 0, rows; i < job->rows; i += rows) {
            rows = least(LL_GROUP_STEP, job->rows - i);
            find_derivatives(job, grad, i, rows, s, tile, &w);
            for (ptrdiff_t r = 0; r < rows; r++) {
                real *g = w.g + r * w.g_row;
                if (grad->filter)
                    drop_small(coefficient(grad, LL_LIMIT, i + r), s.width, g);
                memcpy(tile + (i + r) * w.g_row, g, (size_t)(s.vecs * LL_LANES) * sizeof(real));
            }
        }
    }
}

static void derived_bias(const ll_job *job, const ll_gradient *grad)
{
    const ptrdiff_t row = tile_row(job->n), group = group_rows(job->n);
    real sums[LL_LANES];

    for (ptrdiff_t c = job->first; c < job->last; c += LL_LANES) {
        const real *g = kept_tile(job, c) + c % LL_BLOCK;
        segment s = { .first = c, .width = least(LL_LANES, job->last - c) };
        for (ptrdiff_t i = 0; i < job->rows; i += group) {
            vec sum = vset(0);
            for (ptrdiff_t r = i; r < least(i + group, job->rows); r++)
                sum = vadd(sum, vload(g + r * row));
            vstore(sums, sum);
            add_bias(job, grad, i, &s, sums);
        }
    }
}

/* Derivatives of some panels of classes. */
typedef struct {
    const real *g;
    ptrdiff_t g_row, rows, group;
    const ll_columns *columns;
} panels_of_rows;

/* Entries of feature f by `width` panels, added to the sums there. */
LL_TEMPLATE int64_t column_kernel(const int width, const panels_of_rows *w, ptrdiff_t f, real *sums,
                                  ptrdiff_t s_panel)
{
    const ll_columns *x = w->columns;
    const int64_t end = x->start[f + 1];
    const ptrdiff_t ahead = LL_ENTRIES_AHEAD;
    ptrdiff_t group_end = 0;
    int64_t e = x->from[f];
    vec total[LL_ENTRY_PANELS], sum[LL_ENTRY_PANELS];

    LL_UNROLL
    for (int j = 0; j < width; j++) {
        total[j] = vload(sums + j * s_panel);
        sum[j] = vset(0);
    }
    for (; e < end; e++) {
        const ptrdiff_t r = x->row[e] - x->first_row;
        const real *g = w->g + r * w->g_row;
        vec v;
        if (r >= w->rows)
            break;
        if (e + ahead < x->start[f + 1] && x->row[e + ahead] - x->first_row < w->rows)
            LL_UNROLL
        for (int j = 0; j < width; j++)
            prefetch(w->g + (x->row[e + ahead] - x->first_row) * w->g_row + j * LL_LANES);
        if (x->live && !x->live[r])
            continue;
        if (r >= group_end) {
            group_end = r - r % w->group + w->group;
            LL_UNROLL
            for (int j = 0; j < width; j++) {
                total[j] = vadd(total[j], sum[j]);
                sum[j] = vset(0);
            }
        }
        v = vset(((const real *)x->value)[e]);
        LL_UNROLL
        for (int j = 0; j < width; j++)
            sum[j] = vfma(vload(g + j * LL_LANES), v, sum[j]);
    }
    LL_UNROLL
    for (int j = 0; j < width; j++)
        vstore(sums + j * s_panel, vadd(total[j], sum[j]));
    return e;
}

typedef int64_t column_function(const panels_of_rows *, ptrdiff_t, real *, ptrdiff_t);
#define LL_COLUMN(width, _)                                                         \
    static int64_t column_##width(const panels_of_rows *w, ptrdiff_t f, real *sums, \
                                  ptrdiff_t s_panel)                                \
    {                                                                               \
        return column_kernel(width, w, f, sums, s_panel);                           \
    }
#define LL_COLUMN_NAME(width, _) column_##width,
LL_ENTRY_WIDTHS(LL_COLUMN, )
static column_function *const column_functions[LL_ENTRY_PANELS] = { LL_ENTRY_WIDTHS(
    LL_COLUMN_NAME, ) };

/* Sums of LL_LANES features by as many classes into features of the weights, or out of them. Of
 * either there may be fewer. */
static void turn_square(real *square, ptrdiff_t features, ptrdiff_t classes, real *weight,
                        ptrdiff_t k, int out)
{
    const real *row[LL_LANES];
    vec turned[LL_LANES];

    if (features < LL_LANES || (!out && classes < LL_LANES)) {
        for (ptrdiff_t f = 0; f < features; f++)
            for (ptrdiff_t c = 0; c < classes; c++) {
                if (out)
                    weight[c * k + f] = square[f * LL_LANES + c];
                else
                    square[f * LL_LANES + c] = weight[c * k + f];
            }
        return;
    }
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        row[r] = out ? square + r * LL_LANES : weight + r * k;
    vtranspose(row, 0, turned);
    for (ptrdiff_t r = 0; r < (out ? classes : LL_LANES); r++)
        vstore(out ? weight + r * k : square + r * LL_LANES, turned[r]);
}

/* LL_LANES features f, ... or fewer of `width` panels, of classes c, ... */
static void add_square(const ll_job *job, const ll_gradient *grad, const panels_of_rows *w,
                       ptrdiff_t c, ptrdiff_t width, ptrdiff_t f, ptrdiff_t features)
{
    const ll_columns *x = w->columns;
    const ptrdiff_t k = job->product.k, panel = LL_LANES * LL_LANES;
    const int first = !grad->add_weight;
    real squares[LL_ENTRY_PANELS * LL_LANES * LL_LANES] = { 0 };
    real *weight = (real *)grad->d_weight + c * k + f;
    int any = first;

    for (ptrdiff_t p = f; p < f + features; p++) {
        any |= x->from[p] < x->start[p + 1] && x->row[x->from[p]] - x->first_row < w->rows;
        if (!any)
            x->to[p] = x->from[p];
    }
    if (!any)
        return;
    for (ptrdiff_t j = 0; j < width && !first; j++)
        turn_square(squares + j * panel, features, least(LL_LANES, job->last - c - j * LL_LANES),
                    weight + j * LL_LANES * k, k, 0);
    for (ptrdiff_t p = 0; p < features; p++)
        x->to[f + p] = column_functions[width - 1](w, f + p, squares + p * LL_LANES, panel);
    for (ptrdiff_t j = 0; j < width; j++)
        turn_square(squares + j * panel, features, least(LL_LANES, job->last - c - j * LL_LANES),
                    weight + j * LL_LANES * k, k, 1);
}

static void derived_weight(const ll_job *job, const ll_gradient *grad, const ll_columns *columns,
                           ptrdiff_t f_first, ptrdiff_t f_last)
{
    for (ptrdiff_t c = job->first, width; c < job->last; c += width * LL_LANES) {
        panels_of_rows w = { kept_tile(job, c) + c % LL_BLOCK, tile_row(job->n), job->rows,
                             group_rows(job->n), columns };
        width = least(least(LL_ENTRY_PANELS, (LL_BLOCK - c % LL_BLOCK) / LL_LANES),
                      vectors(job->last - c));
        for (ptrdiff_t f = f_first; f < f_last; f += LL_LANES)
            add_square(job, grad, &w, c, width, f, least(LL_LANES, f_last - f));
    }
}
