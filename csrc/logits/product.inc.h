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
static inline region next_weights(const ll_job *job, const void *weight, ptrdiff_t pc, ptrdiff_t c,
                                  ptrdiff_t count, ptrdiff_t last)
{
    const ll_product *p = &job->product;
    const ptrdiff_t item = is_narrow(p) ? (ptrdiff_t)sizeof(uint16_t) : (ptrdiff_t)sizeof(real);
    region next = { weight, 0, class_bytes(p), 0 };

    if (in_panels(p) ? LL_NV > 1 || is_streamed(job->rows) : !p->packed && p->w_col != 1)
        return next;
    pc += LL_KC;
    if (pc >= p->k) {
        pc = 0;
        c += count;
    }
    next.width = least(LL_KC, p->k - pc) * item;
    next.rows = c < last ? least(count, last - c) : 0;
    next.at = (const char *)class_at(p, weight, c) + pc * item * (p->packed ? LL_LANES : 1);
    if (p->packed) { /* panels, feature by feature */
        next.rows = (next.rows + LL_LANES - 1) / LL_LANES;
        next.row *= LL_LANES;
        next.width *= LL_LANES;
    }
    return next;
}

/* Panels of classes that go through all features together; of those made on the way no more than
 * one micro-kernel takes, while they are in L1. */
static inline ptrdiff_t panel_group(const ll_product *p, ptrdiff_t rows)
{
    if (!in_panels(p))
        return LL_NV;
    return is_streamed(rows) ? 1 : most_width(least(rows, LL_MR));
}

/* Logits of rows i, ... against the block of classes c, ...; `weight` is the block's first.
 * Unpacked weights are packed just before the first rows that need them; `last` classes are left
 * from there. Packed ones of 16 bits are widened for each tile. */
static void product(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, const void *weight,
                    ptrdiff_t width, ptrdiff_t last, const workspace *w)
{
    const ll_product *p = &job->product;
    const int direct = in_panels(p), widened = p->packed && !direct;
    const int make = widened || (!direct && (i == 0 || p->k > LL_KC));
    ptrdiff_t vecs = vectors(width);

    for (ptrdiff_t v = 0, group; v < vecs; v += group) {
        ptrdiff_t c = v * LL_LANES, pc = 0;
        group = least(panel_group(p, rows), vecs - v);
        do { /* once even without features: the logit is the bias then */
            ptrdiff_t kc = least(LL_KC, p->k - pc);
            ptrdiff_t b_panel = LL_LANES * (direct ? p->k : kc);
            const real *a = (const real *)p->x + pc * job->rows + i * kc;
            real *own = w->panels + (widened ? 0 : v * b_panel);
            const real *b = direct ? (const real *)weight + c * p->k + pc * LL_LANES : own;
            const real *bias = pc + LL_KC >= p->k ? w->bias + c : NULL;
            if (make)
                make_panels(p, weight, c, least(group * LL_LANES, width - c), pc, kc, own);
            region next = next_weights(job, weight, pc, c, group * LL_LANES, last);
            if (direct && is_streamed(rows))
                multiply_streamed(rows, kc, a, b, w->tile + c, w->tile_row, pc == 0, bias);
            else
                multiply(rows, group, kc, a, b, b_panel, w->tile + c, w->tile_row, pc == 0, bias,
                         &next);
            pc += LL_KC;
        } while (pc < p->k);
    }
}

/* The same of so few rows that weights are transposed on the way to the registers, not packed. */
static void product_of_few_rows(const ll_job *job, const real *weight, ptrdiff_t width,
                                const workspace *w)
{
    const ll_product *p = &job->product;
    few_rows_function *kernel = few_rows_kernel_for(job->rows, p->w_row);

    for (ptrdiff_t c = 0; c < width; c += LL_LANES) {
        const real *row[LL_LANES];
        for (ptrdiff_t r = 0; r < LL_LANES; r++)
            row[r] = weight + least(c + r, width - 1) * p->w_row;
        kernel(p->k, p->x, row, LL_LANES * p->w_row, vload(w->bias + c), w->tile + c, w->tile_row);
    }
}

