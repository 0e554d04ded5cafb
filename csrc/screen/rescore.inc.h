/* The end of a screen: exact logits of the candidates, in two rounds, and of these the best.
 *
 * First those `top` candidates with the largest upper bounds: the worst of their logits keeps out
 * most of the others, those of classes to come too, so this is done on the way where candidates are
 * many. Then what is left. Logits are computed as product() and fold_tile() do, for some
 * candidates at once, in the order of the panels, so that a panel comes from memory once for all
 * rows. */
#include "../base/inverse_transform.h"
#include "order.inc.h"

typedef struct {
    const ll_job *job;
    const ll_screen *screen;
    real *exact;          /* (rows, room) */
    int32_t *at, *order;  /* a round's candidates, as i * room + j, and these by panel */
    int32_t *begin;       /* (panels + 1) */
} rescoring;

#if LL_REAL == 32
/* Products of a row and a panel of weights of 16 bits, without the bias. */
static vec narrow_panel_logits(const ll_product *from, const real *x, const uint32_t *panel)
{
    vec total = vset(0);

    for (ptrdiff_t pc = 0; pc < from->k; pc += LL_KC) {
        vec sum = vset(0);
        for (ptrdiff_t p = pc; p < least(pc + LL_KC, from->k); p++) {
            const uint32_t *at = panel + p / 2 * LL_WORD_LANES;
            const vec feature = p % 2 ? vhigh(from->type, at) : vlow(from->type, at);
            sum = vfma(vset(x[p]), feature, sum);
        }
        total = pc ? vadd(total, sum) : sum;
    }
    return total;
}

/* The same of bfloat16 rows, with the bias. */
static void bf16_panel_logits(const ll_product *from, const uint16_t *x, const uint32_t *panel,
                              const real *bias, real *logit)
{
    pair_step xp, wp;

    memset(logit, 0, LL_LANES * sizeof(real));
    for (ptrdiff_t p = 0; p < from->k; p += LL_STEP_K) {
        memset(wp, 0, sizeof wp);
        for (ptrdiff_t q = 0; q < LL_STEP_K; q++)
            vstore(xp[q], vset(p + q < from->k ? ll_widen(LL_BFLOAT16, x[p + q]) : 0));
        widen_panel(LL_BFLOAT16, panel + p / 2 * LL_WORD_LANES, least(LL_STEP_K, from->k - p),
                    wp[0]);
        add_step((const real(*)[LL_LANES])xp, (const real(*)[LL_LANES])wp, logit);
    }
    add_pair_bias(logit, bias);
}
#endif

/* The bias of a panel. */
static void panel_bias(const ll_job *job, ptrdiff_t panel, real *bias)
{
    const ptrdiff_t c = panel * LL_LANES;

    memset(bias, 0, LL_LANES * sizeof(real));
    if (job->product.bias)
        memcpy(bias, (const real *)job->product.bias + c,
               (size_t)least(LL_LANES, job->n - c) * sizeof(real));
}

/* Logits of LL_LANES classes by a row whose weights are of 16 bits. */
static void narrow_logits(const ll_job *job, const void *x, ptrdiff_t panel, real *logit)
{
#if LL_REAL == 32
    const ll_product *from = &job->product;
    const uint32_t *weight = class_at(from, from->weight, panel * LL_LANES);
    real bias[LL_LANES];

    panel_bias(job, panel, bias);
    if (from->bf16)
        bf16_panel_logits(from, x, weight, bias, logit);
    else
        vstore(logit, vadd(narrow_panel_logits(from, x, weight), vload(bias)));
    if (is_transformed(from))
        transform(from, vset((real)from->temperature), logit, 1);
#else
    (void)job, (void)x, (void)panel, (void)logit;
#endif
}

/* Logits of LL_LANES classes by LL_RESCORE_PAIRS pairs of a row and a panel. */
static void pair_logits(const ll_job *job, const real *const *x, const int32_t *panel,
                        real logit[LL_RESCORE_PAIRS][LL_LANES])
{
    const ll_product *from = &job->product;
    const real *weight[LL_RESCORE_PAIRS];
    vec total[LL_RESCORE_PAIRS];

    for (int j = 0; j < LL_RESCORE_PAIRS; j++)
        weight[j] = (const real *)from->weight + panel[j] * LL_LANES * from->k;
    for (ptrdiff_t pc = 0; pc < from->k; pc += LL_KC) {
        vec sum[LL_RESCORE_PAIRS];
        LL_UNROLL
        for (int j = 0; j < LL_RESCORE_PAIRS; j++)
            sum[j] = vset(0);
        LL_ROLLED
        for (ptrdiff_t p = pc; p < least(pc + LL_KC, from->k); p++)
            LL_UNROLL
            for (int j = 0; j < LL_RESCORE_PAIRS; j++)
                sum[j] = vfma(vset(x[j][p]), vload(weight[j] + p * LL_LANES), sum[j]);
        for (int j = 0; j < LL_RESCORE_PAIRS; j++)
            total[j] = pc ? vadd(total[j], sum[j]) : sum[j];
    }
    for (int j = 0; j < LL_RESCORE_PAIRS; j++) {
        real bias[LL_LANES];
        panel_bias(job, panel[j], bias);
        vstore(logit[j], vadd(total[j], vload(bias)));
        if (is_transformed(from))
            transform(from, vset((real)from->temperature), logit[j], 1);
    }
}

