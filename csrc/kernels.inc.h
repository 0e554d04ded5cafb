/* Everything of one instruction set and one precision: included by the ISA's file after
 * LL_REAL (32 or 64, by the build) and LL_ISA. */
#include "base/base.inc.h"

#include "base/lanes.inc.h"
#include "base/elementary.inc.h"
#include "base/excluded.h"
#include "logits/pack.inc.h"
#include "logits/gemm.inc.h"
#include "logits/narrow.inc.h"
#include "logits/few_classes.inc.h"
#include "logits/few_classes_transposed.inc.h"
#include "logits/few_rows.inc.h"
#include "logits/workspace.inc.h"
#include "logits/sparse.inc.h"
#include "logits/product.inc.h"
#include "logits/product_by_rows.inc.h"
#include "logits/bf16_pairs.inc.h"
#include "logits/target_logits.inc.h"
#include "epilogue/topk.inc.h"
#include "epilogue/statistics.inc.h"
#include "epilogue/softmax.inc.h"
#include "epilogue/exclude.inc.h"
#include "epilogue/targets.inc.h"
#include "epilogue/epilogue.inc.h"
#include "epilogue/softmax_by_rows.inc.h"
#include "epilogue/segment_by_rows.inc.h"
#include "epilogue/state.inc.h"
#include "epilogue/finish.inc.h"
#include "score.inc.h"
#include "divergence/divergence.inc.h"
#include "gradient/derivative.inc.h"
#include "gradient/filter.inc.h"
#include "gradient/gradient.inc.h"
#include "gradient/filtered.inc.h"
#include "gradient/sparse.inc.h"
#include "screen/rescore.inc.h"
#include "base/limits.inc.h"

#define LL_TABLE LL_JOIN(LL_JOIN(ll_kernels, LL_ISA), LL_REAL)
extern const ll_kernels LL_TABLE;
const ll_kernels LL_TABLE = {
    sizeof(real), LL_LANES, LL_MR, LL_BLOCK, LL_SPAN,
    pack_x, pack_weight, pack_words, scratch_bytes, init_state, score, target_logits, merge_rows,
    merge_top, normalise, finish, sort_top, group_rows, keep_size, pack_columns, gradient_bytes,
    gradient_logits, gradient_weight, add_in_order, gradient_x, derive_rows,
    derived_bias, derived_weight, divergence, tighten, rescore,
    map_function, nll_rows, spin_fma, spin_read,
};