#if LL_REAL == 32
/* The same of few rows and packed weights of 16 bits, widened in registers. */
static void product_of_words(const ll_job *job, const void *weight, ptrdiff_t width,
                             const workspace *w)
{
    const ll_product *p = &job->product;

    for (ptrdiff_t c = 0; c < width; c += LL_LANES)
        for (ptrdiff_t pc = 0; pc == 0 || pc < p->k; pc += LL_KC) {
            const uint32_t *b = (const uint32_t *)class_at(p, weight, c) + pc / 2 * LL_WORD_LANES;
            multiply_narrow(p->type, job->rows, least(LL_KC, p->k - pc),
                            (const real *)p->x + pc * job->rows, b,
                            b + LL_KC / 2 * LL_WORD_LANES, w->tile + c, w->tile_row, pc == 0,
                            pc + LL_KC >= p->k ? w->bias + c : NULL);
        }
}

/* bfloat16 rows and weights: in an order of its own. Unpacked weights are packed into words KC
 * features at a time, or all of a block once. */
static void product_of_bf16(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, const void *weight,
                            ptrdiff_t width, const workspace *w)
{
    const ll_product *p = &job->product;
    const ptrdiff_t whole = p->packed ? p->k : LL_KC;
    uint32_t *own = (uint32_t *)(void *)w->panels;

    for (ptrdiff_t c = 0, count; c < width; c += count) {
        ptrdiff_t pc = 0;
        count = p->packed || p->k <= LL_KC ? width : least(LL_BF16_CLASSES, width - c);
        do {
            ptrdiff_t kc = least(whole, p->k - pc), panel = word_count(p->packed ? p->k : kc);
            ll_bf16_tile tile = {
                rows, i, job->rows, p->k, p->x, pc, pc + kc,
                p->packed ? (const uint32_t *)class_at(p, weight, c) : own,
                panel * LL_WORD_LANES, vectors(count), w->bias + c, w->tile + c, w->tile_row,
            };
            if (!p->packed && (i == 0 || p->k > LL_KC))
                for (ptrdiff_t j = 0; j < count; j += LL_WORD_LANES)
                    pack_panel_of_words(
                        (const uint16_t *)class_at(p, weight, c + j) + pc * p->w_col,
                        least(LL_WORD_LANES, count - j), kc, p->w_row, p->w_col,
                        own + j * panel, pc + kc < p->k ? LL_KC : count * p->w_row - pc);
            p->bf16->multiply(&tile);
            pc += whole;
        } while (pc < p->k);
    }
}
#endif

/* Logits of rows i, ... of a job against the block of classes c, ... into the tile. */
static void tile_logits(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t c,
                        ptrdiff_t width, const void *weight, const workspace *w)
{
    const ll_product *p = &job->product;

    if (p->logits)
        copy_logits(job, i, rows, c, width, w);
    else if (p->x_start)
        product_of_entries(job, i, rows, weight, width, w);
#if LL_REAL == 32
    else if (p->bf16)
        product_of_bf16(job, i, rows, weight, width, w);
    else if (is_narrow(p) && p->packed && job->rows <= LL_STREAM_MOST)
        product_of_words(job, weight, width, w);
#endif
    else if (job->rows <= LL_MR && !p->packed && p->w_col == 1 && !is_narrow(p))
        product_of_few_rows(job, weight, width, w);
    else
        product(job, i, rows, weight, width, job->last - c, w);
}

static inline int is_transformed(const ll_product *p)
{
    return p->softcap > 0 || p->temperature != 1 || p->temperatures;
}

static inline double temperature_of(const ll_product *p, ptrdiff_t i)
{
    return p->temperatures ? p->temperatures[i] : p->temperature;
}

/* Softcap and temperature t on `count` vectors. A class that cannot happen stays so through the
 * cap. */
static void transform(const ll_product *p, vec t, real *z, ptrdiff_t count)
{
    const vec cap = vset((real)p->softcap), impossible = vset(-LL_INF);
    const int divides = p->temperature != 1 || p->temperatures;

    for (ptrdiff_t v = 0; v < count; v++, z += LL_LANES) {
        vec a = vload(z);
        if (p->softcap > 0)
            a = vselect(veq(a, impossible), a, vmul(cap, vtanh(vdiv(a, cap))));
        if (divides)
            a = vdiv(a, t);
        vstore(z, a);
    }
}
