/* The bits of the kernels on fixed inputs: one hash a line, a block of lines for every
 * instruction set that was built in and that this processor runs.
 *
 * Exit status 1 when an instruction set differs from the scalar one, or when bits depend on what
 * they must not: on how weights lie in memory, on how a target distribution lies, on whether
 * logits come from a product or are given, on how a pass is cut into spans, on how gradients are
 * cut into classes, features and rows.
 */
#include "inputs.h"

static int failed;

/* ---- one pass ------------------------------------------------------------------------------ */

enum layout { ROWS, COLUMNS, PACKED, LOGITS, LOGIT_COLUMNS, LAYOUTS };
/* Values of the row state in the order of the hash. */
static const int mixed[LL_VALUES] = { LL_MAX, LL_REST, LL_MOMENT, LL_PROB_SUM, LL_PROB_GAP,
                                      LL_SMOOTH_SUM, LL_SMOOTH_GAP, LL_OTHERS };

enum ask { EVERYTHING, PROBABILITIES, LOG_PROBABILITIES, BEST, ASKS };
/* Block by block, or span by span, into one state, or span by span one each. */
enum cut { WHOLE, BLOCKWISE, STEPS, PARTS, CUTS };

/* A state of its own for the job, of all classes or of one span. */
static void make_state(ll_job *job, int whole)
{
    ll_state *state = &job->state;

    state->stride = whole_vectors(job->rows);
    state->values = reals(LL_VALUES * state->stride);
    state->wide = whole && job->n > table->span ? array(LL_VALUES * state->stride, sizeof(double))
                                                : NULL;
    state->ints = integers(LL_INTS * state->stride);
    if (job->top) {
        state->top_logit = reals(job->rows * job->top);
        state->top_index = integers(job->rows * job->top);
        for (ptrdiff_t i = 0; i < job->rows * job->top; i++) {
            put(state->top_logit, i, not_a_number());
            state->top_index[i] = -1;
        }
    }
    table->init(job);
}

/* A product that asks nothing yet. */
static ll_job make_product(const inputs *in, enum layout layout)
{
    const problem *p = in->p;
    ll_job job = { .rows = p->m, .n = p->n, .k = p->k, .last = p->n,
                   .softcap = p->softcap, .temperature = p->temperature };

    job.x = p->n > LL_SMALL_N ? in->packed_x : in->x;
    job.x_row = in->x_row;
    job.weight = layout == ROWS ? in->weight : layout == COLUMNS ? in->columns : in->panels;
    job.w_row = layout == COLUMNS ? 1 : in->w_row;
    job.w_col = layout == COLUMNS ? in->w_col : 1;
    job.packed = layout == PACKED;
    job.bias = in->bias;
    return job;
}

static ll_job make_job(const inputs *in, enum layout layout, enum ask ask)
{
    const problem *p = in->p;
    ll_job job = make_product(in, layout < LOGITS ? layout : ROWS);

    if (layout >= LOGITS) { /* made by a pass that has transformed them already */
        job.x = job.weight = job.bias = NULL;
        job.k = 0;
        job.softcap = 0;
        job.temperature = 1;
        job.logits = layout == LOGITS ? in->logits : in->logit_columns;
        job.z_row = layout == LOGITS ? p->n : 1;
        job.z_col = layout == LOGITS ? 1 : p->m;
    }
    job.sums = ask != BEST;
    job.entropy = job.rank = ask == EVERYTHING;
    if (ask == EVERYTHING) {
        int by_column = layout == COLUMNS || layout == LOGIT_COLUMNS;
        job.soft = 1;
        job.targets = in->targets;
        job.n_targets = 2;
        job.state.target_logit = reals(2 * p->m);
        job.probs = by_column ? in->prob_columns : in->probs;
        job.p_row = by_column ? 1 : in->p_row;
        job.p_col = by_column ? p->m : 1;
    }
    job.top = ask == EVERYTHING ? (p->n < 5 ? p->n : 5) : ask == BEST;
    if (ask != BEST) {
        job.out = reals(p->m * p->n);
        job.out_row = p->n;
        job.write = ask == PROBABILITIES ? LL_PROBA
                  : ask == LOG_PROBABILITIES ? LL_LOG_PROBA : LL_LOGITS;
    }
    make_state(&job, 1);
    return job;
}

