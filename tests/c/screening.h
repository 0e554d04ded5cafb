/* Candidates of screens: problems for them, and the hash of what they find. */
#ifndef SCREENING_H
#define SCREENING_H

#include "inputs.h"

static const ll_screener *screener;
static int failed;

static float *floats(ptrdiff_t count) { return array(count, sizeof(float)); }
static int32_t *small_integers(ptrdiff_t count) { return array(count, sizeof(int32_t)); }

/* Classes to bytes. */
static void give_classes(ll_screen *s, const inputs *in)
{
    ptrdiff_t panels = (s->n + LL_SCREEN_LANES - 1) / LL_SCREEN_LANES, quads = (s->k + 3) / 4;
    ptrdiff_t whole = panels * LL_SCREEN_LANES;
    uint8_t *weight = array(whole * quads * 4, 1);
    uint8_t *fine = array(whole * ((s->k + LL_FINE_STEP - 1) / LL_FINE_STEP * LL_FINE_STEP / 2), 1);
    float *bounds = floats(whole * LL_CLASS_BOUNDS), *bias = floats(whole);

    screener->quantise_weight(in->panels, panels, s->k, weight, fine, bounds);
    for (ptrdiff_t c = 0; c < whole; c++)
        bias[c] = c < s->n ? ((float *)in->bias)[c] + 0x1p-10f : 0;
    s->weight = weight;
    s->fine = fine;
    s->bounds = bounds;
    s->bias = bias;
    s->slack = 0x1p-14f;
    s->no_bias = 0x1p-100f;
}

/* Rows to bytes, without candidates. */
static void give_rows(ll_screen *s, const inputs *in)
{
    void *x = cache_lines(screener->row_bytes(s->rows * s->levels, s->k));
    float *bounds = floats(s->rows * LL_ROW_BOUNDS);
    int32_t *start = small_integers(s->rows * s->levels);

    s->least = floats(s->rows);
    s->best = floats(s->rows * s->top);
    s->upper = floats(s->rows * s->room);
    s->index = small_integers(s->rows * s->room);
    s->count = small_integers(s->rows);
    s->rows_x = in->x;
    s->x_row = in->x_row;
    screener->quantise_rows(s, x, bounds, start);
    s->x = x;
    s->row_bounds = bounds;
    s->start = start;
}

static void mix_candidates(const ll_screen *s)
{
    for (ptrdiff_t i = 0; i < s->rows; i++) {
        mix((uint64_t)(int64_t)s->count[i], sizeof(int32_t));
        mix_reals(s->least + i, 1);
        mix_reals(s->row_bounds + i * LL_ROW_BOUNDS, LL_ROW_BOUNDS);
        for (int32_t j = 0; j < s->count[i]; j++) {
            mix((uint64_t)s->index[i * s->room + j], sizeof(int32_t));
            mix_reals(s->upper + i * s->room + j, 1);
        }
    }
}

