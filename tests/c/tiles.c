/* AMX, and its double in plain C: every instruction that is used, the product of bfloat16, the screen.
 *
 * The double is held against loops written from the definition; where the processor has AMX, that is
 * held against the double, and must have the same bits. To be handed to someone who has such a machine:
 * tests/test_tiles.py says how it is built. One line; exit status 1 where anything differs.
 */
#include "screening.h"
#include "bf16.h"
#include "tile_steps.h"

extern const ll_bf16 ll_bf16_amx_double;
extern const ll_screener ll_screener_amx_double;

enum { MOST_REPORTS = 10, GUARD = 3 };
static long compared, differing;

static void check(const char *what, float found, float wanted)
{
    compared++;
    if (bits_of(found) == bits_of(wanted) || (isnan(found) && isnan(wanted)))
        return;
    if (differing++ < MOST_REPORTS)
        fprintf(stderr, "%s: %a, not %a\n", what, (double)found, (double)wanted);
}

static void check_whole(const char *what, uint64_t found, uint64_t wanted)
{
    compared++;
    if (found != wanted && differing++ < MOST_REPORTS)
        fprintf(stderr, "%s: %llx, not %llx\n", what, (unsigned long long)found,
                (unsigned long long)wanted);
}

/* ---- instructions -------------------------------------------------------------------------- */

static void try_bf16_step(const tile_steps *amx, int rows, enum kind kind)
{
    uint16_t a[WORDS][LL_STEP_K];
    uint32_t b[WORDS][WORDS];
    float before[WORDS][WORDS], plain[WORDS][WORDS], real_one[WORDS][WORDS];

    for (int i = 0; i < WORDS; i++)
        for (int j = 0; j < WORDS; j++) {
            a[i][2 * j] = half(kind);
            a[i][2 * j + 1] = half(kind);
            b[i][j] = (uint32_t)half(kind) << 16 | half(kind);
            before[i][j] = sum_so_far(kind);
        }
    memcpy(plain, before, sizeof plain);
    memcpy(real_one, before, sizeof real_one);
    tile_steps_double.dot_bf16(rows, a, b, plain);
    if (amx)
        amx->dot_bf16(rows, a, b, real_one);
    for (int i = 0; i < WORDS; i++)
        for (int j = 0; j < WORDS; j++) {
            float wanted = i < rows ? defined_step(before[i][j], a[i], &b[0][j]) : before[i][j];
            check("step of bfloat16, double", plain[i][j], wanted);
            if (amx)
                check("step of bfloat16, AMX", real_one[i][j], plain[i][j]);
        }
}

static void try_byte_step(const tile_steps *amx, int rows)
{
    int8_t a[WORDS][4 * WORDS];
    uint8_t b[WORDS][WORDS][4];
    uint32_t before[WORDS][WORDS], plain[WORDS][WORDS], real_one[WORDS][WORDS];

    for (int i = 0; i < WORDS; i++)
        for (int j = 0; j < WORDS; j++) {
            for (int q = 0; q < 4; q++) {
                a[i][4 * j + q] = (int8_t)(below(256) - 128);
                b[i][j][q] = (uint8_t)below(256);
            }
            before[i][j] = (uint32_t)draw();
        }
    memcpy(plain, before, sizeof plain);
    memcpy(real_one, before, sizeof real_one);
    tile_steps_double.dot_bytes(rows, a, b, plain);
    if (amx)
        amx->dot_bytes(rows, a, b, real_one);
    for (int i = 0; i < WORDS; i++)
        for (int j = 0; j < WORDS; j++) {
            int64_t wanted = before[i][j];
            for (int q = 0; i < rows && q < 4 * WORDS; q++)
                wanted += (int64_t)a[i][q] * b[q / 4][j][q % 4];
            check_whole("step of bytes, double", plain[i][j], (uint32_t)wanted);
            if (amx)
                check_whole("step of bytes, AMX", real_one[i][j], plain[i][j]);
        }
}

/* Some rows from an odd address and stride to another, and nothing beside them. */
static void try_move(const tile_steps *steps, int rows)
{
    enum { FROM = 67, TO = 71 };
    uint8_t from[WORDS * FROM], to[WORDS * TO];

    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (uint8_t)draw();
    memset(to, 0, sizeof to);
    steps->move(rows, from + 1, FROM, to + 1, TO);
    for (int i = 0; i < WORDS * TO; i++) {
        int row = (i - 1) / TO, at = (i - 1) % TO, inside = i > 0 && row < rows && at < 64;
        check_whole("move", to[i], inside ? from[1 + row * FROM + at] : 0);
    }
}

