/* Gradients, in all ways that may not matter to their bits. */
#ifndef BACKWARDS_H
#define BACKWARDS_H

#include "passes.h"

/* What may not matter. */
enum {
    SPARSE = 1,  /* probabilities are given where they are not zero */
    BLOCKS = 2,  /* block by block of classes */
    PIECES = 4,  /* of the features and rows of d_x, the features and classes of d_weight */
    WINDOW = 8,  /* some blocks of logits are kept, and scored again */
    GROUPS = 16, /* group by group of rows, each from its logits on */
    APART = 32,  /* each group has gradients of its own, which are added in order */
    NANS = 64,   /* in rows that do not count */
    LATER = 128  /* all derivatives first, then the gradients of the weights */
};

typedef struct {
    const inputs *in;
    int options, ways;
    enum layout layout;
    const void *x;
    void *d_x, *d_weight, *d_bias, *sums; /* sums: values of the state, the loss in place of max */
    ptrdiff_t dx_row;
} backward;

/* Rows [lo, lo + rows), and what is asked about them; not yet where their logits are kept. */
static ll_job make_backward_job(const backward *b, ptrdiff_t lo, ptrdiff_t rows)
{
    const inputs *in = b->in;
    int by_column = b->layout == COLUMNS;
    ll_job job = make_product(in, b->layout);

    job.rows = rows;
    job.product.x = at(b->x, lo * in->x_row);
    if (in->temperatures)
        job.product.temperatures = in->temperatures + lo;
    if (b->ways & BLOCKS)
        job.product.x_packed = 0;
    if (job.product.x_packed) {
        void *packed = reals(rows * job.product.k + table->lanes);
        table->pack_x(job.product.x, rows, job.product.k, in->x_row, packed);
        job.product.x = packed;
    }
    job.question.fields = LL_FIELD(REST);
    job.question.targets = in->targets + lo;
    job.question.n_targets = 1;
    job.output.state.target_logit = reals(rows);
    if (b->options & MIXED)
        job.question.fields |= LL_FIELD(PROB_SUM) | LL_FIELD(PROB_GAP);
    if (b->options & MIXED && b->ways & SPARSE) {
        job.question.sparse_start = in->sparse_start + lo;
        job.question.sparse_class = in->sparse_class;
        job.question.sparse_prob = in->sparse_prob;
    } else if (b->options & MIXED) {
        job.question.probs = by_column ? at(in->prob_columns, lo) : at(in->probs, lo * in->p_row);
        job.question.p_row = by_column ? 1 : in->p_row;
        job.question.p_col = by_column ? in->p->m : 1;
    }
    if (b->options & WEIGHTED) {
        job.question.class_weight = in->class_weight;
        job.question.fields |= LL_FIELD(SMOOTH_SUM) | LL_FIELD(SMOOTH_GAP);
    }
    if (b->options & ENTROPIC)
        job.question.fields |= LL_FIELD(MOMENT);
    make_state(&job, 1);
    return job;
}

/* All classes, and what is then known about the rows that count. */
static void forward(const backward *b, ll_job job, ptrdiff_t lo)
{
    void *loss = reals(job.rows);

    job.scratch = cache_lines(table->scratch_bytes(&job));
    table->score(&job);
    table->finish(&job, loss);
    for (ptrdiff_t i = 0; i < job.rows; i++) {
        if (get(b->in->coefficients, lo + i) == 0)
            continue;
        copy(b->sums, lo + i, loss, i);
        for (int place = 1; place < N_MIXED; place++) {
            int which = mixed[place];
            if (which == LL_OTHERS || job.question.fields >> which & 1)
                copy(b->sums, place * b->in->p->m + lo + i, job.output.state.values,
                     which * job.output.state.stride + i);
        }
    }
}

/* Logits of classes [first, last) alone, into their window. */
static void score_again(ll_job job, ptrdiff_t first, ptrdiff_t last)
{
    ll_question nothing = { 0 };

    job.question = nothing;
    make_state(&job, 0);
    job = classes(job, first, last);
    job.scratch = cache_lines(table->scratch_bytes(&job));
    table->score(&job);
}