/* The best class of each row from its candidates, against a pass over all. */
static void rescore(ll_screen *s, const inputs *in)
{
    ll_product product = { .x = in->x, .x_row = in->x_row, .k = s->k, .weight = in->panels,
                           .packed = 1, .bias = in->bias, .softcap = s->softcap,
                           .temperature = s->temperature };
    ll_job job = { .rows = s->rows, .n = s->n, .last = s->n, .product = product,
                   .question = { .top = s->top } };
    ptrdiff_t panels = (s->n + table->lanes - 1) / table->lanes;

    job.output.state.stride = whole_vectors(s->rows);
    job.output.state.values = reals(LL_VALUES * job.output.state.stride);
    job.output.state.ints = integers(LL_INTS * job.output.state.stride);
    job.output.state.top_logit = reals(s->rows * s->top);
    job.output.state.top_index = integers(s->rows * s->top);
    for (ptrdiff_t i = 0; i < s->rows * s->top; i++) {
        put(job.output.state.top_logit, i, not_a_number());
        job.output.state.top_index[i] = -1;
    }
    s->scratch = cache_lines((size_t)(s->rows * s->room) * (item + 2 * sizeof(int32_t))
                             + (size_t)(panels + 1) * sizeof(int32_t));
    s->apart = cache_lines(screener->refine_bytes(s->k));
    screener->lift(s, 5 * s->top);
    mix_candidates(s);
    table->tighten(&job, s, 3 * s->top);
    table->tighten(&job, s, -1);
    screener->refine(s);
    mix_candidates(s);
    table->rescore(&job, s);
    table->sort_top(&job);
    int64_t *rescored = memcpy(integers(s->rows * s->top), job.output.state.top_index,
                              (size_t)(s->rows * s->top) * sizeof(int64_t));
    job.product.x = in->packed_x;
    job.product.x_packed = 1;
    job.question.top = 0;
    job.scratch = cache_lines(table->scratch_bytes(&job));
    table->init(&job);
    table->score(&job);
    for (ptrdiff_t i = 0; i < s->rows; i++) {
        int64_t best = job.output.state.ints[LL_ARGMAX * job.output.state.stride + i];
        if (s->count[i] >= 0 && rescored[i * s->top] != best) {
            fprintf(stderr, "%s: row %td is %lld, not %lld\n", screener->name, i,
                    (long long)rescored[i * s->top], (long long)best);
            failed = 1;
        }
        mix((uint64_t)(int64_t)s->count[i], sizeof(int32_t));
    }
}

static uint64_t try_screen(const problem *p, ptrdiff_t top, ptrdiff_t room, ptrdiff_t levels)
{
    inputs in = make_inputs(p);
    ll_screen s = { .rows = p->m, .n = p->n, .k = p->k, .top = top, .softcap = p->softcap,
                    .temperature = p->temperature, .room = room, .levels = levels }, other;

    start_hash();
    give_classes(&s, &in);
    give_rows(&s, &in);
    s.scratch = cache_lines(screener->scratch_bytes(&s));
    other = s;
    ptrdiff_t end = (p->n + LL_SCREEN_BLOCK - 1) / LL_SCREEN_BLOCK;
    s.last = end / 2;
    screener->scan(&s);
    mix_candidates(&s);
    give_rows(&other, &in);
    other.first = s.last;
    other.last = end;
    screener->scan(&other);
    mix_candidates(&other);
    screener->merge(&s, &other, 0);
    mix_candidates(&s);
    rescore(&s, &in);
    release(0);
    return hash;
}

/* One hash of them all. */
static uint64_t try_screens(void)
{
    static const problem problems[] = {
        { "ordinary", 1, 700, 33, 1, 0, 0, 1, ORDINARY },
        { "ordinary", 25, 2063, 19, 1, 0, 0, 1, ORDINARY },
        { "ordinary", 12, 513, 256, 1, 0, 0, 1, ORDINARY },
        { "ordinary", 13, 1040, 4, 1, 0, 0, 1, ORDINARY },
        { "ordinary", 53, 300, 1, 1, 0, 0, 1, ORDINARY },
        { "ordinary", 33, 576, 64, 1, 0, 0, 1, ORDINARY },
        { "ordinary", 16, 592, 65, 1, 0, 0, 1, ORDINARY },
        { "ordinary", 32, 304, 127, 1, 0, 0, 1, ORDINARY },
        { "sums beyond 2^24", 5, 40, 5000, 1, 0, 0, 1, ORDINARY },
        { "softcap and temperature", 9, 900, 40, 8, 0, 30, 1.7, ORDINARY },
        { "temperature", 9, 900, 40, 8, 0, 0, 1.7, ORDINARY },
        { "denormal", 9, 600, 40, 0x1p-130, 0, 0, 1, ORDINARY },
        { "large", 9, 600, 40, 0x1p59, 0, 0, 1, ORDINARY },
        { "special", 12, 900, 20, 1, 0, 0, 1, SPECIAL },
    };
    uint64_t together = 0;

    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        together = together * 31 + try_screen(&problems[i], 1, 64, 1);
        together = together * 31 + try_screen(&problems[i], 7, 100, 1);
        together = together * 31 + try_screen(&problems[i], 7, 100, 2);
    }
    return together;
}

#endif
