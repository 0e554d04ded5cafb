/* Classes that do not count in a row: `ll_exclusions` of logitless.h. */
#ifndef LL_EXCLUDED_H
#define LL_EXCLUDED_H

#include "../logitless.h"

/* Those of one row, ascending. */
typedef struct {
    const int64_t *class;
    ptrdiff_t count;
} ll_excluded;

static inline ll_excluded ll_excluded_of(const ll_exclusions *all, ptrdiff_t i)
{
    ll_excluded row = { 0 };

    if (all->start) {
        const int64_t *start = all->start + i * all->step;
        row.class = all->class + start[0];
        row.count = (ptrdiff_t)(start[1] - start[0]);
    }
    return row;
}

/* How many of them come before class c: a binary search, whose steps are no branches, as nothing
 * could predict them. */
static inline ptrdiff_t ll_excluded_before(const ll_excluded *row, int64_t c)
{
    const int64_t *at = row->class;
    ptrdiff_t left = row->count;

    for (ptrdiff_t half; left > 1; left -= half) {
        half = left / 2;
        at += at[half - 1] < c ? half : 0;
    }
    return left ? at - row->class + (*at < c) : 0;
}

static inline int ll_is_excluded(const ll_excluded *row, int64_t c)
{
    const ptrdiff_t at = ll_excluded_before(row, c);

    return at < row->count && row->class[at] == c;
}

/* The lowest of n classes that is none of them, or -1. */
static inline int64_t ll_first_left(const ll_excluded *row, ptrdiff_t n)
{
    ptrdiff_t c = 0;

    while (c < row->count && row->class[c] == c)
        c++;
    return c < n ? c : -1;
}

#endif
