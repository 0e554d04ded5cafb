/* The bits of the kernels on fixed inputs: one hash a line, a block of lines for every
 * instruction set that was built in and that this processor runs.
 *
 * Exit status 1 when an instruction set differs from the scalar one, or when bits depend on what
 * they must not: on how weights lie in memory, on how a target distribution lies, on whether
 * logits come from a product or are given, on how a pass is cut into spans, on how gradients are
 * cut into classes, features and rows.
 */
#include "divergences.h"

/* ---- lines --------------------------------------------------------------------------------- */

enum { MOST_SETS = 8, MOST_LINES = 512 };
static uint64_t lines[MOST_SETS][MOST_LINES];
static int n_lines, set;

static void print_line(const char *name, uint64_t value)
{
    printf("f%d %s %016llx\n", bits, name, (unsigned long long)value);
    if (n_lines < MOST_LINES)
        lines[set][n_lines++] = value;
}

static void print_problem(const char *what, const problem *p, uint64_t value)
{
    char name[64];

    snprintf(name, sizeof name, "%s%s %tdx%tdx%td", what, p->name, p->m, p->n, p->k);
    print_line(name, value);
}

static void print_pass(const problem *p) { print_problem("", p, try_problem(p, BEST)); }

static void print_gradients(const problem *p, int options)
{
    print_problem("gradients, ", p, try_gradients(p, options));
}

static void problems(void)
{
    static const ptrdiff_t n[] = { 1, 2, 7, 15, 16, 17, 31, 33, 255, 257, 511, 513, 2047, 2049,
                                   4095, 4096, 4097, 8193 };
    static const ptrdiff_t k[] = { 0, 1, 5, 15, 16, 17, 255, 256, 257, 300, 511, 512, 513,
                                   1000 };
    static const ptrdiff_t m[] = { 1, 2, 5, 11, 12, 13, 17, 31, 33, 145, 146, 147, 148, 149, 150 };
    static const problem rest[] = {
        { "large", 147, 40, 300, 1, 0, 0, 1, ORDINARY },
        { "large", 13, 513, 300, 1, 0, 0, 1, ORDINARY },
        { "large", 33, 16, 513, 1, 0, 0, 1, ORDINARY },
        { "one row", 1, 4099, 257, 1, 0, 0, 1, ORDINARY },
        { "softcap", 9, 131, 40, 1, 0, 3, 1, ORDINARY },
        { "temperature", 9, 131, 40, 1, 0, 0, 0.37, ORDINARY },
        { "softcap and temperature", 9, 131, 40, 8, 0, 30, 1.7, ORDINARY },
        { "softcap and temperature", 9, 13, 40, 8, 0, 30, 1.7, ORDINARY },
        { "sure", 9, 600, 40, 64, 0, 0, 1, ORDINARY },
        { "sure", 9, 9, 40, 64, 0, 0, 1, ORDINARY },
        { "offset", 9, 131, 40, 1, 1e6, 0, 1, ORDINARY },
        { "denormal", 9, 131, 40, 0x1p-130, 0, 0, 0x1p-100, ORDINARY },
        { "special", 12, 10, 40, 1, 0, 0, 1, SPECIAL },
        { "special", 12, 131, 300, 1, 0, 5, 1, SPECIAL },
        { "special", 12, 4099, 5, 1, 0, 0, 0.5, SPECIAL },
        { "given", 32, 1, 1, 1, 0, 0, 1, SPOILT },
        { "given", 32, 10, 1, 1, 0, 0, 1, SPOILT },
        { "given", 32, 37, 1, 1, 0, 0, 1, SPOILT },
        { "given", 32, 600, 1, 16, 0, 0, 1, SPOILT },
        { "given", 32, 4611, 1, 64, 0, 0, 1, SPOILT },
        { "zeros", 33, 15, 1, 1, 0, 0, 1, SIGNED_ZEROS },
        { "zeros", 33, 133, 1, 1, 0, 0, 1, SIGNED_ZEROS },
        { "temperatures", 9, 131, 40, 1, 0, 0, 0.37, TEMPERED },
        { "temperatures", 33, 7, 40, 1, 0, 0, 0.37, TEMPERED },
        { "softcap and temperatures", 149, 33, 40, 8, 0, 30, 1.7, TEMPERED },
        { "softcap and temperatures", 5, 4099, 5, 8, 0, 30, 1.7, TEMPERED },
    };
    problem p = { "classes", 3, 0, 7, 1, 0, 0, 1, ORDINARY };

    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        p.n = n[i], print_pass(&p);
    p.name = "features";
    for (size_t i = 0; i < sizeof k / sizeof *k; i++) {
        p.k = k[i];
        p.m = 13, p.n = 7, print_pass(&p);
        p.m = 5, p.n = 33, print_pass(&p);
    }
    p.name = "rows", p.k = 19;
    for (size_t i = 0; i < sizeof m / sizeof *m; i++) {
        p.m = m[i];
        p.n = 7, print_pass(&p);
        p.n = 33, print_pass(&p);
    }
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        print_pass(&rest[i]);
}

