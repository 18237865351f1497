"""An event loop over libev, with watchers for descriptors, time, signals and other threads.

The server runs on such a loop, and a program may put watchers of its own on it. Times are seconds as floats.

Watchers may be started and stopped in any thread; callbacks always run in the thread that is inside `Loop.run()`,
and start with the GIL held.
"""

cimport cython
from libc.errno cimport errno
from libc.math cimport isfinite
from posix.fcntl cimport F_GETFD, fcntl

from quiche_h3._core.libev cimport *

import os
import signal

from quiche_h3._core.loop import _debug_counts

cdef extern from "<Python.h>":
    int PyObject_AsFileDescriptor(object) except -1

__all__ = ["READ", "WRITE", "Async", "Io", "Loop", "Signal", "Timer", "Watcher"]

# A cimported class is not an attribute of the module that cimports it.
globals().update(Loop=Loop, Watcher=Watcher)

READ = EV_READ
WRITE = EV_WRITE


cdef void on_io(ev_loop* ptr, ev_io* watcher, int revents) noexcept:
    cdef Io self = <Io>watcher.data
    # EV_ERROR (the descriptor was closed) stays here: the callback's own read or write will say it better.
    if not self.fire(revents & (EV_READ | EV_WRITE)) and self.pinned:
        ev_io_stop(ptr, watcher)
        self.unpin()


@cython.final
cdef class Io(Watcher):
    """Calls back whenever a descriptor can be read or written without blocking (level-triggered).

    `fd` is a number or an object with `fileno()`, which is not kept. `events` is `READ`, `WRITE` or both. `start()`
    raises `OSError` when the descriptor is not open.

    Stop the watcher before closing the descriptor. With epoll and kqueue a closed one is merely silent, or stops
    the watcher after one last call; with other backends some builds of libev abort the process.
    """

    def __cinit__(self, Loop loop not None, object fd, int events, object callback):
        check_events(events)
        ev_io_init(&self.watcher, on_io, PyObject_AsFileDescriptor(fd), events)
        self.setup(callback, &self.watcher)

    @property
    def fd(self):
        """The watched descriptor."""
        return self.watcher.fd

    @property
    def events(self):
        """The events watched for, `READ`, `WRITE` or both; may be set at any time."""
        return self.watcher.events & (EV_READ | EV_WRITE)

    @events.setter
    def events(self, int events):
        check_events(events)
        cdef bint active = self.is_active()
        self.stop()
        ev_io_set(&self.watcher, self.watcher.fd, events)
        if active:
            self.start()

    cdef int arm(self) except -1:
        # libev aborts when it cannot allocate a table up to a nonsensical number.
        if fcntl(self.watcher.fd, F_GETFD) < 0:
            raise OSError(errno, f"{os.strerror(errno)}: descriptor {self.watcher.fd}")
        ev_io_start(self.loop.ptr, &self.watcher)
        self.loop.fresh.add(self)
        if not ev_is_active(&self.loop.guard):
            ev_prepare_start(self.loop.ptr, &self.loop.guard)
            ev_unref(self.loop.ptr)
        return 0

    cdef void verify(self) noexcept:
        # The kernel would refuse a descriptor closed since start(), and libev, as Debian builds it, then aborts.
        if ev_is_active(&self.watcher) and fcntl(self.watcher.fd, F_GETFD) < 0:
            ev_io_stop(self.loop.ptr, &self.watcher)
            self.fire(EV_READ | EV_WRITE)

    cdef int disarm(self) except -1:
        self.loop.fresh.discard(self)
        ev_io_stop(self.loop.ptr, &self.watcher)
        return 0


cdef int check_events(int events) except -1:
    if not events or events & ~(EV_READ | EV_WRITE):
        raise ValueError(f"events must be READ, WRITE or both, not {events:#x}")
    return 0


cdef void on_timer(ev_loop* ptr, ev_timer* watcher, int revents) noexcept:
    cdef Timer self = <Timer>watcher.data
    self.fire(revents)


