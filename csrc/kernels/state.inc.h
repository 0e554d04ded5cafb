/* The row state as a whole: made, merged, and turned into answers. Lanes are rows here; the last
 * vector may reach past the rows into the stride's slack. */

/* Fields that the job asks about. */
static inline int uses(const ll_job *job, int which)
{
    switch (which) {
    case LL_MAX: return 1;
    case LL_REST: return job->sums;
    case LL_MOMENT: return job->entropy;
    case LL_PROB_SUM:
    case LL_PROB_GAP: return has_probs(job);
    case LL_SMOOTH_SUM:
    case LL_SMOOTH_GAP: return job->smooth;
    default: return 0;
    }
}

static void init_rows(const ll_job *job, const ll_state *state)
{
    for (int which = 0; which < LL_VALUES; which++)
        if (uses(job, which))
            for (ptrdiff_t i = 0; i < job->rows; i += LL_LANES)
                vstore(field(state, which) + i, vset(which == LL_MAX ? -LL_INF : 0));
    memset(state->ints + LL_ARGMAX * state->stride, 0, (size_t)job->rows * sizeof(int64_t));
    if (job->rank)
        memset(state->ints + LL_RANK * state->stride, 0, (size_t)job->rows * sizeof(int64_t));
}

static void init_state(const ll_job *job) { init_rows(job, &job->state); }

/* a * b, and 0 where a is 0 though b is infinite. */
static inline vec vmul_zero(vec a, vec b)
{
    return vselect(veq(a, vset(0)), vset(0), vmul(a, b));
}

/* Sum and gap of LL_LANES rows; the side whose max is the lower, by `shift`, lags. */
static inline void merge_gap(const ll_job *job, const ll_state *later, int which, ptrdiff_t i,
                             mask grows, vec shift)
{
    real *sum = field(&job->state, which) + i, *gap = field(&job->state, which + 1) + i;
    vec a = vload(sum), b = vload(field(later, which) + i);
    vec both = vadd(vload(gap), vload(field(later, which + 1) + i));

    vstore(gap, vsub(both, vmul_zero(vselect(grows, a, b), shift)));
    vstore(sum, vadd(a, b));
}

/* Merge `later` into the job's state, max and sums: see softmax.inc.h. A state that has seen no class
 * leaves the bits of the other. */
static void merge_values(const ll_job *job, const ll_state *later)
{
    const ll_state *state = &job->state;

    for (ptrdiff_t i = 0; i < job->rows; i += LL_LANES) {
        vec a = vload(field(state, LL_MAX) + i), b = vload(field(later, LL_MAX) + i);
        mask grows = mor(vlt(a, b), vunordered(b, b));
        vec high = vselect(grows, b, a), low = vselect(grows, a, b);
        /* Equal infinities have no difference. */
        vec shift = vselect(veq(low, high), vset(0), vsub(low, high)), scale = vexp_nonpositive(shift);

        if (job->sums) {
            vec ra = vload(field(state, LL_REST) + i), rb = vload(field(later, LL_REST) + i);
            vec joined = vadd(vset(1), vselect(grows, ra, rb));
            vstore(field(state, LL_REST) + i, vfma(scale, joined, vselect(grows, rb, ra)));
            if (job->entropy) {
                vec ma = vload(field(state, LL_MOMENT) + i);
                vec mb = vload(field(later, LL_MOMENT) + i);
                vec moved = vfma(shift, joined, vselect(grows, ma, mb));
                vstore(field(state, LL_MOMENT) + i,
                       vadd(vselect(grows, mb, ma), vmul_zero(scale, moved)));
            }
        }
        if (has_probs(job))
            merge_gap(job, later, LL_PROB_SUM, i, grows, shift);
        if (job->smooth)
            merge_gap(job, later, LL_SMOOTH_SUM, i, grows, shift);
        vstore(field(state, LL_MAX) + i, high);
    }
}

static void merge_rows(const ll_job *job, const ll_state *later)
{
    const ll_state *state = &job->state;
    const real *a = field(state, LL_MAX), *b = field(later, LL_MAX);
    int64_t *argmax = state->ints + LL_ARGMAX * state->stride;
    int64_t *rank = state->ints + LL_RANK * state->stride;

    for (ptrdiff_t i = 0; i < job->rows; i++) {
        if (exceeds(b[i], a[i]))
            argmax[i] = later->ints[LL_ARGMAX * later->stride + i];
        if (job->rank)
            rank[i] += later->ints[LL_RANK * later->stride + i];
    }
    merge_values(job, later);
}
