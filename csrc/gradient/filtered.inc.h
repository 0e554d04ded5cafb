/* Gradients of derivatives that a filter has kept: lists of them go into sums link by link, in the
 * order of all chains; what is dense goes the way of all gradients.
 */

/* What links are multiplied with: vectors, `row` reals from one link to the next. */
typedef struct {
    const real *at;
    ptrdiff_t row, vec;
} links;

/* `width` vectors of the chain over a list, added to c. */
LL_TEMPLATE void chain(const int width, const real *list, ptrdiff_t length, const real *b,
                       ptrdiff_t b_row, ptrdiff_t b_vec, real *c, int first)
{
    vec sum[LL_CHAINS];

    LL_UNROLL
    for (int j = 0; j < width; j++)
        sum[j] = vset(0);
    LL_ROLLED
    for (ptrdiff_t e = 0; e < length; e++) {
        const real *link = b + (ptrdiff_t)list[2 * e] * b_row;
        vec g = vset(list[2 * e + 1]);
        LL_UNROLL
        for (int j = 0; j < width; j++)
            sum[j] = vfma(g, vload(link + j * b_vec), sum[j]);
    }
    LL_UNROLL
    for (int j = 0; j < width; j++)
        vstore(c + j * LL_LANES, first ? sum[j] : vadd(vload(c + j * LL_LANES), sum[j]));
}

/* The same of `count` features. */
static void add_list(const real *list, ptrdiff_t length, const links *b, ptrdiff_t count, real *c,
                     int first)
{
    const real *at = b->at;
    real part[LL_LANES];
    ptrdiff_t f = 0;

    for (; f + LL_CHAINS * LL_LANES <= count; f += LL_CHAINS * LL_LANES, at += LL_CHAINS * b->vec)
        chain(LL_CHAINS, list, length, at, b->row, b->vec, c + f, first);
    for (; f + 2 * LL_LANES <= count; f += 2 * LL_LANES, at += 2 * b->vec)
        chain(2, list, length, at, b->row, b->vec, c + f, first);
    for (; f + LL_LANES <= count; f += LL_LANES, at += b->vec)
        chain(1, list, length, at, b->row, b->vec, c + f, first);
    if (f < count) {
        chain(1, list, length, at, b->row, b->vec, part, 1);
        add_part(1, count - f, part, c + f, 0, first);
    }
}

/* ---- weights and bias --------------------------------------------------------------------- */

/* How many derivatives of a group are kept in a block. */
static ptrdiff_t count_kept(real *tile, ptrdiff_t start, ptrdiff_t rows, ptrdiff_t width,
                            const gradient_space *w)
{
    ptrdiff_t count = 0;

    for (ptrdiff_t p = 0, step; p < rows; p += step) {
        step = least(LL_GROUP_STEP, rows - p);
        for (ptrdiff_t q = 0; q * LL_KC < width; q++) {
            kept_chunk chunk = chunk_at(tile, w->g_row, start + p, step, q, width);
            for (ptrdiff_t r = 0; r < step; r++)
                count += (ptrdiff_t)chunk.lengths[r];
        }
    }
    return count;
}

/* Entries of a chunk into the lists of their classes, as pairs of row and derivative; or only
 * counted. Row p of the group is the first. */
static void sort_chunk(kept_chunk chunk, ptrdiff_t p, int32_t *place, real *pairs,
                       const gradient_space *w)
{
    real *list = chunk.lists, *made = w->g + w->g_row;
    ptrdiff_t dense = 0;

    split(&chunk);
    for (ptrdiff_t r = 0; r < chunk.rows; r++) {
        const real *from = list;
        if (is_list(&chunk, r))
            list += chunk.kc;
        else {
            read_dense(&chunk, dense++, w->g);
            list_entries(w->g, chunk.kc, made);
            from = made;
        }
        for (ptrdiff_t e = 0; e < (ptrdiff_t)chunk.lengths[r]; e++) {
            int32_t at = place[(ptrdiff_t)from[2 * e]]++;
            if (pairs) {
                pairs[2 * at] = (real)(p + r);
                pairs[2 * at + 1] = from[2 * e + 1];
            }
        }
    }
}

