/* Passes with weights held in 16 bits, of which every number is the same in float32: with rows of
 * float32 their bits must be those of the widened weights, however they lie in memory; with rows
 * of bfloat16 those of every other way of multiplying. One line for each of these, which must be
 * the same.
 *
 * Exit status 1 where they differ, or where bits depend on what they must not.
 */
#include "backwards.h"

#include <math.h>

/* ---- inputs -------------------------------------------------------------------------------- */

/* The number of a pattern: 8 bits of exponent and 7 of fraction, or 5 and 10. */
static float widened(int type, unsigned pattern)
{
    const int fraction_bits = type == LL_BFLOAT16 ? 7 : 10, top = type == LL_BFLOAT16 ? 255 : 31;
    const int exponent = (int)(pattern & 0x7fff) >> fraction_bits;
    const int fraction = (int)pattern & ((1 << fraction_bits) - 1);
    const int least_exponent = 1 - top / 2 - fraction_bits;
    float r = exponent ? ldexpf((float)(fraction + (1 << fraction_bits)),
                                least_exponent + exponent - 1)
                       : ldexpf((float)fraction, least_exponent);

    if (exponent == top)
        r = fraction ? NAN : INFINITY;
    return pattern >> 15 ? -r : r;
}

/* Not larger than 1; 1 of 50 is subnormal there. */
static uint16_t some_pattern(int type)
{
    const uint64_t r = draw();
    const unsigned fraction_bits = type == LL_BFLOAT16 ? 7 : 10, one = type == LL_BFLOAT16 ? 127 : 15;
    const unsigned exponent = (unsigned)(r >> 32) % 50 ? one - 1 - (unsigned)(r >> 40) % 8 : 0;

    return (uint16_t)((r & 0x8000) | exponent << fraction_bits
                      | ((unsigned)(r >> 16) & ((1u << fraction_bits) - 1)));
}

/* The weights become others: patterns in turn, or some. */
enum { SOME = -1 };
static void narrow_weights(inputs *in, ptrdiff_t first_pattern)
{
    const ptrdiff_t n = in->p->n, k = in->p->k;

    in->narrow_weight = array((n - 1) * in->w_row + k, sizeof(uint16_t));
    in->narrow_columns = array(k ? (k - 1) * in->w_col + n : 0, sizeof(uint16_t));
    for (ptrdiff_t c = 0; c < n; c++)
        for (ptrdiff_t j = 0; j < k; j++) {
            const uint16_t w = first_pattern == SOME ? some_pattern(in->type)
                                                     : (uint16_t)(first_pattern + c * k + j);
            in->narrow_weight[c * in->w_row + j] = in->narrow_columns[c + j * in->w_col] = w;
            ((float *)in->weight)[c * in->w_row + j] = widened(in->type, w);
            ((float *)in->columns)[c + j * in->w_col] = widened(in->type, w);
        }
    in->words = array(whole_vectors(n) * ((k + 1) / 2), sizeof(uint32_t));
    table->pack_words(in->narrow_weight, n, k, in->w_row, 1, in->words);
    if (n > LL_SMALL_N)
        table->pack_weight(in->weight, n, k, in->w_row, 1, in->panels);
}

/* The rows become others, too: what their upper halves are. */
static void narrow_rows(inputs *in, const ll_bf16 *product)
{
    const ptrdiff_t m = in->p->m, k = in->p->k;
    const size_t bytes = product->row_bytes(m, k);

    in->product = product;
    in->narrow_x = array((m - 1) * in->x_row + k, sizeof(uint16_t));
    for (ptrdiff_t i = 0; i < m; i++)
        for (ptrdiff_t j = 0; j < k; j++) {
            uint32_t pattern;
            memcpy(&pattern, (float *)in->x + i * in->x_row + j, sizeof pattern);
            in->narrow_x[i * in->x_row + j] = (uint16_t)(pattern >> 16);
        }
    in->packed_narrow_x = array((ptrdiff_t)(bytes / sizeof(float)), sizeof(float));
    product->pack_rows(in->narrow_x, m, k, in->x_row, in->packed_narrow_x);
}

static inputs make_narrow_inputs(const problem *p, int type, const ll_bf16 *product)
{
    inputs in = make_inputs(p);

    in.type = type;
    narrow_weights(&in, SOME);
    if (product)
        narrow_rows(&in, product);
    return in;
}

/* ---- all ----------------------------------------------------------------------------------- */

