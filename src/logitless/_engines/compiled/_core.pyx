"""Thin wrapper of the C kernels: fills a job from checked arrays and calls without the GIL.

Nothing is checked here. Whoever calls has made sure of dtypes, shapes, contiguity and labels.
"""

cimport numpy as cnp
from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stddef cimport size_t

include "_declarations.pxi"

cnp.import_array()

cdef enum:
    LINE = 64  # bytes of a cache line


cdef tuple names(const char *const *name, int count):
    """What the values of an enum of C are called, in their order."""
    return tuple(name[i].decode().lower() for i in range(count))


FIELDS = names(ll_field_names, LL_VALUES)  # of the row state: reals
INT_FIELDS = names(ll_int_field_names, LL_INTS)  # and integers
COEFFICIENTS = names(ll_coefficient_names, LL_COEFFICIENTS)  # of a row's derivatives
FUNCTIONS = names(ll_function_names, LL_FUNCTION_COUNT)  # of one number
KC = LL_KC
SMALL_N = LL_SMALL_N
GROUP_STEP = LL_GROUP_STEP
cdef dict WRITES = {"logits": LL_LOGITS, "proba": LL_PROBA, "log_proba": LL_LOG_PROBA}


cdef inline void *data(cnp.ndarray a) noexcept:
    return NULL if a is None else cnp.PyArray_DATA(a)


cdef inline ptrdiff_t step(cnp.ndarray a, int axis) noexcept:
    """Stride in elements."""
    return cnp.PyArray_STRIDES(a)[axis] // cnp.PyArray_ITEMSIZE(a)


def field_bits(*names):
    """Some FIELDS as `Job.ask` takes them; the largest logit is always among them."""
    return sum(1 << FIELDS.index(name) for name in names)


def address(cnp.ndarray a):
    """Where an array begins: `ndarray.ctypes` imports, which the end of a process forbids."""
    return <size_t>data(a)


def instruction_sets():
    """Names of the built instruction sets that this processor runs, best first."""
    return tuple(
        ll_isas[i].name.decode() for i in range(ll_isa_count) if ll_isas[i].supported()
    )


