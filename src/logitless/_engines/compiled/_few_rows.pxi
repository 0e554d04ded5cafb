# Part of _core.pyx: a few rows of a small layer in one call, whose cost is that of the call.

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.string cimport memcpy

cdef enum:
    SUMS = 1 << LL_REST
    ENTROPY = 1 << LL_MOMENT


cdef class FewRows:
    """A layer for calls of up to `most` rows, which read their arguments where they are.

    Methods return None for arguments that must be converted, checked further or refused: then the
    general way is for them.
    """

    cdef const ll_kernels *table
    cdef ll_job layer
    cdef ptrdiff_t most, item
    cdef int type_num
    cdef object owners

    def __cinit__(self, Kernels kernels, cnp.ndarray weight, bint packed, cnp.ndarray bias,
                  ptrdiff_t n, ptrdiff_t k, double softcap, double temperature, ptrdiff_t most,
                  int type):
        self.table = kernels.table
        self.most, self.item = most, kernels.itemsize
        self.type_num = cnp.NPY_FLOAT32 if kernels.itemsize == 4 else cnp.NPY_FLOAT64
        self.layer.n, self.layer.product.k, self.layer.last = n, k, n
        self.layer.product.softcap, self.layer.product.temperature = softcap, temperature
        give_weights(&self.layer.product, weight, bias, packed, type)
        self.owners = (weight, bias)

    cdef bint reads(self, object x):
        """Whether these are rows that the kernels can read where they are."""
        if not cnp.PyArray_CheckExact(x):
            return False
        cdef cnp.ndarray a = x
        return (cnp.PyArray_NDIM(a) == 2 and cnp.PyArray_TYPE(a) == self.type_num
                and 0 < cnp.PyArray_DIM(a, 0) <= self.most
                and cnp.PyArray_DIM(a, 1) == self.layer.product.k
                and cnp.PyArray_ISBEHAVED_RO(a)
                and cnp.PyArray_STRIDE(a, 1) == self.item
                and cnp.PyArray_STRIDE(a, 0) % self.item == 0)

    cdef bint labels(self, object target, ptrdiff_t rows):
        """Whether these are int64 classes, none of them out of range."""
        if not cnp.PyArray_CheckExact(target):
            return False
        cdef cnp.ndarray a = target
        if not (cnp.PyArray_NDIM(a) == 1 and cnp.PyArray_TYPE(a) == cnp.NPY_INT64
                and cnp.PyArray_DIM(a, 0) == rows and cnp.PyArray_ISCARRAY_RO(a)):
            return False
        cdef const int64_t *label = <const int64_t *>data(a)
        cdef ptrdiff_t i
        for i in range(rows):
            if label[i] < 0 or label[i] >= self.layer.n:
                return False
        return True

    cdef cnp.ndarray fresh(self, ptrdiff_t rows, ptrdiff_t columns, int type_num):
        """An array (rows, columns), or (rows,) for no columns."""
        cdef cnp.npy_intp shape[2]
        shape[0], shape[1] = rows, columns
        return cnp.PyArray_EMPTY(2 if columns else 1, shape, type_num, 0)

    def loss(self, x, target):
        """Loss of each row, (rows,), or None."""
        if not (self.reads(x) and self.labels(target, cnp.PyArray_DIM(x, 0))):
            return None
        cdef ll_job job = self.layer
        cdef cnp.ndarray loss = self.fresh(cnp.PyArray_DIM(x, 0), 0, self.type_num)
        job.question.fields = SUMS
        job.question.n_targets, job.question.targets = 1, <const int64_t *>data(target)
        PyMem_RawFree(self.run(&job, x, data(loss)))
        return loss

    def predict(self, x):
        """Class of the largest logit of each row, (rows,), or None."""
        if not self.reads(x):
            return None
        cdef ll_job job = self.layer
        cdef char *memory = self.run(&job, x, NULL)
        try:
            return self.classes(&job)
        finally:
            PyMem_RawFree(memory)

    def columns(self, x, str write):
        """What `write` names, (rows, n), or None."""
        if not self.reads(x):
            return None
        cdef ll_job job = self.layer
        cdef cnp.ndarray out = self.fresh(cnp.PyArray_DIM(x, 0), job.n, self.type_num)
        job.output.out, job.output.out_row, job.output.write = data(out), job.n, WRITES[write]
        job.question.fields = SUMS if job.output.write != LL_LOGITS else 0
        PyMem_RawFree(self.run(&job, x, NULL))
        return out

    def topk(self, x, ptrdiff_t top, bint normalize):
        """Index, logit and, to `normalize`, log-probability of the best classes, or None."""
        if not self.reads(x):
            return None
        cdef ll_job job = self.layer
        best = self.best(&job, cnp.PyArray_DIM(x, 0), top, normalize)
        job.question.fields = SUMS if normalize else 0
        PyMem_RawFree(self.run(&job, x, NULL))
        return best

    def score(self, x, target, ptrdiff_t top, bint entropy):
        """Fields of Scores up to entropy, then those of TopK where `top` is not 0; or None."""
        if not (self.reads(x) and self.labels(target, cnp.PyArray_DIM(x, 0))):
            return None
        cdef ll_job job = self.layer
        cdef ptrdiff_t rows = cnp.PyArray_DIM(x, 0)
        cdef cnp.ndarray loss = self.fresh(rows, 0, self.type_num)
        cdef cnp.ndarray logit = self.fresh(rows, 0, self.type_num)
        cdef cnp.ndarray rank = self.fresh(rows, 0, cnp.NPY_INT64)
        cdef char *memory
        if job.n > self.table.block:  # ranks need the targets' logits beforehand
            return None
        best = self.best(&job, rows, top, True) if top else None
        job.question.fields = SUMS | (ENTROPY if entropy else 0)
        job.question.rank = 1
        job.question.n_targets, job.question.targets = 1, <const int64_t *>data(target)
        job.output.state.target_logit = data(logit)
        memory = self.run(&job, x, data(loss))
        try:
            memcpy(data(rank), job.output.state.ints + LL_RANK * job.output.state.stride,
                   rows * sizeof(int64_t))
            largest, norm = self.values(&job, LL_MAX), self.values(&job, LL_REST)
            return (loss, largest + norm, logit, rank, self.classes(&job), largest,
                    self.values(&job, LL_MOMENT) if entropy else None), best
        finally:
            PyMem_RawFree(memory)

    cdef tuple best(self, ll_job *job, ptrdiff_t rows, ptrdiff_t top, bint normalize):
        """Arrays of a job for its best classes: none yet."""
        cdef cnp.ndarray index = self.fresh(rows, top, cnp.NPY_INT64)
        cdef cnp.ndarray logit = self.fresh(rows, top, self.type_num)
        cnp.PyArray_FILLWBYTE(index, 0xff)  # -1
        cnp.PyArray_FILLWBYTE(logit, 0xff)  # NaN
        log_prob = self.fresh(rows, top, self.type_num) if normalize else None
        job.question.top = top
        job.output.state.top_index = <int64_t *>data(index)
        job.output.state.top_logit = data(logit)
        job.output.state.top_log_prob = data(log_prob)
        return index, logit, log_prob

    cdef cnp.ndarray values(self, const ll_job *job, ptrdiff_t which):
        """A row of the state."""
        cdef cnp.ndarray copy = self.fresh(job.rows, 0, self.type_num)
        cdef const ll_state *state = &job.output.state
        memcpy(data(copy), <char *>state.values + which * state.stride * self.item,
               job.rows * self.item)
        return copy

    cdef cnp.ndarray classes(self, const ll_job *job):
        """Class of the largest logit of each row."""
        cdef cnp.ndarray best = self.fresh(job.rows, 0, cnp.NPY_INT64)
        memcpy(data(best), job.output.state.ints + LL_ARGMAX * job.output.state.stride,
               job.rows * sizeof(int64_t))
        return best

    cdef char *run(self, ll_job *job, cnp.ndarray x, void *loss) except NULL:
        """Score all rows. Returns the memory of the state, which is then to be freed."""
        cdef ll_product *p = &job.product
        cdef ll_state *state = &job.output.state
        cdef size_t lanes = self.table.lanes, rows = x.shape[0]
        cdef size_t stride = (rows + lanes - 1) // lanes * lanes
        cdef size_t ints = LL_INTS * stride * sizeof(int64_t)
        cdef size_t values = LL_VALUES * stride * self.item, logits = stride * self.item
        cdef bint packs = job.n > LL_SMALL_N
        cdef size_t packed = (rows * p.k + lanes) * self.item if packs else 0
        cdef size_t scratch
        cdef char *memory
        cdef const void *source = data(x)

        job.rows = rows
        p.x_packed = packs
        scratch = (self.table.scratch_bytes(job) + LINE - 1) // LINE * LINE
        memory = <char *>PyMem_RawMalloc(LINE + scratch + ints + values + logits + packed)
        if memory == NULL:
            raise MemoryError
        job.scratch = memory + LINE - <size_t>memory % LINE
        state.ints = <int64_t *>(<char *>job.scratch + scratch)
        state.values = <char *>state.ints + ints
        if state.target_logit == NULL:
            state.target_logit = <char *>state.values + values
        state.stride = stride
        p.x, p.x_row = source, step(x, 0)
        with nogil:
            if packs:
                p.x = <char *>state.values + values + logits
                self.table.pack_x(source, rows, p.k, p.x_row, <void *>p.x)
            self.table.init(job)
            self.table.score(job)
            if job.output.out != NULL and job.output.write != LL_LOGITS:
                self.table.normalise(job)
            self.table.finish(job, loss)
            if job.question.top:
                self.table.sort_top(job)
        return memory