static uint64_t together;

static void add(uint64_t value) { together = together * 31 + value; }

static void passes(int type, const ll_bf16 *product)
{
    static const ptrdiff_t n[] = { 1, 15, 16, 17, 33, 129, 511, 512, 513, 1040 };
    static const ptrdiff_t k[] = { 0, 1, 2, 7, 32, 33, 66, 255, 257, 300, 513 };
    static const ptrdiff_t m[] = { 1, 2, 5, 6, 7, 12, 13, 48, 49, 145 };
    static const problem rest[] = {
        { "one row", 1, 4099, 70, 1, 0, 0, 1, ORDINARY },
        { "spans", 3, 8193, 3, 1, 0, 0, 1, ORDINARY },
        { "tiles", 157, 21, 290, 1, 0, 0, 1, ORDINARY },
        { "softcap and temperature", 9, 131, 40, 1, 0, 3, 1.7, ORDINARY },
        { "special", 12, 10, 40, 1, 0, 0, 1, SPECIAL },
        { "special", 12, 600, 300, 1, 0, 5, 1, SPECIAL },
    };
    problem p = { "16 bits", 7, 0, 19, 1, 0, 0, 1, ORDINARY };

    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) {
        inputs in = make_narrow_inputs(&rest[i], type, product);
        add(try_inputs(&in, EVERYTHING));
    }
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        p.n = n[i];
        inputs in = make_narrow_inputs(&p, type, product);
        add(try_inputs(&in, EVERYTHING));
    }
    for (size_t i = 0; i < sizeof m / sizeof *m; i++)
        for (size_t j = i % 3; j < sizeof k / sizeof *k && m[i] * k[j] < 9000; j += 3) {
            p.m = m[i], p.k = k[j], p.n = j % 2 ? 11 : 37;
            inputs in = make_narrow_inputs(&p, type, product);
            add(try_inputs(&in, EVERYTHING));
        }
}

static void gradients(int type)
{
    static const problem problems[] = {
        { "16 bits", 13, 7, 17, 1, 0, 0, 1, ORDINARY },
        { "16 bits", 25, 37, 33, 1, 0, 0, 1, ORDINARY },
        { "16 bits", 13, 530, 20, 1, 0, 30, 1.7, ORDINARY },
        { "16 bits", 250, 18, 30, 1, 0, 0, 1, ORDINARY },
    };

    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        inputs in = make_narrow_inputs(&problems[i], type, NULL);
        add(try_gradient_inputs(&in, 0));
    }
}

/* 64 features of a class, of one exponent each. */
static void every_pattern(int type)
{
    static const problem problems[] = {
        { "every pattern", 1, 512, 64, 1, 0, 0, 1, ORDINARY },
        { "every pattern", 49, 512, 64, 1, 0, 0, 1, ORDINARY },
        { "every pattern", 1, LL_SMALL_N, 64, 1, 0, 0, 1, ORDINARY },
    };

    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++)
        for (ptrdiff_t first = 0; first < 1 << 16; first += problems[i].n * problems[i].k) {
            inputs in = make_inputs(&problems[i]);
            in.type = type;
            narrow_weights(&in, first);
            add(try_inputs(&in, EVERYTHING));
        }
}

static uint64_t with_reals(void)
{
    together = 0;
    for (int type = LL_BFLOAT16; type <= LL_FLOAT16; type++) {
        passes(type, NULL);
        gradients(type);
        every_pattern(type);
    }
    return together;
}

int main(void)
{
    const ll_kernels *before = NULL;
    uint64_t first = 0, alone = 0;

    bits = 32;
    item = sizeof(float);
    for (int i = ll_bf16_count - 1; i >= 0; i--) { /* plain C first */
        if (!ll_bf16s[i].supported())
            continue;
        for (int j = 0; j < ll_isa_count; j++)
            if (!strcmp(ll_isas[j].name, ll_bf16s[i].isa))
                table = ll_isas[j].f32;
        at_work = ll_bf16s[i].product->name;
        if (table != before) /* an instruction set may have several products */
            alone = with_reals();
        before = table;
        together = alone;
        passes(LL_BFLOAT16, ll_bf16s[i].product);
        printf("%s of %s %016llx\n", at_work, ll_bf16s[i].isa, (unsigned long long)together);
        first = first ? first : together;
        if (together != first)
            failed = 1;
    }
    return failed;
}
