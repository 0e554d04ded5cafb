/* The product of bfloat16 in one way: included by its file, which names the vocabulary, the kernel
 * and the table. */
#include "../base/base.inc.h"

#include LL_BF16_KERNEL

#define LL_TABLE LL_JOIN(ll_bf16, LL_BF16)
#define LL_STRING(name) #name
#define LL_NAMED(name) LL_STRING(name)
extern const ll_bf16 LL_TABLE;
const ll_bf16 LL_TABLE = { LL_NAMED(LL_BF16), row_bytes, pack_rows, multiply, spin };