/* The entries of a group and a block by class, each as its row and its derivative. They of class c
 * end before place[c], where the next begin. */
static void sort_by_class(real *tile, ptrdiff_t start, ptrdiff_t rows, ptrdiff_t width,
                          int32_t *place, real *pairs, const gradient_space *w)
{
    memset(place, 0, LL_BLOCK * sizeof *place);
    for (int pass = 0; pass < 2; pass++) {
        for (ptrdiff_t p = 0, step; p < rows; p += step) {
            step = least(LL_GROUP_STEP, rows - p);
            for (ptrdiff_t q = 0; q * LL_KC < width; q++)
                sort_chunk(chunk_at(tile, w->g_row, start + p, step, q, width), p,
                           place + q * LL_KC, pass ? pairs : NULL, w);
        }
        for (int32_t c = 0, sum = 0; pass == 0 && c < LL_BLOCK; c++) {
            int32_t count = place[c];
            place[c] = sum;
            sum += count;
        }
    }
}

/* A class that nothing has been kept of: it adds nothing, even to -0. */
static void add_nothing(const ll_gradient *grad, ptrdiff_t start, ptrdiff_t count, real *c)
{
    const real nothing = grad->apart && (grad->add_weight || start > 0) ? -R(0.0) : R(0.0);

    if (is_first(grad, start))
        for (ptrdiff_t f = 0; f < count; f++)
            c[f] = nothing;
}

/* A group of rows and a block, of whose derivatives few have been kept. */
static void lists_into_weight(const ll_job *job, const ll_gradient *grad, ptrdiff_t start,
                              ptrdiff_t rows, const segment *s, real *tile, ptrdiff_t f,
                              ptrdiff_t f_last, const gradient_space *w)
{
    const ptrdiff_t k = job->product.k, group = group_rows(job->n);
    const links x = { (const real *)grad->columns
                      + start / group * vectors(k) * column_panel(group)
                      + f / LL_LANES * column_panel(rows),
                      LL_LANES, column_panel(rows) };
    real *c = target_of(job, grad, grad->d_weight, job->n * k, start) + s->first * k + f;
    const real *list = w->a;
    int32_t place[LL_BLOCK];

    sort_by_class(tile, start, rows, s->width, place, w->a, w);
    for (ptrdiff_t j = 0; j < s->width; j++, c += k) {
        ptrdiff_t length = place[j] - (j ? place[j - 1] : 0);

        w->sums[j] = 0;
        for (ptrdiff_t e = 0; e < length; e++)
            w->sums[j] += list[2 * e + 1];
        if (grad->d_weight && length)
            add_list(list, length, &x, f_last - f, c, is_first(grad, start));
        else if (grad->d_weight)
            add_nothing(grad, start, f_last - f, c);
        list += 2 * length;
    }
}

/* The same of many. */
static void dense_into_weight(const ll_job *job, const ll_gradient *grad, ptrdiff_t start,
                              ptrdiff_t rows, const segment *s, real *tile, ptrdiff_t f,
                              ptrdiff_t f_last, const gradient_space *w)
{
    memset(w->sums, 0, (size_t)w->g_row * sizeof(real));
    for (ptrdiff_t p = 0, step; p < rows; p += step) {
        step = least(LL_GROUP_STEP, rows - p);
        read_filtered(tile, start + p, step, s->width, w);
        add_to_group(grad, p, step, rows, s, w);
    }
    if (grad->d_weight)
        add_weight(job, grad, start, rows, s, f, f_last, w);
}

/* Kept derivatives of a group and a block, into features [f, f_last) of the gradient of the weights;
 * with the first of them, into that of the bias. */
static void filtered_weight(const ll_job *job, const ll_gradient *grad, ptrdiff_t start,
                            ptrdiff_t rows, const segment *s, real *tile, ptrdiff_t f,
                            ptrdiff_t f_last, const gradient_space *w)
{
    if (is_sparse(count_kept(tile, start, rows, s->width, w), rows * s->width))
        lists_into_weight(job, grad, start, rows, s, tile, f, f_last, w);
    else
        dense_into_weight(job, grad, start, rows, s, tile, f, f_last, w);
    if (grad->d_bias && f == 0)
        add_bias(job, grad, start, s, w->sums);
}

