/* The product of rows that are not packed: a few vectors of rows at a time are transposed, so that
 * lanes are rows and a weight serves all of them. No lane idles behind the last class, and what
 * follows has whole rows in its lanes, too. The chains are those of the micro-kernel. */

/* Logits of `height` classes, features of each LL_LANES apart, with `width` vectors of rows: see
 * store_sums. Features of the `next` rows come into the cache, so many rows as memory can deliver
 * meanwhile. */
LL_TEMPLATE void by_rows_kernel(const int height, const int width, ptrdiff_t kc, const real *w,
                                const real *x, ptrdiff_t x_panel, real *z, ptrdiff_t z_panel,
                                int first, const real *bias, const next_rows *next)
{
    vec sum[LL_MR][LL_NV];

    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++)
            sum[i][j] = vset(0);
    LL_ROLLED
    for (ptrdiff_t p = 0; p < kc; p++) {
        vec xj[LL_NV];
        for (ptrdiff_t r = 0; p % LL_LANES == 0 && r < next->count; r++)
            prefetch_to_l2(next->x + r * next->row + p);
        LL_UNROLL
        for (int j = 0; j < width; j++)
            xj[j] = vload(x + j * x_panel + p * LL_LANES);
        LL_UNROLL
        for (int i = 0; i < height; i++) {
            vec wi = vset(w[p * LL_LANES + i]);
            LL_UNROLL
            for (int j = 0; j < width; j++)
                sum[i][j] = vfma(xj[j], wi, sum[i][j]);
        }
    }
    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++) {
            real *at = z + j * z_panel + i * LL_LANES;
            vec logit = first ? sum[i][j] : vadd(vload(at), sum[i][j]);
            vstore(at, bias ? vadd(logit, vset(bias[i])) : logit);
        }
}

typedef void by_rows_function(ptrdiff_t, const real *, const real *, ptrdiff_t, real *, ptrdiff_t,
                              int, const real *, const next_rows *);
#define LL_BY_ROWS(height, width)                                                                \
    static void by_rows_##height(ptrdiff_t kc, const real *w, const real *x, ptrdiff_t x_panel,  \
                                 real *z, ptrdiff_t z_panel, int first, const real *bias,        \
                                 const next_rows *next)                                          \
    {                                                                                            \
        by_rows_kernel(height, width, kc, w, x, x_panel, z, z_panel, first, bias, next);         \
    }
#define LL_BY_ROWS_NAME(height, _) by_rows_##height,
LL_HEIGHTS(LL_BY_ROWS, LL_NV)

static by_rows_function *const by_rows_functions[LL_MR] = { LL_HEIGHTS(LL_BY_ROWS_NAME, ) };

/* KC features of `width` classes, panel by panel; `next` rows are read next, to `out` something is
 * written. */
static void multiply_by_rows(ptrdiff_t width, ptrdiff_t kc, const real *panels, ptrdiff_t panel,
                             const real *x, real *z, ptrdiff_t z_panel, int first,
                             const real *bias, const next_rows *next, const region *out)
{
    for (ptrdiff_t c = 0; c < width; c += LL_LANES, panels += panel) {
        const ptrdiff_t count = least(LL_LANES, width - c), most = equal_cols(count, LL_MR);
        for (ptrdiff_t i = 0, height; i < count; i += height) {
            height = least(most, count - i);
            const ptrdiff_t from = next->count * (c + i) / width;
            const next_rows part = { next->x + from * next->row, next->row,
                                     next->count * (c + i + height) / width - from };
            prefetch_part(out, c + i, height, width);
            by_rows_functions[height - 1](kc, panels + i, x, LL_KC * LL_LANES,
                                          z + (c + i) * LL_LANES, z_panel, first,
                                          bias ? bias + c + i : NULL, &part);
        }
    }
}

/* Weights of a block of classes as panels of all features: those of the layer, or made here. */
static const real *all_panels(const ll_product *p, const void *weight, ptrdiff_t width,
                              const workspace *w)
{
    if (in_panels(p))
        return weight;
    for (ptrdiff_t c = 0; c < width; c += LL_LANES)
        for (ptrdiff_t pc = 0; pc < p->k; pc += LL_KC)
            make_panels(p, weight, c, least(LL_LANES, width - c), pc, least(LL_KC, p->k - pc),
                        w->panels + c * p->k + pc * LL_LANES);
    return w->panels;
}

/* What `out` holds of classes c, ... of rows i, ... */
static region outputs(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t c, ptrdiff_t width)
{
    const ptrdiff_t item = (ptrdiff_t)sizeof(real), row = job->output.out_row;
    region out = { job->output.out, rows, row * item, width * item };

    if (out.at)
        out.at += (i * row + c) * item;
    else
        out.rows = 0;
    return out;
}

/* Logits of `rows` rows i, ..., at most LL_NV vectors of them, against a block of classes c, ... */
static void product_by_rows(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, const real *panels,
                            ptrdiff_t c, ptrdiff_t width, const workspace *w)
{
    const ll_product *p = &job->product;
    const real *x = (const real *)p->x + i * p->x_row;
    const ptrdiff_t together = LL_NV * LL_LANES, left = job->rows - i;
    const region out = outputs(job, i, rows, c, width);
    ptrdiff_t pc = 0;

    do { /* once even without features: the logit is the bias then */
        const ptrdiff_t kc = least(LL_KC, p->k - pc);
        const next_rows next = { x + together * p->x_row + pc, p->x_row,
                                 left > together ? least(together, left - together) : 0 };
        for (ptrdiff_t r = 0; r < together; r += LL_LANES)
            transpose_rows(x + least(r, rows - 1) * p->x_row, p->x_row, rows - least(r, rows - 1),
                           pc, kc, w->turned + r * LL_KC);
        multiply_by_rows(width, kc, panels + pc * LL_LANES, p->k * LL_LANES, w->turned, w->z,
                         w->z_panel, pc == 0, pc + LL_KC >= p->k ? w->bias : NULL, &next, &out);
        pc += LL_KC;
    } while (pc < p->k);
}
