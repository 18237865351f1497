"""The loop itself and what all watchers have in common; `quiche_h3.ev` has the watchers and is the public name.

The GIL is let go only while libev sleeps, so callbacks start with it held and cost no hand-over.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EMFILE, ENFILE, ENOMEM, errno
from posix.unistd cimport close as close_fd, getpid

from quiche_h3._core.libev cimport *

import logging
import os
import signal
import threading
from collections import deque

cdef extern from "<Python.h>" nogil:
    PyThreadState* PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState*)

cdef object LOGGER = logging.getLogger("quiche_h3")

cdef dict BACKENDS = {
    "auto": 0,
    "epoll": EVBACKEND_EPOLL,
    "kqueue": EVBACKEND_KQUEUE,
    "poll": EVBACKEND_POLL,
    "select": EVBACKEND_SELECT,
    "linuxaio": EVBACKEND_LINUXAIO,
    "io_uring": EVBACKEND_IOURING,
}

# Posted calls made per iteration: enough to amortise a poll, few enough that descriptors get their turn.
cdef int POST_BATCH = 128

cdef unsigned long made = 0
cdef unsigned long freed = 0


def _debug_counts():
    """How many watchers were made and freed so far, for tests that look for leaks."""
    return made, freed


cdef object refused_backend(object backend, str problem):
    from quiche_h3.errors import ConfigError

    supported = [name for name, bit in BACKENDS.items() if bit & ev_supported_backends()]
    return ConfigError("event_backend", f"{getattr(backend, 'value', backend)!r} {problem}",
                       f"use auto or one of {', '.join(supported)}")


# The loop's userdata is its `asleep` field: these run without the GIL and may not touch a Python object.
cdef void on_release(ev_loop* loop) noexcept nogil:
    (<PyThreadState**>ev_userdata(loop))[0] = PyEval_SaveThread()


cdef void on_acquire(ev_loop* loop) noexcept nogil:
    PyEval_RestoreThread((<PyThreadState**>ev_userdata(loop))[0])


cdef void on_wake(ev_loop* ptr, ev_async* watcher, int revents) noexcept:
    cdef Loop loop = <Loop>watcher.data
    loop.drain()
    if loop.stopping:
        ev_break(ptr, EVBREAK_ONE)


cdef void on_guard(ev_loop* ptr, ev_prepare* watcher, int revents) noexcept:
    cdef Loop loop = <Loop>watcher.data
    while loop.fresh:
        (<Watcher>loop.fresh.pop()).verify()
    ev_ref(ptr)
    ev_prepare_stop(ptr, watcher)


cdef void on_signal_fd(ev_loop* ptr, ev_io* watcher, int revents) noexcept:
    cdef Loop loop = <Loop>watcher.data
    try:
        loop.forward_signals()
        PyErr_CheckSignals()
    except BaseException as error:
        # What a signal handler raises leaves run(), as it would leave any other Python code.
        loop.fail(error)


@cython.final
cdef class Loop:
    """A libev loop.

    `backend` is the mechanism libev waits with: "auto" (the best one), "epoll", "kqueue", "poll", "select",
    "linuxaio" or "io_uring". One that this libev or this kernel has not got raises `ConfigError`, which names
    those there are. The attribute `backend` says what was chosen.

    A callback that raises an `Exception` is logged with its traceback to the logger "quiche_h3" and the loop goes
    on; an `Io` that raised is stopped, since its descriptor would be ready again at once. With `debug=True` the
    exception stops the loop and leaves `run()`. `KeyboardInterrupt`, `SystemExit` and whatever a Python signal
    handler raises always do.

    Active watchers keep themselves and their loop alive: stop them, or `close()` the loop.
    """

    def __cinit__(self, object backend="auto", *, bint debug=False):
        self.signal_fds[0] = self.signal_fds[1] = -1
        self.posts = deque()
        self.debug = debug
        self.pid = getpid()
        if backend not in BACKENDS:
            raise refused_backend(backend, "is not a backend of the libev loop")
        cdef unsigned int mask = BACKENDS[backend]
        if mask and not mask & ev_supported_backends():
            raise refused_backend(backend, "is not in this build of libev")
        # NOENV: the program chooses, not an inherited LIBEV_FLAGS.
        self.ptr = ev_loop_new(mask | EVFLAG_NOENV)
        if self.ptr == NULL:
            if errno in (EMFILE, ENFILE, ENOMEM):
                raise OSError(errno, os.strerror(errno))
            raise refused_backend(backend, "is refused by the system")
        self.backend = next(name for name, bit in BACKENDS.items() if bit == ev_backend(self.ptr))
        # libev aborts the process when it gets no descriptor for its wake-up channel: see that there is one.
        for fd in os.pipe():
            os.close(fd)
        ev_set_userdata(self.ptr, &self.asleep)
        ev_set_loop_release_cb(self.ptr, on_release, on_acquire)
        ev_async_init(&self.wake, on_wake)
        self.wake.data = <void*>self
        ev_async_start(self.ptr, &self.wake)
        ev_unref(self.ptr)
        self.fresh = set()
        ev_prepare_init(&self.guard, on_guard)
        self.guard.data = <void*>self

    def __dealloc__(self):
        # No watcher can be active here: it would hold a reference to us.
        if self.ptr != NULL:
            ev_loop_destroy(self.ptr)
            self.ptr = NULL
        for i in range(2):
            if self.signal_fds[i] >= 0:
                close_fd(self.signal_fds[i])

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __repr__(self):
        state = "closed" if self.ptr == NULL else "running" if self.thread else "idle"
        return f"<Loop {self.backend} {state}>"

    def run(self, bint once=False):
        """Run callbacks until `stop()` is called or no watcher is active; with `once`, for one wait only.

        Returns whether watchers are still active. In the main thread Python's signal handlers run while the loop
        sleeps; the wakeup descriptor (`signal.set_wakeup_fd`) is ours meanwhile, and one set before is still
        written to. Raises `RuntimeError` when the loop is closed, runs already, or came through a fork.
        """
        return self.turn(EVRUN_ONCE if once else 0)

    def stop(self):
        """Make `run()` return after the current iteration. Safe from any thread and from signal handlers.

        Calls posted before this are still made, as far as one iteration makes them. When the loop is not running,
        its next `run()` returns after one iteration without sleeping. On a closed loop this does nothing.
        """
        if self.ptr == NULL:
            return
        self.stopping = True
        if self.thread == PyThread_get_thread_ident():
            ev_break(self.ptr, EVBREAK_ONE)
        # Sent in either case: it makes the calls posted before, and a break outside ev_run would be forgotten.
        ev_async_send(self.ptr, &self.wake)

    def post(self, fn, *args):
        """Have the loop call `fn(*args)` in its thread. Safe from any thread and from signal handlers.

        Calls are made in order, a bounded number in each iteration. What they raise is treated as in a callback.
        Calls wait while the loop is not running, and are dropped by `close()`.
        """
        if not callable(fn):
            raise TypeError(f"post() needs a callable, not {type(fn).__name__}")
        self.opened()
        self.posts.append((fn, args))
        ev_async_send(self.ptr, &self.wake)

    def now(self):
        """The time at which this iteration began, in seconds since the epoch."""
        self.opened()
        return ev_now(self.ptr)

    def update_now(self):
        """Set `now()` to the present, after a long callback."""
        self.opened()
        ev_now_update(self.ptr)

    def fork(self):
        """Make the loop usable in a forked child, with its watchers; the parent's loop is not touched.

        Raises `RuntimeError` when the loop was running in a thread that the child has not got.
        """
        self.opened()
        if self.thread and self.thread != PyThread_get_thread_ident():
            raise RuntimeError("the loop runs in another thread: make a new Loop in the child")
        cdef bint watching = self.watching
        # The pipe is shared with the parent: signals of one would wake the other.
        self.drop_signals()
        ev_loop_fork(self.ptr)
        self.pid = getpid()
        if watching:
            self.watch_signals()

    def close(self):
        """Stop all watchers, drop posted calls and free the loop. Closing again does nothing.

        Raises `RuntimeError` while the loop runs; with an active `Signal`, `ValueError` outside the main thread.
        """
        if self.ptr == NULL:
            return
        # In a forked child the thread that ran the loop may not exist any more.
        if self.thread and (self.pid == getpid() or self.thread == PyThread_get_thread_ident()):
            raise RuntimeError("the loop is running: stop() it before close()")
        self.posts.clear()
        while self.first != NULL:
            (<Watcher>self.first).stop()
        self.drop_signals()
        # A finalizer that the above set off may have closed the loop already.
        if self.ptr != NULL:
            ev_loop_destroy(self.ptr)
            self.ptr = NULL

    cdef int opened(self) except -1:
        if self.ptr == NULL:
            raise RuntimeError("the loop is closed")
        return 0

    cdef bint turn(self, int flags) except -1:
        cdef bint more
        self.opened()
        if self.pid != getpid():
            raise RuntimeError("the process has forked since the loop was made: call its fork() first")
        if self.thread:
            raise RuntimeError("the loop is running already")
        self.thread = PyThread_get_thread_ident()
        try:
            if self.thread == threading.main_thread().ident:
                self.watch_signals()
            more = ev_run(self.ptr, flags)
            # Posted calls keep the loop going as a watcher would.
            while flags == 0 and self.posts and not self.stopping and self.error is None:
                more = ev_run(self.ptr, flags)
        finally:
            self.unwatch_signals()
            self.thread = 0
            self.stopping = False
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return more

    cdef void drain(self) noexcept:
        cdef Py_ssize_t left = min(<Py_ssize_t>len(self.posts), <Py_ssize_t>POST_BATCH)
        while left > 0 and self.error is None:
            left -= 1
            fn, args = self.posts.popleft()
            try:
                fn(*args)
            except BaseException as error:
                self.caught(error, fn)
        if self.posts:
            ev_async_send(self.ptr, &self.wake)

    cdef void nudge(self) noexcept:
        if self.thread and self.thread != PyThread_get_thread_ident():
            ev_async_send(self.ptr, &self.wake)

    cdef void fail(self, object error) noexcept:
        if self.error is None:
            self.error = error
        ev_break(self.ptr, EVBREAK_ONE)

    cdef void caught(self, object error, object source) noexcept:
        if self.debug or not isinstance(error, Exception):
            self.fail(error)
            return
        try:
            LOGGER.error("exception in a callback of %r", source, exc_info=error)
        except BaseException as another:
            # A signal handler raised while we logged, or the source has a faulty repr.
            self.fail(another)

    cdef int watch_signals(self) except -1:
        if self.signal_fds[0] < 0:
            self.signal_fds[0], self.signal_fds[1] = os.pipe()
            os.set_blocking(self.signal_fds[0], False)
            os.set_blocking(self.signal_fds[1], False)
            ev_io_init(&self.signals, on_signal_fd, self.signal_fds[0], EV_READ)
            self.signals.data = <void*>self
            ev_io_start(self.ptr, &self.signals)
            ev_unref(self.ptr)
        self.chained = signal.set_wakeup_fd(self.signal_fds[1], warn_on_full_buffer=False)
        self.watching = True
        # A signal that came before has written elsewhere, and no Python code may run before we sleep.
        PyErr_CheckSignals()
        return 0

    cdef int unwatch_signals(self) except -1:
        if not self.watching:
            return 0
        self.watching = False
        try:
            signal.set_wakeup_fd(self.chained, warn_on_full_buffer=False)
        except (OSError, ValueError):   # it was closed meanwhile
            signal.set_wakeup_fd(-1)
        if self.chained >= 0:
            self.forward_signals()
        return 0

    cdef int drop_signals(self) except -1:
        self.unwatch_signals()
        if self.signal_fds[0] >= 0:
            ev_ref(self.ptr)
            ev_io_stop(self.ptr, &self.signals)
            for i in range(2):
                close_fd(self.signal_fds[i])
                self.signal_fds[i] = -1
        return 0

    cdef int forward_signals(self) except -1:
        """Empty the pipe, into the wakeup descriptor that ours stands in for if there is one."""
        try:
            numbers = os.read(self.signal_fds[0], 4096)
            if self.chained >= 0:
                os.write(self.chained, numbers)
        except OSError:
            pass    # the pipe was empty, or the other one is full or closed: nobody can be told
        return 0


cdef class Watcher:
    """What all watchers have in common; not to be made itself.

    A watcher is made stopped. Its callback is called as `callback(watcher, revents)`, where `revents` is a mask of
    `READ` and `WRITE` for an `Io` and libev's own bit for the others. All methods but `stop()` raise
    `RuntimeError` once the loop is closed.
    """

    def __cinit__(self, Loop loop not None, *args, **kwargs):
        self.loop = loop
        if type(self) is Watcher:
            raise TypeError("Watcher is abstract")

    def __dealloc__(self):
        # An active watcher holds a reference to itself, so libev does not know this one.
        global freed
        if self.base != NULL:
            freed += 1

    def __repr__(self):
        return f"<{type(self).__name__} {'active' if self.is_active() else 'stopped'} callback={self.callback!r}>"

    @property
    def active(self):
        """Whether the callback may still be called: true from `start()` until `stop()` or a timer's last call."""
        return self.is_active()

    def start(self):
        """Begin to watch; an active watcher is left as it is."""
        if self.loop is None:
            raise RuntimeError("the loop is closed")
        self.loop.opened()
        if not self.is_active():
            self.arm()
            self.pin()
            self.loop.nudge()

    def stop(self):
        """Cease to watch; the callback is not called again, even for an event already seen."""
        if self.pinned:
            self.disarm()
            self.unpin()
            self.loop.nudge()

    cdef int setup(self, object callback, void* base) except -1:
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {type(callback).__name__}")
        global made
        made += 1
        self.callback = callback
        self.base = <ev_watcher*>base
        self.base.data = <void*>self
        return 0

    cdef bint is_active(self) noexcept:
        return self.pinned and (ev_is_active(self.base) or ev_is_pending(self.base))

    cdef void pin(self) noexcept:
        if self.pinned:
            return
        self.pinned = True
        Py_INCREF(self)
        self.newer = NULL
        self.older = self.loop.first
        if self.older != NULL:
            (<Watcher>self.older).newer = <void*>self
        self.loop.first = <void*>self

    cdef void unpin(self) noexcept:
        if not self.pinned:
            return
        self.pinned = False
        if self.newer != NULL:
            (<Watcher>self.newer).older = self.older
        else:
            self.loop.first = self.older
        if self.older != NULL:
            (<Watcher>self.older).newer = self.newer
        self.newer = self.older = NULL
        Py_DECREF(self)

    cdef bint fire(self, int revents) noexcept:
        """Call the callback; false when it raised. The caller holds a reference."""
        cdef bint well = True
        try:
            self.callback(self, revents)
        except BaseException as error:
            well = False
            self.loop.caught(error, self)
        # A one-shot timer is stopped by libev before its call, an Io when its descriptor turns out to be bad.
        if not self.is_active():
            self.unpin()
        return well

    cdef int arm(self) except -1:
        raise NotImplementedError

    cdef int disarm(self) except -1:
        raise NotImplementedError

    cdef void verify(self) noexcept:
        pass
