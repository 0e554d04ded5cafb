# Part of _core.pyx: threads that wait for work, and the work that they share.

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    PY_LOCK_ACQUIRED, PyLockStatus, PyThread_acquire_lock, PyThread_allocate_lock,
    PyThread_free_lock, PyThread_release_lock, PyThread_type_lock, WAIT_LOCK)
from cython cimport critical_section

cdef extern from "pythread.h" nogil:
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, long long, int)

cdef extern from "base/atomics.h" nogil:
    int64_t ll_read(int64_t *)
    int64_t ll_add(int64_t *, int64_t)
    bint ll_replace(int64_t *, int64_t, int64_t)
    void ll_relax()

cdef enum:
    TURNS = 1000  # of a loop that waits before it sleeps: some 15 to 60 us
    AWAITED = 1 << 20  # more than there are helpers
    LOOK = 100_000  # us between two looks for signals

# What a helper is at; above these bits the number of the work, so that no two are mistaken.
cdef enum:
    IDLE, ASLEEP, TAKEN, POSTED, POSTED_PYTHON, AT_WORK
    KIND = 7


cdef struct errand:
    void *owner  # whose `help` is called, unless there is
    void (*part)(void *, int) noexcept nogil  # to be called without the GIL, with the seat and
    void *shared
    int64_t helpers  # that may be at work, or will be; and AWAITED once the caller sleeps
    PyThread_type_lock gone  # released by the last of them


cdef int64_t posted(errand *work) noexcept:
    return POSTED_PYTHON if work.part == NULL else POSTED


cdef void leave(errand *work) noexcept nogil:
    """The last thing that a helper does: then the errand is the caller's alone."""
    cdef PyThread_type_lock gone = work.gone
    if ll_add(&work.helpers, -1) == AWAITED + 1:
        PyThread_release_lock(gone)


cdef class Helper:
    """Where a thread of the pool waits for work: without the GIL, and for a while without sleep.

    Attributes
    ----------
    turns : int
        How long it is awake: 0 where threads are more than cores.
    """

    cdef int64_t state, awake
    cdef int seat
    cdef errand *work
    cdef PyThread_type_lock bell

    def __cinit__(self):
        self.awake = TURNS
        self.bell = PyThread_allocate_lock()
        if self.bell == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.bell, WAIT_LOCK)

    def __dealloc__(self):
        # Its thread has not begun: one that has holds on to it, even where a fork left it behind.
        if self.bell != NULL:
            PyThread_free_lock(self.bell)

    @property
    def turns(self):
        return ll_read(&self.awake)

    @turns.setter
    def turns(self, int64_t turns):
        ll_add(&self.awake, turns - ll_read(&self.awake))  # its thread may be looking

    cdef int64_t post(self, errand *work, int seat) noexcept:
        """Give it work, if it has none; returns the number of the work or 0."""
        cdef int64_t state = ll_read(&self.state), number = (state >> 3) + 1
        while (state & KIND) <= ASLEEP:
            if ll_replace(&self.state, state, number << 3 | TAKEN):
                self.work, self.seat = work, seat
                ll_add(&work.helpers, 1)
                ll_add(&self.state, posted(work) - TAKEN)
                if (state & KIND) == ASLEEP:
                    PyThread_release_lock(self.bell)
                return number
            state = ll_read(&self.state)
            number = (state >> 3) + 1
        return 0

    cdef void recall(self, errand *work, int64_t number) noexcept:
        """Take work back that it has not begun."""
        if ll_replace(&self.state, number << 3 | posted(work), number << 3 | IDLE):
            ll_add(&work.helpers, -1)

    cdef bint begin(self, int64_t kind) noexcept nogil:
        """Whether there is work of this kind, which the caller will now wait for."""
        cdef int64_t state = ll_read(&self.state)
        return (state & KIND) == kind and ll_replace(&self.state, state, state + AT_WORK - kind)

    cdef void end(self, errand *work) noexcept nogil:
        ll_add(&self.state, IDLE - AT_WORK)
        leave(work)

    cdef void wait(self) noexcept nogil:
        """Wait for work that needs the GIL, and do other work."""
        cdef int64_t state, turns = ll_read(&self.awake)
        while True:
            state = ll_read(&self.state)
            if (state & KIND) == POSTED_PYTHON:
                return
            if self.begin(POSTED):
                self.work.part(self.work.shared, self.seat)
                self.end(self.work)
                turns = ll_read(&self.awake)
            elif turns > 0:
                turns -= 1
                ll_relax()
            elif (state & KIND) != IDLE:  # TAKEN: work comes at once
                ll_relax()
            elif ll_replace(&self.state, state, state + ASLEEP - IDLE):
                PyThread_acquire_lock(self.bell, WAIT_LOCK)
                turns = ll_read(&self.awake)

    def serve(self):
        """What its thread does, until the end of the process."""
        cdef errand *work
        while True:
            with nogil:
                self.wait()
            # With the GIL at last: the work may be done by now, and have been taken back.
            if self.begin(POSTED_PYTHON):
                work = self.work
                (<Crew>work.owner).help()
                self.end(work)


