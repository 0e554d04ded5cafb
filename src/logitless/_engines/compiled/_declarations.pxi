# Part of _core.pyx: what csrc/logitless.h declares.

cdef extern from "logitless.h" nogil:
    enum: LL_VALUES, LL_MAX, LL_REST, LL_MOMENT, LL_INTS, LL_ARGMAX, LL_RANK
    enum: LL_COEFFICIENTS, LL_FUNCTION_COUNT, LL_KC, LL_SMALL_N, LL_GROUP_STEP
    const char *ll_field_names[]
    const char *ll_int_field_names[]
    const char *ll_coefficient_names[]
    const char *ll_function_names[]
    enum: LL_LOGITS, LL_PROBA, LL_LOG_PROBA
    enum: LL_SCREEN_LANES, LL_SCREEN_BLOCK, LL_SCREEN_TOP, LL_SCREEN_K, LL_FINE_STEP
    enum: LL_ROW_BOUNDS, LL_CLASS_BOUNDS
    ctypedef struct ll_state:
        void *values
        double *wide
        int64_t *ints
        ptrdiff_t stride
        void *target_logit
        void *top_logit
        int64_t *top_index
        void *top_log_prob
    ctypedef struct ll_exclusions:
        const int64_t *start
        const int64_t *index "class"
        ptrdiff_t step
    enum: LL_REALS, LL_BFLOAT16, LL_FLOAT16
    ctypedef struct ll_bf16_tile:
        pass
    ctypedef struct ll_bf16:
        const char *name
        size_t (*row_bytes)(ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*pack_rows)(const uint16_t *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                          void *) noexcept nogil
        void (*multiply)(const ll_bf16_tile *) noexcept nogil
        double (*spin)(ptrdiff_t) noexcept nogil
    ctypedef struct ll_bf16_isa:
        const char *isa
        int (*supported)() noexcept nogil
        const ll_bf16 *product
    const ll_bf16_isa ll_bf16s[]
    const int ll_bf16_count
    ctypedef struct ll_product:
        ptrdiff_t k
        const void *x
        ptrdiff_t x_row
        bint x_packed
        const int64_t *x_start
        const int32_t *x_index
        const void *x_value
        bint x_panels
        int type
        const void *weight
        ptrdiff_t w_row, w_col
        int packed
        const ll_bf16 *bf16
        const void *bias
        const void *logits
        ptrdiff_t z_row, z_col
        double softcap, temperature
        const double *temperatures
    ctypedef struct ll_question:
        unsigned fields
        int rank
        const int64_t *targets
        ptrdiff_t n_targets
        const void *probs
        ptrdiff_t p_row, p_col
        const int64_t *sparse_start
        const int64_t *sparse_class
        const void *sparse_prob
        const void *class_weight
        ptrdiff_t top
        ll_exclusions exclude
    ctypedef struct ll_output:
        ll_state state
        void *out
        ptrdiff_t out_row
        int write
        void *keep
        ptrdiff_t keep_first, keep_rows
    ctypedef struct ll_job:
        ptrdiff_t rows, n, first, last
        ll_product product
        ll_question question
        ll_output output
        void *scratch
    ctypedef struct ll_gradient:
        const void *coefficients
        ptrdiff_t c_stride
        int filter
        const void *columns
        void *d_x
        ptrdiff_t dx_row
        void *d_weight
        void *d_bias
        int add_x, add_weight, apart
        const ll_job *teacher
        double beta
        const double *means
    ctypedef struct ll_columns:
        const int64_t *start
        const int64_t *from_ "from"
        int64_t *to
        const int32_t *row
        const void *value
        ptrdiff_t first_row
        const uint8_t *live
    ctypedef struct ll_screen:
        ptrdiff_t rows, n, k, top, levels, first, last
        double softcap, temperature
        ll_exclusions exclude
        const uint8_t *weight
        const uint8_t *fine
        const float *bounds
        const float *bias
        float no_bias, slack
        const float *rows_x
        ptrdiff_t x_row
        const void *x
        const float *row_bounds
        const int32_t *start
        float *least
        float *best
        float *upper
        int32_t *index
        int32_t *count
        ptrdiff_t room
        void *scratch
        void *apart
    ctypedef struct ll_screener:
        const char *name
        size_t (*row_bytes)(ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*quantise_weight)(const float *, ptrdiff_t, ptrdiff_t, uint8_t *, uint8_t *,
                                float *) noexcept nogil
        void (*quantise_rows)(const ll_screen *, void *, float *, int32_t *) noexcept nogil
        size_t (*scratch_bytes)(const ll_screen *) noexcept nogil
        size_t (*refine_bytes)(ptrdiff_t) noexcept nogil
        void (*scan)(const ll_screen *) noexcept nogil
        void (*lift)(const ll_screen *, ptrdiff_t) noexcept nogil
        void (*refine)(const ll_screen *) noexcept nogil
        void (*merge)(const ll_screen *, const ll_screen *, ptrdiff_t) noexcept nogil
        double (*spin)(ptrdiff_t) noexcept nogil
    ctypedef struct ll_screen_isa:
        const char *isa
        int (*supported)() noexcept nogil
        const ll_screener *screener
    const ll_screen_isa ll_screens[]
    const int ll_screen_count
    ctypedef struct ll_kernels:
        ptrdiff_t item, lanes, mr, block, span
        void (*pack_x)(const void *, ptrdiff_t, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        void (*pack_weight)(const void *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        void (*pack_words)(const uint16_t *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                           uint32_t *) noexcept nogil
        size_t (*scratch_bytes)(const ll_job *) noexcept nogil
        void (*init)(const ll_job *) noexcept nogil
        void (*score)(const ll_job *) noexcept nogil
        void (*target_logits)(const ll_job *) noexcept nogil
        void (*merge)(const ll_job *, const ll_state *) noexcept nogil
        void (*merge_top)(const ll_job *, const void *, const int64_t *) noexcept nogil
        void (*normalise)(const ll_job *) noexcept nogil
        void (*finish)(const ll_job *, void *) noexcept nogil
        void (*sort_top)(const ll_job *) noexcept nogil
        ptrdiff_t (*group)(ptrdiff_t) noexcept nogil
        ptrdiff_t (*keep_size)(ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*pack_columns)(const ll_job *, const ll_gradient *, const void *, ptrdiff_t,
                             ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        size_t (*gradient_bytes)(const ll_job *) noexcept nogil
        void (*gradient_logits)(const ll_job *, const ll_gradient *) noexcept nogil
        void (*gradient_weight)(const ll_job *, const ll_gradient *, ptrdiff_t,
                                ptrdiff_t) noexcept nogil
        void (*add_in_order)(ptrdiff_t, ptrdiff_t, const void *, ptrdiff_t, void *,
                             int) noexcept nogil
        void (*gradient_x)(const ll_job *, const ll_gradient *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                           ptrdiff_t) noexcept nogil
        void (*derive_rows)(const ll_job *, const ll_gradient *) noexcept nogil
        void (*derived_bias)(const ll_job *, const ll_gradient *) noexcept nogil
        void (*derived_weight)(const ll_job *, const ll_gradient *, const ll_columns *, ptrdiff_t,
                              ptrdiff_t) noexcept nogil
        void (*divergence)(const ll_job *, const ll_job *, double, double *,
                           ptrdiff_t) noexcept nogil
        void (*tighten)(const ll_job *, const ll_screen *, ptrdiff_t) noexcept nogil
        void (*rescore)(const ll_job *, const ll_screen *) noexcept nogil
        void (*map)(int, ptrdiff_t, const void *, void *) noexcept nogil
        void (*nll)(ptrdiff_t, ptrdiff_t, const void *, ptrdiff_t, ptrdiff_t,
                    const void *, ptrdiff_t, ptrdiff_t, void *) noexcept nogil
        double (*spin_fma)(ptrdiff_t) noexcept nogil
        double (*spin_read)(ptrdiff_t, const void *, ptrdiff_t) noexcept nogil
    ctypedef struct ll_isa:
        const char *name
        int (*supported)() noexcept nogil
        const ll_kernels *f32
        const ll_kernels *f64
    const ll_isa ll_isas[]
    const int ll_isa_count
