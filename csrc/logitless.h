/* logitless: the logits of a linear layer and their softmax in one pass over the weights.
 *
 * Words: m rows (samples) of x, each of k features; weight of n classes by k features.
 * A logit is x[i] . weight[c] + bias[c]. A tile is a patch of logits in scratch memory; the
 * epilogue is what is done to a finished tile; the row state is what a row remembers between
 * tiles. `real` is float or double; every pointer to void here points to reals of the table it
 * is handed to. Sizes and strides count elements.
 *
 * Nothing here allocates, locks, prints or fails; memory comes in as pointers, and what could
 * go wrong was checked by the caller.
 */
#ifndef LOGITLESS_H
#define LOGITLESS_H

#include <stddef.h>
#include <stdint.h>

/* Constants of the arithmetic contract, in virtual vectors of 64 bytes (16 floats, 8 doubles).
 * They decide the bits of a result and are the same on every machine. */
#define LL_KC 256         /* features summed before the partial sum is added to the logit */
#define LL_BLOCK_VECS 32  /* classes folded into the row state at once */
#define LL_SPAN_BLOCKS 8  /* blocks to a span: each span starts a state afresh */
#define LL_SMALL_N 16     /* up to here logits are summed with lanes along the features */
#define LL_GROUP_ROWS 240 /* most rows that a gradient of the weights sums before it is added */
#define LL_GROUP_STEP 12  /* groups are multiples of it, rows go into micro-panels so many at a
                           * time */
#define LL_SPARSE 8       /* with a filter: derivatives are sparse where at most 1 / 8 is kept */
#define LL_GROUP_BYTES ((size_t)64 << 20) /* logits of a group take no more, if a step fits */

/* Row state: reals and integers of each row. Those that few calls want come last, so that the
 * others do without their memory. With e = exp(z - max), ... */
#define LL_FIELDS(FIELD)                                                                         \
    FIELD(MAX)        /* largest logit so far */                                                 \
    FIELD(REST)       /* sum of e over every class but that one; at last log1p(rest) */          \
    FIELD(OTHERS)     /* at last rest; comes with it */                                          \
    LL_STATISTICS(FIELD)                                                                         \
    FIELD(PROB_SUM)   /* sum of t, the target probabilities times the class weights */           \
    FIELD(PROB_GAP)   /* sum of t * (max - z); at last of t * (lse - z) */                       \
    FIELD(SMOOTH_SUM) /* the same of the class weights alone */                                  \
    FIELD(SMOOTH_GAP)
/* ... sums of other terms over every class but the largest: epilogue/statistics.inc.h. */
#define LL_STATISTICS(FIELD)                                                                     \
    FIELD(MOMENT)     /* sum of e * (z - max); at last the entropy */                            \
    FIELD(SECOND)     /* sum of e * (z - max)^2; comes with it */
#define LL_INT_FIELDS(FIELD)                                                                     \
    FIELD(ARGMAX)     /* the class of the largest logit: the lowest of equals */                 \
    FIELD(RANK)       /* classes before the target in order of rank */
#define LL_ENUM(name) LL_##name,
#define LL_NAME(name) #name,
enum { LL_FIELDS(LL_ENUM) LL_VALUES };
enum { LL_FIRST_STATISTIC = LL_OTHERS + 1, LL_N_STATISTICS = LL_PROB_SUM - LL_FIRST_STATISTIC };
enum { LL_INT_FIELDS(LL_ENUM) LL_INTS };
extern const char *const ll_field_names[], *const ll_int_field_names[];

typedef struct {
    void *values;          /* (LL_VALUES, stride), or the first of them that are used */
    double *wide;          /* the same, where several spans meet, until finish; or NULL */
    int64_t *ints;         /* (LL_INTS, stride), or the first */
    ptrdiff_t stride;      /* at least the rows rounded up to whole vectors */
    void *target_logit;    /* (rows, n_targets) */
    void *top_logit;       /* (rows, top): a heap until sort_top */
    int64_t *top_index;    /* (rows, top) */
    void *top_log_prob;    /* (rows, top), or NULL */
} ll_state;

