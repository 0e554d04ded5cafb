/* The candidates and bounds of every screen that was built in and that this processor runs: one line
 * each, which must be the same. Sums of bytes are exact, and what follows is done in one order.
 *
 * Each row's best class by kernels of float32 must be among the rescored ones. Exit status 1 where
 * either is not so.
 */
#include "screening.h"

int main(void)
{
    uint64_t first = 0;

    bits = 32;
    item = sizeof(float);
    for (int i = ll_screen_count - 1; i >= 0; i--) { /* plain C first */
        if (!ll_screens[i].supported())
            continue;
        for (int j = 0; j < ll_isa_count; j++)
            if (!strcmp(ll_isas[j].name, ll_screens[i].isa))
                table = ll_isas[j].f32;
        screener = ll_screens[i].screener;
        uint64_t value = try_screens();
        if (screener->spin(2) != 2 * screener->spin(1)) /* for sanitizers */
            failed = 1;
        printf("%s of %s %016llx\n", screener->name, ll_screens[i].isa, (unsigned long long)value);
        first = first ? first : value;
        if (value != first)
            failed = 1;
    }
    return failed;
}
