/* The row state as a whole: made, merged, and turned into answers. Lanes are rows here; the last
 * vector may reach past the rows into the stride's slack. */

/* Fields that the job asks about. */
static inline int uses(const ll_job *job, int which)
{
    return which == LL_MAX || asks(&job->question, which);
}

static void init_rows(const ll_job *job, const ll_state *state)
{
    for (int which = 0; which < LL_VALUES; which++)
        if (uses(job, which))
            for (ptrdiff_t i = 0; i < job->rows; i += LL_LANES)
                vstore(field(state, which) + i, vset(which == LL_MAX ? -LL_INF : 0));
    memset(state->ints + LL_ARGMAX * state->stride, 0, (size_t)job->rows * sizeof(int64_t));
    if (job->question.rank)
        memset(state->ints + LL_RANK * state->stride, 0, (size_t)job->rows * sizeof(int64_t));
}

/* Sums over many spans lose digits in float32: a state that several meet is held in double, and
 * narrowed at the end. */
static inline int has_spans(const ll_job *job) { return job->output.state.wide != NULL; }

static inline double *wide_field(const ll_state *state, int which)
{
    return state->wide + which * state->stride;
}

static void init_state(const ll_job *job)
{
    const ll_state *state = &job->output.state;

    init_rows(job, state);
    for (int which = 0; has_spans(job) && which < LL_VALUES; which++)
        if (uses(job, which))
            for (ptrdiff_t i = 0; i < vectors(job->rows) * LL_LANES; i++)
                wide_field(state, which)[i] = which == LL_MAX ? -(double)INFINITY : 0;
}

/* The state of all spans in the precision of the results. */
static void narrow_state(const ll_job *job)
{
    const ll_state *state = &job->output.state;

    for (int which = 0; has_spans(job) && which < LL_VALUES; which++)
        if (uses(job, which))
            for (ptrdiff_t i = 0; i < vectors(job->rows) * LL_LANES; i++)
                field(state, which)[i] = (real)wide_field(state, which)[i];
}

/* Merge `later`, whose values are floats if `narrow`: the kernels of doubles do it for both. */
#define LL_MERGE LL_JOIN(ll_merge, LL_ISA)
void LL_MERGE(const ll_job *job, const ll_state *later, int narrow);

static void merge_rows(const ll_job *job, const ll_state *later)
{
    LL_MERGE(job, later, LL_REAL == 32);
}

#if LL_REAL == 64

/* LL_LANES values of a state of floats or of doubles. */
static inline vec load_later(const ll_state *later, int which, ptrdiff_t i, int narrow)
{
    ptrdiff_t at = which * later->stride + i;
    double part[LL_LANES];

    if (!narrow)
        return vload((const double *)later->values + at);
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        part[r] = (double)((const float *)later->values)[at + r];
    return vload(part);
}

/* Sum and gap of LL_LANES rows; the side whose max is the lower, by `shift`, lags. */
static inline void merge_gap(const ll_job *job, const ll_state *later, int narrow, int which,
                             ptrdiff_t i, mask grows, vec shift)
{
    const ll_state *state = &job->output.state;
    double *sum = wide_field(state, which) + i;
    double *gap = wide_field(state, which + 1) + i;
    vec a = vload(sum), b = load_later(later, which, i, narrow);
    vec both = vadd(vload(gap), load_later(later, which + 1, i, narrow));

    vstore(gap, vsub(both, vmul_zero(vselect(grows, a, b), shift)));
    vstore(sum, vadd(a, b));
}

/* LL_LANES rows: max and sums, see softmax.inc.h. A state that has seen no class leaves the bits of
 * the other. */
static void merge_values(const ll_job *job, const ll_state *later, int narrow, ptrdiff_t i)
{
    const ll_question *q = &job->question;
    const ll_state *state = &job->output.state;
    vec a = vload(wide_field(state, LL_MAX) + i), b = load_later(later, LL_MAX, i, narrow);
    mask grows = mor(vlt(a, b), vunordered(b, b));
    vec high = vselect(grows, b, a), low = vselect(grows, a, b);
    /* Equal infinities have no difference. */
    vec shift = vselect(veq(low, high), vset(0), vsub(low, high)), scale = vexp_nonpositive(shift);

    if (asks(q, LL_REST)) {
        double *rest = wide_field(state, LL_REST) + i;
        vec ra = vload(rest), rb = load_later(later, LL_REST, i, narrow);
        vec joined = vadd(vset(1), vselect(grows, ra, rb));
        vstore(rest, vfma(scale, joined, vselect(grows, rb, ra)));
        LL_EACH_STATISTIC(which, LL_N_STATISTICS)
            if (asks(q, which)) {
                double *sum = wide_field(state, which) + i;
                vec sa = vload(sum), sb = load_later(later, which, i, narrow);
                vec low_sum = vselect(grows, sa, sb), high_sum = vselect(grows, sb, sa);
                vec before = vset(0), moved;
                if (which > LL_FIRST_STATISTIC)
                    before = vselect(grows, vload(wide_field(state, which - 1) + i),
                                     load_later(later, which - 1, i, narrow));
                moved = statistic_move(which, low_sum, before, joined, shift, scale, 1);
                vstore(sum, vadd(high_sum, moved));
            }
    }
    if (asks(q, LL_PROB_SUM))
        merge_gap(job, later, narrow, LL_PROB_SUM, i, grows, shift);
    if (asks(q, LL_SMOOTH_SUM))
        merge_gap(job, later, narrow, LL_SMOOTH_SUM, i, grows, shift);
    vstore(wide_field(state, LL_MAX) + i, high);
}

void LL_MERGE(const ll_job *job, const ll_state *later, int narrow)
{
    const ll_state *state = &job->output.state;
    int64_t *argmax = state->ints + LL_ARGMAX * state->stride;
    int64_t *rank = state->ints + LL_RANK * state->stride;
    double top[LL_LANES];

    for (ptrdiff_t i = 0; i < job->rows; i++) {
        if (i % LL_LANES == 0) /* before these are merged */
            vstore(top, load_later(later, LL_MAX, i, narrow));
        if (exceeds(top[i % LL_LANES], wide_field(state, LL_MAX)[i]))
            argmax[i] = later->ints[LL_ARGMAX * later->stride + i];
        if (job->question.rank)
            rank[i] += later->ints[LL_RANK * later->stride + i];
    }
    for (ptrdiff_t i = 0; i < job->rows; i += LL_LANES)
        merge_values(job, later, narrow, i);
}

#endif
