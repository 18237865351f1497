from libc.stdint cimport int64_t, uint8_t, uint64_t
from quiche_h3._core.connection cimport Connection
from quiche_h3._core.fields cimport Http3Limits
from quiche_h3._core.libquiche cimport quiche_h3_conn
from quiche_h3._core.stateless cimport token_bucket
from quiche_h3._core.streams cimport RequestProtocol


cdef struct http3_counters:
    uint64_t requests
    uint64_t malformed
    uint64_t resets_received
    uint64_t resets_sent
    uint64_t goaways_sent
    uint64_t goaways_received
    uint64_t body_bytes_received
    uint64_t body_bytes_sent
    uint64_t datagrams_received
    uint64_t datagrams_sent
    uint64_t datagrams_dropped
    uint64_t reset_floods
    uint64_t update_floods
    uint64_t encoder_floods
    uint64_t idle_frame_floods
    uint64_t slow_headers
    uint64_t slow_bodies
    uint64_t overdue_handlers
    uint64_t stalled_responses
    uint64_t left_by_age
    uint64_t left_by_idleness
    uint64_t left_by_packets
    uint64_t responses[6]


cdef class Http3Counters:
    cdef http3_counters n


cdef class Claims:
    """Owns the streams that are no part of HTTP/3 (WebTransport), behind one narrow interface."""

    # Handles what arrived and what may be written now. True: work is left for the next turn.
    cdef bint service(self) except -1
    # A stream may be written to. False: it is none of these.
    cdef bint writable(self, uint64_t stream_id) except -1
    # A datagram has come. False: it is none of theirs, or not yet.
    cdef bint datagram(self, const uint8_t *data, Py_ssize_t n) except -1
    # We have sent GOAWAY.
    cdef int drain(self) except -1
    # The connection is gone.
    cdef int closed(self) except -1


cdef class Http3State(RequestProtocol):
    cdef quiche_h3_conn *h3             # owned; freed before the connection it points into
    cdef list resetting                 # (stream, code): what they have said goes out in this turn, the reset in the next
    cdef Http3Limits limits
    cdef Http3Counters counters
    cdef public Claims claims           # or None
    cdef public bint keeps_lengths      # what we send has the length that it announces, or an error is raised
    cdef bint dated                     # responses get a date field
    cdef bint announced_datagrams       # RFC 9297: by us
    cdef readonly uint64_t highest_request       # the first stream id that was not seen yet
    cdef bint any_incremental           # there was an incremental response
    cdef int64_t refuse_from            # GOAWAY: requests from this stream id on are not taken; -1 for all are
    cdef bint goaway_sent               # that was said: there was room for it
    cdef token_bucket resets            # streams given up, by the peer or by us
    cdef token_bucket updates           # PRIORITY_UPDATE frames
    cdef bint flooded                   # there were too many: the connection closes
    cdef int begin(self, Connection connection, app, Http3Limits limits, Http3Counters counters, bint server) except -1
    cpdef send_datagram(self, bytes payload)
    cpdef goaway(self)
    cdef int send_goaway(self) except -1
    cdef int charge_reset(self) except -1
    cdef int flood(self) except -1
