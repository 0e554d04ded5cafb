# Part of _core.pyx: a job cut into shares, which threads take in ascending order without the GIL.

cdef enum:
    MAX_SEATS = 257  # threads: the pool's, and the caller's


# What a thread is at.
cdef struct share:
    ll_job job
    ptrdiff_t next, last     # classes
    char *loss


cdef struct shared:
    const ll_kernels *table
    ll_job job               # all of it
    ptrdiff_t class_step     # classes that one call takes
    int64_t taken, count, stopped
    char **memory            # scratch of each thread,
    size_t scratch           # of so many bytes; packed rows lie behind
    void (*open)(shared *, share *, int64_t, int) noexcept nogil
    void (*close)(shared *, share *) noexcept nogil
    ptrdiff_t first, last    # classes
    # Shares are ranges of rows ...
    const int64_t *bounds
    ptrdiff_t kept_bytes     # from a block of kept logits to the next, where these are looked at
    bint packs, ranks
    char *loss               # or NULL
    # ... or of classes, each or each thread with a state of its own; the best are those of a thread.
    ptrdiff_t classes
    bint by_seat
    ptrdiff_t value_bytes, int_bytes  # from a state to the next
    char **top_logit
    char **top_index

cdef void some_rows(const shared *all, share *own, ptrdiff_t lo, ptrdiff_t hi) noexcept nogil:
    """The job for some of the rows."""
    own.job = all.job
    cdef ptrdiff_t item = all.table.item, integer = sizeof(int64_t)
    cdef ll_product *p = &own.job.product
    cdef ll_question *q = &own.job.question
    cdef ll_output *o = &own.job.output
    cdef ll_state *s = &o.state
    own.job.rows = hi - lo
    p.x = moved(p.x, lo * p.x_row * (item if p.bf16 == NULL else sizeof(uint16_t)))
    p.x_start = <const int64_t *>moved(p.x_start, lo * integer)
    p.logits = moved(p.logits, lo * p.z_row * item)
    p.temperatures = <const double *>moved(p.temperatures, lo * sizeof(double))
    q.targets = <const int64_t *>moved(q.targets, lo * q.n_targets * integer)
    q.probs = moved(q.probs, lo * q.p_row * item)
    q.sparse_start = <const int64_t *>moved(q.sparse_start, lo * integer)
    q.exclude.start = <const int64_t *>moved(q.exclude.start, lo * q.exclude.step * integer)
    o.out = moved(o.out, lo * o.out_row * item)
    o.keep = moved(o.keep, lo * all.table.keep_size(1, least(own.job.n, all.table.block)) * item)
    s.values = moved(s.values, lo * item)
    s.wide = <double *>moved(s.wide, lo * sizeof(double))
    s.ints = <int64_t *>moved(s.ints, lo * integer)
    s.target_logit = moved(s.target_logit, lo * q.n_targets * item)
    s.top_logit = moved(s.top_logit, lo * q.top * item)
    s.top_index = <int64_t *>moved(s.top_index, lo * q.top * integer)
    s.top_log_prob = moved(s.top_log_prob, lo * q.top * item)
    own.loss = <char *>moved(all.loss, lo * q.n_targets * item)
    own.next, own.last = all.first, all.last


cdef void forget_best(const shared *all, const ll_job *job) noexcept nogil:
    """Let the rows have met no class."""
    cdef ptrdiff_t i
    for i in range(job.rows * job.question.top):
        if all.table.item == sizeof(float):
            (<float *>job.output.state.top_logit)[i] = NAN
        else:
            (<double *>job.output.state.top_logit)[i] = NAN
        job.output.state.top_index[i] = -1


cdef void open_rows(shared *all, share *own, int64_t task, int seat) noexcept nogil:
    some_rows(all, own, all.bounds[task], all.bounds[task + 1])
    own.job.scratch = all.memory[seat]
    if all.first == 0:
        all.table.init(&own.job)
        if own.job.n > all.table.lanes:
            forget_best(all, &own.job)
    if all.ranks:
        all.table.target_logits(&own.job)
    if all.packs:
        pack_into(all.table, &own.job, all.memory[seat] + all.scratch)


cdef void close_rows(shared *all, share *own) noexcept nogil:
    if own.last == own.job.n:
        finish(all.table, &own.job, own.loss)


cdef void open_classes(shared *all, share *own, int64_t task, int seat) noexcept nogil:
    cdef ll_state *s = &own.job.output.state
    cdef ptrdiff_t state = seat if all.by_seat else task
    own.job = all.job
    own.job.scratch = all.memory[seat]
    own.next = all.first + task * all.classes
    own.last = least(own.next + all.classes, all.last)
    s.values = moved(s.values, state * all.value_bytes)
    s.ints = <int64_t *>moved(s.ints, state * all.int_bytes)
    if own.job.question.top:
        s.top_logit, s.top_index = all.top_logit[seat], <int64_t *>all.top_index[seat]
    all.table.init(&own.job)


