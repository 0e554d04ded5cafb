/* Logits of a tile: products of rows and weights, or logits at hand; softcap and temperature. */

/* Logits at hand instead of a product. */
static void copy_logits(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t c,
                        ptrdiff_t width, const workspace *w)
{
    const ll_product *p = &job->product;
    const real *z = (const real *)p->logits + i * p->z_row + (c - job->first) * p->z_col;

    for (ptrdiff_t r = 0; r < rows; r++, z += p->z_row)
        for (ptrdiff_t j = 0; j < width; j++)
            w->tile[r * w->tile_row + j] = z[j * p->z_col];
}

/* The weights that come after KC features of `count` classes: the next features of the same
 * classes, or the first of the `last - c` classes that follow. Kernels of several panels, and those
 * of few rows, fetch packed ones themselves. */
static inline region next_weights(const ll_job *job, const wreal *weight, ptrdiff_t pc, ptrdiff_t c,
                                  ptrdiff_t count, ptrdiff_t last)
{
    const ll_product *p = &job->product;
    region next = { weight, 0, p->w_row, 0 };

    if (p->packed ? LL_NV > 1 || is_streamed(job->rows) : p->w_col != 1)
        return next;
    pc += LL_KC;
    if (pc >= p->k) {
        pc = 0;
        c += count;
    }
    next.width = least(LL_KC, p->k - pc);
    next.rows = c < last ? least(count, last - c) : 0;
    next.at += p->packed ? c * p->k + pc * LL_LANES : c * p->w_row + pc;
    if (p->packed && next.rows) { /* a panel, feature by feature */
        next.rows = next.width;
        next.row = next.width = LL_LANES;
    }
    return next;
}

/* Panels of classes that go through all features together; of those packed on the way no more than
 * one micro-kernel takes, while they are in L1. */
static inline ptrdiff_t panel_group(const ll_product *p, ptrdiff_t rows)
{
    if (!p->packed)
        return LL_NV;
    return is_streamed(rows) ? 1 : most_width(least(rows, LL_MR));
}

/* Logits of rows i, ... against the block of classes c, ...; `weight` is the block's first.
 * Unpacked weights are packed just before the first rows that need them; `last` classes are left
 * from there. */
static void product(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, const wreal *weight,
                    ptrdiff_t width, ptrdiff_t last, const workspace *w)
{
    const ll_product *p = &job->product;
    ptrdiff_t vecs = vectors(width);
    int pack = !p->packed && (i == 0 || p->k > LL_KC);

    for (ptrdiff_t v = 0, group; v < vecs; v += group) {
        ptrdiff_t c = v * LL_LANES, pc = 0;
        group = least(panel_group(p, rows), vecs - v);
        do { /* once even without features: the logit is the bias then */
            ptrdiff_t kc = least(LL_KC, p->k - pc);
            ptrdiff_t b_panel = LL_LANES * (p->packed ? p->k : kc);
            const real *a = (const real *)p->x + pc * job->rows + i * kc;
            const wreal *b = p->packed ? weight + c * p->k + pc * LL_LANES
                                       : w->panels + v * b_panel;
            const real *bias = pc + LL_KC >= p->k ? w->bias + c : NULL;
            if (pack)
                pack_panels(weight + c * p->w_row + pc * p->w_col,
                            least(group * LL_LANES, width - c), kc, p->w_row, p->w_col,
                            w->panels + v * b_panel,
                            bias ? group * LL_LANES * p->w_row - pc : LL_KC);
            region next = next_weights(job, weight, pc, c, group * LL_LANES, last);
            if (p->packed && is_streamed(rows))
                multiply_streamed(rows, kc, a, b, w->tile + c, w->tile_row, pc == 0, bias);
            else
                multiply(rows, group, kc, a, b, b_panel, w->tile + c, w->tile_row, pc == 0, bias,
                         &next);
            pc += LL_KC;
        } while (pc < p->k);
    }
}

/* The same of so few rows that weights are transposed on the way to the registers, not packed. */
static void product_of_few_rows(const ll_job *job, const wreal *weight, ptrdiff_t width,
                                const workspace *w)
{
    const ll_product *p = &job->product;
    few_rows_function *kernel = few_rows_kernel_for(job->rows, p->w_row);

    for (ptrdiff_t c = 0; c < width; c += LL_LANES) {
        const wreal *row[LL_LANES];
        for (ptrdiff_t r = 0; r < LL_LANES; r++)
            row[r] = weight + least(c + r, width - 1) * p->w_row;
        kernel(p->k, p->x, row, LL_LANES * p->w_row, vload(w->bias + c), w->tile + c, w->tile_row);
    }
}

static inline int is_transformed(const ll_product *p)
{
    return p->softcap > 0 || p->temperature != 1;
}

/* Softcap and temperature on `count` vectors. A class that cannot happen stays so through the
 * cap. */
static void transform(const ll_product *p, real *z, ptrdiff_t count)
{
    const vec cap = vset((real)p->softcap), t = vset((real)p->temperature);
    const vec impossible = vset(-LL_INF);

    for (ptrdiff_t v = 0; v < count; v++, z += LL_LANES) {
        vec a = vload(z);
        if (p->softcap > 0)
            a = vselect(veq(a, impossible), a, vmul(cap, vtanh(vdiv(a, cap))));
        if (p->temperature != 1)
            a = vdiv(a, t);
        vstore(z, a);
    }
}