/* at[0 .. count) by panel into order. */
static void sort_by_panel(const rescoring *t, ptrdiff_t count)
{
    const int32_t *index = t->screen->index;
    ptrdiff_t panels = vectors(t->job->n);

    memset(t->begin, 0, (size_t)(panels + 1) * sizeof(int32_t));
    for (ptrdiff_t a = 0; a < count; a++)
        t->begin[index[t->at[a]] / LL_LANES + 1]++;
    for (ptrdiff_t p = 0; p < panels; p++)
        t->begin[p + 1] += t->begin[p];
    for (ptrdiff_t a = 0; a < count; a++)
        t->order[t->begin[index[t->at[a]] / LL_LANES]++] = t->at[a];
}

/* Row of a candidate. */
static inline const void *candidate_row(const rescoring *t, int32_t at)
{
    const ll_product *p = &t->job->product;
    const ptrdiff_t item = p->bf16 ? (ptrdiff_t)sizeof(uint16_t) : (ptrdiff_t)sizeof(real);
    return (const char *)p->x + at / t->screen->room * p->x_row * item;
}

/* Exact logits of a round's candidates. */
static void exact_logits(const rescoring *t, ptrdiff_t count)
{
    const ll_job *job = t->job;
    const ptrdiff_t pairs = is_narrow(&job->product) ? 1 : LL_RESCORE_PAIRS;
    real logit[LL_RESCORE_PAIRS][LL_LANES];

    sort_by_panel(t, count);
    for (ptrdiff_t a = 0; a < count; a += pairs) {
        const real *x[LL_RESCORE_PAIRS];
        int32_t panel[LL_RESCORE_PAIRS];
        for (ptrdiff_t j = 0; j < pairs; j++) { /* the last one again for fewer */
            int32_t at = t->order[least(a + j, count - 1)];
            x[j] = candidate_row(t, at);
            panel[j] = t->screen->index[at] / LL_LANES;
        }
        if (pairs == 1)
            narrow_logits(job, x[0], panel[0], logit[0]);
        else
            pair_logits(job, x, panel, logit);
        for (ptrdiff_t j = 0; j < least(pairs, count - a); j++) {
            int32_t at = t->order[a + j];
            t->exact[at] = logit[j][t->screen->index[at] % LL_LANES];
        }
    }
}

/* The worst of the first `top` exact logits of row i keeps out what is below it before cap and
 * temperature. Only a NaN outranks a NaN: where they are all NaN, +inf does. */
static void raise_least(const rescoring *t, ptrdiff_t i)
{
    const real *exact = t->exact + i * t->screen->room;
    double low = (double)LL_INF;

    for (ptrdiff_t j = 0; j < t->screen->top; j++)
        low = (double)exact[j] < low ? (double)exact[j] : low;
    low = ll_inverse_transform(low, t->job->product.softcap, t->job->product.temperature);
    float bound = (float)low;
    if ((double)bound > low)
        bound = nextafterf(bound, -INFINITY);
    if (bound > t->screen->least[i])
        t->screen->least[i] = bound;
}

static rescoring lay_out_rescoring(const ll_job *job, const ll_screen *s)
{
    rescoring t = { job, s, s->scratch, NULL, NULL, NULL };
    ptrdiff_t size = s->rows * s->room;

    t.at = (int32_t *)(void *)(t.exact + size);
    t.order = t.at + size;
    t.begin = t.order + size;
    return t;
}

/* The first round of rows with more than `many` candidates; `many` is -1 or at least `top`. */
static void first_round(const rescoring *t, ptrdiff_t many)
{
    const ll_screen *s = t->screen;
    ptrdiff_t tasks = 0;

    for (ptrdiff_t i = 0; i < s->rows; i++) {
        if (s->count[i] > many)
            s->count[i] = (int32_t)drop_excluded(s, i, 0, s->count[i]);
        if (s->count[i] < s->top) /* only where the processor flushes what it did not before */
            s->count[i] = -1;
        if (s->count[i] <= many)
            continue;
        most_promising(s, i * s->room, s->count[i]);
        for (ptrdiff_t j = 0; j < s->top; j++)
            t->at[tasks++] = (int32_t)(i * s->room + j);
    }
    exact_logits(t, tasks);
    for (ptrdiff_t a = 0; a < tasks; a += s->top) {
        ptrdiff_t i = t->at[a] / s->room;
        raise_least(t, i);
        s->count[i] = (int32_t)drop_excluded(s, i, s->top, s->count[i]);
    }
}

/* The best of all candidates of row i into its heap. */
static void rescore_row(const rescoring *t, ptrdiff_t i)
{
    const ll_screen *s = t->screen;
    const ptrdiff_t top = t->job->question.top;
    real *logit = (real *)t->job->output.state.top_logit + i * top;
    int64_t *index = t->job->output.state.top_index + i * top;

    for (ptrdiff_t j = 0; j < top; j++)
        index[j] = -1;
    for (int32_t j = 0; j < s->count[i]; j++)
        offer(logit, index, top, t->exact[i * s->room + j], s->index[i * s->room + j]);
}

/* Rows of x are not packed here, the weights are. */
static void tighten(const ll_job *job, const ll_screen *s, ptrdiff_t many)
{
    rescoring t = lay_out_rescoring(job, s);
    first_round(&t, many);
}

/* The same; top_logit holds NaN. The first round has been. */
static void rescore(const ll_job *job, const ll_screen *s)
{
    rescoring t = lay_out_rescoring(job, s);
    ptrdiff_t tasks = 0;

    for (ptrdiff_t i = 0; i < s->rows; i++)
        for (ptrdiff_t j = s->top; j < s->count[i]; j++)
            t.at[tasks++] = (int32_t)(i * s->room + j);
    exact_logits(&t, tasks);
    for (ptrdiff_t i = 0; i < s->rows; i++)
        if (s->count[i] >= 0)
            rescore_row(&t, i);
}