static void try_instructions(const tile_steps *amx)
{
    for (int rows = 1; rows <= WORDS; rows++) {
        for (int kind = 0; kind < KINDS; kind++)
            for (int again = 0; again < 8; again++)
                try_bf16_step(amx, rows, (enum kind)kind);
        for (int again = 0; again < 8; again++)
            try_byte_step(amx, rows);
        try_move(&tile_steps_double, rows);
        if (amx)
            try_move(amx, rows);
    }
}

/* ---- products of bfloat16 ------------------------------------------------------------------ */

typedef struct {
    ptrdiff_t rows, panels, k, x_row, t_row;
    uint16_t *x;
    uint32_t *words; /* whole panels */
    float *bias;
} bf16_inputs;

static ptrdiff_t word_count(ptrdiff_t k) { return (k + 1) / 2; }

static bf16_inputs make_bf16_inputs(ptrdiff_t rows, ptrdiff_t panels, ptrdiff_t k, enum kind kind)
{
    ptrdiff_t count = panels * word_count(k) * WORDS;
    bf16_inputs in = { .rows = rows, .panels = panels, .k = k, .x_row = k + 3,
                       .t_row = panels * WORDS + GUARD };

    in.x = array((rows - 1) * in.x_row + k, sizeof *in.x);
    for (ptrdiff_t i = 0; i < (rows - 1) * in.x_row + k; i++)
        in.x[i] = half(i % in.x_row < k ? kind : ANYTHING);
    in.words = array(count, sizeof *in.words);
    for (ptrdiff_t i = 0; i < count; i++) {
        int last = k % 2 && i / WORDS % word_count(k) == k / 2;
        in.words[i] = (last ? 0 : (uint32_t)half(kind) << 16) | half(kind);
    }
    in.bias = array(panels * WORDS, sizeof *in.bias);
    for (ptrdiff_t c = 0; c < panels * WORDS; c++)
        in.bias[c] = sum_so_far(kind);
    return in;
}

/* Tiles of 144 rows; all features at once from whole panels, or `step` at a time, packed so. */
static float *product_by(const ll_bf16 *by, const bf16_inputs *in, ptrdiff_t step)
{
    void *x = cache_lines(by->row_bytes(in->rows, in->k));
    float *tile = array(in->rows * in->t_row, sizeof *tile);

    for (ptrdiff_t i = 0; i < in->rows * in->t_row; i++)
        tile[i] = 77;
    by->pack_rows(in->x, in->rows, in->k, in->x_row, x);
    for (ptrdiff_t first = 0, last; first == 0 || first < in->k; first = last ? last : 1) {
        last = in->k - first < step ? in->k : first + step;
        int whole = step >= in->k;
        ptrdiff_t words = word_count(last - first);
        uint32_t *own = in->words;
        if (!whole) {
            own = array(in->panels * words * WORDS, sizeof *own);
            for (ptrdiff_t j = 0; j < in->panels; j++)
                memcpy(own + j * words * WORDS,
                       in->words + (j * word_count(in->k) + first / 2) * WORDS,
                       (size_t)(words * WORDS) * sizeof *own);
        }
        for (ptrdiff_t i = 0; i < in->rows; i += 144) {
            ll_bf16_tile t = {
                .rows = in->rows - i < 144 ? in->rows - i : 144, .first_row = i,
                .all_rows = in->rows, .k = in->k, .x = x, .k_first = first, .k_last = last,
                .panels = own, .panel_words = words * WORDS, .n_panels = in->panels,
                .bias = in->bias, .tile = tile + i * in->t_row, .t_row = in->t_row,
            };
            by->multiply(&t);
        }
    }
    return tile;
}

static float *defined_product(const bf16_inputs *in)
{
    float *tile = array(in->rows * in->t_row, sizeof *tile);

    for (ptrdiff_t i = 0; i < in->rows; i++)
        for (ptrdiff_t c = 0; c < in->t_row; c++) {
            float sum = 0;
            for (ptrdiff_t p = 0; p < in->k && c < in->panels * WORDS; p += LL_STEP_K) {
                uint16_t x[LL_STEP_K] = { 0 };
                uint32_t w[WORDS * WORDS] = { 0 };
                ptrdiff_t count = in->k - p < LL_STEP_K ? in->k - p : LL_STEP_K;
                const uint32_t *panel = in->words + c / WORDS * word_count(in->k) * WORDS;
                memcpy(x, in->x + i * in->x_row + p, (size_t)count * sizeof *x);
                for (ptrdiff_t q = 0; q < word_count(count); q++)
                    w[q * WORDS] = panel[(p / 2 + q) * WORDS + c % WORDS];
                sum = defined_step(sum, x, w);
            }
            tile[i * in->t_row + c] = c < in->panels * WORDS ? defined_sum(sum, in->bias[c]) : 77;
        }
    return tile;
}

