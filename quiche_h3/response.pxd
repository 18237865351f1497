# What makes response.py compiled: typed slots and direct calls on the path of every response.

from quiche_h3._core.streams cimport RequestStream

cdef class Drain:
    cdef object _response

cdef class Response:
    cdef readonly object request
    cdef readonly object _stream
    cdef RequestStream _direct          # the same, where it is no stand-in of another thread or a session
    cdef object _exchange
    cdef public list _headers
    cdef public int _status
    cdef Py_ssize_t _limit
    cdef bint _deferred
    cdef bint _head_only
    cdef public bint headers_sent
    cdef public bint ended
    cdef public bint hold_fin

    cpdef use(self, object stream)
    cpdef end(self, object final=*)
    cpdef finish_with(self, object result)
    cdef _end_with(self, tuple content_type, bytes body)
    cdef bint _has(self, bytes name) except -1
    cpdef add_pairs(self, list pairs)
    cdef _send_head(self, bint fin)
    cdef _enqueue(self, bytes data, bint fin)
    cdef _start_body(self, bytes chunk)
    cdef _check_initial(self)
    cdef _check_bodiless(self, bytes chunk)
    cdef _set_status(self, int code)
    cdef _finish_with_tuple(self, tuple result)

cdef bytes _as_bytes(object data)
