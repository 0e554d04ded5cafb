/* Block of classes -> tile of rows -> product of bytes, then bounds against what is known. */

#define LL_SCAN_ROW (LL_SCREEN_BLOCK + LL_SCREEN_LANES) /* rows do not share cache sets */

/* Rows of a tile; those and their second levels are whole micro-panels. */
static inline ptrdiff_t scan_rows(const ll_screen *s)
{
    ptrdiff_t height = byte_height(s->rows * s->levels), some = LL_SCAN_ROWS / s->levels;
    return least(s->rows, (some + height - 1) / height * height);
}

/* Enough for either number of levels. */
static size_t scratch_bytes(const ll_screen *s)
{
    ptrdiff_t most = LL_SCAN_ROWS + 2 * LL_BYTE_HEIGHT;
    return (size_t)(least(2 * s->rows, most) * LL_SCAN_ROW) * sizeof(int32_t);
}

/* Some rows against a block of classes. */
typedef struct {
    const int32_t *sums;       /* LL_SCAN_ROW a level of a row */
    const float *rows;         /* LL_ROW_BOUNDS a row */
    const float *bounds, *bias;
    ptrdiff_t bias_step;       /* 0 where there is none */
    float no_bias, slack;      /* as in ll_screen */
} strip;

static inline vec class_bound(const strip *t, ptrdiff_t v, int which)
{
    return vload(t->bounds + (LL_CLASS_BOUNDS * v + which) * LL_SCREEN_LANES);
}

/* Upper bounds of 16 logits of row r. */
LL_TEMPLATE vec strip_upper(const strip *t, const int levels, ptrdiff_t r, ptrdiff_t v)
{
    const float *row = t->rows + r * LL_ROW_BOUNDS;
    const int32_t *sums = t->sums + r * levels * LL_SCAN_ROW + v * LL_SCREEN_LANES;
    vec sum = vconvert(sums);
    if (levels == 2)
        sum = vfma(vconvert(sums + LL_SCAN_ROW), vset(0x1p-8f), sum);
    sum = vmul(sum, vset(row[LL_ROW_SCALE]));
    vec high = vfma(vset(row[LL_ROW_REACH]), class_bound(t, v, LL_CLASS_NORM),
                    vload(t->bias + v * t->bias_step));
    high = vfma(vset(row[LL_ROW_SIZE]), class_bound(t, v, LL_CLASS_ERROR), high);
    return vfma(sum, class_bound(t, v, LL_CLASS_SCALE), high);
}

/* Lower bounds of 16 logits, from the upper ones; NaN where a class bounds nothing. */
static inline vec strip_lower(const strip *t, ptrdiff_t r, ptrdiff_t v, vec upper)
{
    const float *row = t->rows + r * LL_ROW_BOUNDS;
    vec width = vfma(vset(t->slack), vabs(vload(t->bias + v * t->bias_step)), vset(t->no_bias));
    width = vfma(vset(row[LL_ROW_REACH]), class_bound(t, v, LL_CLASS_NORM), width);
    width = vfma(vset(row[LL_ROW_SIZE]), class_bound(t, v, LL_CLASS_ERROR), width);
    return vnfma(vset(2), width, upper);
}

/* Something to begin with: the classes of a block are dealt into groups, at least two for each class
 * wanted, and the largest lower bounds of groups are those of different classes. */
LL_TEMPLATE void first_bound(const ll_screen *s, ptrdiff_t i, const strip *t, const int levels,
                             ptrdiff_t r, ptrdiff_t first, ptrdiff_t width)
{
    const ll_excluded out = ll_excluded_of(&s->exclude, i);
    float low[LL_SCREEN_BLOCK], best[LL_DEALT_TOP];
    ptrdiff_t groups = LL_SCREEN_BLOCK, count = 0;

    for (ptrdiff_t c = 0; c < LL_SCREEN_BLOCK; c += LL_SCREEN_LANES) {
        vec lower = vset(-LL_INF);
        if (c < width) {
            ptrdiff_t v = c / LL_SCREEN_LANES;
            lower = strip_lower(t, r, v, strip_upper(t, levels, r, v));
            lower = vselect(vunordered(lower, lower), vset(-LL_INF), lower);
        }
        vstore(low + c, lower);
    }
    for (ptrdiff_t c = width; c < LL_SCREEN_BLOCK; c++)
        low[c] = -LL_INF;
    for (ptrdiff_t e = ll_excluded_before(&out, first); e < out.count; e++) {
        if (out.class[e] >= first + width)
            break;
        low[out.class[e] - first] = -LL_INF;
    }
    for (; groups > LL_SCREEN_LANES && groups >= 4 * s->top; groups /= 2)
        for (ptrdiff_t c = 0; c < groups / 2; c += LL_SCREEN_LANES)
            vstore(low + c, vmax(vload(low + c), vload(low + groups / 2 + c)));
    for (ptrdiff_t c = 0; c < groups; c++) {
        ptrdiff_t place = count < s->top ? count++ : s->top;
        if (place == s->top && low[c] > best[place - 1])
            place--;
        if (place == s->top)
            continue;
        for (; place > 0 && low[c] > best[place - 1]; place--)
            best[place] = best[place - 1];
        best[place] = low[c];
    }
    if (count == s->top)
        s->least[i] = exclusion_bound(s, best[count - 1]);
}