static void gradients(void)
{
    static const ptrdiff_t n[] = { 1, 7, 16, 17, 33, 257, 513 };
    static const ptrdiff_t k[] = { 0, 1, 15, 16, 17, 33, 257, 300 };
    static const ptrdiff_t m[] = { 1, 11, 12, 13, 25, 150, 240, 250, 481 };
    static const struct {
        problem p;
        int options;
    } rest[] = {
        { { "large", 13, 4097, 5, 1, 0, 0, 1, ORDINARY }, 0 },
        { { "large", 61, 530, 20, 1, 0, 0, 1, ORDINARY }, 0 },
        { { "added", 250, 7, 5, 1, 0, 0, 1, ORDINARY }, ADDED },
        { { "added", 13, 530, 17, 1, 0, 0, 1, ORDINARY }, ADDED },
        { { "weighted", 25, 9, 7, 1, 0, 0, 1, ORDINARY }, WEIGHTED },
        { { "weighted", 13, 530, 7, 1, 0, 0, 1, ORDINARY }, WEIGHTED },
        { { "mixed", 25, 9, 7, 1, 0, 0, 1, ORDINARY }, MIXED },
        { { "mixed", 13, 530, 7, 1, 0, 0, 1, ORDINARY }, MIXED },
        { { "mixed, weighted", 25, 9, 7, 1, 0, 0, 1, ORDINARY }, MIXED | WEIGHTED },
        { { "mixed, weighted", 13, 530, 7, 1, 0, 0, 1, ORDINARY }, MIXED | WEIGHTED },
        { { "mixed, weighted", 3, 4097, 2, 1, 0, 0, 1, ORDINARY }, MIXED | WEIGHTED },
        { { "softcap and temperature", 25, 37, 17, 8, 0, 30, 1.7, ORDINARY }, MIXED },
        { { "temperature", 25, 37, 17, 1, 0, 0, 0.37, ORDINARY }, 0 },
        { { "softcap", 25, 9, 17, 1, 0, 3, 1, ORDINARY }, 0 },
        { { "sure", 25, 37, 17, 64, 0, 0, 1, ORDINARY }, 0 },
        { { "special", 25, 37, 17, 1, 0, 0, 1, SPECIAL }, WEIGHTED },
        { { "special", 25, 9, 17, 1, 0, 2, 1, SPECIAL }, 0 },
        { { "filtered", 9, 1100, 5, 1, 0, 0, 1, ORDINARY }, FILTERED },
        { { "filtered", 40, 1100, 5, 1, 0, 0, 1, ORDINARY }, FILTERED },
        { { "filtered", 250, 270, 3, 1, 0, 0, 1, ORDINARY }, FILTERED },
        { { "filtered, added", 17, 1100, 5, 1, 0, 0, 1, ORDINARY }, FILTERED | ADDED },
        { { "filtered, softcap", 25, 1100, 5, 1, 0, 30, 1, ORDINARY }, FILTERED },
        { { "filtered, weighted", 25, 1100, 5, 1, 0, 0, 1, ORDINARY }, FILTERED | WEIGHTED },
        { { "entropy", 25, 9, 7, 1, 0, 0, 1, ORDINARY }, ENTROPIC },
        { { "entropy", 13, 530, 7, 1, 0, 0, 1, ORDINARY }, ENTROPIC | WEIGHTED },
        { { "entropy", 3, 4097, 2, 1, 0, 3, 0.7, ORDINARY }, ENTROPIC | MIXED },
        { { "entropy, sure", 25, 37, 17, 64, 0, 0, 1, ORDINARY }, ENTROPIC },
        { { "entropy, special", 25, 37, 17, 1, 0, 0, 1, SPECIAL }, ENTROPIC },
        { { "temperatures", 250, 37, 17, 1, 0, 0, 0.37, TEMPERED }, MIXED | ENTROPIC },
        { { "softcap and temperatures", 25, 9, 17, 8, 0, 30, 1.7, TEMPERED }, WEIGHTED },
        { { "entropy, filtered", 25, 1100, 5, 1, 0, 0, 1, ORDINARY }, ENTROPIC | FILTERED },
    };
    problem p = { "classes", 13, 0, 7, 1, 0, 0, 1, ORDINARY };

    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        p.n = n[i], print_gradients(&p, 0);
    p.name = "features";
    for (size_t i = 0; i < sizeof k / sizeof *k; i++) {
        p.k = k[i];
        p.m = 13, p.n = 7, print_gradients(&p, 0);
        p.m = 5, p.n = 33, print_gradients(&p, 0);
    }
    p.name = "rows", p.k = 3;
    for (size_t i = 0; i < sizeof m / sizeof *m; i++) {
        p.m = m[i];
        p.n = 7, print_gradients(&p, 0);
        p.n = 33, print_gradients(&p, 0);
    }
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        print_gradients(&rest[i].p, rest[i].options);
}

