/* What is remembered of a row: its candidates, and the best lower bounds, whose worst keeps other
 * classes out. */
#include "../base/excluded.h"
#include "../base/inverse_transform.h"

/* A class below this is out where another class has a logit of z before cap and temperature. */
static float exclusion_bound(const ll_screen *s, float z)
{
    double value = (double)z;
    if (s->softcap > 0)
        value = s->softcap * tanh(value / s->softcap);
    return (float)ll_inverse_transform(value / s->temperature, s->softcap, s->temperature);
}

static void give_up(const ll_screen *s, ptrdiff_t i)
{
    s->count[i] = -1;
    s->least[i] = LL_INF;
}

/* Drop candidates that are out by now. */
static void compact(const ll_screen *s, ptrdiff_t i)
{
    float *upper = s->upper + i * s->room, least_upper = s->least[i];
    int32_t *index = s->index + i * s->room, kept = 0;

    for (int32_t j = 0; j < s->count[i]; j++)
        if (!(upper[j] < least_upper)) {
            upper[kept] = upper[j];
            index[kept++] = index[j];
        }
    s->count[i] = kept;
}

/* A lower bound of another class. */
static void raise(const ll_screen *s, ptrdiff_t i, float low)
{
    float *best = s->best + i * s->top;
    ptrdiff_t hole = 0, child;

    if (!(low > best[0]))
        return;
    while ((child = 2 * hole + 1) < s->top) {
        if (child + 1 < s->top && best[child + 1] < best[child])
            child++;
        if (!(best[child] < low))
            break;
        best[hole] = best[child];
        hole = child;
    }
    best[hole] = low;
    if (best[0] > -LL_INF) {
        float bound = exclusion_bound(s, best[0]);
        s->least[i] = bound > s->least[i] ? bound : s->least[i];
    }
}

/* Another candidate; a row with too many is given up. */
static void keep(const ll_screen *s, ptrdiff_t i, float upper, int32_t c)
{
    if (s->count[i] == s->room) {
        compact(s, i);
        if (4 * (ptrdiff_t)s->count[i] > 3 * s->room)
            give_up(s, i);
    }
    if (s->count[i] < 0)
        return;
    s->upper[i * s->room + s->count[i]] = upper;
    s->index[i * s->room + s->count[i]++] = c;
}

static void merge(const ll_screen *s, const ll_screen *other, ptrdiff_t first)
{
    for (ptrdiff_t i = 0; i < s->rows; i++) {
        const ptrdiff_t from = first + i;
        if (other->count[from] < 0)
            give_up(s, i);
        for (ptrdiff_t j = 0; j < s->top; j++)
            raise(s, i, other->best[from * s->top + j]);
        if (other->least[from] > s->least[i])
            s->least[i] = other->least[from];
        for (int32_t j = 0; j < other->count[from]; j++) {
            float upper = other->upper[from * s->room + j];
            if (!(upper < s->least[i]))
                keep(s, i, upper, other->index[from * s->room + j]);
        }
    }
}
