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

    def fine_bytes(self, ptrdiff_t k):
        """Bytes that 16ths of a class take."""
        return (k + LL_FINE_STEP - 1) // LL_FINE_STEP * (LL_FINE_STEP // 2)

    def quantise_weight(self, cnp.ndarray panels, ptrdiff_t k, cnp.ndarray weight,
                        cnp.ndarray fine, cnp.ndarray bounds):
        """Panels of float32, feature by feature, to bytes, to 16ths of what these lack, class by
        class, and bounds (panels, class_bounds, lanes)."""
        cdef const float *source = <const float *>data(panels)
        cdef uint8_t *q = <uint8_t *>data(weight)
        cdef uint8_t *part = <uint8_t *>data(fine)
        cdef float *b = <float *>data(bounds)
        cdef ptrdiff_t count = bounds.shape[0]
        with nogil:
            self.table.quantise_weight(source, count, k, q, part, b)

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

    def classes(self, cnp.ndarray weight, cnp.ndarray fine, cnp.ndarray bounds, cnp.ndarray bias,
                float no_bias, float slack):
        """Bytes, 16ths and bounds of all classes."""
        self.screen.weight = <const uint8_t *>data(weight)
        self.screen.fine = <const uint8_t *>data(fine)
        self.screen.bounds = <const float *>data(bounds)
        self.screen.bias = <const float *>data(bias)
        self.screen.no_bias, self.screen.slack = no_bias, slack
        self.owners["classes"] = weight, fine, bounds, bias

    def exclude(self, cnp.ndarray start, cnp.ndarray index, bint alike):
        """Classes that are no candidates of its rows."""
        give_exclusions(&self.screen.exclude, start, index, alike)
        self.owners["excluded"] = start, index

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
        cdef void *words = data(packed)
        cdef float *of_rows = <float *>data(bounds)
        cdef int32_t *starts = <int32_t *>data(start)
        self.screen.rows_x, self.screen.x_row = <const float *>data(x), step(x, 0)
        self.screen.levels = levels
        with nogil:
            self.table.quantise_rows(&self.screen, words, of_rows, starts)
        self.screen.x, self.screen.row_bounds, self.screen.start = words, of_rows, starts
        self.owners["rows"] = x, packed, bounds, start

    def scratch_bytes(self, Job job):
        """Bytes of scratch that it needs, with room to start at a line."""
        cdef size_t candidates = self.screen.rows * self.screen.room
        cdef size_t rescore = candidates * (job.table.item + 2 * sizeof(int32_t))
        rescore += sizeof(int32_t) * ((self.screen.n + job.table.lanes - 1) // job.table.lanes + 1)
        rescore = (max(rescore, self.table.scratch_bytes(&self.screen)) + LINE - 1) // LINE * LINE
        return rescore + self.table.refine_bytes(self.screen.k) + LINE

    def scratch(self, Job job, cnp.ndarray memory):
        """Scratch memory of that many bytes."""
        cdef size_t start = (<size_t>data(memory) + LINE - 1) // LINE * LINE
        cdef size_t apart = self.scratch_bytes(job) - LINE - self.table.refine_bytes(self.screen.k)
        self.screen.scratch, self.screen.apart = <void *>start, <void *>(start + apart)
        self.owners["scratch"] = memory

    def scan(self, ptrdiff_t first, ptrdiff_t last):
        """Look for candidates among blocks [first, last) of classes."""
        self.screen.first, self.screen.last = first, last
        with nogil:
            self.table.scan(&self.screen)

    def share(self, Screening other, ptrdiff_t first):
        """Take classes and candidates of another, and its rows from `first` on, but to scan them."""
        cdef ptrdiff_t rows = self.screen.rows
        cdef ptrdiff_t room = other.screen.room
        self.screen = other.screen
        self.screen.rows = rows
        self.screen.rows_x += first * self.screen.x_row
        self.screen.row_bounds += first * LL_ROW_BOUNDS
        self.screen.least, self.screen.count = self.screen.least + first, self.screen.count + first
        self.screen.best += first * self.screen.top
        if self.screen.exclude.start != NULL:
            self.screen.exclude.start += first * self.screen.exclude.step
        self.screen.upper, self.screen.index = (self.screen.upper + first * room,
                                                self.screen.index + first * room)
        self.owners.update(other.owners)

    def merge(self, Screening other, ptrdiff_t first):
        """Add candidates among other classes, found apart, of its rows from `first` on."""
        with nogil:
            self.table.merge(&self.screen, &other.screen, first)

    def lift(self, ptrdiff_t many):
        """Keep more classes out of rows with more than `many` candidates."""
        with nogil:
            self.table.lift(&self.screen, many)

    def tighten(self, Job job, ptrdiff_t many):
        """Make exact what keeps classes out of rows with more than `many` candidates."""
        with nogil:
            job.table.tighten(&job.job, &self.screen, many)

    def refine(self):
        """Keep out candidates but the first ones of each row by what more is held of them."""
        with nogil:
            self.table.refine(&self.screen)

    def rescore(self, Job job):
        """Find exact logits of the candidates that `tighten` left, and the best of these."""
        with nogil:
            job.table.rescore(&job.job, &self.screen)
            job.table.sort_top(&job.job)