static void filtered_group(const ll_job *job, const ll_gradient *grad, ptrdiff_t start,
                           ptrdiff_t rows, const segment *s, real *tile, const gradient_space *w)
{
    for (ptrdiff_t p = 0, step; p < rows; p += step) {
        step = least(LL_GROUP_STEP, rows - p);
        find_derivatives(job, grad, start + p, step, *s, tile, w);
        keep_filtered(grad, start + p, step, s->width, tile, w);
    }
    if (grad->d_weight || grad->d_bias)
        filtered_weight(job, grad, start, rows, s, tile, 0, job->product.k, w);
}

/* ---- rows --------------------------------------------------------------------------------- */

/* What a chunk of some rows has: dense rows, and which vectors of classes there are in lists. */
typedef struct {
    int dense;
    unsigned in_lists;
} contents;

static kept_chunk chunk_of(const ll_job *job, const x_part *part, ptrdiff_t i)
{
    kept_chunk chunk = chunk_at(part->tile, tile_row(job->n), i,
                                least(LL_GROUP_STEP, job->rows - i), part->chunk,
                                part->chunk * LL_KC + part->kc);
    split(&chunk);
    return chunk;
}

static contents look_through(const ll_job *job, const x_part *part)
{
    contents found = { 0 };

    for (ptrdiff_t i = part->r_first; i < part->r_last; i += LL_GROUP_STEP) {
        kept_chunk chunk = chunk_of(job, part, i);
        const real *list = chunk.lists;

        found.dense |= chunk.dense > 0;
        for (ptrdiff_t r = 0; r < chunk.rows; r++)
            if (is_list(&chunk, r)) {
                for (ptrdiff_t e = 0; e < (ptrdiff_t)chunk.lengths[r]; e++)
                    found.in_lists |= 1u << (ptrdiff_t)list[2 * e] / LL_LANES;
                list += chunk.kc;
            }
    }
    return found;
}

/* Features f, ... (`width` vectors) of some vectors of classes from c on, counted from the job's
 * first. */
static void fetch_classes(const ll_product *p, ptrdiff_t c, ptrdiff_t kc, unsigned which,
                          ptrdiff_t f, ptrdiff_t width, const links *b, real *to)
{
    for (; which; which &= which - 1) {
        ptrdiff_t own = lowest_bit(which) * LL_LANES, count = least(LL_LANES, kc - own);

        for (ptrdiff_t j = 0; j < width; j++)
            if (p->packed)
                transpose_panel(p, c + own, count, f + j * LL_LANES,
                                to + own * b->row + j * b->vec);
            else
                for (ptrdiff_t i = 0; i < count; i++)
                    vstore(to + (own + i) * b->row + j * b->vec,
                           gather_weights(p, class_at(p, p->weight, c + own + i),
                                          (f + j * LL_LANES) * p->w_col, p->w_col,
                                          p->k - f - j * LL_LANES));
    }
}

/* Lists of the rows times weights, into features [f, f_last) of d_x. */
static void add_lists(const ll_job *job, const ll_gradient *grad, const x_part *part, ptrdiff_t f,
                      ptrdiff_t f_last, const links *b)
{
    for (ptrdiff_t i = part->r_first; i < part->r_last; i += LL_GROUP_STEP) {
        kept_chunk chunk = chunk_of(job, part, i);
        const real *list = chunk.lists;

        for (ptrdiff_t r = 0; r < chunk.rows; r++)
            if (is_list(&chunk, r)) {
                ptrdiff_t length = (ptrdiff_t)chunk.lengths[r];
                if (length || part->first)
                    add_list(list, length, b, f_last - f,
                             (real *)grad->d_x + (i + r) * grad->dx_row + f, part->first);
                list += chunk.kc;
            }
    }
}

/* Lists of a chunk whose first class is c, counted from the job's first. Rows of weights are read
 * where they are, or else brought together, a strip of features at a time. */
