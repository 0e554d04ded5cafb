/* G, the derivatives of the loss by the logits.
 *
 * Kept logits are turned into G block by block, twelve rows at a time, and stay where they were:
 * as micro-panels of rows, class by class, LL_KC classes after the other,
 *     kept[panel_start * tile_row + kc_start * height + p * height + i]
 * With a filter they stay otherwise: filter.inc.h.
 */

static inline real coefficient(const ll_gradient *grad, int which, ptrdiff_t i)
{
    return ((const real *)grad->coefficients)[which * grad->c_stride + i];
}

/* A row that adds nothing, whatever it holds. */
static inline int left_out(const ll_gradient *grad, ptrdiff_t i)
{
    for (int which = 0; which < LL_LIMIT; which++)
        if (coefficient(grad, which, i) != 0)
            return 0;
    return 1;
}

/* Rows to a group, by the number of classes alone. */
static ptrdiff_t group_rows(ptrdiff_t n)
{
    ptrdiff_t fit = (ptrdiff_t)(LL_GROUP_BYTES / sizeof(real)) / keep_size(1, n);

    fit = least(fit - fit % LL_GROUP_STEP, LL_GROUP_ROWS);
    return fit < LL_GROUP_STEP ? LL_GROUP_STEP : fit;
}

/* ---- derivatives by the logits ------------------------------------------------------------- */

/* What is taken off the softmax times its coefficient. */
static void subtract_targets(const ll_job *job, const ll_gradient *grad, ptrdiff_t i,
                             const segment *s, real *g)
{
    const ll_question *q = &job->question;
    real probs = coefficient(grad, LL_PROBS, i), smooth = coefficient(grad, LL_SMOOTH, i);

    if (asks(q, LL_SMOOTH_SUM))
        for (ptrdiff_t v = 0; v < s->vecs; v++) {
            real *gv = g + v * LL_LANES;
            vstore(gv, vsub(vload(gv), vmul(vset(smooth), class_weights(q, s, v))));
        }
    if (q->probs && probs != 0) {
        const real *t = target_probs(job, i, s);
        for (ptrdiff_t c = 0; c < s->width; c += LL_LANES) {
            vec tc = gather(t + c * q->p_col, q->p_col, s->width - c);
            if (q->class_weight)
                tc = vmul(class_weights(q, s, c / LL_LANES), tc);
            vstore(g + c, vsub(vload(g + c), vmul(vset(probs), tc)));
        }
    }
    if (q->sparse_start && probs != 0)
        for (int64_t e = sparse_from(q, i, s->first); e < q->sparse_start[i + 1]; e++) {
            ptrdiff_t c = (ptrdiff_t)(q->sparse_class[e] - s->first);
            if (c >= s->width)
                break;
            g[c] -= probs * sparse_weight(q, e);
        }
    if (q->targets) {
        ptrdiff_t c = (ptrdiff_t)(q->targets[i] - s->first);
        if (q->targets[i] >= 0 && c >= 0 && c < s->width)
            g[c] -= coefficient(grad, LL_TARGET, i);
    }
}

/* Derivatives that are known take the place of what has been computed. */
static void put_given(const ll_job *job, const ll_gradient *grad, ptrdiff_t i, const segment *s,
                      real *g)
{
    const ll_question *q = &job->question;
    real given = coefficient(grad, LL_GIVEN, i);

    if (!q->sparse_start || given == 0)
        return;
    for (int64_t e = sparse_from(q, i, s->first); e < q->sparse_start[i + 1]; e++) {
        ptrdiff_t c = (ptrdiff_t)(q->sparse_class[e] - s->first);
        if (c >= s->width)
            break;
        g[c] = given * sparse_weight(q, e);
    }
}

/* The mean of d = z - max under the softmax of row i, whose entropy has been found. */
static inline real mean_gap(const ll_state *state, ptrdiff_t i)
{
    return field(state, LL_REST)[i] - field(state, LL_MOMENT)[i];
}

/* The softmax of a row times what it has for a coefficient: a, from which the entropy takes b times
 * log p + entropy. That is d - mean, as the norm's logarithm cancels. The floor is as in sum_exp. */
static void weigh_softmax(const segment *s, real max, real norm, real a, real b, real mean, real *g)
{
    const vec m = vset(max), scale = vset(a / norm), slope = vset(b / norm), floor = vset(R(-1e4));

    if (b == 0) {
        for (ptrdiff_t c = 0; c < s->vecs * LL_LANES; c += LL_LANES)
            vstore(g + c, vmul(scale, vexp_nonpositive(vsub(vload(s->z + c), m))));
        return;
    }
    for (ptrdiff_t c = 0; c < s->vecs * LL_LANES; c += LL_LANES) {
        vec d = vmax(floor, vsub(vload(s->z + c), m));
        vec weight = vnfma(slope, vsub(d, vset(mean)), scale);
        vstore(g + c, vmul(weight, vexp_nonpositive(d)));
    }
}

/* G of row i in one block. Where the row is sure its largest class has p = 1 - rest / (1 + rest);
 * the 1 meets the target before the small quotient is taken off, so that no digit is lost. */