static void variances(void)
{
    static const problem of[] = {
        { "variance", 17, 1, 5, 1, 0, 0, 1, ORDINARY },
        { "variance", 33, 9, 5, 1, 0, 3, 0.7, ORDINARY },
        { "variance", 33, 31, 5, 1, 0, 0, 1, ORDINARY },
        { "variance", 5, 530, 17, 1, 0, 0, 1, ORDINARY },
        { "variance", 3, 4097, 5, 1, 0, 0, 1, ORDINARY },
        { "variance, sure", 9, 600, 40, 64, 0, 0, 1, ORDINARY },
        { "variance, special", 12, 10, 40, 1, 0, 0, 1, SPECIAL },
        { "variance, special", 12, 4099, 5, 1, 0, 0, 0.5, SPECIAL },
        { "variance, temperatures", 33, 31, 40, 1, 0, 0, 0.37, TEMPERED },
    };

    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        print_problem("", &of[i], try_variance(&of[i]));
}

static void divergences(void)
{
    static const double betas[] = { 0, 1, 0.25 };
    static const problem of[] = {
        { "divergence", 13, 1, 7, 1, 0, 0, 1, ORDINARY },
        { "divergence", 13, 7, 20, 1, 0, 3, 1.7, ORDINARY },
        { "divergence", 13, 16, 20, 1, 0, 0, 1, ORDINARY },
        { "divergence", 25, 17, 0, 1, 0, 0, 1, ORDINARY },
        { "divergence", 250, 33, 9, 8, 0, 0, 1, ORDINARY },
        { "divergence", 13, 530, 17, 1, 0, 3, 0.7, ORDINARY },
        { "divergence", 3, 4097, 5, 1, 0, 0, 1, ORDINARY },
        { "divergence, sure", 13, 37, 17, 64, 0, 0, 1, ORDINARY },
        { "divergence, special", 13, 37, 17, 1, 0, 0, 1, SPECIAL },
        { "divergence, temperatures", 13, 37, 17, 1, 0, 0, 1.3, TEMPERED },
    };

    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        for (size_t b = 0; b < sizeof betas / sizeof *betas; b++)
            print_problem(b == 0 ? "forward " : b == 1 ? "reverse " : "mixed ", &of[i],
                          try_divergence(&of[i], betas[b]));
}

/* ---- the rest of the interface ------------------------------------------------------------- */

static void packing(void)
{
    problem p = { "", 1, 77, 300, 1, 0, 0, 1, ORDINARY };
    inputs in = make_inputs(&p);
    ptrdiff_t size = (p.n + table->lanes - 1) / table->lanes * table->lanes * p.k;
    void *panels = reals(size);

    start_hash();
    mix_reals(in.panels, size);
    table->pack_weight(in.columns, p.n, p.k, 1, in.w_col, panels);
    mix_reals(panels, size);
    print_line("packed weights", hash);
    release(0);
}

