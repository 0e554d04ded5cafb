/* Numbers to bytes, with bounds of what is lost: docs/screening.md has the proof.
 *
 * A bound that is rounded up is raised by LL_UP first, far more than any rounding here takes away. */

#define LL_UP (1 + 0x1p-20)
#define LL_SMALL 0x1p-100 /* below, numbers count as residual: what is made of them may underflow */
#define LL_LARGE 0x1p60   /* above, a product of two norms might overflow */
#define LL_LOST 0x1p-140  /* more than float64 loses when it underflows in float32 */

/* What float32 sums of k squares may fall short by, and their roots even more so. */
static inline double sum_up(ptrdiff_t k) { return LL_UP * (1 + (double)(k + 32) * 0x1p-23); }

/* Sums of squares, of LL_SCREEN_LANES classes, in units of their scales: of numbers, of what bytes
 * lack of them, and of what 16ths lack besides. */
typedef struct {
    float numbers[LL_SCREEN_LANES], rests[LL_SCREEN_LANES], fine_rests[LL_SCREEN_LANES];
} class_sums;

/* Bounds of the classes of a panel, which has their scales, from the largest number of each. */
static void class_bounds(ptrdiff_t k, const float *top, const class_sums *sums, float *bounds)
{
    float *norm = bounds + LL_CLASS_NORM * LL_SCREEN_LANES;
    float *error = bounds + LL_CLASS_ERROR * LL_SCREEN_LANES;
    float *scale = bounds + LL_CLASS_SCALE * LL_SCREEN_LANES;
    float *fine_error = bounds + LL_CLASS_FINE_ERROR * LL_SCREEN_LANES;
    double root = sqrt((double)k), up = sum_up(k);

    for (int c = 0; c < LL_SCREEN_LANES; c++) {
        double unit = (double)scale[c];
        if (unit > 0) {
            double rest = up * sqrt((double)sums->rests[c]) + root * 0x1p-40;
            double fine = up * sqrt((double)sums->fine_rests[c]) + rest * 0x1p-22;
            norm[c] = (float)(unit * up * sqrt((double)sums->numbers[c]) + root * LL_LOST);
            error[c] = (float)(unit * rest + root * LL_LOST);
            fine_error[c] = (float)(unit * (fine + root * 0x1p-40) + root * LL_LOST);
        } else
            norm[c] = error[c] = fine_error[c]
                = (float)(LL_UP * root * ((double)top[c] + LL_LOST));
        if (!((double)norm[c] < LL_LARGE)) { /* or NaN: always a candidate, and bounds no other */
            norm[c] = LL_INF;
            error[c] = scale[c] = fine_error[c] = 0;
        }
    }
}

/* Half bytes of a class. */
static inline ptrdiff_t fine_size(ptrdiff_t k)
{
    return (k + LL_FINE_STEP - 1) / LL_FINE_STEP * (LL_FINE_STEP / 2);
}

/* 16ths of LL_FINE_STEP features, feature by feature and 8 more than they are, as half bytes class
 * by class. */
static void put_fine(int8_t parts[LL_FINE_STEP][LL_SCREEN_LANES], uint8_t *fine, ptrdiff_t size)
{
    for (int j = 0; j < LL_FINE_STEP / 2; j++)
        for (int c = 0; c < LL_SCREEN_LANES; c++)
            parts[j][c] = (int8_t)(parts[j][c] + 16 * (parts[LL_FINE_STEP / 2 + j][c] - 8));
    for (int c = 0; c < LL_SCREEN_LANES; c++)
        for (int j = 0; j < LL_FINE_STEP / 2; j++)
            fine[c * size + j] = (uint8_t)(parts[j][c] ^ 128);
}

static void quantise_panel(const real *panel, ptrdiff_t k, uint8_t *weight, uint8_t *fine,
                           float *bounds)
{
    vec top = vset(0), squares = vset(0), rests = vset(0), fine_rests = vset(0);
    float tops[LL_SCREEN_LANES];
    class_sums sums;
    int8_t parts[LL_FINE_STEP][LL_SCREEN_LANES];
    float inverse[LL_SCREEN_LANES], *scale = bounds + LL_CLASS_SCALE * LL_SCREEN_LANES;

    for (ptrdiff_t p = 0; p < k; p++)
        top = vmax(vabs(vload(panel + p * LL_SCREEN_LANES)), top);
    vstore(tops, top);
    for (int c = 0; c < LL_SCREEN_LANES; c++) {
        int usable = (double)tops[c] >= LL_SMALL && (double)tops[c] <= LL_LARGE;
        scale[c] = usable ? tops[c] / 127 : 0;
        inverse[c] = usable ? 127 / tops[c] : 0;
    }
    vec unit = vload(scale), by_unit = vload(inverse), fine_unit = vmul(unit, vset(0x1p-4f));
    memset(parts, 8, sizeof parts);
    for (ptrdiff_t p = 0; p < k; p += LL_QUAD, weight += LL_STEP) {
        vec q[LL_QUAD];
        LL_UNROLL
        for (int j = 0; j < LL_QUAD; j++) {
            q[j] = vset(0);
            if (p + j < k) {
                vec w = vload(panel + (p + j) * LL_SCREEN_LANES), share = vmul(w, by_unit);
                q[j] = vround(share);
                vec rest = vnfma(unit, q[j], w), in_units = vmul(rest, by_unit);
                squares = vfma(share, share, squares);
                rests = vfma(in_units, in_units, rests);
                vec part = vround(vmul(in_units, vset(16)));
                part = vmax(vmin(part, vset(7)), vset(-8));
                qstore(parts[(p + j) % LL_FINE_STEP], vadd(part, vset(8)));
                rest = vmul(vnfma(fine_unit, part, rest), by_unit);
                fine_rests = vfma(rest, rest, fine_rests);
                /* A NaN shows in the sums; its byte must be one. */
                q[j] = vselect(vunordered(q[j], q[j]), vset(0), q[j]);
            }
        }
        bstore(weight, q);
        if (p + LL_QUAD >= k || (p + LL_QUAD) % LL_FINE_STEP == 0) {
            put_fine(parts, fine, fine_size(k));
            fine += LL_FINE_STEP / 2;
            memset(parts, 8, sizeof parts);
        }
    }
    vstore(sums.numbers, squares);
    vstore(sums.rests, rests);
    vstore(sums.fine_rests, fine_rests);
    for (int c = 0; c < LL_SCREEN_LANES; c++) /* all is residual, or infinite, or NaN */
        tops[c] = scale[c] > 0 ? 0 : sums.numbers[c] == 0 ? tops[c] : LL_INF;
    class_bounds(k, tops, &sums, bounds);
}