static void lists_into_x(const ll_job *job, const ll_gradient *grad, const x_part *part,
                         ptrdiff_t c, unsigned which, ptrdiff_t f, ptrdiff_t f_last,
                         const gradient_space *w)
{
    const ll_product *p = &job->product;
    const int in_rows = !p->packed && !is_narrow(p) && p->w_col == 1;

    for (ptrdiff_t end; f < f_last; f = end) {
        links b = { w->b, LL_LANES, (LL_KC + 1) * LL_LANES };
        if (in_rows && f + LL_LANES <= f_last) {
            end = f_last - (f_last - f) % LL_LANES;
            b = (links){ (const real *)class_at(p, p->weight, c) + f, p->w_row, LL_LANES };
        } else {
            end = least(f + LL_STRIP * LL_LANES, f_last);
            fetch_classes(p, c, part->kc, which, f, vectors(end - f), &b, w->b);
        }
        add_lists(job, grad, part, f, end, &b);
    }
}

/* Dense rows of a step times weights, into `count` features of d_x, `width` vectors. */
static void add_dense(const kept_chunk *chunk, ptrdiff_t width, const real *b, real *c,
                      ptrdiff_t c_row, ptrdiff_t count, int first)
{
    real part[LL_GROUP_STEP * LL_NV * LL_LANES], *own = part;
    const int straight = chunk->dense == chunk->rows && count == width * LL_LANES;

    for (ptrdiff_t r = 0, height; r < chunk->dense; r += height) {
        real *to = straight ? c + r * c_row : part + r * width * LL_LANES;
        height = panel_height(r, chunk->dense);
        if (straight)
            prefetch_sums(height, width, to, c_row);
        micro_for(height, width)(chunk->kc, chunk->panels + r * chunk->kc, b,
                                 chunk->kc * LL_LANES, to, straight ? c_row : width * LL_LANES,
                                 straight ? first : 1, NULL);
    }
    for (ptrdiff_t r = 0; !straight && r < chunk->rows; r++)
        if (!is_list(chunk, r)) {
            add_part(1, count, own, c + r * c_row, 0, first);
            own += width * LL_LANES;
        }
}

/* The same of all steps, a strip of features whose weights are packed. */
static void add_dense_strip(const ll_job *job, const ll_gradient *grad, const x_part *part,
                            ptrdiff_t f, ptrdiff_t count, const region *next, const real *b)
{
    const ptrdiff_t rows = part->r_last - part->r_first;
    ptrdiff_t pass = 0, passes = (vectors(count) + LL_NV - 1) / LL_NV;

    for (ptrdiff_t own = 0, width; own < count; own += width * LL_LANES, pass++) {
        width = least(LL_NV, (count - own) / LL_LANES);
        width = width ? width : 1;
        for (ptrdiff_t i = part->r_first; i < part->r_last; i += LL_GROUP_STEP) {
            kept_chunk chunk = chunk_of(job, part, i);
            prefetch_part(next, pass * rows + i - part->r_first, chunk.rows, passes * rows);
            add_dense(&chunk, width, b + own * part->kc,
                      (real *)grad->d_x + i * grad->dx_row + f + own, grad->dx_row,
                      least(width * LL_LANES, count - own), part->first);
        }
    }
}

static void filtered_x(const ll_job *job, const ll_gradient *grad, ptrdiff_t f_first,
                       ptrdiff_t f_last, ptrdiff_t r_first, ptrdiff_t r_last)
{
    gradient_space w = gradient_lay_out(job);

    for (ptrdiff_t c = job->first; c < job->last; c += LL_KC) {
        x_part part = { kept_tile(job, c), c % LL_BLOCK / LL_KC, least(LL_KC, job->last - c),
                        r_first, r_last, !grad->add_x && c == 0 };
        contents found = look_through(job, &part);

        if (found.in_lists || part.first)
            lists_into_x(job, grad, &part, c - job->first, found.in_lists, f_first, f_last, &w);
        for (ptrdiff_t f = f_first; found.dense && f < f_last; f += LL_STRIP * LL_LANES) {
            ptrdiff_t count = least(LL_STRIP * LL_LANES, f_last - f);
            region next = next_strip(job, c, f, f_first, f_last);
            weight_columns(&job->product, c - job->first, part.kc, f, vectors(count), w.b);
            add_dense_strip(job, grad, &part, f, count, &next, w.b);
        }
    }
}