static void into_x(const backward *b, const ll_job *job, const ll_gradient *gradient)
{
    ptrdiff_t f_step = b->ways & PIECES ? table->lanes : job->product.k;
    ptrdiff_t r_step = b->ways & PIECES ? 5 * LL_GROUP_STEP : job->rows;

    for (ptrdiff_t r = 0; r < job->rows; r += r_step)
        for (ptrdiff_t f = 0; f < job->product.k; f += f_step)
            table->gradient_x(job, gradient, f, least(f + f_step, job->product.k), r,
                              least(r + r_step, job->rows));
}

static void into_weight(const backward *b, const ll_job *job, ptrdiff_t start, ptrdiff_t end,
                        const ll_gradient *gradient)
{
    ptrdiff_t f_step = b->ways & PIECES ? 2 * table->lanes : job->product.k + 1;
    ptrdiff_t c_step = gradient->filter ? table->block : 8 * LL_GROUP_STEP + 5;

    if (!(b->ways & PIECES))
        c_step = end - start;

    for (ptrdiff_t first = start; first < end; first += c_step) {
        ll_job part = classes(*job, first, least(first + c_step, end));
        for (ptrdiff_t f = 0; f == 0 || f < job->product.k; f += f_step)
            table->gradient_weight(&part, gradient, f, least(f + f_step, job->product.k));
    }
}

static void pack_pieces(const backward *b, ll_job job, ll_gradient gradient, ptrdiff_t lo,
                        void *columns)
{
    const inputs *in = b->in;
    ptrdiff_t all = job.rows, step = b->ways & PIECES ? 3 * LL_GROUP_STEP : all;

    for (ptrdiff_t i = 0; i < all; i += step) {
        job.rows = least(step, all - i);
        gradient.coefficients = at(in->coefficients, lo + i);
        table->pack_columns(&job, &gradient, at(b->x, (lo + i) * in->x_row), in->x_row, i, all,
                            columns);
    }
}

/* Rows [lo, lo + rows) from their logits on. */
static void backward_rows(const backward *b, ptrdiff_t lo, ptrdiff_t rows, ll_gradient gradient)
{
    const inputs *in = b->in;
    int mine = n_blocks;
    ll_job job = make_backward_job(b, lo, rows);
    ptrdiff_t groups = (rows + table->group(job.n) - 1) / table->group(job.n);
    ptrdiff_t window = b->ways & WINDOW ? table->block * (job.n > 4 * table->block ? 3 : 1) : job.n;
    void *kept = reals(table->keep_size(rows, least(window, job.n)));
    void *columns = reals((rows + groups) * whole_vectors(job.product.k));

    job.output.keep = b->ways & WINDOW ? NULL : kept;
    job.output.keep_rows = rows;
    forward(b, job, lo);
    job.output.keep = kept;

    gradient.coefficients = at(in->coefficients, lo);
    gradient.columns = columns;
    pack_pieces(b, job, gradient, lo, columns);
    job.scratch = cache_lines(table->gradient_bytes(&job));
    ll_gradient derivatives = gradient;
    if (b->ways & LATER)
        derivatives.d_weight = derivatives.d_bias = NULL;
    for (ptrdiff_t start = 0; start < job.n; start += window) {
        ptrdiff_t end = least(start + window, job.n);
        ptrdiff_t step = b->ways & BLOCKS ? table->block : end - start;
        job.output.keep_first = start;
        if (b->ways & WINDOW)
            score_again(job, start, end);
        for (ptrdiff_t first = start; first < end; first += step) {
            ll_job part = classes(job, first, least(first + step, end));
            table->gradient_logits(&part, &derivatives);
            into_x(b, &part, &derivatives);
        }
        if (b->ways & LATER)
            into_weight(b, &job, start, end, &gradient);
    }
    release(mine);
}

/* Gradients of `groups` groups, each of `count` numbers, in order. */
static void add_in_order(void *sum, const void *parts, ptrdiff_t count, ptrdiff_t groups, int add)
{
    for (ptrdiff_t i = 0; i < groups * count; i++) {
        ptrdiff_t to = i % count;
        if (!add && i < count)
            copy(sum, to, parts, i);
        else if (bits == 32)
            ((float *)sum)[to] += ((const float *)parts)[i];
        else
            ((double *)sum)[to] += ((const double *)parts)[i];
    }
}

