# What makes drivers.py compiled: every wake-up of a server passes here.

cimport cython
from libc.stdint cimport int64_t
from quiche_h3._core.endpoint cimport Endpoint


cdef class Driver:
    cdef readonly Endpoint endpoint
    cdef public object after_turn
    cdef int64_t _armed
    cdef bint _watching_writes

    cpdef _readable(self, Py_ssize_t index)
    cpdef _timer_fired(self)
    @cython.locals(endpoint=Endpoint, again=bint, blocked=bint, at=int64_t, retry=int64_t)
    cpdef _turn(self)


cdef class LibevDriver(Driver):
    cdef readonly object loop
    cdef public object timers
    cdef object _own_loop
    cdef object _closed
    cdef object _ios
    cdef object _timer
    cdef object _now
