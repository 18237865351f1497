from libc.stdint cimport int64_t, uint8_t, uint64_t
from quiche_h3._core.connection cimport Connection, Protocol
from quiche_h3._core.fields cimport FieldSection, Http3Limits
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.libquiche cimport quiche_h3_conn, quiche_h3_event
from quiche_h3._core.stateless cimport token_bucket


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


cdef class Http3(Protocol):
    cdef readonly Connection connection
    cdef quiche_h3_conn *h3             # owned; freed before the connection it points into
    cdef object app
    cdef readonly dict streams          # stream id -> Stream
    cdef object waiting                 # client: requests that wait for stream credit
    cdef list resetting                 # (stream, code): what they have said goes out in this turn, the reset in the next
    cdef Http3Limits limits
    cdef Http3Counters counters
    cdef public Claims claims           # or None
    cdef readonly bint server
    cdef public bint keeps_lengths      # what we send has the length that it announces, or an error is raised
    cdef bint dated                     # responses get a date field
    cdef bint extended_connect          # RFC 9220: announced by us
    cdef bint announced_datagrams       # RFC 9297: by us
    cdef readonly uint64_t highest_request       # the first stream id that was not seen yet
    cdef bint any_incremental           # there was an incremental response
    cdef int64_t wrote_first            # of several incremental ones, in the last turn
    cdef dict early_updates             # stream id -> PRIORITY_UPDATE of a request that has not come
    cdef public bint keeps_early        # datagrams wait for their request; else they are raw ones
    cdef object early_datagrams         # deque of (stream id, datagram), the newest ones
    cdef int64_t refuse_from            # GOAWAY: requests from this stream id on are not taken; -1 for all are
    cdef bint goaway_sent               # that was said: there was room for it
    cdef token_bucket resets            # streams given up, by the peer or by us
    cdef token_bucket updates           # PRIORITY_UPDATE frames
    cdef bint flooded                   # there were too many: the connection closes
    cdef list unacknowledged            # from then on: ids of answered requests, some perhaps not acknowledged
    cdef int on_headers(self, uint64_t stream_id, quiche_h3_event *event, Stream stream) except -1
    cdef int on_request(self, uint64_t stream_id, FieldSection fields, int result, bint more) except -1
    cdef int on_event(self, uint64_t stream_id, quiche_h3_event *event) except -1
    cdef int read_datagrams(self, list raw) except -1
    cdef int64_t quarter_stream_id(self, bytes payload, ssize_t *size) except -2
    cdef bint give_datagram(self, bytes payload) except -1
    cdef int give_raw_datagrams(self, list raw) except -1
    cpdef send_datagram(self, bytes payload)
    cdef int keep_early_datagram(self, uint64_t stream_id, bytes payload) except -1
    cdef int give_early_datagrams(self, uint64_t stream_id) except -1
    cdef int alternate(self, int64_t *writable, int count) except -1
    cdef int on_priority_update(self, uint64_t stream_id) except -1
    cdef int failed(self, uint64_t stream_id, object error) except -1
    cdef int open_waiting(self) except -1
    cdef int send_goaway(self) except -1
    cdef int charge_reset(self) except -1
    cdef int flood(self) except -1


cdef class Stream:
    cdef readonly Http3 http3
    cdef readonly uint64_t id
    cdef public object handler          # the exchange above: see http3.pyx for the calls it gets
    cdef readonly FieldSection fields   # of the request (server) or the final response (client)
    cdef readonly bint receiving        # the peer may still send
    cdef readonly bint sending          # we may still send
    cdef readonly bint head_sent
    cdef readonly bint early_data       # the request came before the handshake was complete
    cdef object head                    # (pairs, fin) that stream credit holds back, else None
    cdef bint broken                    # it ended, or will end, otherwise than by both FINs
    cdef object queue                   # deque of bytes not yet taken by quiche, or None
    cdef Py_ssize_t offset              # bytes of queue[0] that were taken
    cdef readonly Py_ssize_t pending    # bytes of the queue not yet taken
    cdef readonly bint blocked          # write() could not take all: on_drained() follows
    cdef bint fin_queued
    cdef object trailers                # pairs to send after the queue, else None
    cdef uint8_t urgency                # RFC 9218: of what we send
    cdef bint incremental
    cdef bint ranked                    # by our own program: the client's wishes count no more
    cdef object asked                   # (urgency, incremental) that the client asks for, None: the default
    cdef object update                  # the value of a PRIORITY_UPDATE that nobody has taken
    cdef int64_t announced              # the content-length that we sent, -1: none
    cdef bint not_modified              # a 304, whose length is that of another response
    cdef readonly object malformed      # what was wrong with what the peer sent, or None
    cdef readonly uint64_t bytes_sent
    cdef readonly uint64_t bytes_received
    cdef int pump(self) except -1
    cdef Py_ssize_t send_body(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2
    cdef int send_head(self, list pairs, bint fin) except -1
    cdef int send_trailers(self) except -1
    cdef int ask_priority(self, bytes value) except -1
    cdef int apply_priority(self) except -1
    cdef int check_length(self, Py_ssize_t more, bint fin) except -1
    cdef int sent_fin(self) except -1
    cdef int stopped(self, uint64_t code) except -1
    cdef int drop_sending(self) except -1
    cdef int settle(self) except -1
