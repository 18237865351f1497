from libc.stdint cimport uint64_t
from quiche_h3._core.streams cimport RequestProtocol, RequestStream


cdef class Hq(RequestProtocol):
    cdef list finishing                 # streams whose FIN was read and whose handlers were not told yet
    cdef bint refusing
    cdef uint64_t next_stream           # client: the next id; server: the first that was not seen yet
    cdef int readable(self, uint64_t stream_id) except -1
    cdef HqStream accept(self, uint64_t stream_id)
    cdef bint open(self, HqStream stream) except -1


cdef class HqStream(RequestStream):
    cdef readonly Hq http3
    cdef bint fin_read                  # nothing more comes of the peer's half
    cdef int refusal                    # the status of an answer that is none in HTTP/0.9
    cdef bytes ahead                    # read, not yet taken: a request's line (server), an answer's first bytes
    cdef bytes read(self, Py_ssize_t n)
    cdef int read_line(self) except -1
    cdef int begin(self, bytes line, bytes rest) except -1
    cdef int stop_reading(self, uint64_t code) except -1
    cdef int pump(self, bint tell) except -1
    cdef int sent_fin(self) except -1
    cdef int tell_sent(self) except -1
    cdef int drop_sending(self, uint64_t code) except -1
    cdef int was_reset(self, uint64_t code) except -1
    cdef int was_stopped(self, uint64_t code) except -1
    cdef int settle(self) except -1