cdef class Kernels:
    """The kernels of one instruction set and one precision (32 or 64 bits)."""

    cdef const ll_kernels *table
    cdef readonly ptrdiff_t itemsize, lanes, mr, block, span
    cdef readonly str isa

    def __cinit__(self, str isa, int bits):
        for i in range(ll_isa_count):
            if ll_isas[i].name.decode() == isa:
                self.table = ll_isas[i].f32 if bits == 32 else ll_isas[i].f64
        self.isa, self.itemsize = isa, self.table.item
        self.lanes, self.mr = self.table.lanes, self.table.mr
        self.block, self.span = self.table.block, self.table.span

    def pack_weight(self, cnp.ndarray weight, cnp.ndarray out):
        """Pack classes (n, k), n a multiple of the lanes or the last of them, into panels."""
        cdef const void *w = data(weight)
        cdef void *p = data(out)
        cdef ptrdiff_t n = weight.shape[0], k = weight.shape[1]
        cdef ptrdiff_t w_row = step(weight, 0), w_col = step(weight, 1)
        with nogil:
            self.table.pack_weight(w, n, k, w_row, w_col, p)

    def add_in_order(self, cnp.ndarray parts, cnp.ndarray into, bint add, ptrdiff_t first,
                     ptrdiff_t last):
        """Entries [first, last) of gradients (groups, size), one group after the other."""
        cdef ptrdiff_t groups = parts.shape[0], size = parts.shape[1]
        cdef const void *source = <const char *>data(parts) + self.table.item * first
        cdef void *target = <char *>data(into) + self.table.item * first
        with nogil:
            self.table.add_in_order(groups, last - first, source, size, target, add)

    def pack_words(self, cnp.ndarray weight, cnp.ndarray out):
        """The same of weights of 16 bits: words of two features."""
        cdef const uint16_t *w = <const uint16_t *>data(weight)
        cdef uint32_t *p = <uint32_t *>data(out)
        cdef ptrdiff_t n = weight.shape[0], k = weight.shape[1]
        cdef ptrdiff_t w_row = step(weight, 0), w_col = step(weight, 1)
        with nogil:
            self.table.pack_words(w, n, k, w_row, w_col, p)

    def group(self, ptrdiff_t n):
        """Rows that a gradient of the weights of n classes sums before it adds them."""
        return self.table.group(n)

    def keep_size(self, ptrdiff_t rows, ptrdiff_t n):
        """Number of reals in the kept logits of some rows and classes."""
        return self.table.keep_size(rows, n)

    def map(self, str function, cnp.ndarray x, cnp.ndarray y):
        """y = f(x), contiguous, for one of FUNCTIONS."""
        cdef int which = FUNCTIONS.index(function)
        cdef const void *source = data(x)
        cdef void *target = data(y)
        cdef ptrdiff_t count = cnp.PyArray_SIZE(x)
        with nogil:
            self.table.map(which, count, source, target)

    def nll(self, cnp.ndarray p, cnp.ndarray t, cnp.ndarray loss):
        """loss = -sum(t * log(p)) for each row, any strides."""
        cdef const void *pp = data(p)
        cdef const void *tt = data(t)
        cdef void *out = data(loss)
        cdef ptrdiff_t rows = p.shape[0], n = p.shape[1]
        cdef ptrdiff_t p_row = step(p, 0), p_col = step(p, 1)
        cdef ptrdiff_t t_row = step(t, 0), t_col = step(t, 1)
        with nogil:
            self.table.nll(rows, n, pp, p_row, p_col, tt, t_row, t_col, out)

    def spin_fma(self, ptrdiff_t rounds):
        """Keep the fused multiply-add units busy; returns the flops done."""
        cdef double flops
        with nogil:
            flops = self.table.spin_fma(rounds)
        return flops

    def spin_read(self, cnp.ndarray a, ptrdiff_t streams):
        """Read an array once, `streams` parts of it side by side."""
        cdef const void *p = data(a)
        cdef ptrdiff_t count = cnp.PyArray_SIZE(a)
        cdef double total
        with nogil:
            total = self.table.spin_read(count, p, streams)
        return total


TYPES = {"real": LL_REALS, "bfloat16": LL_BFLOAT16, "float16": LL_FLOAT16}  # of weights


cdef void give_weights(ll_product *p, cnp.ndarray weight, cnp.ndarray bias, bint packed,
                       int type) noexcept:
    p.weight, p.bias, p.packed, p.type = data(weight), data(bias), packed, type
    if not packed:
        p.w_row, p.w_col = step(weight, 0), step(weight, 1)


cdef void give_exclusions(ll_exclusions *to, cnp.ndarray start, cnp.ndarray index,
                          bint alike) noexcept:
    to.start, to.index = <const int64_t *>data(start), <const int64_t *>data(index)
    to.step = 0 if alike else 1


