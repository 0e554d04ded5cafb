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

enum layout { ROWS, COLUMNS, PACKED, LOGITS, LOGIT_COLUMNS, LAYOUTS };
/* Values of the row state in the order of the hash. */
static const int mixed[LL_VALUES] = { LL_MAX, LL_REST, LL_MOMENT, LL_PROB_SUM, LL_PROB_GAP,
                                      LL_SMOOTH_SUM, LL_SMOOTH_GAP, LL_OTHERS };

/* The last is what squares of rows find, too; golden/hashes.txt knows only those before. */
enum ask { EVERYTHING, PROBABILITIES, LOG_PROBABILITIES, BEST, RANK };
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

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t out_size(const ll_job *job) { return (job->rows - 1) * job->out_row + job->n; }

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
    job.entropy = job.rank = ask == EVERYTHING || ask == RANK;
    if (ask == RANK) {
        job.targets = in->targets;
        job.n_targets = 1;
        job.state.target_logit = zeros(p->m);
    }
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
    job.top = job.rank ? least(p->n, 5) : ask == BEST;
    if (ask != BEST) {
        job.out_row = p->n + GAP;
        job.out = zeros(out_size(&job));
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
        give_logits(in, job.out, job.out_row);
    if (ask == PROBABILITIES || ask == LOG_PROBABILITIES)
        table->normalise(&job);
    table->finish(&job, loss);
    if (job.top)
        table->sort_top(&job);

    start_hash();
    for (int place = 0; place < 5; place++) {
        int which = mixed[place];
        if (which == LL_MAX || (job.sums && (which == LL_REST || ask == EVERYTHING
                                            || (which == LL_MOMENT && job.entropy))))
            mix_reals(at(job.state.values, which * job.state.stride), job.rows);
    }
    mix_integers(job.state.ints + LL_ARGMAX * job.state.stride, job.rows);
    mix_integers(job.state.ints + LL_RANK * job.state.stride, job.rank ? job.rows : 0);
    mix_reals(job.state.target_logit, job.rows * job.n_targets);
    mix_reals(loss, job.rows * job.n_targets);
    mix_reals(job.state.top_logit, job.rows * job.top);
    mix_integers(job.state.top_index, job.rows * job.top);
    mix_reals(job.out, job.out ? out_size(&job) : 0);
    release(mine);
    return hash;
}

/* One ask; ways of asking that may not matter must give the same hash. Logits at hand are those
 * of a pass that has asked for everything. */
static uint64_t try_ask(const inputs *in, enum ask ask)
{
    const problem *p = in->p;
    enum layout start = p->kind == SPOILT ? LOGITS : ROWS;
    uint64_t first = 0, value;

    for (enum layout layout = start; layout < LAYOUTS; layout++)
        for (enum cut cut = WHOLE;
             cut < (p->n > table->span ? CUTS : p->n > table->block ? STEPS : BLOCKWISE); cut++) {
            int product = layout == COLUMNS || layout == PACKED;
            if (product && (p->n <= LL_SMALL_N || ask != EVERYTHING))
                continue; /* small n knows no other layout */
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

/* All asks of one problem, up to `last`. */
static uint64_t try_problem(const problem *p, enum ask last)
{
    inputs in = make_inputs(p);
    uint64_t together = 0;

    if (p->kind == SPOILT) {
        run(&in, ROWS, EVERYTHING, WHOLE);
        spoil(in.logits, p->m, p->n);
        give_logits(&in, in.logits, p->n);
    }
    for (enum ask ask = 0; ask <= last; ask++)
        together = together * 31 + try_ask(&in, ask);
    release(0);
    return together;
}

#endif
