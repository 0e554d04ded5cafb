/* Lower upper bounds of candidates, one at a time, before their panels of reals are read: first by the
 * 16ths of a class, which lie side by side; then, where these were not enough, by the second level
 * of the row, for which the panel of bytes is read again. */

/* A row whose candidates these are. */
typedef struct {
    const ll_screen *all;
    ptrdiff_t i;
    float *q;                  /* its bytes as reals, zeros behind the last */
    ll_screen alone;           /* it alone, in two levels, once it is needed */
    float bounds[LL_ROW_BOUNDS];
    int32_t start[2];
} refined_row;

static size_t refine_bytes(ptrdiff_t k)
{
    return (size_t)(2 * fine_size(k)) * sizeof(float) + row_bytes(2, k);
}

static inline const float *bounds_of_row(const ll_screen *s, ptrdiff_t i)
{
    return s->row_bounds + i * LL_ROW_BOUNDS;
}

/* Bytes of row i as quantise_row makes them. */
static void bytes_as_reals(refined_row *row)
{
    const ll_screen *s = row->all;
    float scale = bounds_of_row(s, row->i)[LL_ROW_SCALE];
    vec by_unit = vset(scale > 0 ? 1 / scale : 0);

    for (ptrdiff_t p = 0; p < 2 * fine_size(s->k); p += LL_LANES) {
        vec x = p < s->k ? row_part(s->rows_x + row->i * s->x_row, p, s->k) : vset(0);
        vstore(row->q + p, vround(vmul(x, by_unit)));
    }
}

/* The product of bytes of a row and 16ths of a class: exact, but that the sum over lanes may round. */
static float fine_product(const float *q, const uint8_t *fine, ptrdiff_t k)
{
    vec low = vset(0), high = vset(0);

    for (ptrdiff_t p = 0; p < k; p += LL_FINE_STEP, fine += LL_LANES) {
        low = vfma(vload(q + p), vhalves(0, fine), low);
        high = vfma(vload(q + p + LL_LANES), vhalves(4, fine), high);
    }
    return vsum(vadd(low, high));
}

static inline float bound_of_class(const ll_screen *s, int32_t c, int which)
{
    ptrdiff_t panel = c / LL_SCREEN_LANES;
    return s->bounds[(LL_CLASS_BOUNDS * panel + which) * LL_SCREEN_LANES + c % LL_SCREEN_LANES];
}

/* What 16ths of class c change its upper bound by, which was made with a row of this size; `beside`
 * is the norm of what was counted of the row besides its bytes. */
static float fine_change(const refined_row *row, float size, float beside, int32_t c)
{
    const ll_screen *s = row->all;
    float error = bound_of_class(s, c, LL_CLASS_ERROR);
    float fine_error = bound_of_class(s, c, LL_CLASS_FINE_ERROR);
    float scale = bounds_of_row(s, row->i)[LL_ROW_SCALE] * bound_of_class(s, c, LL_CLASS_SCALE);
    float product = fine_product(row->q, s->fine + c * fine_size(s->k), s->k) * 0x1p-4f;

    return scale * product - size * (error - fine_error) + beside * (error + fine_error);
}

/* The norm of a second level, at most. */
static inline float second_level(const refined_row *row)
{
    double scale = (double)bounds_of_row(row->all, row->i)[LL_ROW_SCALE];
    return (float)(0.5 * scale * sqrt((double)row->all->k));
}

/* Of a row as it was scanned. */
static inline float counted_beside(const refined_row *row)
{
    return row->all->levels == 2 ? second_level(row) : 0;
}

static void prefetch_fine(const ll_screen *s, int32_t c)
{
    const uint8_t *fine = s->fine + c * fine_size(s->k);
    for (ptrdiff_t j = 0; j < fine_size(s->k); j += LL_CACHE_LINE)
        prefetch_to_l2(fine + j);
}

/* Candidates [from, to) by their 16ths; returns where those that are left end. */
static ptrdiff_t refine_classes(const refined_row *row, ptrdiff_t from, ptrdiff_t to)
{
    const ll_screen *s = row->all;
    float *upper = s->upper + row->i * s->room, size = bounds_of_row(s, row->i)[LL_ROW_SIZE];
    float beside = counted_beside(row);
    const int32_t *index = s->index + row->i * s->room;

    for (ptrdiff_t j = from; j < to; j++) {
        prefetch_fine(s, index[least(j + LL_FINE_AHEAD, to - 1)]);
        float high = upper[j] + fine_change(row, size, beside, index[j]);
        upper[j] = high < upper[j] ? high : upper[j];
    }
    return drop_excluded(s, row->i, from, to);
}

/* The row in two levels. */
static void begin_second_level(refined_row *row)
{
    ll_screen *one = &row->alone;
    void *packed = row->q + 2 * fine_size(row->all->k);

    *one = *row->all;
    one->rows = 1;
    one->levels = 2;
    one->x = packed;
    one->row_bounds = row->bounds;
    one->start = row->start;
    quantise_row(one, 0, row->all->rows_x + row->i * row->all->x_row, packed, row->bounds,
                 row->start);
}

