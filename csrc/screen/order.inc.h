/* Candidates of a row change places. */

static inline void swap_candidates(const ll_screen *s, ptrdiff_t a, ptrdiff_t b)
{
    float upper = s->upper[a];
    int32_t index = s->index[a];
    s->upper[a] = s->upper[b];
    s->index[a] = s->index[b];
    s->upper[b] = upper;
    s->index[b] = index;
}

/* The first round's candidates of a row come first. */
static void most_promising(const ll_screen *s, ptrdiff_t begin, ptrdiff_t count)
{
    for (ptrdiff_t low = 0, high = count; high - low > 1;) { /* quickselect */
        float pivot = s->upper[begin + (low + high) / 2];
        ptrdiff_t larger = low, smaller = high;
        for (ptrdiff_t j = low; j < smaller;) {
            float upper = s->upper[begin + j];
            if (upper < pivot)
                swap_candidates(s, begin + j, begin + --smaller);
            else if (upper == pivot)
                j++;
            else /* NaN too */
                swap_candidates(s, begin + j++, begin + larger++);
        }
        if (s->top <= larger)
            high = larger < high ? larger : high - 1;
        else if (s->top >= smaller)
            low = smaller > low ? smaller : low + 1;
        else
            return;
    }
}

/* Candidates [from, to) of row i that are not out stay; returns where they end. */
static ptrdiff_t drop_excluded(const ll_screen *s, ptrdiff_t i, ptrdiff_t from, ptrdiff_t to)
{
    for (ptrdiff_t j = from; j < to; j++)
        if (!(s->upper[i * s->room + j] < s->least[i]))
            swap_candidates(s, i * s->room + from++, i * s->room + j);
    return from;
}