cdef ptrdiff_t class_bytes(const ll_product *p, ptrdiff_t item) noexcept nogil:
    """From one class to the next; of packed ones on the average."""
    if p.type != LL_REALS:
        return 4 * ((p.k + 1) // 2) if p.packed else 2 * p.w_row
    return item * (p.k if p.packed else p.w_row)


cdef class Bf16:
    """One way of products of bfloat16."""

    cdef const ll_bf16 *table
    cdef readonly str name

    def __cinit__(self, int place):
        self.table = ll_bf16s[place].product
        self.name = self.table.name.decode()

    def row_bytes(self, ptrdiff_t rows, ptrdiff_t k):
        """Bytes that packed rows take."""
        return self.table.row_bytes(rows, k)

    def spin(self, ptrdiff_t rounds):
        """Keep one core busy with products; returns the operations done."""
        cdef double flops
        with nogil:
            flops = self.table.spin(rounds)
        return flops


def bf16_products(str isa):
    """The ways of an instruction set that this processor runs, the fastest first."""
    return [Bf16(i) for i in range(ll_bf16_count)
            if ll_bf16s[i].isa.decode() == isa and ll_bf16s[i].supported()]


cdef void *moved(const void *p, ptrdiff_t bytes) noexcept nogil:
    return NULL if p == NULL else <char *>p + bytes


cdef ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return a if a < b else b


cdef ll_job some_classes(const ll_job *whole, ptrdiff_t item, ptrdiff_t first, ptrdiff_t last,
                         ptrdiff_t w_first, ptrdiff_t p_first, ptrdiff_t z_first) noexcept nogil:
    """A job for some classes, where weights, probabilities and logits begin with others."""
    cdef ll_job job = whole[0]
    cdef ll_product *p = &job.product
    cdef ll_question *q = &job.question
    job.first, job.last = first, last
    p.weight = moved(p.weight, (first - w_first) * class_bytes(p, item))
    p.bias = moved(p.bias, (first - w_first) * item)
    p.logits = moved(p.logits, (first - z_first) * p.z_col * item)
    q.probs = moved(q.probs, (first - p_first) * q.p_col * item)
    return job


cdef void pack_into(const ll_kernels *table, ll_job *job, void *packed) noexcept nogil:
    """Replace the rows by their packed form."""
    cdef ll_product *p = &job.product
    if p.bf16 != NULL:
        p.bf16.pack_rows(<const uint16_t *>p.x, job.rows, p.k, p.x_row, packed)
    else:
        table.pack_x(p.x, job.rows, p.k, p.x_row, packed)
    p.x, p.x_packed = packed, True


cdef void finish(const ll_kernels *table, const ll_job *job, void *loss) noexcept nogil:
    """Logits in `out` and the state to results, the best classes in order."""
    if job.output.out != NULL and job.output.write != LL_LOGITS:
        table.normalise(job)
    table.finish(job, loss)
    if job.question.top:
        table.sort_top(job)


cdef class Job:
    """One range of rows to score: `ll_job` of logitless.h with owners for its pointers.

    A job that gets other arrays of a kind lets those before go.
    """

    cdef ll_job job
    cdef const ll_kernels *table
    cdef ptrdiff_t w_first, p_first, z_first  # classes that weights, probabilities, logits begin with
    cdef dict owners

    def __cinit__(self, Kernels kernels, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t k,
                  double softcap, double temperature):
        self.table = kernels.table
        self.job.rows, self.job.n, self.job.product.k = rows, n, k
        self.job.product.softcap, self.job.product.temperature = softcap, temperature
        self.owners = {}

    def ask(self, unsigned fields, bint rank, cnp.ndarray targets, ptrdiff_t top, cnp.ndarray out,
            str write):
        """What to find out, `field_bits` and more; arrays are those of these rows."""
        cdef ll_question *q = &self.job.question
        q.fields, q.rank, q.top = fields, rank, top
        if targets is not None:
            q.targets, q.n_targets = <const int64_t *>data(targets), targets.shape[1]
        if out is not None:
            self.job.output.out = data(out)
            self.job.output.out_row, self.job.output.write = step(out, 0), WRITES[write]
        self.owners["asked"] = targets, out

    def remember(self, cnp.ndarray values, cnp.ndarray wide, cnp.ndarray ints,
                 cnp.ndarray target_logit):
        """Where the state lives: `values`, `wide` and `ints` start at the first of these rows."""
        self.fill(&self.job.output.state, values, ints)
        self.job.output.state.wide = <double *>data(wide)
        self.job.output.state.target_logit = data(target_logit)
        self.owners["state"] = values, wide, ints, target_logit

    def look_for(self, cnp.ndarray target_logit):
        """Where the logits of targets go."""
        self.job.output.state.target_logit = data(target_logit)
        self.owners["found"] = target_logit

    def best(self, cnp.ndarray top_logit, cnp.ndarray top_index, cnp.ndarray top_log_prob):
        """Where the best classes go."""
        self.job.output.state.top_logit = data(top_logit)
        self.job.output.state.top_index = <int64_t *>data(top_index)
        self.job.output.state.top_log_prob = data(top_log_prob)
        self.owners["best"] = top_logit, top_index, top_log_prob

    cdef void fill(self, ll_state *state, cnp.ndarray values, cnp.ndarray ints) noexcept:
        state.values, state.ints = data(values), <int64_t *>data(ints)
        state.stride = step(values, 0)

    def temperatures(self, cnp.ndarray t):
        """Temperatures of these rows, float64 and contiguous, in place of the one of all."""
        self.job.product.temperatures = <const double *>data(t)
        self.owners["temperatures"] = t

    def rows(self, cnp.ndarray x):
        """Rows of x as they are, columns contiguous."""
        self.job.product.x, self.job.product.x_packed = data(x), False
        self.job.product.x_row = step(x, 0)
        self.owners["rows"] = x

    def sparse_rows(self, cnp.ndarray start, cnp.ndarray index, cnp.ndarray value, bint panels):
        """Rows where they are not zero; with panels of weights made on the way, or not."""
        cdef ll_product *p = &self.job.product
        p.x_start, p.x_index = <const int64_t *>data(start), <const int32_t *>data(index)
        p.x_value, p.x_panels = data(value), panels
        self.owners["rows"] = start, index, value

    def pack_rows(self, cnp.ndarray packed):
        """Replace the rows by their packed form, made in `packed`."""
        cdef void *p = data(packed)
        with nogil:
            pack_into(self.table, &self.job, p)
        self.owners["rows"] = packed

    def multiply_by(self, Bf16 product):
        """Rows are bfloat16, and so are weights; call it before anything else about rows."""
        self.job.product.bf16 = product.table
        self.owners["product"] = product

    def packed_rows(self, cnp.ndarray packed):
        """Use rows that are packed already."""
        self.job.product.x, self.job.product.x_packed = data(packed), True
        self.owners["rows"] = packed

    def probs(self, cnp.ndarray t, ptrdiff_t first):
        """Target probabilities of classes from `first` on, (rows, ..)."""
        self.job.question.probs, self.p_first = data(t), first
        self.job.question.p_row, self.job.question.p_col = step(t, 0), step(t, 1)
        self.owners["probs"] = t

    def logits(self, cnp.ndarray z, ptrdiff_t first):
        """Logits at hand of classes from `first` on, (rows, ..)."""
        self.job.product.logits, self.z_first = data(z), first
        self.job.product.z_row, self.job.product.z_col = step(z, 0), step(z, 1)
        self.owners["rows"] = z

    def weights(self, cnp.ndarray weight, cnp.ndarray bias, bint packed, ptrdiff_t first,
                int type):
        """Classes from `first` on: (.., k) with strides, or packed panels; one of TYPES."""
        give_weights(&self.job.product, weight, bias, packed, type)
        self.w_first = first
        self.owners["weights"] = weight, bias

    def sparse(self, cnp.ndarray start, cnp.ndarray index, cnp.ndarray value):
        """Target distributions of the rows where they are not zero."""
        self.job.question.sparse_start = <const int64_t *>data(start)
        self.job.question.sparse_class = <const int64_t *>data(index)
        self.job.question.sparse_prob = data(value)
        self.owners["sparse"] = start, index, value

    def exclude(self, cnp.ndarray start, cnp.ndarray index, bint alike):
        """Classes that do not count in these rows, or in any."""
        give_exclusions(&self.job.question.exclude, start, index, alike)
        self.owners["excluded"] = start, index

    def class_weights(self, cnp.ndarray weight):
        """Weights of all classes, padded to whole vectors."""
        self.job.question.class_weight = data(weight)
        self.owners["class weights"] = weight

    def keep(self, cnp.ndarray memory, ptrdiff_t skip, ptrdiff_t rows, ptrdiff_t first):
        """Leave the logits of classes from `first` on in memory for `rows` rows, `skip` reals in."""
        self.job.output.keep = <char *>data(memory) + self.table.item * skip
        self.job.output.keep_rows, self.job.output.keep_first = rows, first
        self.owners["kept"] = memory

    def look_at(self, cnp.ndarray kept):
        """In place of a product: logits that another job has kept."""
        cdef ll_product *p = &self.job.product
        p.k, p.x, p.weight, p.bias, p.bf16 = 0, NULL, NULL, NULL, NULL
        p.x_start = NULL
        p.softcap, p.temperature, p.temperatures = 0, 1, NULL  # they are in them
        p.logits, p.z_row, p.z_col = data(kept), self.table.keep_size(1, self.table.block), 1
        self.job.output.keep = NULL
        self.owners["kept"] = kept

    def scratch_bytes(self):
        """Bytes of scratch that score needs, with room to start at a cache line."""
        return self.table.scratch_bytes(&self.job) + LINE

    def gradient_bytes(self):
        """Bytes of scratch that gradients need, with room to start at a cache line."""
        return self.table.gradient_bytes(&self.job) + LINE

    def scratch(self, cnp.ndarray memory):
        """Scratch memory of that many bytes."""
        cdef size_t start = <size_t>data(memory)
        self.job.scratch = <void *>((start + LINE - 1) // LINE * LINE)
        self.owners["scratch"] = memory

    def init(self):
        """Forget all classes."""
        with nogil:
            self.table.init(&self.job)

    def score(self, ptrdiff_t first, ptrdiff_t last):
        """Fold classes [first, last), whole blocks, into the state."""
        cdef ll_job job = self.part(first, last)
        with nogil:
            self.table.score(&job)

    cdef ll_job part(self, ptrdiff_t first, ptrdiff_t last) noexcept:
        """The job for some of the classes."""
        return some_classes(&self.job, self.table.item, first, last, self.w_first, self.p_first,
                            self.z_first)

    def pack_columns(self, Gradient gradient, cnp.ndarray x, ptrdiff_t first, ptrdiff_t of,
                     cnp.ndarray packed):
        """Pack the features of the rows, which the gradient of the weights is a product with.

        They are rows [first, first + rows) of `of`, which are packed side by side.
        """
        cdef const void *source = data(x)
        cdef void *target = data(packed)
        cdef ptrdiff_t x_row = step(x, 0)
        with nogil:
            self.table.pack_columns(&self.job, &gradient.gradient, source, x_row, first, of,
                                    target)
        gradient.columns(packed)

    def gradient_logits(self, Gradient gradient, ptrdiff_t first, ptrdiff_t last):
        """Kept logits of classes [first, last) to derivatives, and these into the gradients."""
        cdef ll_job job = self.part(first, last)
        with nogil:
            self.table.gradient_logits(&job, &gradient.gradient)

    def gradient_weight(self, Gradient gradient, ptrdiff_t first, ptrdiff_t last,
                        ptrdiff_t f_first, ptrdiff_t f_last):
        """Derivatives of classes [first, last) into some features of the gradient of the weights."""
        cdef ll_job job = self.part(first, last)
        with nogil:
            self.table.gradient_weight(&job, &gradient.gradient, f_first, f_last)

    def gradient_x(self, Gradient gradient, ptrdiff_t first, ptrdiff_t last, ptrdiff_t f_first,
                   ptrdiff_t f_last, ptrdiff_t r_first, ptrdiff_t r_last):
        """Derivatives of classes [first, last) into some features of some rows of d_x."""
        cdef ll_job job = self.part(first, last)
        with nogil:
            self.table.gradient_x(&job, &gradient.gradient, f_first, f_last, r_first, r_last)

    def derive_rows(self, Gradient gradient, ptrdiff_t first, ptrdiff_t last):
        """Kept logits of classes [first, last) of sparse rows to derivatives where they are."""
        cdef ll_job job = self.part(first, last)
        with nogil:
            self.table.derive_rows(&job, &gradient.gradient)

    def derived_bias(self, Gradient gradient, ptrdiff_t first, ptrdiff_t last):
        """These into the gradient of the bias."""
        cdef ll_job job = self.part(first, last)
        with nogil:
            self.table.derived_bias(&job, &gradient.gradient)

    def derived_weight(self, Gradient gradient, SomeColumns columns, ptrdiff_t first, ptrdiff_t last,
                      ptrdiff_t f_first, ptrdiff_t f_last):
        """And into features [f_first, f_last) of the gradient of the weights."""
        cdef ll_job job = self.part(first, last)
        with nogil:
            self.table.derived_weight(&job, &gradient.gradient, &columns.columns, f_first, f_last)

    def divergence(self, Job teacher, double beta, cnp.ndarray sums, ptrdiff_t first,
                   ptrdiff_t last):
        """Add kept logits of classes [first, last) of two finished heads to sums (3, rows)."""
        cdef ll_job job = self.part(first, last)
        cdef double *into = <double *>data(sums)
        cdef ptrdiff_t stride = step(sums, 0)
        with nogil:
            self.table.divergence(&job, &teacher.job, beta, into, stride)

    def target_logits(self, ptrdiff_t column):
        """Logits of one of the targets of each row, from unpacked rows."""
        cdef ll_job job = self.job
        cdef ll_state *state = &job.output.state
        job.question.targets += column
        state.target_logit = moved(state.target_logit, column * self.table.item)
        with nogil:
            self.table.target_logits(&job)

    def merge(self, cnp.ndarray values, cnp.ndarray ints):
        """Merge the state of later classes, all but the best ones."""
        cdef ll_state later
        self.fill(&later, values, ints)
        with nogil:
            self.table.merge(&self.job, &later)

    def merge_top(self, cnp.ndarray top_logit, cnp.ndarray top_index):
        """Merge the best of other classes."""
        cdef const void *logit = data(top_logit)
        cdef const int64_t *index = <const int64_t *>data(top_index)
        with nogil:
            self.table.merge_top(&self.job, logit, index)

    def finish(self, cnp.ndarray target_loss):
        """All classes have been met: what was asked is made of the state."""
        cdef void *loss = data(target_loss)
        with nogil:
            finish(self.table, &self.job, loss)


cdef class Gradient:
    """Where the gradients of some rows go: `ll_gradient` with owners for its pointers."""

    cdef ll_gradient gradient
    cdef object owners

    def __cinit__(self, cnp.ndarray coefficients, bint filter):
        if coefficients is not None:
            self.gradient.coefficients = data(coefficients)
            self.gradient.c_stride = step(coefficients, 0)
        self.gradient.filter = filter
        self.owners = [coefficients]

    def away_from(self, Job teacher, double beta, cnp.ndarray means):
        """Gradients are those of a divergence, whose third sums are `means`, from kept logits."""
        self.gradient.teacher, self.gradient.beta = &teacher.job, beta
        self.gradient.means = <const double *>data(means)
        self.owners.append((teacher, means))

    def columns(self, cnp.ndarray packed):
        """Features of the rows that have been packed."""
        self.gradient.columns = data(packed)
        self.owners.append(packed)

    def into_x(self, cnp.ndarray d_x, bint add):
        """Gradients of the rows, (rows, k) with columns contiguous."""
        self.gradient.d_x, self.gradient.add_x = data(d_x), add
        self.gradient.dx_row = step(d_x, 0)
        self.owners.append(d_x)

    def into_weight(self, cnp.ndarray d_weight, cnp.ndarray d_bias, bint add, bint apart):
        """Gradients of the weights and the bias, or of each group of rows if `apart`."""
        self.gradient.d_weight, self.gradient.d_bias = data(d_weight), data(d_bias)
        self.gradient.add_weight, self.gradient.apart = add, apart
        self.owners.append((d_weight, d_bias))


include "_columns.pxi"
include "_few_rows.pxi"
include "_crew.pxi"
include "_shares.pxi"
include "_screen.pxi"
