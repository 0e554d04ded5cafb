/* One pass over the classes, in all ways that may not matter to its bits. */
#ifndef PASSES_H
#define PASSES_H

#include "inputs.h"

#ifndef GAP
#define GAP 0 /* between rows of results */
#endif

static int failed;
static const char *at_work; /* the instruction set */

static void complain(const problem *p)
{
    fprintf(stderr, "%s f%d %s %tdx%tdx%td: ", at_work, bits, p->name, p->m, p->n, p->k);
    failed = 1;
}

enum layout { ROWS, COLUMNS, PACKED, NARROW_ROWS, NARROW_COLUMNS, NARROW_PACKED, LOGITS,
              LOGIT_COLUMNS, LAYOUTS };
/* Values of the row state in the order of the hash. */
static const int mixed[] = { LL_MAX, LL_REST, LL_MOMENT, LL_PROB_SUM, LL_PROB_GAP,
                              LL_SMOOTH_SUM, LL_SMOOTH_GAP, LL_OTHERS };
enum { N_MIXED = sizeof mixed / sizeof *mixed };

/* From RANK on it is what squares, or segments, of rows find, too; the last two are RANK of classes
 * that rows do not exclude, each its own or all those of the first. The problems of
 * golden/hashes.txt know only those before. */
enum ask { EVERYTHING, PROBABILITIES, LOG_PROBABILITIES, BEST, RANK, ENTROPY, VARIANCE, LEFT,
           LEFT_ALIKE };
/* Block by block, or span by span, into one state, or span by span one each. */
enum cut { WHOLE, BLOCKWISE, STEPS, PARTS, CUTS };

