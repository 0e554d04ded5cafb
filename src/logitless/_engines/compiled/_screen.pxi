# The screen of bytes: `ll_screen` of logitless.h with owners for its pointers.


def screener_for(str isa):
    """The best screener of an instruction set that this processor runs; the last one runs on all."""
    for i in range(ll_screen_count):
        if ll_screens[i].isa.decode() == isa and ll_screens[i].supported():
            return Screener(i)
    return Screener(ll_screen_count - 1)


cdef class Screener:
    """The functions of one screen, by their place in the table."""

    cdef const ll_screener *table
    cdef readonly str name
    cdef readonly ptrdiff_t lanes, block, top, features, row_bounds, class_bounds

    def __cinit__(self, int place):
        self.table = ll_screens[place].screener
        self.name = self.table.name.decode()
        self.lanes, self.block = LL_SCREEN_LANES, LL_SCREEN_BLOCK
        self.top, self.features = LL_SCREEN_TOP, LL_SCREEN_K
        self.row_bounds, self.class_bounds = LL_ROW_BOUNDS, LL_CLASS_BOUNDS

    def row_bytes(self, ptrdiff_t rows, ptrdiff_t k):
        """Bytes that packed rows take."""
        return self.table.row_bytes(rows, k)

    def quantise_weight(self, cnp.ndarray panels, ptrdiff_t k, cnp.ndarray weight,
                        cnp.ndarray bounds):
        """Panels of float32, feature by feature, to bytes and bounds (panels, class_bounds, lanes)."""
        cdef const float *source = <const float *>data(panels)
        cdef uint8_t *q = <uint8_t *>data(weight)
        cdef float *b = <float *>data(bounds)
        cdef ptrdiff_t count = bounds.shape[0]
        with nogil:
            self.table.quantise_weight(source, count, k, q, b)

    def spin(self, ptrdiff_t rounds):
        """Keep the units for products of bytes busy; returns the operations done."""
        cdef double operations
        with nogil:
            operations = self.table.spin(rounds)
        return operations


cdef class Screening:
    """Some rows and their candidates."""

    cdef ll_screen screen
    cdef const ll_screener *table
    cdef dict owners

    def __cinit__(self, Screener screener, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t k,
                  ptrdiff_t top, double softcap, double temperature):
        self.table = screener.table
        self.screen.rows, self.screen.n, self.screen.k = rows, n, k
        self.screen.top = top
        self.screen.softcap, self.screen.temperature = softcap, temperature
        self.owners = {}

    def classes(self, cnp.ndarray weight, cnp.ndarray bounds, cnp.ndarray bias, float no_bias,
                float slack):
        """Bytes and bounds of all classes."""
        self.screen.weight = <const uint8_t *>data(weight)
        self.screen.bounds = <const float *>data(bounds)
        self.screen.bias = <const float *>data(bias)
        self.screen.no_bias, self.screen.slack = no_bias, slack
        self.owners["classes"] = weight, bounds, bias

    def remember(self, cnp.ndarray least, cnp.ndarray best, cnp.ndarray upper,
                 cnp.ndarray index, cnp.ndarray count):
        """Where the candidates go."""
        self.screen.least, self.screen.best = <float *>data(least), <float *>data(best)
        self.screen.upper, self.screen.index = <float *>data(upper), <int32_t *>data(index)
        self.screen.count = <int32_t *>data(count)
        self.screen.room = upper.shape[1]
        self.owners["state"] = least, best, upper, index, count

    def quantise_rows(self, cnp.ndarray x, ptrdiff_t levels, cnp.ndarray packed,
                      cnp.ndarray bounds, cnp.ndarray start):
        """Give it its rows, of float32, columns contiguous, in one or two levels of bytes."""
        cdef const float *source = <const float *>data(x)
        cdef void *words = data(packed)
        cdef float *of_rows = <float *>data(bounds)
        cdef int32_t *starts = <int32_t *>data(start)
        cdef ptrdiff_t x_row = step(x, 0)
        self.screen.levels = levels
        with nogil:
            self.table.quantise_rows(&self.screen, source, x_row, words, of_rows, starts)
        self.screen.x, self.screen.row_bounds, self.screen.start = words, of_rows, starts
        self.owners["rows"] = packed, bounds, start

    def scratch_bytes(self, Job job):
        """Bytes of scratch that scan, tighten and rescore need, with room to start at a line."""
        cdef size_t candidates = self.screen.rows * self.screen.room
        cdef size_t rescore = candidates * (job.table.item + 2 * sizeof(int32_t))
        rescore += sizeof(int32_t) * ((self.screen.n + job.table.lanes - 1) // job.table.lanes + 1)
        return max(rescore, self.table.scratch_bytes(&self.screen)) + LINE

    def scratch(self, cnp.ndarray memory):
        """Scratch memory of that many bytes."""
        cdef size_t start = <size_t>data(memory)
        self.screen.scratch = <void *>((start + LINE - 1) // LINE * LINE)
        self.owners["scratch"] = memory

    def scan(self, ptrdiff_t first, ptrdiff_t last):
        """Look for candidates among blocks [first, last) of classes."""
        self.screen.first, self.screen.last = first, last
        with nogil:
            self.table.scan(&self.screen)

    def merge(self, Screening other):
        """Add candidates among other classes, found apart."""
        with nogil:
            self.table.merge(&self.screen, &other.screen)

    def tighten(self, Job job, ptrdiff_t many):
        """Make exact what keeps classes out of rows with more than `many` candidates."""
        with nogil:
            job.table.tighten(&job.job, &self.screen, many)

    def rescore(self, Job job):
        """Find exact logits of the candidates, and the best of these."""
        with nogil:
            job.table.rescore(&job.job, &self.screen)
            job.table.sort_top(&job.job)
