# Part of _core.pyx: a few rows of a small layer in one call, whose cost is that of the call.

from cpython.mem cimport PyMem_RawMalloc, PyMem_RawFree


cdef class Small:
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
                  ptrdiff_t n, ptrdiff_t k, double softcap, double temperature, ptrdiff_t most):
        self.table = kernels.table
        self.most, self.item = most, kernels.bits // 8
        self.type_num = cnp.NPY_FLOAT32 if kernels.bits == 32 else cnp.NPY_FLOAT64
        self.layer.n, self.layer.k, self.layer.last = n, k, n
        self.layer.softcap, self.layer.temperature = softcap, temperature
        self.layer.weight, self.layer.bias, self.layer.packed = data(weight), data(bias), packed
        if not packed:
            self.layer.w_row, self.layer.w_col = step(weight, 0), step(weight, 1)
        self.owners = (weight, bias)

    cdef bint reads(self, object x):
        """Whether these are rows that the kernels can read where they are."""
        if not cnp.PyArray_CheckExact(x):
            return False
        cdef cnp.ndarray a = x
        return (cnp.PyArray_NDIM(a) == 2 and cnp.PyArray_TYPE(a) == self.type_num
                and 0 < cnp.PyArray_DIM(a, 0) <= self.most
                and cnp.PyArray_DIM(a, 1) == self.layer.k
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

    def loss(self, x, target):
        """Loss of each row, (rows,), or None."""
        if not (self.reads(x) and self.labels(target, cnp.PyArray_DIM(x, 0))):
            return None
        cdef cnp.npy_intp rows = cnp.PyArray_DIM(x, 0)
        cdef cnp.ndarray loss = cnp.PyArray_EMPTY(1, &rows, self.type_num, 0)
        return loss if self.run(x, <const int64_t *>data(target), data(loss), NULL) else None

    def predict(self, x):
        """Class of the largest logit of each row, (rows,), or None."""
        if not self.reads(x):
            return None
        cdef cnp.npy_intp rows = cnp.PyArray_DIM(x, 0)
        cdef cnp.ndarray best = cnp.PyArray_EMPTY(1, &rows, cnp.NPY_INTP, 0)
        return best if self.run(x, NULL, NULL, <cnp.npy_intp *>data(best)) else None

    cdef bint run(self, cnp.ndarray x, const int64_t *targets, void *loss, cnp.npy_intp *best):
        """Score all rows; False where there is no memory."""
        cdef ll_job job = self.layer
        cdef size_t lanes = self.table.lanes, rows = x.shape[0]
        cdef size_t stride = (rows + lanes - 1) // lanes * lanes
        cdef size_t ints = LL_INTS * stride * sizeof(int64_t)
        cdef size_t values = LL_VALUES * stride * self.item, logits = stride * self.item
        cdef bint packs = job.n > LL_SMALL_N
        cdef size_t packed = (rows * job.k + lanes) * self.item if packs else 0
        cdef size_t scratch, i
        cdef char *memory
        cdef const void *source = data(x)

        job.rows, job.sums = rows, loss != NULL
        if targets != NULL:
            job.targets, job.n_targets = targets, 1
        scratch = (self.table.scratch_bytes(&job) + LINE - 1) // LINE * LINE
        memory = <char *>PyMem_RawMalloc(LINE + scratch + ints + values + logits + packed)
        if memory == NULL:
            return False
        job.scratch = memory + LINE - <size_t>memory % LINE
        job.state.ints = <int64_t *>(<char *>job.scratch + scratch)
        job.state.values = <char *>job.state.ints + ints
        job.state.target_logit = <char *>job.state.values + values
        job.state.stride = stride
        job.x, job.x_row = source, step(x, 0)
        with nogil:
            if packs:
                job.x = <char *>job.state.target_logit + logits
                self.table.pack_x(source, rows, job.k, job.x_row, <void *>job.x)
            self.table.init(&job)
            self.table.score(&job)
            if loss != NULL:
                self.table.finish(&job, loss)
        if best != NULL:
            for i in range(rows):
                best[i] = <cnp.npy_intp>job.state.ints[<size_t>LL_ARGMAX * stride + i]
        PyMem_RawFree(memory)
        return True
