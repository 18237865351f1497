# What makes request.py compiled: typed slots, so that an untouched request costs one small allocation.

cdef class Request:
    cdef readonly object _fields
    cdef object _headers
    cdef readonly object _stream
    cdef public object body
    cdef public object params
    cdef public object state
    cdef public object trailers
