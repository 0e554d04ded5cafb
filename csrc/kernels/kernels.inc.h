/* Everything of one instruction set and one precision: included by the ISA's file after
 * LL_REAL (32 or 64, by the build) and LL_ISA. */
#include "base.inc.h"

#define LL_BLOCK (LL_BLOCK_VECS * LL_LANES)
#define LL_SPAN (LL_SPAN_BLOCKS * LL_BLOCK)

#include "elementary.inc.h"
#include "pack.inc.h"
#include "gemm.inc.h"
#include "dot.inc.h"
#include "turned.inc.h"
#include "topk.inc.h"
#include "softmax.inc.h"
#include "square.inc.h"
#include "state.inc.h"
#include "chains.inc.h"
#include "score.inc.h"
#include "settle.inc.h"
#include "finish.inc.h"
#include "derivative.inc.h"
#include "gradient.inc.h"
#include "limits.inc.h"

#define LL_TABLE LL_JOIN(LL_JOIN(ll_kernels, LL_ISA), LL_REAL)
extern const ll_kernels LL_TABLE;
const ll_kernels LL_TABLE = {
    sizeof(real), LL_LANES, LL_MR, LL_BLOCK, LL_SPAN,
    pack_x, pack_weight, scratch_bytes, init_state, score, target_logits, merge_rows,
    merge_top, normalise, finish, sort_top, group_rows, keep_size, pack_columns, gradient_bytes,
    gradient_logits, gradient_x, sharpen, settle, map_function, nll_rows, spin_fma, spin_read,
};
