/* The best classes of a row, kept in a heap whose root is the worst of them.
 *
 * Order: a larger logit is better, a NaN better than any number, a lower index better among
 * equals; an empty place (index -1, logit NaN) is worse than all. Nothing is rounded, so the
 * kept classes do not depend on how classes were cut or in which order they came.
 */

#define LL_FEW_BEST 32 /* insertion sorts them faster */

/* So few classes that a row is never seen but in one vector: what is found out of all classes is
 * found at once. */
static inline int is_met_at_once(ptrdiff_t n) { return n <= LL_LANES; }

static inline int outranks(real a, int64_t ia, real b, int64_t ib)
{
    if (ia < 0 || ib < 0)
        return ib < 0 && ia >= 0;
    if (a != a || b != b)
        return (a != a && b != b) ? ia < ib : a != a;
    return a > b || (a == b && ia < ib);
}

static void sift_down(real *logit, int64_t *index, ptrdiff_t count, real z, int64_t c)
{
    ptrdiff_t hole = 0, child;

    while ((child = 2 * hole + 1) < count) {
        if (child + 1 < count
            && outranks(logit[child], index[child], logit[child + 1], index[child + 1]))
            child++;
        if (!outranks(z, c, logit[child], index[child]))
            break;
        logit[hole] = logit[child];
        index[hole] = index[child];
        hole = child;
    }
    logit[hole] = z;
    index[hole] = c;
}

static inline void offer(real *logit, int64_t *index, ptrdiff_t top, real z, int64_t c)
{
    if (outranks(z, c, logit[0], index[0]))
        sift_down(logit, index, top, z, c);
}

/* `width` logits of classes `first`, ... A vector is looked into only where a lane is not below
 * the root; a root that is NaN or empty lets all through to the exact comparison. */
static void offer_block(const real *z, ptrdiff_t width, int64_t first, real *logit, int64_t *index,
                        ptrdiff_t top)
{
    for (ptrdiff_t v = 0; v < width; v += LL_LANES) {
        unsigned below = mbits(vle(vload(z + v), vset(logit[0])));
        if (below == (1u << LL_LANES) - 1)
            continue;
        for (ptrdiff_t c = v; c < least(v + LL_LANES, width); c++)
            offer(logit, index, top, z[c], first + c);
    }
}

/* The best of other classes, heap to heap. */
static void merge_top(const ll_job *job, const void *logit, const int64_t *index)
{
    const ll_state *state = &job->output.state;
    const ptrdiff_t top = job->question.top;

    for (ptrdiff_t i = 0; i < job->rows; i++)
        for (ptrdiff_t j = i * top; j < (i + 1) * top; j++)
            offer((real *)state->top_logit + i * top, state->top_index + i * top, top,
                  ((const real *)logit)[j], index[j]);
}

/* Heap to list, best first: the worst goes last, again and again. */
static void sort_heap(real *logit, int64_t *index, ptrdiff_t count)
{
    for (ptrdiff_t last = count - 1; last > 0; last--) {
        real z = logit[last];
        int64_t c = index[last];
        logit[last] = logit[0];
        index[last] = index[0];
        sift_down(logit, index, last, z, c);
    }
}

/* The same by insertion, from the heap's end on, which holds the better ones. */
static void sort_few(real *logit, int64_t *index, ptrdiff_t count)
{
    real heap_logit[LL_FEW_BEST];
    int64_t heap_index[LL_FEW_BEST];

    memcpy(heap_logit, logit, (size_t)count * sizeof(real));
    memcpy(heap_index, index, (size_t)count * sizeof(int64_t));
    for (ptrdiff_t done = 0; done < count; done++) {
        real z = heap_logit[count - 1 - done];
        int64_t c = heap_index[count - 1 - done];
        ptrdiff_t place = done;
        for (; place > 0 && outranks(z, c, logit[place - 1], index[place - 1]); place--) {
            logit[place] = logit[place - 1];
            index[place] = index[place - 1];
        }
        logit[place] = z;
        index[place] = c;
    }
}

/* Best first, and the log-probabilities of row i: see row_norm. */
static void finish_best(const ll_job *job, ptrdiff_t i, real max, real log_norm)
{
    const ptrdiff_t top = job->question.top;
    const ll_state *state = &job->output.state;
    real *logit = (real *)state->top_logit + i * top;

    if (top <= LL_FEW_BEST)
        sort_few(logit, state->top_index + i * top, top);
    else
        sort_heap(logit, state->top_index + i * top, top);
    for (ptrdiff_t j = 0; state->top_log_prob && j < top; j++)
        ((real *)state->top_log_prob)[i * top + j] = (logit[j] - max) - log_norm;
}
