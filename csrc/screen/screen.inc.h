/* The screen of one instruction set: included by its file, which names the vocabularies. */
#include "../base/base.inc.h"

#include LL_BYTES

#define LL_QUAD 4                              /* features that one idot takes */
#define LL_STEP (LL_SCREEN_LANES * LL_QUAD)    /* bytes of a panel a step */

static inline ptrdiff_t quads(ptrdiff_t k) { return (k + LL_QUAD - 1) / LL_QUAD; }

#ifdef LL_AMX
#include "amx.inc.h"
#else
#include "bytes.inc.h"
#include "limits.inc.h"
#endif
#include "quantise.inc.h"
#include "candidates.inc.h"
#include "order.inc.h"
#include "scan.inc.h"
#include "refine.inc.h"

#define LL_TABLE LL_JOIN(ll_screener, LL_SCREEN)
#define LL_STRING(name) #name
#define LL_NAMED(name) LL_STRING(name)
extern const ll_screener LL_TABLE;
const ll_screener LL_TABLE = {
    LL_NAMED(LL_SCREEN), row_bytes, quantise_weight, quantise_rows, scratch_bytes, refine_bytes,
    scan, lift, refine, merge, spin,
};