/* Classes that do not count: those of row i are entries [start[i * step], start[i * step + 1]), by
 * ascending class, none twice. step is 1, or 0 where all rows have the same; start is NULL for none. */
typedef struct {
    const int64_t *start, *class;
    ptrdiff_t step;
} ll_exclusions;

/* Where logits come from: rows and weights, or logits at hand. What belongs to classes begins with
 * the job's first. */
enum { LL_REALS, LL_BFLOAT16, LL_FLOAT16 };
struct ll_bf16;
typedef struct {
    ptrdiff_t k;
    const void *x;             /* made by pack_x, or (rows, x_row); so with n <= LL_SMALL_N */
    ptrdiff_t x_row;
    int x_packed;
    /* Or rows where they are not zero: entries [x_start[i], x_start[i + 1]) are those of row i, by
     * ascending feature; NULL for none. If x_panels, each panel of weights that are not packed is
     * packed on the way, once for all rows. */
    const int64_t *x_start;
    const int32_t *x_index;
    const void *x_value;
    int x_panels;
    int type;                  /* of weights: LL_REALS, or with float32 another */
    const void *weight;
    ptrdiff_t w_row, w_col;    /* strides */
    int packed;                /* n > LL_SMALL_N: made by pack_weight, strides do not matter */
    const struct ll_bf16 *bf16; /* NULL; or the product of rows that its pack_rows has packed,
                                 * whatever n, with weights of LL_BFLOAT16 */
    const void *bias;          /* or NULL */
    const void *logits;        /* with strides, and k = 0; or NULL */
    ptrdiff_t z_row, z_col;
    double softcap;            /* logit -> c * tanh(logit / c), 0 for none */
    double temperature;        /* then logit -> logit / t */
    const double *temperatures; /* or a t for each of the rows; or NULL */
} ll_product;

/* What is asked about them. */
typedef struct {
    unsigned fields;           /* LL_FIELD(REST) | ...; the largest logit is always found */
    int rank;                  /* LL_RANK of targets[i * n_targets] */
    const int64_t *targets;    /* (rows, n_targets), -1 for none; or NULL */
    ptrdiff_t n_targets;
    const void *probs;         /* target probabilities with strides, from the job's first class; */
    ptrdiff_t p_row, p_col;    /* or NULL */
    /* Or target probabilities where they are not zero: entries [sparse_start[i],
     * sparse_start[i + 1]) are those of row i, by ascending class; NULL for none. */
    const int64_t *sparse_start, *sparse_class;
    const void *sparse_prob;
    const void *class_weight;  /* (n), zeros behind it up to whole vectors; or NULL */
    ptrdiff_t top;             /* classes to keep */
    ll_exclusions exclude;     /* their logits are -inf, whatever they are; none of them is kept */
} ll_question;
#define LL_FIELD(name) (1u << LL_##name)

/* Where it goes. */
enum { LL_LOGITS, LL_PROBA, LL_LOG_PROBA };
typedef struct {
    ll_state state;
    void *out;                 /* one value a class at out[i * out_row + c], or NULL */
    ptrdiff_t out_row;
    int write;                 /* which: LL_LOGITS, ... */
    void *keep;                /* logits of all rows are left here, see keep_size; or NULL */
    ptrdiff_t keep_first;      /* the first class there: a whole number of blocks */
    ptrdiff_t keep_rows;       /* rows there, of which these are some */
} ll_output;

typedef struct {
    ptrdiff_t rows, n;
    ptrdiff_t first, last;     /* of the n classes these: whole blocks, see score */
    ll_product product;
    ll_question question;
    ll_output output;
    void *scratch;             /* scratch_bytes of it, 64-byte aligned */
} ll_job;

/* The derivative of the loss by logit c of a row, with p its softmax and w the class weights:
 *     SOFTMAX * p[c] - TARGET * (c is the target) - w[c] * (PROBS * t[c] + SMOOTH)
 *         - ENTROPY * p[c] * (log p[c] + the entropy, which the job then asks for)
 * or, where t is sparse and has an entry for c, GIVEN * w[c] * t[c] unless GIVEN is 0, all of it
 * times the derivative of the softcap. LIMIT is what the filter compares it with. A row of zeros
 * adds nothing to any gradient, whatever it holds. */