static void try_product(const ll_bf16 *amx, ptrdiff_t rows, ptrdiff_t panels, ptrdiff_t k,
                        enum kind kind)
{
    static const ptrdiff_t steps[] = { PTRDIFF_MAX, LL_KC, 2 * LL_STEP_K };
    bf16_inputs in = make_bf16_inputs(rows, panels, k, kind);
    const float *wanted = defined_product(&in);

    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
        const float *plain = product_by(&ll_bf16_amx_double, &in, steps[s]);
        const float *real_one = amx ? product_by(amx, &in, steps[s]) : plain;
        for (ptrdiff_t i = 0; i < in.rows * in.t_row; i++) {
            check("product, double", plain[i], wanted[i]);
            if (amx)
                check("product, AMX", real_one[i], plain[i]);
        }
    }
    release(0);
}

static void try_products(const ll_bf16 *amx)
{
    static const ptrdiff_t rows[] = { 1, 2, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65, 145 };
    static const ptrdiff_t k[] = { 0, 1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 300 };
    enum { ROWS = sizeof rows / sizeof *rows, FEATURES = sizeof k / sizeof *k };

    for (int i = 0; i < ROWS; i++)
        for (ptrdiff_t panels = 1; panels <= 9; panels++)
            try_product(amx, rows[i], panels, k[(i + 4 * panels) % FEATURES],
                        (enum kind)((i + panels) % KINDS));
    for (int f = 0; f < FEATURES; f++)
        for (int kind = 0; kind < KINDS; kind++)
            try_product(amx, 18, 3, k[f], (enum kind)kind);
    try_product(amx, 300, 2, 33, COMMON);
}

/* ---- all of it ----------------------------------------------------------------------------- */

static uint64_t screens_by(const ll_screener *by)
{
    screener = by;
    return try_screens();
}

/* What must leave the processor as it was. */
static const ll_bf16 *working_product;
static const ll_screener *working_screener;

static void multiply_something(void)
{
    seed = 5;
    bf16_inputs in = make_bf16_inputs(17, 1, 40, COMMON);
    product_by(working_product, &in, PTRDIFF_MAX);
    release(0);
    working_product->spin(1);
}

static void screen_something(void)
{
    static const problem p = { "ordinary", 3, 600, 40, 1, 0, 0, 1, ORDINARY };
    screener = working_screener;
    try_screen(&p, 1, 64, 1);
}

static void try_leaving_alone(const tile_steps *steps, const ll_bf16 *product,
                              const ll_screener *screen)
{
    working_product = product;
    working_screener = screen;
    check_whole("registers after a product", (uint64_t)steps->leaves_alone(multiply_something), 1);
    check_whole("registers after a screen", (uint64_t)steps->leaves_alone(screen_something), 1);
}

int main(void)
{
    const ll_screen_isa *plain = &ll_screens[ll_screen_count - 1];
    const tile_steps *steps = NULL;
    const ll_bf16 *product = NULL;
    const ll_screener *screen = NULL;

    bits = 32;
    item = sizeof(float);
    table = ll_isas[ll_isa_count - 1].f32;
#ifdef LL_HAVE_BF16_AMX
    for (int i = 0; i < ll_bf16_count; i++)
        if (!strcmp(ll_bf16s[i].product->name, "amx") && ll_bf16s[i].supported())
            product = ll_bf16s[i].product, steps = &tile_steps_amx;
    for (int i = 0; i < ll_screen_count; i++)
        if (!strcmp(ll_screens[i].screener->name, "amx") && ll_screens[i].supported())
            screen = ll_screens[i].screener;
#endif
    try_instructions(steps);
    try_products(product);
    uint64_t wanted = screens_by(plain->screener);
    check_whole("screen, double", screens_by(&ll_screener_amx_double), wanted);
    try_leaving_alone(&tile_steps_double, &ll_bf16_amx_double, &ll_screener_amx_double);
    if (screen) {
        check_whole("screen, AMX", screens_by(screen), wanted);
        try_leaving_alone(steps, product, screen);
    }
    printf("%s: %ld of %ld numbers differ\n",
           steps ? "AMX and its double" : "no AMX here, its double alone", differing, compared);
    return differing || failed || !steps != !screen;
}
