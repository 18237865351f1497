from libc.stdint cimport int64_t, uint8_t, uint64_t
from quiche_h3._core.http3_state cimport Http3State
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.streams cimport RequestStream

cdef enum:
    DEFAULT_URGENCY = 3                 # RFC 9218 4.1


cdef class Stream(RequestStream):
    cdef readonly Http3State http3
    cdef object head                    # (pairs, fin) that stream credit holds back, else None
    cdef bint sealed                    # trailers have come: nothing may follow
    cdef bint broken                    # it ended, or will end, otherwise than by both FINs
    cdef uint8_t urgency                # RFC 9218: of what we send
    cdef bint incremental
    cdef bint ranked                    # by our own program: the client's wishes count no more
    cdef object asked                   # (urgency, incremental) that the client asks for, None: the default
    cdef object update                  # the value of a PRIORITY_UPDATE that nobody has taken
    cdef int64_t announced              # the content-length that we sent, -1: none
    cdef bint not_modified              # a 304, whose length is that of another response
    cdef readonly object malformed      # what was wrong with what the peer sent, or None
    cdef int pump(self) except -1
    cdef int send_head(self, list pairs, bint fin) except -1
    cdef int send_trailers(self) except -1
    cdef int ask_priority(self, bytes value) except -1
    cdef int apply_priority(self) except -1
    cdef int check_length(self, Py_ssize_t more, bint fin) except -1
    cdef Py_ssize_t count_taken(self, ssize_t rc, Py_ssize_t n) except -2
    cdef bint may_write(self, Py_ssize_t size) except -1
    cdef int sent_fin(self) except -1
    cdef int stopped(self, uint64_t code) except -1
    cdef int drop_sending(self) except -1
    cdef int settle(self) except -1