/* Classes [first, last): pointers start at the first of them. */
static ll_job classes(ll_job job, ptrdiff_t first, ptrdiff_t last)
{
    job.weight = at(job.weight, first * (job.packed ? job.k : job.w_row));
    job.bias = at(job.bias, first);
    job.probs = at(job.probs, first * job.p_col);
    job.logits = at(job.logits, first * job.z_col);
    job.first = first;
    job.last = last;
    return job;
}

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* Logits to be given to later runs, by row and by column. */
static void give_logits(const inputs *in, const void *z)
{
    ptrdiff_t m = in->p->m, n = in->p->n;

    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t c = 0; c < n; c++) {
            copy(in->logits, i * n + c, z, i * n + c);
            copy(in->logit_columns, i + c * m, z, i * n + c);
        }
}

static uint64_t run(const inputs *in, enum layout layout, enum ask ask, enum cut cut)
{
    int mine = n_blocks;
    ll_job job = make_job(in, layout, ask);
    void *loss = reals(job.rows * job.n_targets);
    ptrdiff_t step = cut == WHOLE ? job.n : cut == BLOCKWISE ? table->block : table->span;

    job.scratch = cache_lines(table->scratch_bytes(&job));
    if (job.rank && job.n > table->block) { /* ranks need them before the classes are met */
        ll_job before = job;
        before.x = in->x;
        table->target_logits(&before);
    }
    for (ptrdiff_t first = 0; first < job.n; first += step) {
        ll_job part = classes(job, first, least(first + step, job.n));
        if (cut == PARTS)
            make_state(&part, 0);
        table->score(&part);
        if (cut == PARTS) {
            table->merge(&job, &part.state);
            if (job.top)
                table->merge_top(&job, part.state.top_logit, part.state.top_index);
        }
    }
    if (ask == EVERYTHING && layout == ROWS && cut == WHOLE)
        give_logits(in, job.out);
    if (ask == PROBABILITIES || ask == LOG_PROBABILITIES)
        table->normalise(&job);
    table->finish(&job, loss);
    if (job.top)
        table->sort_top(&job);

    start_hash();
    for (int place = 0; place < 5; place++) {
        int which = mixed[place];
        if (which == LL_MAX || (job.sums && (which == LL_REST || ask == EVERYTHING)))
            mix_reals(at(job.state.values, which * job.state.stride), job.rows);
    }
    mix_integers(job.state.ints + LL_ARGMAX * job.state.stride, job.rows);
    mix_integers(job.state.ints + LL_RANK * job.state.stride, job.rank ? job.rows : 0);
    mix_reals(job.state.target_logit, job.rows * job.n_targets);
    mix_reals(loss, job.rows * job.n_targets);
    mix_reals(job.state.top_logit, job.rows * job.top);
    mix_integers(job.state.top_index, job.rows * job.top);
    mix_reals(job.out, job.out ? job.rows * job.n : 0);
    release(mine);
    return hash;
}

/* ---- gradients ----------------------------------------------------------------------------- */

/* What may not matter. */
enum {
    SPARSE = 1,  /* probabilities are given where they are not zero */
    BLOCKS = 2,  /* block by block of classes */
    PIECES = 4,  /* of the features and rows of d_x */
    WINDOW = 8,  /* some blocks of logits are kept, and scored again */
    GROUPS = 16, /* group by group of rows, each from its logits on */
    APART = 32,  /* each group has gradients of its own, which are added in order */
    NANS = 64    /* in rows that do not count */
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
    job.x = at(b->x, lo * in->x_row);
    if (job.n > LL_SMALL_N) {
        void *packed = reals(rows * job.k + table->lanes);
        table->pack_x(job.x, rows, job.k, in->x_row, packed);
        job.x = packed;
    }
    job.sums = 1;
    job.targets = in->targets + lo;
    job.n_targets = 1;
    job.state.target_logit = reals(rows);
    job.soft = (b->options & MIXED) != 0;
    if (b->options & MIXED && b->ways & SPARSE) {
        job.sparse_start = in->sparse_start + lo;
        job.sparse_class = in->sparse_class;
        job.sparse_prob = in->sparse_prob;
    } else if (b->options & MIXED) {
        job.probs = by_column ? at(in->prob_columns, lo) : at(in->probs, lo * in->p_row);
        job.p_row = by_column ? 1 : in->p_row;
        job.p_col = by_column ? in->p->m : 1;
    }
    if (b->options & WEIGHTED) {
        job.class_weight = in->class_weight;
        job.smooth = 1;
    }
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
        for (int place = 1; place < LL_VALUES; place++) {
            int which = mixed[place];
            if (which == LL_REST || which == LL_OTHERS
                || (which >= LL_SMOOTH_SUM && job.smooth)
                || (which >= LL_PROB_SUM && which <= LL_PROB_GAP && b->options & MIXED))
                copy(b->sums, place * b->in->p->m + lo + i, job.state.values,
                     which * job.state.stride + i);
        }
    }
}

