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

#define LL_ALL_LANES ((1u << LL_LANES) - 1)

/* Those of a vector's lanes that are among the next `left` classes. */
static inline unsigned among(unsigned lanes, ptrdiff_t left)
{
    return left < LL_LANES ? lanes & ((1u << left) - 1) : lanes;
}

/* Lanes of the next classes c, ... that are out, of which all before these have been met. */
static inline unsigned lanes_out(const ll_excluded *out, int64_t c, ptrdiff_t *met)
{
    const int64_t *class = out->class;
    unsigned lanes = 0;

    if (*met + LL_LANES <= out->count && class[*met + LL_LANES - 1] == c + LL_LANES - 1) {
        *met += LL_LANES;
        return LL_ALL_LANES;
    }
    for (; *met < out->count && class[*met] < c + LL_LANES; ++*met)
        lanes |= 1u << (class[*met] - c);
    return lanes;
}

/* `width` logits of classes `first`, ... Only what is not below the root is looked at; a root that is
 * NaN or empty lets all through to the exact comparison. Those that are `out` are -inf, which only an
 * empty root is worse than. */
static void offer_block(const real *z, ptrdiff_t width, int64_t first, const ll_excluded *out,
                        real *logit, int64_t *index, ptrdiff_t top)
{
    ptrdiff_t met = index[0] < 0 ? ll_excluded_before(out, first) : 0;

    for (ptrdiff_t v = 0; v < width; v += LL_LANES) {
        unsigned below = mbits(vle(vload(z + v), vset(logit[0])));
        unsigned left = among(below ^ LL_ALL_LANES, width - v);
        if (left && out->count && index[0] < 0)
            left &= ~lanes_out(out, first + v, &met);
        for (; left; left &= left - 1) {
            ptrdiff_t c = v + lowest_bit(left);
            offer(logit, index, top, z[c], first + c);
        }
    }
}

/* How many lanes outrank each lane: the earlier of two unless the later has the larger number. */
static inline vec lane_places(const real *lane)
{
    const vec zero = vset(0), one = vset(1), a = vload(lane), at = vload(lane_index);
    vec place = zero;

    for (ptrdiff_t i = 0; i < LL_LANES; i++) {
        vec b = vset(lane[i]);
        vec later = vselect(vle(a, b), one, zero), earlier = vselect(vlt(a, b), one, zero);
        place = vadd(place, vselect(vlt(vset((real)i), at), later, earlier));
    }
    return place;
}

/* A number that at least `top` of the logits are not below: of the largest of each lane, the least
 * that fewer than `top` others exceed. */
static real lower_bound(const real *z, ptrdiff_t width, ptrdiff_t top)
{
    const vec zero = vset(0), one = vset(1);
    real lane[LL_LANES];
    vec largest = vload(z), above = zero;

    for (ptrdiff_t v = LL_LANES; v < width; v += LL_LANES)
        largest = vmax(vload(z + v), largest);
    vstore(lane, largest);
    for (ptrdiff_t i = 0; i < LL_LANES; i++)
        above = vadd(above, vselect(vlt(largest, vset(lane[i])), one, zero));
    return -vtop(vselect(vlt(above, vset((real)top)), vsub(zero, largest), vset(-LL_INF)));
}

/* The best of the first classes that a heap meets, none of them NaN and as many as lanes:
 * the worst of them first, which is a heap. */
static void fill_heap(const real *z, ptrdiff_t width, int64_t first, const ll_excluded *out,
                      real *logit, int64_t *index, ptrdiff_t top)
{
    const real least_best = lower_bound(z, width, top);
    const vec bound = vset(least_best);
    real value[LL_LANES], place[LL_LANES], best[LL_LANES];
    ptrdiff_t class[LL_LANES], best_class[LL_LANES], count = 0, v = 0;
    unsigned left = 0;

    if (out->count && least_best == -LL_INF) {
        offer_block(z, width, first, out, logit, index, top);
        return;
    }
    vstore(value, vset(-LL_INF));
    for (; v < width; v += LL_LANES) {
        left = among(mbits(vle(bound, vload(z + v))), width - v);
        for (; left && count < LL_LANES; left &= left - 1) {
            class[count] = v + lowest_bit(left);
            value[count] = z[class[count]];
            count++;
        }
        if (left)
            break;
    }
    vstore(place, lane_places(value));
    for (ptrdiff_t i = 0; i < count; i++) {
        best[(ptrdiff_t)place[i]] = value[i];
        best_class[(ptrdiff_t)place[i]] = class[i];
    }
    for (ptrdiff_t j = 0; j < top; j++) {
        logit[j] = best[top - 1 - j];
        index[j] = first + best_class[top - 1 - j];
    }
    for (; left; left &= left - 1) /* of this vector */
        offer(logit, index, top, z[v + lowest_bit(left)], first + v + lowest_bit(left));
    if (v + LL_LANES < width)
        offer_block(z + v + LL_LANES, width - v - LL_LANES, first + v + LL_LANES, out, logit, index,
                    top);
}

/* Whether fill_heap can be the first to see a heap. */
static inline int can_fill(ptrdiff_t width, real largest, const int64_t *index, ptrdiff_t top)
{
    if (top > LL_LANES || width < LL_LANES || largest != largest)
        return 0;
    for (ptrdiff_t j = 0; j < top; j++)
        if (index[j] >= 0)
            return 0;
    return 1;
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

/* Best first, and the log-probabilities of row i: see row_norm. Places may be left over where classes
 * are excluded. */
static void finish_best(const ll_job *job, ptrdiff_t i, real max, real log_norm)
{
    const ptrdiff_t top = job->question.top;
    const ll_state *state = &job->output.state;
    real *logit = (real *)state->top_logit + i * top;
    int64_t *index = state->top_index + i * top;

    if (top <= LL_FEW_BEST)
        sort_few(logit, index, top);
    else
        sort_heap(logit, index, top);
    for (ptrdiff_t j = 0; state->top_log_prob && j < top; j++)
        ((real *)state->top_log_prob)[i * top + j] = (logit[j] - max) - log_norm;
    for (ptrdiff_t j = top - 1; j >= 0 && index[j] < 0; j--) {
        logit[j] = -LL_INF;
        if (state->top_log_prob)
            ((real *)state->top_log_prob)[i * top + j] = -LL_INF;
    }
}
