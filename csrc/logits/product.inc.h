/* Logits of a tile: products of rows and weights, or logits at hand; softcap and temperature. */

/* Logits at hand instead of a product. */
static void copy_logits(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t c,
                        ptrdiff_t width, const workspace *w)
{
    const real *z = (const real *)job->logits + i * job->z_row
                  + (c - job->first) * job->z_col;

    for (ptrdiff_t r = 0; r < rows; r++, z += job->z_row)
        for (ptrdiff_t j = 0; j < width; j++)
            w->tile[r * w->tile_row + j] = z[j * job->z_col];
}

/* The weights that come after KC features of `count` classes: the next features of the same
 * classes, or the first of the `last - c` classes that follow. Kernels of several panels, and those
 * of few rows, fetch packed ones themselves. */
static inline region next_weights(const ll_job *job, const real *weight, ptrdiff_t pc, ptrdiff_t c,
                                  ptrdiff_t count, ptrdiff_t last)
{
    region next = { weight, 0, job->w_row, 0 };

    if (job->packed ? LL_NV > 1 || is_streamed(job->rows) : job->w_col != 1)
        return next;
    pc += LL_KC;
    if (pc >= job->k) {
        pc = 0;
        c += count;
    }
    next.width = least(LL_KC, job->k - pc);
    next.rows = c < last ? least(count, last - c) : 0;
    next.at += job->packed ? c * job->k + pc * LL_LANES : c * job->w_row + pc;
    if (job->packed && next.rows) { /* a panel, feature by feature */
        next.rows = next.width;
        next.row = next.width = LL_LANES;
    }
    return next;
}

/* Panels of classes that go through all features together; of those packed on the way no more than
 * one micro-kernel takes, while they are in L1. */
static inline ptrdiff_t panel_group(const ll_job *job, ptrdiff_t rows)
{
    if (!job->packed)
        return LL_NV;
    return is_streamed(rows) ? 1 : most_width(least(rows, LL_MR));
}

/* Logits of rows i, ... against the block of classes c, ...; `weight` is the block's first.
 * Unpacked weights are packed just before the first rows that need them; `last` classes are left
 * from there. */
static void product(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, const real *weight,
                    ptrdiff_t width, ptrdiff_t last, const workspace *w)
{
    ptrdiff_t vecs = vectors(width);
    int pack = !job->packed && (i == 0 || job->k > LL_KC);

    for (ptrdiff_t v = 0, group; v < vecs; v += group) {
        ptrdiff_t c = v * LL_LANES, pc = 0;
        group = least(panel_group(job, rows), vecs - v);
        do { /* once even without features: the logit is the bias then */
            ptrdiff_t kc = least(LL_KC, job->k - pc);
            ptrdiff_t b_panel = LL_LANES * (job->packed ? job->k : kc);
            const real *a = (const real *)job->x + pc * job->rows + i * kc;
            const real *b = job->packed ? weight + c * job->k + pc * LL_LANES
                                        : w->panels + v * b_panel;
            const real *bias = pc + LL_KC >= job->k ? w->bias + c : NULL;
            if (pack)
                pack_panels(weight + c * job->w_row + pc * job->w_col,
                            least(group * LL_LANES, width - c), kc, job->w_row, job->w_col,
                            w->panels + v * b_panel,
                            bias ? group * LL_LANES * job->w_row - pc : LL_KC);
            region next = next_weights(job, weight, pc, c, group * LL_LANES, last);
            if (job->packed && is_streamed(rows))
                multiply_streamed(rows, kc, a, b, w->tile + c, w->tile_row, pc == 0, bias);
            else
                multiply(rows, group, kc, a, b, b_panel, w->tile + c, w->tile_row, pc == 0, bias,
                         &next);
            pc += LL_KC;
        } while (pc < job->k);
    }
}

/* The same of so few rows that weights are turned on the way to the registers, not packed. */
static void product_of_few(const ll_job *job, const real *weight, ptrdiff_t width,
                           const workspace *w)
{
    chain_function *chains = chains_for(job->rows, job->w_row);

    for (ptrdiff_t c = 0; c < width; c += LL_LANES) {
        const real *row[LL_LANES];
        for (ptrdiff_t r = 0; r < LL_LANES; r++)
            row[r] = weight + least(c + r, width - 1) * job->w_row;
        chains(job->k, job->x, row, LL_LANES * job->w_row, vload(w->bias + c), w->tile + c,
               w->tile_row);
    }
}

static inline int is_transformed(const ll_job *job)
{
    return job->softcap > 0 || job->temperature != 1;
}

/* Softcap and temperature on `count` vectors. A class that cannot happen stays so through the cap. */
static void transform(const ll_job *job, real *z, ptrdiff_t count)
{
    const vec cap = vset((real)job->softcap), t = vset((real)job->temperature);
    const vec impossible = vset(-LL_INF);

    for (ptrdiff_t v = 0; v < count; v++, z += LL_LANES) {
        vec a = vload(z);
        if (job->softcap > 0)
            a = vselect(veq(a, impossible), a, vmul(cap, vtanh(vdiv(a, cap))));
        if (job->temperature != 1)
            a = vdiv(a, t);
        vstore(z, a);
    }
}