/* Logits of classes [first, last) alone, into their window. */
static void score_again(ll_job job, ptrdiff_t first, ptrdiff_t last)
{
    job.sums = job.smooth = job.soft = 0;
    job.targets = job.sparse_start = NULL;
    job.n_targets = 0;
    job.probs = job.class_weight = NULL;
    make_state(&job, 0);
    job = classes(job, first, last);
    job.scratch = cache_lines(table->scratch_bytes(&job));
    table->score(&job);
}

static void into_x(const backward *b, const ll_job *job, const ll_gradient *gradient)
{
    ptrdiff_t f_step = b->ways & PIECES ? table->lanes : job->k;
    ptrdiff_t r_step = b->ways & PIECES ? 5 * LL_GROUP_STEP : job->rows;

    for (ptrdiff_t r = 0; r < job->rows; r += r_step)
        for (ptrdiff_t f = 0; f < job->k; f += f_step)
            table->gradient_x(job, gradient, f, least(f + f_step, job->k), r,
                              least(r + r_step, job->rows));
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
    void *columns = reals((rows + groups) * whole_vectors(job.k));

    job.keep = b->ways & WINDOW ? NULL : kept;
    job.keep_rows = rows;
    forward(b, job, lo);
    job.keep = kept;

    gradient.coefficients = at(in->coefficients, lo);
    gradient.columns = columns;
    table->pack_columns(&job, &gradient, at(b->x, lo * in->x_row), in->x_row, columns);
    job.scratch = cache_lines(table->gradient_bytes(&job));
    for (job.keep_first = 0; job.keep_first < job.n; job.keep_first += window) {
        ptrdiff_t end = least(job.keep_first + window, job.n);
        ptrdiff_t step = b->ways & BLOCKS ? table->block : end - job.keep_first;
        if (b->ways & WINDOW)
            score_again(job, job.keep_first, end);
        for (ptrdiff_t first = job.keep_first; first < end; first += step) {
            ll_job part = classes(job, first, least(first + step, end));
            table->gradient_logits(&part, &gradient);
            into_x(b, &part, &gradient);
        }
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
                   filled(n * k), filled(n), filled(LL_VALUES * m), dx_row };

    backward_all(&b);
    start_hash();
    mix_reals(b.d_x, last);
    mix_reals(b.d_weight, n * k);
    mix_reals(b.d_bias, n);
    mix_reals(b.sums, LL_VALUES * m);
    release(mine);
    return hash;
}

/* ---- lines --------------------------------------------------------------------------------- */

enum { MOST_SETS = 8, MOST_LINES = 512 };
static uint64_t lines[MOST_SETS][MOST_LINES];
static int n_lines, set;

static void print_line(const char *name, uint64_t value)
{
    printf("f%d %s %016llx\n", bits, name, (unsigned long long)value);
    if (n_lines < MOST_LINES)
        lines[set][n_lines++] = value;
}

/* All asks of one problem; ways of asking that may not matter must give the same hash. */
static void try_problem(const problem *p)
{
    inputs in = make_inputs(p);
    uint64_t together = 0, first = 0, value;
    char name[64];

    snprintf(name, sizeof name, "%s %tdx%tdx%td", p->name, p->m, p->n, p->k);
    for (enum ask ask = 0; ask < ASKS; ask++) {
        int given = p->kind == SPOILT;
        if (given && ask == EVERYTHING) {
            run(&in, ROWS, ask, WHOLE);
            spoil(in.logits, p->m, p->n);
            give_logits(&in, in.logits);
        }
        enum layout start = given ? LOGITS : ROWS;
        for (enum layout layout = start; layout < LAYOUTS; layout++)
            for (enum cut cut = WHOLE;
                 cut < (p->n > table->span ? CUTS : p->n > table->block ? STEPS : BLOCKWISE); cut++) {
                int product = layout == COLUMNS || layout == PACKED;
                if (product && (p->n <= LL_SMALL_N || ask != EVERYTHING))
                    continue; /* small n knows no other layout */
                value = run(&in, layout, ask, cut);
                if (layout == start && cut == WHOLE) {
                    first = value;
                } else if (value != first) {
                    fprintf(stderr, "%s f%d %s: ask %d, layout %d, cut %d give other bits\n",
                            ll_isas[set].name, bits, name, (int)ask, (int)layout, (int)cut);
                    failed = 1;
                }
            }
        together = together * 31 + first;
    }
    print_line(name, together);
    release(0);
}