/* The lower bound of candidate j by 16ths; -inf where a class bounds nothing. */
static float fine_lower(const refined_row *row, ptrdiff_t j)
{
    const ll_screen *s = row->all;
    const float *of_row = bounds_of_row(s, row->i);
    int32_t c = s->index[row->i * s->room + j];
    float bias = s->bias ? s->bias[c] : s->no_bias, beside = counted_beside(row);
    float error = bound_of_class(s, c, LL_CLASS_ERROR);
    float fine_error = bound_of_class(s, c, LL_CLASS_FINE_ERROR);
    float width = s->slack * fabsf(bias) + s->no_bias
                  + of_row[LL_ROW_REACH] * bound_of_class(s, c, LL_CLASS_NORM)
                  + of_row[LL_ROW_SIZE] * fine_error + beside * (error + fine_error);
    float upper = s->upper[row->i * s->room + j]
                  + fine_change(row, of_row[LL_ROW_SIZE], beside, c);
    float lower = upper - 2 * width;

    return lower > -LL_INF ? lower : -LL_INF;
}

/* The lower bounds of the most promising candidates, by their 16ths, keep out others. */
static void lift(const ll_screen *s, ptrdiff_t many)
{
    refined_row row = { .all = s, .q = s->apart };

    for (row.i = 0; row.i < s->rows; row.i++) {
        float least_lower = LL_INF;
        if (s->count[row.i] <= many)
            continue;
        most_promising(s, row.i * s->room, s->count[row.i]);
        for (ptrdiff_t j = 0; j < s->top; j++)
            prefetch_fine(s, s->index[row.i * s->room + j]);
        bytes_as_reals(&row);
        for (ptrdiff_t j = 0; j < s->top; j++) {
            float lower = fine_lower(&row, j);
            least_lower = lower < least_lower ? lower : least_lower;
        }
        least_lower = exclusion_bound(s, least_lower);
        if (least_lower > s->least[row.i])
            s->least[row.i] = least_lower;
        compact(s, row.i);
    }
}

static const uint8_t *panel_of(const ll_screen *s, int32_t c)
{
    return s->weight + c / LL_SCREEN_LANES * quads(s->k) * LL_STEP;
}

/* Sums of bytes of the row, both levels, by some panels. */
static void second_sums(const ll_screen *s, const uint8_t *const *panel,
                        int32_t sums[LL_SECOND_PANELS][2 * LL_SCAN_ROW])
{
    ivec sum[LL_SECOND_PANELS][2];

    LL_UNROLL
    for (int j = 0; j < LL_SECOND_PANELS; j++)
        LL_UNROLL
        for (int l = 0; l < 2; l++)
            sum[j][l] = iset(s->start[l]);
    LL_ROLLED
    for (ptrdiff_t q = 0; q < quads(s->k); q++)
        LL_UNROLL
        for (int j = 0; j < LL_SECOND_PANELS; j++) {
            quad_bytes b = bload(panel[j] + q * LL_STEP);
            LL_UNROLL
            for (int l = 0; l < 2; l++)
                sum[j][l] = idot(sum[j][l], b, level_word(s->x, q, l));
        }
    LL_UNROLL
    for (int j = 0; j < LL_SECOND_PANELS; j++)
        LL_UNROLL
        for (int l = 0; l < 2; l++)
            istore(sums[j] + l * LL_SCAN_ROW, sum[j][l]);
}

/* The upper bound of class c by both levels and 16ths, from the sums of its panel. */
static float second_upper(const refined_row *row, int32_t c, const int32_t *sums)
{
    const ll_screen *s = &row->alone;
    float blank[LL_SCREEN_LANES], upper[LL_SCREEN_LANES];
    ptrdiff_t panel = c / LL_SCREEN_LANES * LL_SCREEN_LANES;
    strip t = { .sums = sums, .rows = row->bounds, .bounds = s->bounds + LL_CLASS_BOUNDS * panel,
                .bias = s->bias ? s->bias + panel : blank };

    vstore(blank, vset(s->no_bias));
    vstore(upper, strip_upper(&t, 2, 0, 0));
    return upper[c % LL_SCREEN_LANES]
           + fine_change(row, row->bounds[LL_ROW_SIZE], second_level(row), c);
}

/* Candidates [from, to) by the second level. */
static ptrdiff_t refine_row(refined_row *row, ptrdiff_t from, ptrdiff_t to)
{
    const ll_screen *s = row->all;
    float *upper = s->upper + row->i * s->room;
    const int32_t *index = s->index + row->i * s->room;
    int32_t sums[LL_SECOND_PANELS][2 * LL_SCAN_ROW];

    begin_second_level(row);
    for (ptrdiff_t j = from; j < to; j += LL_SECOND_PANELS) {
        const uint8_t *panel[LL_SECOND_PANELS];
        for (ptrdiff_t a = 0; a < LL_SECOND_PANELS; a++) /* the last one again for fewer */
            panel[a] = panel_of(s, index[least(j + a, to - 1)]);
        second_sums(&row->alone, panel, sums);
        for (ptrdiff_t a = 0; a < least(LL_SECOND_PANELS, to - j); a++) {
            float high = second_upper(row, index[j + a], sums[a]);
            upper[j + a] = high < upper[j + a] ? high : upper[j + a];
        }
    }
    return drop_excluded(s, row->i, from, to);
}

static void refine(const ll_screen *s)
{
    refined_row row = { .all = s, .q = s->apart };

    for (row.i = 0; row.i < s->rows; row.i++) {
        ptrdiff_t count = s->count[row.i];
        if (count <= s->top)
            continue;
        bytes_as_reals(&row);
        count = refine_classes(&row, s->top, count);
        if (s->levels == 1 && count > s->top)
            count = refine_row(&row, s->top, count);
        s->count[row.i] = (int32_t)count;
    }
}