@cython.final
cdef class Timer(Watcher):
    """Calls back after a time, and then again at every interval when there is one.

    `after` and `repeat` are in seconds, finite and not negative. `after` counts from `start()`; 0 means the next
    iteration. `repeat` 0 means once. How fine the steps are is the backend's affair: epoll and poll wait for whole
    milliseconds, and a timer is never early.
    """

    def __cinit__(self, Loop loop not None, double after, double repeat, object callback):
        check_seconds("after", after)
        check_seconds("repeat", repeat)
        self.after = after
        ev_timer_init(&self.watcher, on_timer, after, repeat)
        self.setup(callback, &self.watcher)

    @property
    def after(self):
        """Seconds from `start()` to the first call."""
        return self.after

    @property
    def repeat(self):
        """Seconds between calls, 0 for none."""
        return self.watcher.repeat

    def set(self, double after, double repeat=0.0):
        """Change both times; an active timer starts anew with them."""
        check_seconds("after", after)
        check_seconds("repeat", repeat)
        cdef bint active = self.is_active()
        self.stop()
        self.after = after
        self.watcher.repeat = repeat
        if active:
            self.start()

    def again(self):
        """Start anew with the first call in `repeat` seconds, as an idle timeout does at each sign of life.

        Raises `ValueError` when `repeat` is 0, where libev would stop the timer without a word.
        """
        if self.watcher.repeat == 0:
            raise ValueError("again() needs a repeating timer")
        after, self.after = self.after, self.watcher.repeat
        self.stop()
        try:
            self.start()
        finally:
            self.after = after

    cdef int arm(self) except -1:
        # Otherwise time spent outside run(), or in a long callback, would count as waited already.
        ev_now_update(self.loop.ptr)
        ev_timer_set(&self.watcher, self.after, self.watcher.repeat)
        ev_timer_start(self.loop.ptr, &self.watcher)
        return 0

    cdef int disarm(self) except -1:
        ev_timer_stop(self.loop.ptr, &self.watcher)
        return 0


cdef int check_seconds(str name, double seconds) except -1:
    if not isfinite(seconds) or seconds < 0:
        raise ValueError(f"{name} must be a finite number of seconds, 0 or more, not {seconds}")
    return 0


cdef void on_async(ev_loop* ptr, ev_async* watcher, int revents) noexcept:
    cdef Watcher self = <Watcher>watcher.data
    self.fire(revents)


@cython.final
cdef class Signal(Watcher):
    """Calls back, in the loop, after a signal has come; several may be answered by one call.

    While active it is Python's handler of that signal, installed with `signal.signal`, so `start()` and `stop()`
    belong in the main thread (`ValueError` elsewhere); the loop may run in any. `stop()` puts the previous handler
    back unless somebody has replaced ours. Handlers of other signals are not touched, and libev's own signal
    watchers, which would take the signal from Python, are not used. A signal has one active watcher at most:
    `start()` raises `RuntimeError` for a second one, and `OSError` for a signal that cannot be caught.
    """

    def __cinit__(self, Loop loop not None, int signum, object callback):
        self.signum = signum
        ev_async_init(&self.watcher, on_async)
        self.setup(callback, &self.watcher)

    def _deliver(self, signum, frame):
        if self.pinned:
            ev_async_send(self.loop.ptr, &self.watcher)

    cdef int arm(self) except -1:
        current = signal.getsignal(self.signum)
        owner = getattr(current, "__self__", None)
        if isinstance(owner, Signal) and (<Signal>owner).pinned:
            raise RuntimeError(f"signal {self.signum} has an active Signal watcher already")
        self.handler = self._deliver
        signal.signal(self.signum, self.handler)
        self.previous = current
        ev_async_start(self.loop.ptr, &self.watcher)
        return 0

    cdef int disarm(self) except -1:
        if signal.getsignal(self.signum) is self.handler:
            # None stands for a handler that C code had installed and Python cannot put back.
            signal.signal(self.signum, signal.SIG_DFL if self.previous is None else self.previous)
        self.handler = self.previous = None
        ev_async_stop(self.loop.ptr, &self.watcher)
        return 0


@cython.final
cdef class Async(Watcher):
    """Calls back, in the loop, after `send()` in any thread; several may be answered by one call."""

    def __cinit__(self, Loop loop not None, object callback):
        ev_async_init(&self.watcher, on_async)
        self.setup(callback, &self.watcher)

    def send(self):
        """Have the callback called. Safe from any thread and from signal handlers; nothing happens when stopped."""
        if self.loop is None:
            raise RuntimeError("the loop is closed")
        self.loop.opened()
        if self.pinned:
            ev_async_send(self.loop.ptr, &self.watcher)

    cdef int arm(self) except -1:
        ev_async_start(self.loop.ptr, &self.watcher)
        return 0

    cdef int disarm(self) except -1:
        ev_async_stop(self.loop.ptr, &self.watcher)
        return 0