#define LL_COEFFICIENT_LIST(OF)                                                                  \
    OF(SOFTMAX) OF(TARGET) OF(PROBS) OF(SMOOTH) OF(ENTROPY) OF(GIVEN) OF(LIMIT)
enum { LL_COEFFICIENT_LIST(LL_ENUM) LL_COEFFICIENTS };
extern const char *const ll_coefficient_names[];

typedef struct {
    const void *coefficients;  /* (LL_COEFFICIENTS, c_stride) */
    ptrdiff_t c_stride;
    int filter;                /* drop derivatives below LIMIT */
    const void *columns;       /* the rows of x, made by pack_columns */
    void *d_x;                 /* (rows, k), rows dx_row apart; or NULL */
    ptrdiff_t dx_row;
    void *d_weight, *d_bias;   /* (n, k), rows next to each other, and (n,); or NULL */
    int add_x, add_weight;     /* 0: what is there is overwritten */
    int apart;                 /* each group has a d_weight and d_bias of its own, in turn */
    /* Or the derivative of SOFTMAX times a divergence from another head, see `divergence`. */
    const ll_job *teacher;     /* which has kept as many logits, and finished; or NULL */
    double beta;
    const double *means;       /* of each row, the third sum of `divergence` */
} ll_gradient;

/* Entries of sparse rows feature by feature, by ascending row: [start[f], start[f + 1]) are those of
 * feature f. The rows of a job are first_row, ...; their entries begin at from[f], and where those of
 * later rows begin is left in to[f]. Rows that are not live add nothing, whatever they hold. */
typedef struct {
    const int64_t *start, *from;
    int64_t *to;
    const int32_t *row;
    const void *value;
    ptrdiff_t first_row;
    const uint8_t *live;       /* of the rows of the job; or NULL where all are */
} ll_columns;

/* A screen: bytes in place of weights, and bounds of what that changes.
 *
 * A row is scale * q + residual with q whole numbers from -127 to 127, and so is the weight of a
 * class; or a row is scale * (q + q' / 256) + residual, where more is known of it at twice the price.
 * Then q . q is exact in int32, and a logit differs from
 *     scale of row * scale of class * (q . q) + bias
 * by no more than reach * norm + size * error + slack * |bias|, with reach and size of the row,
 * norm and error of the class: docs/screening.md. A class whose upper bound is below the `top` best
 * lower bounds is out; the others are candidates, and their logits are computed as everywhere.
 *
 * What bytes lack of a class is held in 16ths of its scale, too, which need not be read but for
 * candidates: most of these are out then. */
#define LL_SCREEN_LANES 16    /* classes to a panel, four features of each side by side */
#define LL_SCREEN_BLOCK 256   /* classes that meet all rows together, whole panels */
#define LL_SCREEN_TOP 1024    /* best classes at most */
#define LL_DEALT_TOP 64       /* so many can be told apart in a block */
#define LL_SCREEN_K 65536     /* features at most: sums stay within int32 */
#define LL_FINE_STEP 32       /* features whose 16ths lie in as many half bytes */

enum { LL_ROW_SCALE, LL_ROW_REACH, LL_ROW_SIZE, LL_ROW_BOUNDS };
enum { LL_CLASS_NORM, LL_CLASS_ERROR, LL_CLASS_SCALE, LL_CLASS_FINE_ERROR, LL_CLASS_BOUNDS };