static void problems(void)
{
    static const ptrdiff_t n[] = { 1, 2, 7, 15, 16, 17, 31, 33, 255, 257, 511, 513, 2047, 2049,
                                   4095, 4096, 4097, 8193 };
    static const ptrdiff_t k[] = { 0, 1, 5, 15, 16, 17, 255, 256, 257, 300, 511, 512, 513,
                                   1000 };
    static const ptrdiff_t m[] = { 1, 2, 5, 11, 12, 13, 17, 31, 33, 145, 146, 147, 148, 149, 150 };
    static const problem rest[] = {
        { "large", 147, 40, 300, 1, 0, 0, 1, ORDINARY },
        { "large", 13, 513, 300, 1, 0, 0, 1, ORDINARY },
        { "large", 33, 16, 513, 1, 0, 0, 1, ORDINARY },
        { "one row", 1, 4099, 257, 1, 0, 0, 1, ORDINARY },
        { "softcap", 9, 131, 40, 1, 0, 3, 1, ORDINARY },
        { "temperature", 9, 131, 40, 1, 0, 0, 0.37, ORDINARY },
        { "softcap and temperature", 9, 131, 40, 8, 0, 30, 1.7, ORDINARY },
        { "softcap and temperature", 9, 13, 40, 8, 0, 30, 1.7, ORDINARY },
        { "sure", 9, 600, 40, 64, 0, 0, 1, ORDINARY },
        { "sure", 9, 9, 40, 64, 0, 0, 1, ORDINARY },
        { "offset", 9, 131, 40, 1, 1e6, 0, 1, ORDINARY },
        { "denormal", 9, 131, 40, 0x1p-130, 0, 0, 0x1p-100, ORDINARY },
        { "special", 12, 10, 40, 1, 0, 0, 1, SPECIAL },
        { "special", 12, 131, 300, 1, 0, 5, 1, SPECIAL },
        { "special", 12, 4099, 5, 1, 0, 0, 0.5, SPECIAL },
        { "given", 32, 1, 1, 1, 0, 0, 1, SPOILT },
        { "given", 32, 10, 1, 1, 0, 0, 1, SPOILT },
        { "given", 32, 37, 1, 1, 0, 0, 1, SPOILT },
        { "given", 32, 600, 1, 16, 0, 0, 1, SPOILT },
        { "given", 32, 4611, 1, 64, 0, 0, 1, SPOILT },
    };
    problem p = { "classes", 3, 0, 7, 1, 0, 0, 1, ORDINARY };

    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        p.n = n[i], try_problem(&p);
    p.name = "features";
    for (size_t i = 0; i < sizeof k / sizeof *k; i++) {
        p.k = k[i];
        p.m = 13, p.n = 7, try_problem(&p);
        p.m = 5, p.n = 33, try_problem(&p);
    }
    p.name = "rows", p.k = 19;
    for (size_t i = 0; i < sizeof m / sizeof *m; i++) {
        p.m = m[i];
        p.n = 7, try_problem(&p);
        p.n = 33, try_problem(&p);
    }
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        try_problem(&rest[i]);
}

/* The gradients of one problem, in all ways that may not matter. */
static void try_gradients(const problem *p, int options)
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
    };
    inputs in = make_inputs(p);
    uint64_t first = 0, value;
    char name[64];

    make_gradient_inputs(&in, options);
    snprintf(name, sizeof name, "gradients, %s %tdx%tdx%td", p->name, p->m, p->n, p->k);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (p->n <= LL_SMALL_N && all[i].layout == PACKED)
            continue; /* nothing is packed there */
        value = run_backward(&in, options, all[i].layout, all[i].ways);
        if (i == 0) {
            first = value;
        } else if (value != first) {
            fprintf(stderr, "%s f%d %s: layout %d, ways %d give other bits\n", ll_isas[set].name,
                    bits, name, (int)all[i].layout, all[i].ways);
            failed = 1;
        }
    }
    print_line(name, first);
    release(0);
}