static void quantise_weight(const float *panels, ptrdiff_t count, ptrdiff_t k, uint8_t *weight,
                            uint8_t *fine, float *bounds)
{
    for (ptrdiff_t j = 0; j < count; j++) {
        quantise_panel(panels, k, weight, fine, bounds);
        panels += k * LL_SCREEN_LANES;
        weight += quads(k) * LL_STEP;
        fine += fine_size(k) * LL_SCREEN_LANES;
        bounds += LL_CLASS_BOUNDS * LL_SCREEN_LANES;
    }
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* Features p, ... of a row, zeros behind the last. */
static inline vec row_part(const float *x, ptrdiff_t p, ptrdiff_t k)
{
    float part[LL_LANES] = { 0 };
    if (p + LL_LANES <= k)
        return vload(x + p);
    memcpy(part, x + p, (size_t)(k - p) * sizeof(float));
    return vload(part);
}

/* The largest magnitude of a row; NaN where one of them is. */
static float row_top(const float *x, ptrdiff_t k)
{
    vec top = vset(0);
    unsigned usable = ~0u;

    for (ptrdiff_t p = 0; p < k; p += LL_LANES) {
        vec size = vabs(row_part(x, p, k));
        usable &= ~mbits(vunordered(size, size));
        top = vmax(size, top);
    }
    return usable == ~0u ? vtop(top) : (float)NAN;
}

/* One row; returns whether it can be screened. */
static int quantise_row(const ll_screen *s, ptrdiff_t i, const float *x, void *packed,
                        float *bounds, int32_t *start)
{
    row_place to[2] = { place_of(s, packed, i * s->levels),
                        place_of(s, packed, i * s->levels + s->levels - 1) };
    vec sum[2] = { vset(0), vset(0) }, whole = vset(0), residual = vset(0);
    double root = sqrt((double)s->k), up = sum_up(s->k), slack = (double)s->slack;
    float top = row_top(x, s->k);
    int usable = (double)top <= LL_LARGE; /* no NaN either */
    float scale = usable && (double)top >= LL_SMALL ? top / 127 : 0;
    vec unit = vset(scale), by_unit = vset(scale > 0 ? 1 / scale : 0);

    for (ptrdiff_t p = 0; p < s->k; p += LL_LANES) {
        vec z = usable ? row_part(x, p, s->k) : vset(0), share = vmul(z, by_unit);
        vec near = vround(share), rest = vnfma(unit, near, z);
        put_bytes(&to[0], near);
        sum[0] = vadd(sum[0], near);
        if (s->levels == 2) {
            vec fine = vround(vmul(rest, vmul(by_unit, vset(256))));
            fine = vmax(vset(-127), vmin(vset(127), fine));
            put_bytes(&to[1], fine);
            sum[1] = vadd(sum[1], fine);
            near = vfma(fine, vset(0x1p-8f), near);
            rest = vnfma(vmul(unit, vset(0x1p-8f)), fine, rest);
        }
        whole = vfma(near, near, whole);
        rest = vmul(rest, by_unit);
        residual = vfma(rest, rest, residual);
    }
    double size = (double)scale * up * sqrt((double)vsum(whole));
    double reach = up * sqrt((double)vsum(residual));
    reach = scale > 0 ? (double)scale * (reach + root * 0x1p-40) : LL_UP * root * (double)top;
    reach += root * LL_LOST;
    bounds[LL_ROW_SCALE] = scale;
    bounds[LL_ROW_REACH] = (float)(LL_UP * (reach + slack * (size + reach)) + LL_SMALL);
    bounds[LL_ROW_SIZE] = (float)(LL_UP * size * (1 + slack));
    for (ptrdiff_t level = 0; level < s->levels; level++)
        start[level] = -LL_BYTE_OFFSET * (int32_t)vsum(sum[level]);
    return usable && size + reach < LL_LARGE;
}

static void quantise_rows(const ll_screen *s, void *packed, float *row_bounds, int32_t *start)
{
    for (ptrdiff_t i = 0; i < s->rows; i++) {
        int usable = quantise_row(s, i, s->rows_x + i * s->x_row, packed,
                                  row_bounds + i * LL_ROW_BOUNDS, start + i * s->levels);
        s->count[i] = usable ? 0 : -1;
        s->least[i] = usable ? -LL_INF : LL_INF;
        for (ptrdiff_t j = 0; j < s->top; j++)
            s->best[i * s->top + j] = -LL_INF;
    }
}