cdef class Crew:
    """Work that a caller and helpers share. It is done once.

    ``work()`` is the caller's part, ``help()`` that of a helper, ``stop()`` makes them end soon: it is
    no Python code, for a handler of a signal could raise in it.
    """

    cdef errand errand
    cdef bint awaited
    cdef int64_t turns
    cdef list posted
    cdef object work, help_, stop_, error

    def __cinit__(self, *arguments):
        self.errand.owner = <void *>self
        self.posted = []
        self.errand.gone = PyThread_allocate_lock()
        if self.errand.gone == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.errand.gone, WAIT_LOCK)

    def __dealloc__(self):
        if self.errand.gone != NULL:
            PyThread_free_lock(self.errand.gone)

    def __init__(self, work, help, stop):
        self.work, self.help_, self.stop_ = work, help, stop

    cdef void help(self) noexcept:
        """A helper's part. It has caught its errors, but for those from outside: no memory, ..."""
        try:
            self.help_()
        except BaseException as error:
            with critical_section(self):  # several may fail at once, and where there is no GIL
                self.error = error

    cdef object lead(self):
        """The caller's part."""
        self.work()

    cdef object stop(self):
        self.stop_()

    def run(self, list helpers, int count, hire):
        """Do the work with up to `count` of the helpers; `hire` makes one more, or None.

        What the caller's part raises, or a handler of a signal, leaves when no helper is at work.
        """
        cdef Helper helper
        try:
            for helper in list(helpers):  # as they are now: others may hire meanwhile
                if len(self.posted) >= count:
                    break
                self.post(helper)
            while len(self.posted) < count:
                helper = hire()
                if helper is None:
                    break
                self.post(helper)
            self.lead()
            self.settle(True)
        except:  # noqa: E722: also those that handlers of signals raise
            # No bytecode runs from here on, and with it no other handler.
            try:
                self.stop()
            finally:
                self.settle(False)
            raise
        if self.error is not None:
            raise self.error

    cdef void post(self, Helper helper):
        cdef int64_t number = helper.post(&self.errand, <int>len(self.posted) + 1)
        if number:
            self.posted.append((helper, number))
            self.turns = ll_read(&helper.awake)

    cdef int settle(self, bint signals) except -1:
        """Wait until no helper is at work."""
        cdef int64_t turns = self.turns
        cdef bint gone = False
        for helper, number in self.posted:
            (<Helper>helper).recall(&self.errand, number)
        with nogil:
            while turns > 0 and ll_read(&self.errand.helpers):
                turns -= 1
                ll_relax()
        if not self.awaited:
            self.awaited = True
            gone = ll_add(&self.errand.helpers, AWAITED) == 0
        while not gone:
            with nogil:
                gone = PyThread_acquire_lock_timed(self.errand.gone, LOOK, 0) == PY_LOCK_ACQUIRED
            if signals and not gone:
                PyErr_CheckSignals()
        ll_read(&self.errand.helpers)  # what they wrote is seen, whatever a lock of Python's is
        return 0
