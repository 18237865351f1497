from libc.stdint cimport uint64_t
from quiche_h3._core.http3_stream cimport Stream
from quiche_h3._core.webtransport_streams cimport StreamOwner

cdef extern from "bucket.h" nogil:
    ctypedef struct token_bucket:
        uint64_t filled_at

    void bucket_init(token_bucket *b, double rate, double burst, uint64_t now)
    bint bucket_take(token_bucket *b, uint64_t now)


cdef class Tunnel:
    cdef SessionBase session


cdef class SessionBase(StreamOwner):
    cdef readonly Stream stream         # the CONNECT stream
    cdef readonly uint64_t session_id
    cdef bytes prefix                   # of its datagrams: the quarter stream ID
    cdef public object on_datagram
    cdef object datagram_queue          # deque, bounded
    cdef Py_ssize_t queue_limit
    cdef public object datagram_waiter  # called once when one comes, or the session ends
    cdef bint datagrams_taken           # the peer takes datagrams: it does not change its mind
    cdef list held                      # server: our datagrams that wait for the response to be sent; then None
    cdef uint64_t answered_at           # turn in which that was written
    cdef uint64_t accepted[2]           # the peer's streams so far
    cdef uint64_t seen                  # sum of the counters when it was last looked at,
    cdef uint64_t seen_at               # and when that was another one than before
    cdef token_bucket stream_rate
    cdef token_bucket datagram_rate
    cdef int release(self) except -1
    cdef int queue_datagram(self, bytes payload) except -1
    cdef int take_datagram(self, bytes payload) except -1
    cdef int start_flow_control(self, dict peer) except -1
    cdef int drop_datagram(self) except -1
    cdef uint64_t activity(self) noexcept
    cdef int look(self, uint64_t now, uint64_t idle_ns) except -1