typedef struct {
    ptrdiff_t rows, n, k;
    ptrdiff_t top;             /* up to LL_SCREEN_TOP */
    ptrdiff_t levels;          /* 2 with q', which follows q like another row; or 1 */
    ptrdiff_t first, last;     /* blocks of classes, in an order of their own */
    double softcap, temperature; /* as in ll_product */
    ll_exclusions exclude;     /* none of them is a candidate */
    /* Classes: panels of LL_SCREEN_LANES * quads(k) * 4 bytes, each 128 more than its number. */
    const uint8_t *weight;
    /* 16ths of classes, class by class, 8 more than they are: of LL_FINE_STEP features the first half
     * in the low, the second in the high halves of bytes. */
    const uint8_t *fine;
    const float *bounds;       /* (panels, LL_CLASS_BOUNDS, LL_SCREEN_LANES) */
    const float *bias;         /* upper bounds of the bias, whole panels; or NULL ... */
    float no_bias;             /* ... and this instead */
    float slack;
    /* Rows, and what quantise_rows made of them. */
    const float *rows_x;
    ptrdiff_t x_row;
    const void *x;
    const float *row_bounds;   /* (rows, LL_ROW_BOUNDS) */
    const int32_t *start;      /* (rows, levels) */
    /* What is known of them. */
    float *least;              /* (rows): a class below is out; +inf where the row is given up */
    float *best;               /* (rows, top) largest lower bounds, a heap */
    float *upper;              /* (rows, room): upper bounds of candidates */
    int32_t *index;            /* (rows, room): which classes these are */
    int32_t *count;            /* (rows): how many, -1 where the row is given up */
    ptrdiff_t room;            /* candidates of a row at most */
    void *scratch;
    void *apart;               /* refine_bytes of it, 64-byte aligned */
} ll_screen;
/* For tighten and rescore scratch holds a real and two int32 for each candidate there is room for,
 * and an int32 for each panel and one more. */

typedef struct {
    const char *name;
    /* Bytes that packed rows take, each level of them. */
    size_t (*row_bytes)(ptrdiff_t rows, ptrdiff_t k);
    /* Panels of LL_SCREEN_LANES classes, float32 feature by feature, to bytes and bounds. */
    void (*quantise_weight)(const float *panels, ptrdiff_t count, ptrdiff_t k, uint8_t *weight,
                            uint8_t *fine, float *bounds);
    /* Rows of float32 to bytes and bounds. A row with a number that is not finite is given up. */
    void (*quantise_rows)(const ll_screen *screen, void *packed, float *row_bounds,
                          int32_t *start);
    size_t (*scratch_bytes)(const ll_screen *screen);
    size_t (*refine_bytes)(ptrdiff_t k);
    /* Candidates among blocks [first, last) of LL_SCREEN_BLOCK classes. */
    void (*scan)(const ll_screen *screen);
    /* What keeps classes out of rows with more than `many` candidates, at least `top`, from 16ths. */
    void (*lift)(const ll_screen *screen, ptrdiff_t many);
    /* Lower upper bounds of all candidates but the first `top` of each row; those out go. */
    void (*refine)(const ll_screen *screen);
    /* Candidates of other classes, found apart, beside those there: of rows from `first` on of all
     * rows of the other. */
    void (*merge)(const ll_screen *screen, const ll_screen *other, ptrdiff_t first);
    /* Products of bytes as fast as there can be any: how many operations these were. */
    double (*spin)(ptrdiff_t rounds);
} ll_screener;

/* Products of bfloat16 rows with bfloat16 weights, in an order of their own: docs/arithmetic.md.
 *
 * Weights lie in panels of LL_WORD_LANES classes: vectors of one word a class, of features 2 q in its
 * low and 2 q + 1 in its high half; behind the last feature a zero, behind the last class copies of
 * it. float16 weights lie in memory in the same way. */
#define LL_WORD_LANES 16      /* classes to a panel */
#define LL_STEP_K 32          /* features that are summed apart: even ones, odd ones */

typedef struct {
    ptrdiff_t rows;            /* rows of the tile, */
    ptrdiff_t first_row;       /* and the first of them, a multiple of 144, ... */
    ptrdiff_t all_rows;        /* ... among those that pack_rows packed together */
    ptrdiff_t k;               /* features there */
    const void *x;             /* made by pack_rows */
    ptrdiff_t k_first, k_last; /* features to be added, from a multiple of LL_KC to another or
                                * to k: from 0 on the sums are begun, at k they become logits */
    const uint32_t *panels;    /* weights: from word k_first / 2 on, of each panel */
    ptrdiff_t panel_words;     /* from a panel to the next */
    ptrdiff_t n_panels;
    const float *bias;         /* (n_panels * LL_WORD_LANES) */
    float *tile;               /* (rows, n_panels * LL_WORD_LANES), rows t_row apart */
    ptrdiff_t t_row;
} ll_bf16_tile;

