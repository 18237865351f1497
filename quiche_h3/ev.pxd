"""The watchers for other extension modules; the rules for C watchers of their own are in `_core/loop.pxd`."""

from quiche_h3._core.libev cimport ev_async, ev_io, ev_timer
from quiche_h3._core.loop cimport Loop, Watcher


cdef class Io(Watcher):
    cdef ev_io watcher


cdef class Timer(Watcher):
    cdef ev_timer watcher
    cdef double after


cdef class Signal(Watcher):
    cdef ev_async watcher
    cdef readonly int signum
    cdef object handler             # what we installed, to know it again
    cdef object previous            # what stop() puts back


cdef class Async(Watcher):
    cdef ev_async watcher