static void groups(void)
{
    static const ptrdiff_t n[] = { 1, 4097, 33792, 33793, 67584, 67585, 135168, 135169, 675840,
                                   675841, 1351680, 1351681, 1000000000 };

    start_hash();
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        int64_t rows = table->group(n[i]);
        mix_integers(&rows, 1);
    }
    print_line("groups of rows", hash);
}

static void functions(void)
{
    static const char *const names[] = { "exp", "log", "log1p", "tanh" };
    static const double hard[] = { 0, 1, 0.5, 2, 1e-3, 0.34657359, 0.693147, 1.41421356, 88.72283,
                                   87.33655, 103.97208, 709.782712, 708.39642, 745.133219,
                                   1e-30, 1e-310, 5e-324, 1e30, 1e300, 9.01, 19.06, 1e308 };
    enum { HARD = sizeof hard / sizeof *hard, COUNT = 40003 };
    void *x = reals(COUNT), *y = reals(COUNT);

    for (int f = 0; f < 4; f++) {
        seed = (uint64_t)f;
        for (ptrdiff_t i = 0; i < COUNT; i++) {
            double sign = f != 2 && i % 2 ? -1 : 1; /* log1p is for numbers >= 0 */
            uint64_t pattern = draw();
            if (f == 2)
                pattern &= bits == 32 ? 0x7fffffff : 0x7fffffffffffffff;
            if (i < 2 * HARD)
                put(x, i, hard[i / 2] * sign);
            else if (i < 2 * HARD + 2)
                put(x, i, infinity() * sign);
            else if (i % 3 == 0)
                from_bits(x, i, pattern);
            else /* where the curves bend */
                put(x, i, (f == 2 ? 1 + unit() : f == 1 ? 2 + unit() * 2 : unit())
                              * (i % 3 == 1 ? 1 : f == 0 ? 110 : 10));
        }
        start_hash();
        table->map(f, COUNT, x, y);
        mix_reals(y, COUNT);
        table->map(f, 1, x, y);
        mix_reals(y, 1);
        print_line(names[f], hash);
    }
    release(0);
}

static void losses(void)
{
    static const ptrdiff_t n[] = { 1, 7, 8, 16, 17, 33, 513 };
    enum { M = 5 };

    start_hash();
    for (size_t j = 0; j < sizeof n / sizeof *n; j++) {
        void *p = reals(M * n[j]), *t = reals(M * n[j]), *loss = reals(M);
        for (ptrdiff_t i = 0; i < M * n[j]; i++) {
            put(p, i, i % 5 == 3 ? 0 : (unit() + 1) / 2);
            put(t, i, i % 5 == 3 && i % 35 ? 0 : unit() + 1);
        }
        table->nll(M, n[j], p, n[j], 1, t, 1, M, loss);
        mix_reals(loss, M);
    }
    print_line("nll", hash);
    release(0);
}

/* Of one precision where its bits are named. */
int main(int named, char **names)
{
    int scalar = ll_isa_count - 1, count = 0, only = named > 1 ? atoi(names[1]) : 0;

    for (set = 0; set < ll_isa_count && set < MOST_SETS; set++) {
        if (!ll_isas[set].supported())
            continue;
        at_work = ll_isas[set].name;
        printf("[%s]\n", at_work);
        n_lines = 0;
        for (bits = 32; bits <= 64; bits += 32) {
            if (only && bits != only)
                continue;
            table = bits == 32 ? ll_isas[set].f32 : ll_isas[set].f64;
            item = (size_t)bits / 8;
            packing();
            problems();
            functions();
            losses();
            groups();
            gradients();
            divergences();
            variances();
        }
        count = n_lines;
    }
    for (set = 0; set < scalar; set++)
        if (ll_isas[set].supported() && memcmp(lines[set], lines[scalar], sizeof *lines)) {
            fprintf(stderr, "%s differs from scalar\n", ll_isas[set].name);
            failed = 1;
        }
    if (count == MOST_LINES) {
        fprintf(stderr, "too many lines\n");
        failed = 1;
    }
    return failed;
}