cdef bint advance(shared *all, share *own, int seat) noexcept nogil:
    """Call the kernels once; False where nothing is left to be done."""
    cdef ll_job part
    cdef int64_t task
    if own.next >= own.last:
        task = ll_add(&all.taken, 1)
        if task >= all.count:
            return False
        all.open(all, own, task, seat)
    part = some_classes(&own.job, all.table.item, own.next,
                        least(own.next + all.class_step, own.last), 0, 0, 0)
    if all.kept_bytes:
        part.product.logits = moved(own.job.product.logits,
                                    (own.next - all.first) // all.table.block * all.kept_bytes)
    all.table.score(&part)
    own.next = part.last
    if own.next >= own.last and all.close != NULL:
        all.close(all, own)
    return True


cdef void take_part(void *all, int seat) noexcept nogil:
    cdef share own
    own.next = own.last = 0
    while not ll_read(&(<shared *>all).stopped) and advance(<shared *>all, &own, seat):
        pass


cdef class Shares(Crew):
    """A job that reads all it needs where it lies."""

    cdef shared all
    cdef char *pointers[3 * MAX_SEATS]
    cdef tuple owners

    cdef void begin(self, Job job, ptrdiff_t count, ptrdiff_t class_step, tuple owners):
        self.all.table, self.all.job = job.table, job.job
        self.all.count, self.all.class_step = count, class_step
        self.all.memory = self.pointers
        self.all.top_logit = self.pointers + MAX_SEATS
        self.all.top_index = self.pointers + 2 * MAX_SEATS
        self.errand.part, self.errand.shared = take_part, &self.all
        self.owners = job, owners

    def memory_bytes(self):
        """Bytes of memory that each thread needs."""
        raise NotImplementedError

    def memory(self, list memories):
        """Memory for each thread, the caller's first."""
        cdef size_t start
        for i, memory in enumerate(memories):
            start = <size_t>data(memory)
            self.pointers[i] = <char *>((start + LINE - 1) // LINE * LINE)
        self.owners += (memories,)

    cdef object lead(self):
        cdef share own
        cdef bint more = True
        own.next = own.last = 0
        while more:
            with nogil:
                more = advance(&self.all, &own, 0)
            PyErr_CheckSignals()

    cdef object stop(self):
        ll_add(&self.all.stopped, 1)


cdef class RowShares(Shares):
    """Ranges of rows of a job, from each of the bounds to the next, against all classes."""

    def __init__(self, Job job, cnp.ndarray bounds, ptrdiff_t class_step, bint packs, bint ranks,
                 cnp.ndarray loss):
        self.begin(job, cnp.PyArray_DIM(bounds, 0) - 1, class_step, (bounds, loss))
        self.all.first, self.all.last = 0, job.job.n
        self.all.open, self.all.close = open_rows, close_rows
        self.all.bounds = <const int64_t *>data(bounds)
        self.all.packs, self.all.ranks, self.all.loss = packs, ranks, <char *>data(loss)

    def memory_bytes(self):
        cdef const ll_product *p = &self.all.job.product
        cdef share own
        cdef ptrdiff_t most = 0, i
        for i in range(self.all.count):
            most = max(most, self.all.bounds[i + 1] - self.all.bounds[i])
        some_rows(&self.all, &own, 0, most)
        own.job.product.x_packed = self.all.packs
        self.all.scratch = (self.all.table.scratch_bytes(&own.job) + LINE - 1) // LINE * LINE
        most = 0 if not self.all.packs else (
            p.bf16.row_bytes(most, p.k) if p.bf16 != NULL
            else (most * p.k + self.all.table.lanes) * self.all.table.item)
        return self.all.scratch + most + LINE


cdef class KeptShares(RowShares):
    """The same by logits that were kept, of classes [first, last): whole spans, or the last."""

    def __init__(self, Job job, cnp.ndarray bounds, cnp.ndarray kept, ptrdiff_t first,
                 ptrdiff_t last, cnp.ndarray loss):
        job.look_at(kept)
        RowShares.__init__(self, job, bounds, job.table.block, False, False, loss)
        self.all.first, self.all.last = first, last
        self.all.kept_bytes = job.job.rows * job.job.product.z_row * job.table.item


cdef class ClassShares(Shares):
    """Ranges of so many of the classes [first, last), for all rows.

    Each range has a state of its own, or each thread where nothing is made of it (`by_seat`); best
    classes are those of a thread.
    """

    def __init__(self, Job job, ptrdiff_t first, ptrdiff_t last, ptrdiff_t classes,
                 ptrdiff_t class_step, cnp.ndarray values, cnp.ndarray ints, list tops,
                 bint by_seat):
        cdef ptrdiff_t i
        cdef ll_state *state = &self.all.job.output.state
        self.begin(job, (last - first + classes - 1) // classes, class_step, (values, ints, tops))
        self.all.open = open_classes
        self.all.first, self.all.last, self.all.classes = first, last, classes
        self.all.by_seat = by_seat
        state.values, state.ints, state.wide = data(values), <int64_t *>data(ints), NULL
        self.all.value_bytes = cnp.PyArray_STRIDE(values, 0)
        self.all.int_bytes = cnp.PyArray_STRIDE(ints, 0)
        for i in range(len(tops)):
            self.all.top_logit[i] = <char *>data(tops[i][0])
            self.all.top_index[i] = <char *>data(tops[i][1])

    def memory_bytes(self):
        return self.all.table.scratch_bytes(&self.all.job) + LINE
