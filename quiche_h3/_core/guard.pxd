from libc.stdint cimport uint64_t
from quiche_h3._core.connection cimport Watch
from quiche_h3._core.http3 cimport Http3
from quiche_h3._core.http3_stream cimport Stream


cdef class GuardLimits:
    # Nanoseconds; 0 is no limit.
    cdef uint64_t header_ns
    cdef uint64_t grace_ns
    cdef uint64_t stall_ns
    cdef uint64_t handler_ns
    cdef uint64_t age_ns
    cdef uint64_t idle_ns
    cdef uint64_t drain_ns
    cdef uint64_t body_rate             # bytes per second
    cdef uint64_t packets
    cdef uint64_t encoder_bytes
    cdef uint64_t tick_ns               # how often a connection is looked at while anything happens on it


cdef class Progress:
    """What a stream had done when it was last found in time."""

    cdef uint64_t received_at
    cdef uint64_t received
    cdef uint64_t seen                  # bytes received, at `seen_at`
    cdef uint64_t seen_at
    cdef uint64_t sent_at
    cdef uint64_t sent


cdef class Guard(Watch):
    cdef Http3 http3
    cdef GuardLimits limits
    cdef dict incomplete                # id of a request without its field section -> when it was first seen
    cdef dict progress                  # id of an unfinished stream -> Progress
    cdef uint64_t active_at             # a request or datagram was last seen then
    cdef uint64_t last_request
    cdef uint64_t last_datagrams
    cdef uint64_t left_at               # GOAWAY was sent then; 0 before

    cdef int look_at_incomplete(self, uint64_t now) except -1
    cdef int look_at_streams(self, uint64_t now) except -1
    cdef bint too_slow(self, Stream stream, Progress p, uint64_t now) except -1
    cdef bint overdue(self, Stream stream, Progress p, uint64_t now) except -1
    cdef bint stalled(self, Stream stream, Progress p, uint64_t now)
    cdef bint active(self)
    cdef int leave(self, uint64_t now) except -1