static void backward_all(const backward *b)
{
    ptrdiff_t m = b->in->p->m, n = b->in->p->n, k = b->in->p->k;
    ptrdiff_t group = table->group(n), groups = (m + group - 1) / group;
    ptrdiff_t step = b->ways & GROUPS ? group : m;
    int add = (b->options & ADDED) != 0;
    ll_gradient gradient = {
        .c_stride = b->in->c_stride, .filter = (b->options & FILTERED) != 0,
        .d_weight = b->d_weight, .d_bias = b->d_bias, .dx_row = b->dx_row,
        .add_x = add, .add_weight = add, .apart = (b->ways & APART) != 0,
    };

    if (gradient.apart) {
        gradient.d_weight = reals(groups * n * k);
        gradient.d_bias = reals(groups * n);
    }
    for (ptrdiff_t lo = 0; lo < m; lo += step) {
        gradient.d_x = (char *)b->d_x + (size_t)(lo * b->dx_row) * item;
        backward_rows(b, lo, least(step, m - lo), gradient);
        gradient.add_weight = 1;
    }
    if (gradient.apart) {
        add_in_order(b->d_weight, gradient.d_weight, n * k, groups, add);
        add_in_order(b->d_bias, gradient.d_bias, n, groups, add);
    }
}

static void *filled(ptrdiff_t count)
{
    void *p = reals(count);
    for (ptrdiff_t i = 0; i < count; i++)
        put(p, i, (double)(i % 13) / 8 - 0.75);
    return p;
}

static uint64_t run_backward(const inputs *in, int options, enum layout layout, int ways)
{
    int mine = n_blocks;
    ptrdiff_t m = in->p->m, n = in->p->n, k = in->p->k, dx_row = k + 2, last = (m - 1) * dx_row + k;
    backward b = { in, options, ways, layout, ways & NANS ? in->x_with_nan : in->x, filled(last),
                   filled(n * k), filled(n), filled(N_MIXED * m), dx_row };

    backward_all(&b);
    start_hash();
    mix_reals(b.d_x, last);
    mix_reals(b.d_weight, n * k);
    mix_reals(b.d_bias, n);
    mix_reals(b.sums, N_MIXED * m);
    release(mine);
    return hash;
}

/* The gradients of a problem's inputs, in all ways that may not matter. */
static uint64_t try_gradient_inputs(inputs *in, int options)
{
    static const struct {
        enum layout layout;
        int ways;
    } all[] = {
        { ROWS, 0 },
        { COLUMNS, BLOCKS | GROUPS },
        { PACKED, BLOCKS | PIECES | SPARSE | NANS },
        { ROWS, PIECES | APART | NANS },
        { COLUMNS, WINDOW | SPARSE | APART },
        { PACKED, WINDOW | BLOCKS },
        { ROWS, LATER },
        { COLUMNS, LATER | PIECES | NANS },
        { NARROW_ROWS, 0 },
        { NARROW_COLUMNS, BLOCKS },
        { NARROW_PACKED, PIECES },
    };
    const int few = in->p->n <= LL_SMALL_N; /* which are not packed */
    uint64_t first = 0, value;

    make_gradient_inputs(in, options);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (few && (all[i].layout == PACKED || all[i].layout == NARROW_PACKED))
            continue;
        if (in->type == LL_REALS && all[i].layout >= NARROW_ROWS)
            continue;
        value = run_backward(in, options, all[i].layout, all[i].ways);
        if (i == 0) {
            first = value;
        } else if (value != first) {
            complain(in->p);
            fprintf(stderr, "gradients, layout %d, ways %d give other bits\n",
                    (int)all[i].layout, all[i].ways);
        }
    }
    release(0);
    return first;
}

static inline uint64_t try_gradients(const problem *p, int options)
{
    inputs in = make_inputs(p);
    return try_gradient_inputs(&in, options);
}

#endif