static void gradients(void)
{
    static const ptrdiff_t n[] = { 1, 7, 16, 17, 33, 257, 513 };
    static const ptrdiff_t k[] = { 0, 1, 15, 16, 17, 33, 257, 300 };
    static const ptrdiff_t m[] = { 1, 11, 12, 13, 25, 150, 240, 250, 481 };
    static const struct {
        problem p;
        int options;
    } rest[] = {
        { { "large", 13, 4097, 5, 1, 0, 0, 1, ORDINARY }, 0 },
        { { "large", 61, 530, 20, 1, 0, 0, 1, ORDINARY }, 0 },
        { { "added", 250, 7, 5, 1, 0, 0, 1, ORDINARY }, ADDED },
        { { "added", 13, 530, 17, 1, 0, 0, 1, ORDINARY }, ADDED },
        { { "weighted", 25, 9, 7, 1, 0, 0, 1, ORDINARY }, WEIGHTED },
        { { "weighted", 13, 530, 7, 1, 0, 0, 1, ORDINARY }, WEIGHTED },
        { { "mixed", 25, 9, 7, 1, 0, 0, 1, ORDINARY }, MIXED },
        { { "mixed", 13, 530, 7, 1, 0, 0, 1, ORDINARY }, MIXED },
        { { "mixed, weighted", 25, 9, 7, 1, 0, 0, 1, ORDINARY }, MIXED | WEIGHTED },
        { { "mixed, weighted", 13, 530, 7, 1, 0, 0, 1, ORDINARY }, MIXED | WEIGHTED },
        { { "mixed, weighted", 3, 4097, 2, 1, 0, 0, 1, ORDINARY }, MIXED | WEIGHTED },
        { { "softcap and temperature", 25, 37, 17, 8, 0, 30, 1.7, ORDINARY }, MIXED },
        { { "temperature", 25, 37, 17, 1, 0, 0, 0.37, ORDINARY }, 0 },
        { { "softcap", 25, 9, 17, 1, 0, 3, 1, ORDINARY }, 0 },
        { { "sure", 25, 37, 17, 64, 0, 0, 1, ORDINARY }, 0 },
        { { "special", 25, 37, 17, 1, 0, 0, 1, SPECIAL }, WEIGHTED },
        { { "special", 25, 9, 17, 1, 0, 2, 1, SPECIAL }, 0 },
        { { "filtered", 9, 1100, 5, 1, 0, 0, 1, ORDINARY }, FILTERED },
        { { "filtered", 40, 1100, 5, 1, 0, 0, 1, ORDINARY }, FILTERED },
        { { "filtered", 250, 270, 3, 1, 0, 0, 1, ORDINARY }, FILTERED },
        { { "filtered, added", 17, 1100, 5, 1, 0, 0, 1, ORDINARY }, FILTERED | ADDED },
        { { "filtered, softcap", 25, 1100, 5, 1, 0, 30, 1, ORDINARY }, FILTERED },
        { { "filtered, weighted", 25, 1100, 5, 1, 0, 0, 1, ORDINARY }, FILTERED | WEIGHTED },
    };
    problem p = { "classes", 13, 0, 7, 1, 0, 0, 1, ORDINARY };

    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        p.n = n[i], try_gradients(&p, 0);
    p.name = "features";
    for (size_t i = 0; i < sizeof k / sizeof *k; i++) {
        p.k = k[i];
        p.m = 13, p.n = 7, try_gradients(&p, 0);
        p.m = 5, p.n = 33, try_gradients(&p, 0);
    }
    p.name = "rows", p.k = 3;
    for (size_t i = 0; i < sizeof m / sizeof *m; i++) {
        p.m = m[i];
        p.n = 7, try_gradients(&p, 0);
        p.n = 33, try_gradients(&p, 0);
    }
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        try_gradients(&rest[i].p, rest[i].options);
}

/* ---- the rest of the interface ------------------------------------------------------------- */

