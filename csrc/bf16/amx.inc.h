/* Products of bfloat16 by tiles: one instruction is a step of 32 features of 16 rows and 16 classes,
 * in the order and with the subnormal numbers of the contract, whatever the processor is set to.
 *
 * Rows are packed as base/amx.inc.h has them, with zeros behind the last feature. */
#include "../base/flush.inc.h"

#define LL_AMX_DOT amx_dot_bf16
#include "../base/amx.inc.h"

LL_HOLDS(LL_STEP_K * sizeof(uint16_t) == LL_AMX_BYTES);
LL_HOLDS(LL_WORD_LANES * sizeof(uint32_t) == LL_AMX_BYTES);

/* Features up to the end of their last step. */
static inline ptrdiff_t step_end(ptrdiff_t k)
{
    return (k + LL_STEP_K - 1) / LL_STEP_K * LL_STEP_K;
}

static size_t row_bytes(ptrdiff_t rows, ptrdiff_t k)
{
    return (size_t)rows * (size_t)step_end(k) * sizeof(uint16_t);
}

static void pack_rows(const uint16_t *x, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t x_row, void *packed_)
{
    uint16_t *packed = packed_;

    for (ptrdiff_t i = 0, height; i < rows; i += height) {
        height = least(LL_AMX_ROWS, rows - i);
        for (ptrdiff_t p = 0; p < k; p += LL_STEP_K)
            for (ptrdiff_t r = i; r < i + height; r++, packed += LL_STEP_K) {
                if (p + LL_STEP_K <= k) {
                    memcpy(packed, x + r * x_row + p, LL_AMX_BYTES);
                    continue;
                }
                memset(packed, 0, LL_AMX_BYTES);
                memcpy(packed, x + r * x_row + p, (size_t)(k - p) * sizeof *x);
            }
    }
}

static void multiply_sums(const ll_bf16_tile *t)
{
    const ptrdiff_t features = t->k_last - t->k_first;
    amx_product p = {
        .rows = t->rows, .panels = t->n_panels,
        .a_row = step_end(t->k) * (ptrdiff_t)sizeof(uint16_t), .skip = t->k_first / LL_STEP_K,
        .steps = features / LL_STEP_K,
        .tail = (features % LL_STEP_K + 1) / 2 * LL_AMX_BYTES,
        .b = (const char *)t->panels, .b_panel = t->panel_words * (ptrdiff_t)sizeof *t->panels,
        .start = t->k_first ? t->tile : NULL, .start_panel = LL_AMX_BYTES,
        .sums = (char *)t->tile, .row = t->t_row * (ptrdiff_t)sizeof *t->tile,
    };
    amx_mode mode;

    p.start_row = p.row;
    p.share = LL_AMX_PANELS * p.b_panel;
    p.next = p.b + p.share;
    p.a = (const char *)t->x + t->first_row * p.a_row;
    amx_begin(&mode);
    amx_multiply(&p, &mode);
    amx_end(&mode);
}

/* Sums become logits. */
LL_APART void add_bias(const ll_bf16_tile *t)
{
    for (ptrdiff_t i = 0; i < t->rows; i++)
        for (ptrdiff_t c = 0; c < t->n_panels * LL_LANES; c += LL_PART) {
            float *sum = t->tile + i * t->t_row + c;
            rstore(sum, flushed_add(t->k ? rload(sum) : rset(0), rload(t->bias + c)));
        }
}

static void multiply(const ll_bf16_tile *tile)
{
    if (tile->k)
        multiply_sums(tile);
    if (tile->k_last == tile->k) {
        const flush_mode mode = begin_flushing();
        add_bias(tile);
        end_flushing(mode);
    }
}

static double spin(ptrdiff_t rounds) { return amx_spin(rounds, LL_STEP_K); }
