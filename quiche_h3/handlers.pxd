# What makes handlers.py compiled: the dispatcher's slots. Exchanges stay ordinary objects.

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
    cdef bint _log_all
    cdef public bint raw_datagrams