static void logit_gradient(const ll_job *job, const ll_gradient *grad, ptrdiff_t i,
                           const segment *s, real *g)
{
    const ll_state *state = &job->output.state;
    real max = field(state, LL_MAX)[i], rest = field(state, LL_OTHERS)[i];
    real a = coefficient(grad, LL_SOFTMAX, i) + (max - max); /* NaN where max is not finite */
    real b = coefficient(grad, LL_ENTROPY, i), mean = b == 0 ? 0 : mean_gap(state, i);
    ptrdiff_t held = (ptrdiff_t)(state->ints[LL_ARGMAX * state->stride + i] - s->first);

    weigh_softmax(s, max, 1 + rest, a, b, mean, g);
    if (held < 0 || held >= s->width || !(rest < 1))
        held = -1;
    else
        g[held] = a;
    subtract_targets(job, grad, i, s, g);
    if (held >= 0) {
        g[held] -= a * (rest / (1 + rest));
        if (b != 0) /* whose d is 0 */
            g[held] += b * (mean / (1 + rest));
    }
    put_given(job, grad, i, s, g);
}

/* G of row i in one block, of a divergence. */
static void divergence_gradient(const ll_job *job, const ll_gradient *grad, ptrdiff_t i,
                                const segment *s, real *g)
{
    const real *teacher = kept_tile(grad->teacher, s->first) + i * tile_row(job->n);
    divergence_row row = row_of_pair(job, grad->teacher, grad->beta, i);

    row.factor = coefficient(grad, LL_SOFTMAX, i);
    row.mean = (real)grad->means[i];
    divergence_slopes(kind_of(grad->beta), &row, s->z, teacher, s->width, g);
}

/* The softcap's part: with h = z / softcap, tanh' = 1 - h^2. A logit of -inf has not been capped. */
static void through_softcap(const ll_product *p, ptrdiff_t i, const segment *s, real *g)
{
    vec one = vset(1), by_cap = vset((real)(temperature_of(p, i) / p->softcap));

    for (ptrdiff_t c = 0; c < s->width; c += LL_LANES) {
        vec z = vload(s->z + c), h = vmul(z, by_cap);
        vec slope = vselect(veq(z, vset(-LL_INF)), one, vmul(vsub(one, h), vadd(one, h)));
        vstore(g + c, vmul(vload(g + c), slope));
    }
}

/* ---- a step of rows ------------------------------------------------------------------------ */

typedef struct {
    real *g, *a, *sums, *b, *c; /* scratch: see gradient_lay_out */
    ptrdiff_t g_row;
    ptrdiff_t reals;
} gradient_space;

/* Scratch: G of a step of rows; G of a group as micro-panels of classes; its sums over the rows;
 * weights of LL_KC classes; what does not fill whole vectors of features. */
static gradient_space gradient_lay_out(const ll_job *job)
{
    gradient_space w;
    ptrdiff_t group = least(group_rows(job->n), job->rows), row = tile_row(job->n);
    real *scratch = job->scratch;

    w.g_row = row;
    ptrdiff_t a = LL_GROUP_STEP * row, sums = a + group * row, b = sums + row;
    ptrdiff_t c = b + LL_STRIP * LL_LANES * (LL_KC + 1);
    w.reals = c + (row > job->rows ? row : job->rows) * LL_LANES;
    w.g = scratch;
    if (scratch) {
        w.a = scratch + a;
        w.sums = scratch + sums;
        w.b = scratch + b;
        w.c = scratch + c;
    }
    return w;
}

static size_t gradient_bytes(const ll_job *job)
{
    ll_job sized = *job;
    sized.scratch = NULL;
    return (size_t)gradient_lay_out(&sized).reals * sizeof(real);
}

/* One row of G, `width` classes, as link `p` of the chains of `rows` links: micro-panels of
 * classes. */
static void scatter(const real *g, ptrdiff_t width, ptrdiff_t rows, ptrdiff_t p, real *a)
{
    ptrdiff_t c = 0;

    for (; c < width - width % LL_GROUP_STEP; c += LL_MR)
        memcpy(a + c * rows + p * LL_MR, g + c, LL_MR * sizeof(real));
    for (ptrdiff_t height; c < width; c += height) {
        height = panel_height(c, width);
        for (ptrdiff_t j = 0; j < height; j++)
            a[c * rows + p * height + j] = g[c + j];
    }
}

/* G of rows [i, i + rows), at most a step, of a block. */
static void find_derivatives(const ll_job *job, const ll_gradient *grad, ptrdiff_t i,
                             ptrdiff_t rows, segment s, real *tile, const gradient_space *w)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        real *g = w->g + r * w->g_row;

        s.z = tile + (i + r) * w->g_row;
        if (left_out(grad, i + r)) { /* whose logits may be anything */
            memset(g, 0, (size_t)w->g_row * sizeof(real));
            continue;
        }
        if (grad->teacher)
            divergence_gradient(job, grad, i + r, &s, g);
        else
            logit_gradient(job, grad, i + r, &s, g);
        if (job->product.softcap > 0)
            through_softcap(&job->product, i + r, &s, g);
    }
}

/* The same, put back in place of the logits. */
static void gradient_step(const ll_job *job, const ll_gradient *grad, ptrdiff_t i, ptrdiff_t rows,
                          segment s, real *tile, const gradient_space *w)
{
    find_derivatives(job, grad, i, rows, s, tile, w);
    for (ptrdiff_t r = 0, height; r < rows; r += height) {
        height = panel_height(r, rows);
        for (ptrdiff_t q = 0; q * LL_KC < s.width; q++)
            interleave(w->g + r * w->g_row + q * LL_KC, w->g_row, height,
                       least(LL_KC, s.width - q * LL_KC), height,
                       tile + (i + r) * w->g_row + q * LL_KC * height, LL_KC);
    }
}
