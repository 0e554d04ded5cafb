/* Sizes that end where vectors, blocks, spans, strips and groups do: there a loop that goes one
 * too far leaves its array, and one that stops early loses something. Arrays begin and end where
 * malloc's do, so that a build with sanitizers sees both.
 *
 * One line for every instruction set, which must be the same. Exit status 1 where it is not, or
 * where bits depend on what they must not.
 */
#define AHEAD 0
#define GAP 2
#include "backwards.h"

static uint64_t together;

static void add(uint64_t value) { together = together * 31 + value; }

static void passes(void)
{
    const ptrdiff_t lanes = table->lanes, block = table->block, span = table->span;
    const ptrdiff_t n[] = { 1, LL_SMALL_N, 2 * lanes, block, 2 * block, span, 2 * span };
    const ptrdiff_t m[] = { 1, 4, LL_GROUP_STEP, 2 * lanes, 12 * LL_GROUP_STEP };
    const ptrdiff_t k[] = { 0, 1, lanes, lanes + 1, 2 * lanes, LL_KC, LL_KC + 1, 2 * LL_KC };
    problem p = { "whole", 0, 0, 0, 1, 0, 0, 1, ORDINARY };

    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        p.m = 3, p.n = n[i], p.k = 2, add(try_problem(&p, LEFT_ALIKE));
        p.m = lanes, p.k = n[i] < span ? lanes : 1, add(try_problem(&p, LEFT_ALIKE));
    }
    for (size_t i = 0; i < sizeof k / sizeof *k; i++)
        for (size_t j = 0; j < sizeof m / sizeof *m; j++) {
            p.m = m[j], p.k = k[i];
            p.n = LL_SMALL_N, add(try_problem(&p, LEFT_ALIKE));
            p.n = 2 * lanes, add(try_problem(&p, LEFT_ALIKE));
            p.n = LL_SMALL_N + 1, add(try_problem(&p, LEFT_ALIKE));
        }
    p.softcap = 5, p.temperature = 0.5;
    p.m = lanes, p.n = 2 * lanes, p.k = lanes, add(try_problem(&p, LEFT_ALIKE));
    p.kind = SPECIAL, add(try_problem(&p, LEFT_ALIKE));
    p.n = LL_SMALL_N, add(try_problem(&p, LEFT_ALIKE));
}

static void gradients(void)
{
    static const int options[] = { 0, ADDED, WEIGHTED, MIXED, MIXED | WEIGHTED, FILTERED,
                                   FILTERED | ADDED, FILTERED | WEIGHTED };
    const ptrdiff_t lanes = table->lanes, block = table->block;
    const ptrdiff_t n[] = { LL_SMALL_N, 2 * lanes, block, 2 * block };
    const ptrdiff_t m[] = { LL_GROUP_STEP, LL_GROUP_ROWS, 2 * LL_GROUP_ROWS };
    const ptrdiff_t k[] = { lanes, 2 * lanes, 8 * lanes, 16 * lanes };
    problem p = { "whole", 0, 0, 0, 1, 0, 0, 1, ORDINARY };

    for (size_t i = 0; i < sizeof n / sizeof *n; i++)
        for (size_t j = 0; j < sizeof options / sizeof *options; j++) {
            p.m = LL_GROUP_STEP, p.n = n[i], p.k = lanes;
            add(try_gradients(&p, options[j]));
        }
    for (size_t i = 0; i < sizeof k / sizeof *k; i++) {
        p.m = LL_GROUP_STEP, p.n = 2 * lanes, p.k = k[i];
        add(try_gradients(&p, 0));
    }
    for (size_t i = 0; i < sizeof m / sizeof *m; i++) {
        p.m = m[i], p.k = lanes;
        add(try_gradients(&p, 0));
        p.n = LL_SMALL_N, add(try_gradients(&p, 0));
    }
    p.softcap = 5, p.temperature = 0.5;
    p.m = LL_GROUP_STEP, p.n = 2 * lanes, add(try_gradients(&p, MIXED | WEIGHTED));
    p.kind = SPECIAL, add(try_gradients(&p, FILTERED));
}

/* Loads that measure the machine. */
static void loads(void)
{
    const ptrdiff_t count = 3 * 4 * table->lanes;
    void *ones = reals(count);

    for (ptrdiff_t i = 0; i < count; i++)
        put(ones, i, 1);
    if (table->spin_fma(2) != 2 * table->spin_fma(1)
        || table->spin_read(count, ones, 4) != (double)count)
        failed = 1;
    release(0);
}

int main(void)
{
    uint64_t first = 0;

    for (int i = ll_isa_count - 1; i >= 0; i--) { /* plain C first */
        if (!ll_isas[i].supported())
            continue;
        at_work = ll_isas[i].name;
        together = 0;
        for (bits = 32; bits <= 64; bits += 32) {
            table = bits == 32 ? ll_isas[i].f32 : ll_isas[i].f64;
            item = (size_t)bits / 8;
            passes();
            gradients();
            loads();
        }
        printf("%s %016llx\n", at_work, (unsigned long long)together);
        first = first ? first : together;
        if (together != first)
            failed = 1;
    }
    return failed;
}