/* A state of its own for the job, of all classes or of one span. */
static void make_state(ll_job *job, int whole)
{
    ll_state *state = &job->output.state;

    state->stride = whole_vectors(job->rows);
    state->values = reals(LL_VALUES * state->stride);
    state->wide = whole && job->n > table->span ? array(LL_VALUES * state->stride, sizeof(double))
                                                : NULL;
    state->ints = integers(LL_INTS * state->stride);
    if (job->question.top) {
        state->top_logit = reals(job->rows * job->question.top);
        state->top_index = integers(job->rows * job->question.top);
        if (job->question.fields & LL_FIELD(REST))
            state->top_log_prob = reals(job->rows * job->question.top);
        for (ptrdiff_t i = 0; i < job->rows * job->question.top; i++) {
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
    const int narrow = layout >= NARROW_ROWS;
    const int columns = layout == COLUMNS || layout == NARROW_COLUMNS;
    const void *const weights[] = { in->weight, in->columns, in->panels, in->narrow_weight,
                                    in->narrow_columns, in->words };
    ll_product product = {
        .k = p->k, .softcap = p->softcap, .temperature = p->temperature, .temperatures = in->temperatures,
        .x = in->product ? in->packed_narrow_x : p->n > LL_SMALL_N ? in->packed_x : in->x,
        .x_row = in->x_row, .x_packed = p->n > LL_SMALL_N,
        .type = narrow ? in->type : LL_REALS, .weight = weights[layout],
        .w_row = columns ? 1 : in->w_row, .w_col = columns ? in->w_col : 1,
        .packed = layout == PACKED || layout == NARROW_PACKED, .bf16 = in->product,
        .bias = in->bias,
    };
    ll_job job = { .rows = p->m, .n = p->n, .last = p->n, .product = product };

    return job;
}

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t out_size(const ll_job *job)
{
    return (job->rows - 1) * job->output.out_row + job->n;
}

static ll_job make_job(const inputs *in, enum layout layout, enum ask ask)
{
    const problem *p = in->p;
    ll_job job = make_product(in, layout < LOGITS ? layout : ROWS);

    if (layout >= LOGITS) { /* made by a pass that has transformed them already */
        ll_product given = { .temperature = 1 };
        given.logits = layout == LOGITS ? in->logits : in->logit_columns;
        given.z_row = layout == LOGITS ? p->n : 1;
        given.z_col = layout == LOGITS ? 1 : p->m;
        job.product = given;
    }
    job.question.fields = ask == BEST ? 0 : LL_FIELD(REST);
    job.question.rank = ask == EVERYTHING || ask == RANK || ask >= LEFT;
    if (job.question.rank || ask == ENTROPY || ask == VARIANCE)
        job.question.fields |= LL_FIELD(MOMENT);
    if (ask == VARIANCE)
        job.question.fields |= LL_FIELD(SECOND);
    if (ask >= LEFT) {
        ll_exclusions exclude = { in->sparse_start, in->sparse_class, ask == LEFT };
        job.question.exclude = exclude;
    }
    if (ask == RANK || ask >= LEFT) {
        job.question.targets = in->targets;
        job.question.n_targets = 1;
        job.output.state.target_logit = zeros(p->m);
    }
    if (ask == EVERYTHING) {
        int by_column = layout == COLUMNS || layout == LOGIT_COLUMNS;
        job.question.fields |= LL_FIELD(PROB_SUM) | LL_FIELD(PROB_GAP);
        job.question.targets = in->targets;
        job.question.n_targets = 2;
        job.output.state.target_logit = reals(2 * p->m);
        job.question.probs = by_column ? in->prob_columns : in->probs;
        job.question.p_row = by_column ? 1 : in->p_row;
        job.question.p_col = by_column ? p->m : 1;
    }
    job.question.top = job.question.rank ? least(p->n, 5) : ask == BEST;
    if (ask != BEST) {
        job.output.out_row = p->n + GAP;
        job.output.out = zeros(out_size(&job));
        job.output.write = ask == PROBABILITIES ? LL_PROBA
                  : ask == LOG_PROBABILITIES || ask == ENTROPY || ask >= LEFT ? LL_LOG_PROBA
                  : LL_LOGITS;
    }
    make_state(&job, 1);
    return job;
}

static const void *class_at(const ll_product *p, ptrdiff_t c)
{
    const char *weight = p->weight;

    if (!weight)
        return NULL;
    if (p->type == LL_REALS)
        return weight + (size_t)(c * (p->packed ? p->k : p->w_row)) * item;
    return p->packed ? weight + (size_t)(c * ((p->k + 1) / 2)) * sizeof(uint32_t)
                     : weight + (size_t)(c * p->w_row) * sizeof(uint16_t);
}

/* Classes [first, last): pointers start at the first of them. */
static ll_job classes(ll_job job, ptrdiff_t first, ptrdiff_t last)
{
    ll_product *p = &job.product;
    ll_question *q = &job.question;

    p->weight = class_at(p, first);
    p->bias = at(p->bias, first);
    p->logits = at(p->logits, first * p->z_col);
    q->probs = at(q->probs, first * q->p_col);
    job.first = first;
    job.last = last;
    return job;
}

/* Logits to be given to later runs, by row and by column. */
static void give_logits(const inputs *in, const void *z, ptrdiff_t z_row)
{
    ptrdiff_t m = in->p->m, n = in->p->n;

    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t c = 0; c < n; c++) {
            copy(in->logits, i * n + c, z, i * z_row + c);
            copy(in->logit_columns, i + c * m, z, i * z_row + c);
        }
}

/* The product that others are held against. */
static enum layout first_product(const inputs *in) { return in->product ? NARROW_ROWS : ROWS; }

static int is_tried(const inputs *in, enum layout layout, enum ask ask)
{
    const int few = in->p->n <= LL_SMALL_N; /* which are not packed, but for bfloat16 rows */

    if (layout == first_product(in) || layout >= LOGITS)
        return 1;
    if (ask != EVERYTHING || (layout >= NARROW_ROWS && in->type == LL_REALS))
        return 0;
    return layout == NARROW_ROWS || layout == NARROW_COLUMNS || !few
        || (layout == NARROW_PACKED && in->product);
}

/* Whether there are two ways of reading the rows: packed, or where they are. */
static int may_be_packed(const inputs *in, enum layout layout)
{
    return in->p->n > LL_SMALL_N && !in->product && layout < LOGITS;
}

/* How rows are given: packed, where they are, as entries, as these with panels made on the way. */
enum rows { AS_PACKED, AS_THEY_ARE, AS_ENTRIES, AS_ENTRIES_BY_PANELS, ROW_FORMS };

/* Rows as entries, all of which are given. */
static void give_entries(const inputs *in, ll_product *product, int panels)
{
    const problem *p = in->p;
    int64_t *start = integers(p->m + 1);
    int32_t *index = array(p->m * p->k, sizeof *index);
    void *value = reals(p->m * p->k);

    for (ptrdiff_t i = 0; i <= p->m; i++)
        start[i] = i * p->k;
    for (ptrdiff_t e = 0; e < p->m * p->k; e++) {
        index[e] = (int32_t)(e % p->k);
        copy(value, e, in->x, e / p->k * in->x_row + e % p->k);
    }
    product->x = NULL;
    product->x_packed = 0;
    product->x_start = start;
    product->x_index = index;
    product->x_value = value;
    product->x_panels = panels;
}

static uint64_t run_rows(const inputs *in, enum layout layout, enum ask ask, enum cut cut,
                         enum rows form)
{
    int mine = n_blocks;
    ll_job job = make_job(in, layout, ask);
    void *loss = reals(job.rows * job.question.n_targets);
    ptrdiff_t step = cut == WHOLE ? job.n : cut == BLOCKWISE ? table->block : table->span;

    if (form >= AS_ENTRIES)
        give_entries(in, &job.product, form == AS_ENTRIES_BY_PANELS);
    else if (may_be_packed(in, layout) && form == AS_THEY_ARE) {
        job.product.x = in->x;
        job.product.x_packed = 0;
    }
    job.scratch = cache_lines(table->scratch_bytes(&job));
    if (job.question.rank && job.n > table->block) { /* needed before the classes are met */
        ll_job before = job;
        if (!job.product.x_start)
            before.product.x = in->product ? (const void *)in->narrow_x : in->x;
        table->target_logits(&before);
    }
    for (ptrdiff_t first = 0; first < job.n; first += step) {
        ll_job part = classes(job, first, least(first + step, job.n));
        if (cut == PARTS)
            make_state(&part, 0);
        table->score(&part);
        if (cut == PARTS) {
            table->merge(&job, &part.output.state);
            if (job.question.top)
                table->merge_top(&job, part.output.state.top_logit, part.output.state.top_index);
        }
    }
    if (ask == EVERYTHING && layout == first_product(in) && cut == WHOLE)
        give_logits(in, job.output.out, job.output.out_row);
    if (job.output.write != LL_LOGITS)
        table->normalise(&job);
    table->finish(&job, loss);
    if (job.question.top)
        table->sort_top(&job);

    start_hash();
    for (int place = 0; place < 5; place++) {
        int which = mixed[place];
        if (which == LL_MAX || job.question.fields >> which & 1)
            mix_reals(at(job.output.state.values, which * job.output.state.stride), job.rows);
    }
    if (ask == VARIANCE)
        mix_reals(at(job.output.state.values, LL_SECOND * job.output.state.stride), job.rows);
    mix_integers(job.output.state.ints + LL_ARGMAX * job.output.state.stride, job.rows);
    mix_integers(job.output.state.ints + LL_RANK * job.output.state.stride,
                 job.question.rank ? job.rows : 0);
    mix_reals(job.output.state.target_logit, job.rows * job.question.n_targets);
    mix_reals(loss, job.rows * job.question.n_targets);
    mix_reals(job.output.state.top_logit, job.rows * job.question.top);
    mix_integers(job.output.state.top_index, job.rows * job.question.top);
    mix_reals(job.output.out, job.output.out ? out_size(&job) : 0);
    release(mine);
    return hash;
}

/* Whether rows may be given so, which is tried once: panels are made of what is not packed. */
static int may_be_entries(const inputs *in, enum layout layout, enum ask ask, enum rows form)
{
    return !in->product && layout < LOGITS && ask == EVERYTHING
        && (form == AS_ENTRIES || (layout != PACKED && layout != NARROW_PACKED));
}

static uint64_t run(const inputs *in, enum layout layout, enum ask ask, enum cut cut)
{
    const uint64_t value = run_rows(in, layout, ask, cut, AS_PACKED);

    for (enum rows form = AS_THEY_ARE; form < ROW_FORMS; form++) {
        if (form == AS_THEY_ARE ? !may_be_packed(in, layout) : !may_be_entries(in, layout, ask, form))
            continue;
        if (run_rows(in, layout, ask, cut, form) != value) {
            complain(in->p);
            fprintf(stderr, "ask %d, layout %d, cut %d, form %d of rows: other bits\n", (int)ask,
                    (int)layout, (int)cut, (int)form);
        }
    }
    return value;
}

/* Logits that no product makes. */
static int is_given(const problem *p) { return p->kind == SPOILT || p->kind == SIGNED_ZEROS; }

/* One ask; ways of asking that may not matter must give the same hash. Logits at hand are those
 * of a pass that has asked for everything. */
static uint64_t try_ask(const inputs *in, enum ask ask)
{
    const problem *p = in->p;
    enum layout start = is_given(p) ? LOGITS : first_product(in);
    uint64_t first = 0, value;

    for (enum layout layout = start; layout < LAYOUTS; layout++)
        for (enum cut cut = WHOLE;
             cut < (p->n > table->span ? CUTS : p->n > table->block ? STEPS : BLOCKWISE); cut++) {
            if (!is_tried(in, layout, ask))
                continue;
            value = run(in, layout, ask, cut);
            if (layout == start && cut == WHOLE) {
                first = value;
            } else if (value != first) {
                complain(p);
                fprintf(stderr, "ask %d, layout %d, cut %d give other bits\n", (int)ask,
                        (int)layout, (int)cut);
            }
        }
    return first;
}

/* All asks of a problem's inputs, up to `last`. */
static uint64_t try_inputs(const inputs *in, enum ask last)
{
    const problem *p = in->p;
    uint64_t together = 0;

    if (is_given(p)) {
        run(in, ROWS, EVERYTHING, WHOLE);
        if (p->kind == SPOILT)
            spoil(in->logits, p->m, p->n);
        else
            put_zeros(in->logits, p->m * p->n);
        give_logits(in, in->logits, p->n);
    }
    for (enum ask ask = 0; ask <= last; ask++)
        together = together * 31 + try_ask(in, ask);
    release(0);
    return together;
}

static inline uint64_t try_problem(const problem *p, enum ask last)
{
    inputs in = make_inputs(p);
    if (last >= LEFT)
        make_sparse(&in);
    return try_inputs(&in, last);
}

/* The last ask alone: logits at hand are those of the first. */
static inline uint64_t try_variance(const problem *p)
{
    inputs in = make_inputs(p);
    uint64_t value;

    try_ask(&in, EVERYTHING);
    value = try_ask(&in, VARIANCE);
    release(0);
    return value;
}

#endif
