# What makes handlers.py compiled: the dispatcher's slots. Exchanges stay ordinary objects.

cimport cython
from quiche_h3._core.streams cimport RequestStream
from quiche_h3.request cimport Request
from quiche_h3.response cimport Response


cdef class Dispatcher:
    cdef public object config
    cdef public object router
    cdef public Py_ssize_t started
    cdef public Py_ssize_t finished
    cdef public Py_ssize_t failed
    cdef public Py_ssize_t cancelled
    cdef public Py_ssize_t rejected
    cdef public Py_ssize_t blocking
    cdef public object post
    cdef public object spawn
    cdef object _pool
    cdef object _sessions
    cdef public object _exchange_of
    cdef list _own_fields
    cdef dict _exact
    cdef Py_ssize_t _queue_limit
    cdef Py_ssize_t _active_limit
    cdef Py_ssize_t _body_limit
    cdef bint _log_all
    cdef public bint raw_datagrams

    # The stream is one of HTTP/3 or of HTTP/0.9, and so are its fields.
    @cython.locals(
        request=Request, response=Response, table=dict, method=bytes, target=bytes, path=bytes, kind=int, arity=int)
    cpdef request(self, RequestStream stream)
    cpdef admit(self, RequestStream stream)