/* Those of 16 classes from c on that what is known of row i does not keep out. */
LL_TEMPLATE void keep_some(const ll_screen *s, ptrdiff_t i, const strip *t, const int levels,
                           ptrdiff_t r, ptrdiff_t v, int32_t c)
{
    float upper[LL_SCREEN_LANES], lower[LL_SCREEN_LANES];
    vec high = strip_upper(t, levels, r, v);
    unsigned hits = mbits(vnlt(high, vset(s->least[i])));

    if (!hits)
        return;
    vstore(upper, high);
    vstore(lower, strip_lower(t, r, v, high));
    const ll_excluded out = ll_excluded_of(&s->exclude, i);
    for (; hits; hits &= hits - 1) {
        int32_t lane = (int32_t)lowest_bit(hits);
        if (c + lane < s->n && !(upper[lane] < s->least[i])
            && !ll_is_excluded(&out, c + lane)) {
            keep(s, i, upper[lane], c + lane);
            raise(s, i, lower[lane]);
        }
    }
}

/* Rows i, ... against the block of classes c, ..., side by side: they share what is loaded of the
 * classes. */
LL_TEMPLATE void scan_strip(const ll_screen *s, ptrdiff_t i, const int height, const strip *t,
                            const int levels, ptrdiff_t c, ptrdiff_t width)
{
    for (int r = 0; r < height; r++)
        if (s->least[i + r] == -LL_INF && s->top <= LL_DEALT_TOP)
            first_bound(s, i + r, t, levels, r, c, width);
    for (ptrdiff_t v = 0; v < vectors(width); v++) {
        mask hits = vnlt(strip_upper(t, levels, 0, v), vset(s->least[i]));
        LL_UNROLL
        for (int r = 1; r < height; r++)
            hits = mor(hits, vnlt(strip_upper(t, levels, r, v), vset(s->least[i + r])));
        if (mbits(hits))
            for (int r = 0; r < height; r++)
                keep_some(s, i + r, t, levels, r, v, (int32_t)(c + v * LL_SCREEN_LANES));
    }
}

static int any_left(const ll_screen *s)
{
    for (ptrdiff_t i = 0; i < s->rows; i++)
        if (s->count[i] >= 0)
            return 1;
    return 0;
}

/* Blocks of classes are met in leaps of about 0.618 of them all, so that the first ones tell of all
 * whatever the order of the classes: something is soon known that keeps most others out. */
typedef struct {
    ptrdiff_t blocks, leap;
} leaps;

static leaps leaps_of(ptrdiff_t n)
{
    leaps order = { (n + LL_SCREEN_BLOCK - 1) / LL_SCREEN_BLOCK, 1 };

    for (ptrdiff_t leap = order.blocks * 618 / 1000; leap > 1; leap--) {
        ptrdiff_t a = order.blocks, b = leap;
        while (b) { /* greatest common divisor */
            ptrdiff_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1) {
            order.leap = leap;
            break;
        }
    }
    return order;
}

static ptrdiff_t first_class(const leaps *order, ptrdiff_t place)
{
    return place * order->leap % order->blocks * LL_SCREEN_BLOCK;
}

/* A tile of rows i, ... against the block of classes c, ... */
LL_TEMPLATE void scan_tile(const ll_screen *s, ptrdiff_t i, ptrdiff_t rows, strip t,
                           const int levels, ptrdiff_t c, ptrdiff_t width)
{
    ptrdiff_t r = 0;

    for (; r + LL_SCAN_STRIP <= rows; r += LL_SCAN_STRIP) {
        scan_strip(s, i + r, LL_SCAN_STRIP, &t, levels, c, width);
        t.sums += LL_SCAN_STRIP * levels * LL_SCAN_ROW;
        t.rows += LL_SCAN_STRIP * LL_ROW_BOUNDS;
    }
    for (; r < rows; r++, t.sums += levels * LL_SCAN_ROW, t.rows += LL_ROW_BOUNDS)
        scan_strip(s, i + r, 1, &t, levels, c, width);
}

/* All rows against the block of classes c, ...; the bytes at `next` come next. */
static void scan_block(const ll_screen *s, ptrdiff_t c, const uint8_t *next, strip t,
                       byte_mode *mode)
{
    int32_t *tile = s->scratch;
    ptrdiff_t width = least(LL_SCREEN_BLOCK, s->n - c), tile_rows = scan_rows(s);

    t.sums = tile;
    t.bounds = s->bounds + LL_CLASS_BOUNDS * c;
    if (s->bias) {
        t.bias = s->bias + c;
        t.bias_step = LL_SCREEN_LANES;
    }
    for (ptrdiff_t i = 0; i < s->rows; i += tile_rows) {
        ptrdiff_t rows = least(tile_rows, s->rows - i);
        multiply_bytes(s, i * s->levels, rows * s->levels, s->weight + c * quads(s->k) * LL_QUAD,
                       vectors(width), next, tile, LL_SCAN_ROW, mode);
        t.rows = s->row_bounds + i * LL_ROW_BOUNDS;
        if (s->levels == 1)
            scan_tile(s, i, rows, t, 1, c, width);
        else
            scan_tile(s, i, rows, t, 2, c, width);
    }
}

static void scan(const ll_screen *s)
{
    float blank[LL_SCREEN_LANES];
    strip t = { .bias = blank, .no_bias = s->no_bias, .slack = s->slack };
    leaps order = leaps_of(s->n);
    byte_mode mode;

    vstore(blank, vset(s->no_bias));
    begin_bytes(&mode);
    for (ptrdiff_t place = s->first; place < s->last && any_left(s); place++)
        scan_block(s, first_class(&order, place),
                   s->weight + first_class(&order, place + 1) * quads(s->k) * LL_QUAD, t, &mode);
    end_bytes(&mode);
}