static void packing(void)
{
    problem p = { "", 1, 77, 300, 1, 0, 0, 1, ORDINARY };
    inputs in = make_inputs(&p);
    ptrdiff_t size = (p.n + table->lanes - 1) / table->lanes * table->lanes * p.k;
    void *panels = reals(size);

    start_hash();
    mix_reals(in.panels, size);
    table->pack_weight(in.columns, p.n, p.k, 1, in.w_col, panels);
    mix_reals(panels, size);
    print_line("packed weights", hash);
    release(0);
}

static void groups(void)
{
    static const ptrdiff_t n[] = { 1, 4097, 33792, 33793, 67584, 67585, 135168, 135169, 675840,
                                   675841, 1351680, 1351681, 1000000000 };

    start_hash();
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        int64_t rows = table->group(n[i]);
        mix_integers(&rows, 1);
    }
    print_line("groups of rows", hash);
}

static void functions(void)
{
    static const char *const names[] = { "exp", "log", "log1p", "tanh" };
    static const double hard[] = { 0, 1, 0.5, 2, 1e-3, 0.34657359, 0.693147, 1.41421356, 88.72283,
                                   87.33655, 103.97208, 709.782712, 708.39642, 745.133219,
                                   1e-30, 1e-310, 5e-324, 1e30, 1e300, 9.01, 19.06, 1e308 };
    enum { HARD = sizeof hard / sizeof *hard, COUNT = 40003 };
    void *x = reals(COUNT), *y = reals(COUNT);

    for (int f = 0; f < 4; f++) {
        seed = (uint64_t)f;
        for (ptrdiff_t i = 0; i < COUNT; i++) {
            double sign = f != 2 && i % 2 ? -1 : 1; /* log1p is for numbers >= 0 */
            uint64_t pattern = draw();
            if (f == 2)
                pattern &= bits == 32 ? 0x7fffffff : 0x7fffffffffffffff;
            if (i < 2 * HARD)
                put(x, i, hard[i / 2] * sign);
            else if (i < 2 * HARD + 2)
                put(x, i, infinity() * sign);
            else if (i % 3 == 0)
                from_bits(x, i, pattern);
            else /* where the curves bend */
                put(x, i, (f == 2 ? 1 + unit() : f == 1 ? 2 + unit() * 2 : unit())
                              * (i % 3 == 1 ? 1 : f == 0 ? 110 : 10));
        }
        start_hash();
        table->map(f, COUNT, x, y);
        mix_reals(y, COUNT);
        table->map(f, 1, x, y);
        mix_reals(y, 1);
        print_line(names[f], hash);
    }
    release(0);
}

static void losses(void)
{
    static const ptrdiff_t n[] = { 1, 7, 8, 16, 17, 33, 513 };
    enum { M = 5 };

    start_hash();
    for (size_t j = 0; j < sizeof n / sizeof *n; j++) {
        void *p = reals(M * n[j]), *t = reals(M * n[j]), *loss = reals(M);
        for (ptrdiff_t i = 0; i < M * n[j]; i++) {
            put(p, i, i % 5 == 3 ? 0 : (unit() + 1) / 2);
            put(t, i, i % 5 == 3 && i % 35 ? 0 : unit() + 1);
        }
        table->nll(M, n[j], p, n[j], 1, t, 1, M, loss);
        mix_reals(loss, M);
    }
    print_line("nll", hash);
    release(0);
}

int main(void)
{
    int scalar = ll_isa_count - 1, count = 0;

    for (set = 0; set < ll_isa_count && set < MOST_SETS; set++) {
        if (!ll_isas[set].supported())
            continue;
        printf("[%s]\n", ll_isas[set].name);
        n_lines = 0;
        for (bits = 32; bits <= 64; bits += 32) {
            table = bits == 32 ? ll_isas[set].f32 : ll_isas[set].f64;
            item = (size_t)bits / 8;
            packing();
            problems();
            functions();
            losses();
            groups();
            gradients();
        }
        count = n_lines;
    }
    for (set = 0; set < scalar; set++)
        if (ll_isas[set].supported() && memcmp(lines[set], lines[scalar], sizeof *lines)) {
            fprintf(stderr, "%s differs from scalar\n", ll_isas[set].name);
            failed = 1;
        }
    if (count == MOST_LINES) {
        fprintf(stderr, "too many lines\n");
        failed = 1;
    }
    return failed;
}