typedef struct ll_bf16 {
    const char *name;
    /* Bytes that packed rows take. */
    size_t (*row_bytes)(ptrdiff_t rows, ptrdiff_t k);
    void (*pack_rows)(const uint16_t *x, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t x_row,
                      void *packed);
    /* Subnormal numbers count as zero; what the caller has set of its processor is as before. */
    void (*multiply)(const ll_bf16_tile *tile);
    /* Products as fast as there can be any, from registers: how many operations these were. */
    double (*spin)(ptrdiff_t rounds);
} ll_bf16;

/* Functions of one number, for `map`. */
#define LL_FUNCTIONS(FUNCTION) FUNCTION(EXP) FUNCTION(LOG) FUNCTION(LOG1P) FUNCTION(TANH)
enum { LL_FUNCTIONS(LL_ENUM) LL_FUNCTION_COUNT };
extern const char *const ll_function_names[];

typedef struct {
    ptrdiff_t item;            /* bytes of a real */
    ptrdiff_t lanes, mr, block, span;
    /* Packed rows: rows * k + lanes reals. */
    void (*pack_x)(const void *x, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t x_row, void *packed);
    /* Packed weights: ceil(n / lanes) panels of lanes * k reals, each feature by feature. */
    void (*pack_weight)(const void *weight, ptrdiff_t n, ptrdiff_t k, ptrdiff_t w_row,
                        ptrdiff_t w_col, void *packed);
    /* The same of weights of 16 bits: panels of LL_WORD_LANES * word_count(k) words. */
    void (*pack_words)(const uint16_t *weight, ptrdiff_t n, ptrdiff_t k, ptrdiff_t w_row,
                       ptrdiff_t w_col, uint32_t *packed);
    size_t (*scratch_bytes)(const ll_job *job);
    /* Values and ints that have seen no class. Heaps start as NaN and -1; where all classes are in one
     * vector, as anything. */
    void (*init)(const ll_job *job);
    /* Score the rows against classes [first, last) and fold them into the state: of one span, or with
     * `wide` of several. Calls follow each other by ascending class; a span that one of them has begun
     * is in scratch. (Where logits are only kept, the order does not matter.) */
    void (*score)(const ll_job *job);
    /* Logits of targets[i * n_targets] alone, where the rank needs them beforehand: where there are
     * several blocks. */
    void (*target_logits)(const ll_job *job);
    /* Merge values and ints of a later span into `wide` and ints of earlier ones. */
    void (*merge)(const ll_job *job, const ll_state *later);
    /* Merge the best classes of other classes, earlier or later. */
    void (*merge_top)(const ll_job *job, const void *top_logit, const int64_t *top_index);
    /* After all classes: what `write` names takes the place of logits in `out`. */
    void (*normalise)(const ll_job *job);
    /* Last step: see LL_FIELDS; target_loss (rows, n_targets) may be NULL. */
    void (*finish)(const ll_job *job, void *target_loss);
    void (*sort_top)(const ll_job *job); /* top > 0; with top_log_prob after finish */
    /* Gradients sum the rows in groups of this many. */
    ptrdiff_t (*group)(ptrdiff_t n);
    /* Reals that the kept logits of so many rows and classes take. */
    ptrdiff_t (*keep_size)(ptrdiff_t rows, ptrdiff_t n);
    /* Rows of x, [first, first + rows) of `of`, for products with lanes along the features, group by
     * group: (of + groups) * (k rounded up to whole vectors) reals. */
    void (*pack_columns)(const ll_job *job, const ll_gradient *gradient, const void *x,
                         ptrdiff_t x_row, ptrdiff_t first, ptrdiff_t of, void *packed);
    /* Bytes of scratch that the next three need. */
    size_t (*gradient_bytes)(const ll_job *job);
    /* Kept logits of classes [first, last), whole blocks, become their derivatives, and these go
     * into d_weight and d_bias. Rows are whole groups but for the last of all. */
    void (*gradient_logits)(const ll_job *job, const ll_gradient *gradient);
    /* Derivatives that were left in place of the logits, of classes [first, last), into features
     * [f_first, f_last), whole vectors, of d_weight, and with the first of them into d_bias. With a
     * filter, classes are whole blocks. */
    void (*gradient_weight)(const ll_job *job, const ll_gradient *gradient, ptrdiff_t f_first,
                            ptrdiff_t f_last);
    /* Of gradients of `groups` groups, `row` numbers apart, `count` each, added one after the other. */
    void (*add_in_order)(ptrdiff_t groups, ptrdiff_t count, const void *parts, ptrdiff_t row,
                         void *into, int add);
    /* Derivatives of classes [first, last), which follow each other from call to call, into
     * features [f_first, f_last), whole vectors, of rows [r_first, r_last), whole steps, of d_x. */
    void (*gradient_x)(const ll_job *job, const ll_gradient *gradient, ptrdiff_t f_first,
                       ptrdiff_t f_last, ptrdiff_t r_first, ptrdiff_t r_last);
    /* Kept logits of sparse rows, of classes [first, last), whole blocks, become their derivatives,
     * row by row where they are; the next two read them. Rows are whole groups but for the last. */
    void (*derive_rows)(const ll_job *job, const ll_gradient *gradient);
    void (*derived_bias)(const ll_job *job, const ll_gradient *gradient);
    /* Features [f_first, f_last), whole vectors, of d_weight. */
    void (*derived_weight)(const ll_job *job, const ll_gradient *gradient,
                           const ll_columns *columns, ptrdiff_t f_first, ptrdiff_t f_last);
    /* Add what classes [first, last), whole blocks, make of three sums of each row, `stride` apart: of
     * two heads that have kept their logits, and whose states are finished, with p the probabilities
     * of the student, q those of the teacher and m = beta q + (1 - beta) p, of KL(q | m) unless beta is
     * 1, and, unless it is 0, of KL(p | m) and of p log(p / m) as it is, which derivatives need. */
    void (*divergence)(const ll_job *student, const ll_job *teacher, double beta, double *sums,
                       ptrdiff_t stride);
    /* What keeps classes out becomes exact in rows with more than `many` candidates, at least `top`,
     * or, for rescore, in all (-1). */
    void (*tighten)(const ll_job *job, const ll_screen *screen, ptrdiff_t many);
    /* Exact logits of the candidates, and of these the best: after tighten with the same scratch. */
    void (*rescore)(const ll_job *job, const ll_screen *screen);
    /* y[i] = f(x[i]) of LL_FUNCTIONS. */
    void (*map)(int function, ptrdiff_t count, const void *x, void *y);
    /* loss[i] = -sum_c t[i, c] * log(p[i, c]) */
    void (*nll)(ptrdiff_t rows, ptrdiff_t n, const void *p, ptrdiff_t p_row, ptrdiff_t p_col,
                const void *t, ptrdiff_t t_row, ptrdiff_t t_col, void *loss);
    /* Loads for machine_limits: returns flops done, or a sum that must be used. */
    double (*spin_fma)(ptrdiff_t rounds);
    double (*spin_read)(ptrdiff_t count, const void *p, ptrdiff_t streams);
} ll_kernels;

typedef struct {
    const char *name;
    int (*supported)(void);
    const ll_kernels *f32, *f64;
} ll_isa;

/* Instruction sets this build has, best first; the last is "scalar". */
extern const ll_isa ll_isas[];
extern const int ll_isa_count;
/* Screens likewise; their candidates are the same on all of them. Each belongs to an instruction
 * set above, of which there may be several, and none. */
typedef struct {
    const char *isa;
    int (*supported)(void);
    const ll_screener *screener;
} ll_screen_isa;
extern const ll_screen_isa ll_screens[];
extern const int ll_screen_count;
/* Products of bfloat16 likewise, the fastest of an instruction set first; their bits are the same. */
typedef struct {
    const char *isa;
    int (*supported)(void);
    const ll_bf16 *product;
} ll_bf16_isa;
extern const ll_bf16_isa ll_bf16s[];
extern const int ll_bf16_count;

#endif
