# Part of _core.pyx: sparse rows, feature by feature.

ctypedef fused entry:
    float
    double


cdef void turn(ptrdiff_t rows, const int64_t *start, const int32_t *index, const entry *value,
               int64_t *place, int32_t *row, entry *turned) noexcept nogil:
    """Entries of the rows, each to the place where its feature goes on."""
    cdef ptrdiff_t i
    cdef int64_t e, to
    for i in range(rows):
        for e in range(start[i], start[i + 1]):
            to = place[index[e]]
            place[index[e]] = to + 1
            row[to] = <int32_t>i
            turned[to] = value[e]


cdef class Columns:
    """Entries feature by feature, by ascending row: `ll_columns` with owners for its pointers."""

    cdef ll_columns columns
    cdef readonly object start  # where each feature begins, (k + 1,) int64
    cdef object owners

    def __cinit__(self, cnp.ndarray start, cnp.ndarray index, cnp.ndarray value, ptrdiff_t k):
        cdef ptrdiff_t rows = start.shape[0] - 1, f
        cdef const int64_t *begin = <const int64_t *>data(start)
        cdef const int32_t *feature = <const int32_t *>data(index)
        cdef cnp.npy_intp entries = begin[rows] - begin[0]
        cdef cnp.npy_intp features = k + 1
        cdef cnp.ndarray first = cnp.PyArray_ZEROS(1, &features, cnp.NPY_INT64, 0)
        cdef cnp.ndarray row = cnp.PyArray_EMPTY(1, &entries, cnp.NPY_INT32, 0)
        cdef cnp.ndarray turned = cnp.PyArray_EMPTY(1, &entries, cnp.PyArray_TYPE(value), 0)
        cdef int64_t *count = <int64_t *>data(first)
        cdef int64_t e
        cdef bint narrow = cnp.PyArray_ITEMSIZE(value) == sizeof(float)
        cdef void *source = data(value)
        cdef void *target = data(turned)
        cdef int32_t *numbers = <int32_t *>data(row)
        with nogil:
            for e in range(begin[0], begin[rows]):
                count[feature[e] + 1] += 1
            for f in range(k):
                count[f + 1] += count[f]
        places = first[:k].copy()
        cdef int64_t *place = <int64_t *>data(places)
        with nogil:
            if narrow:
                turn[float](rows, begin, feature, <const float *>source, place, numbers,
                            <float *>target)
            else:
                turn[double](rows, begin, feature, <const double *>source, place, numbers,
                             <double *>target)
        self.start, self.owners = first, [row, turned]
        self.columns.start, self.columns.row = count, numbers
        self.columns.value = target


cdef class SomeColumns:
    """The same for rows from `first` on: their entries of each feature begin at `begin`.

    Where those of later rows begin goes into `end`. Rows that are not `live` add nothing.
    """

    cdef ll_columns columns
    cdef object owners

    def __cinit__(self, Columns whole, ptrdiff_t first, cnp.ndarray begin, cnp.ndarray end,
                  cnp.ndarray live):
        self.columns = whole.columns
        self.columns.first_row = first
        self.columns.from_, self.columns.to = <const int64_t *>data(begin), <int64_t *>data(end)
        self.columns.live = <const uint8_t *>data(live)
        self.owners = whole, begin, end, live
