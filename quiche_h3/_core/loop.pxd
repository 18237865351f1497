"""The libev loop for other extension modules, which add C watchers of their own to `Loop.ptr`.

    from quiche_h3._core.loop cimport Loop
    from quiche_h3._core cimport libev

Rules for such a watcher:
- it lives inside an object that holds a strong reference to its Loop, and is stopped before that object is freed;
- it is not known to `Loop.close()`: stop it before, and take `ptr == NULL` for "closed, nothing left to stop";
- its callback is `noexcept`, runs with the GIL held, and hands whatever it catches to `Loop.caught()`;
- libev counts it: the loop runs as long as it is active, unless `ev_unref` follows its start (and `ev_ref`
  precedes its stop);
- starting one outside the loop's own thread needs `Loop.nudge()` after it, or a sleeping loop will not see it.
"""

from quiche_h3._core.libev cimport ev_async, ev_io, ev_loop, ev_prepare, ev_watcher

cdef extern from "<Python.h>" nogil:
    ctypedef struct PyThreadState:
        pass


cdef class Loop:
    cdef ev_loop* ptr               # freed by close() or with the Loop; NULL once closed
    cdef readonly str backend
    cdef bint debug
    cdef PyThreadState* asleep      # the loop thread's saved state while it sleeps without the GIL, else NULL
    cdef unsigned long thread       # the thread inside run(), else 0
    cdef long pid                   # the process whose kernel state this is
    cdef bint stopping
    cdef object error               # what run() is to raise
    cdef object posts               # deque of (function, args)
    cdef ev_async wake              # drains posts, sees stopping
    cdef ev_prepare guard           # looks at fresh before libev does
    cdef set fresh                  # watchers libev has not handed to the kernel yet
    cdef ev_io signals              # reads signal_fds[0]
    cdef int[2] signal_fds          # pipe: Python's C signal handler writes to [1]; -1 when not made
    cdef int chained                # the wakeup descriptor that ours stands in for, else -1
    cdef bint watching              # ours is installed
    cdef void* first                # borrowed: the most recently started active Watcher, else NULL
    cdef object __weakref__

    # Runs the loop with EVRUN_ONCE, EVRUN_NOWAIT or 0; everything that Loop.run() promises holds.
    cdef bint turn(self, int flags) except -1
    # Logs an exception caught in a callback, or keeps it and stops the loop when run() is to raise it.
    cdef void caught(self, object error, object source) noexcept
    # Makes a loop that sleeps in another thread look at its watchers again.
    cdef void nudge(self) noexcept
    cdef int opened(self) except -1
    cdef int watch_signals(self) except -1
    cdef int unwatch_signals(self) except -1
    cdef int drop_signals(self) except -1
    cdef int forward_signals(self) except -1
    cdef void fail(self, object error) noexcept
    cdef void drain(self) noexcept


cdef class Watcher:
    cdef readonly Loop loop
    cdef object callback
    cdef ev_watcher* base           # the struct embedded in the subclass
    cdef void* newer                # borrowed: neighbours in the loop's list of active watchers
    cdef void* older
    cdef bint pinned                # one reference to ourselves and one place in that list are held
    cdef object __weakref__

    cdef int setup(self, object callback, void* base) except -1
    cdef bint is_active(self) noexcept
    cdef void pin(self) noexcept
    cdef void unpin(self) noexcept
    cdef bint fire(self, int revents) noexcept
    cdef int arm(self) except -1
    cdef int disarm(self) except -1
    # Just before libev hands a new descriptor to the kernel.
    cdef void verify(self) noexcept
