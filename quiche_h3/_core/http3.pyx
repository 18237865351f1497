"""HTTP/3 over one connection: events in, field sections and bodies out.

The layer above gives an `app` and, for each request, a `handler`. They are called between two calls into
quiche, never from inside one:

app.request(stream)                     a request's field section is complete (server)
app.refused(stream, status)             a request that must not reach a handler (400, 414, 431)
app.goaway(connection, id)              the peer will process no request from this id on
app.datagram(connection, payload)       a QUIC DATAGRAM came in that is no handler's; False: nobody wants it
handler.on_headers(fields, interim)     the response's field section (client)
handler.on_trailers(fields)             trailers; the body before them is complete
handler.on_readable()                   there is body to read
handler.on_finished()                   the peer's FIN was reached and everything before it was read
handler.on_reset(code)                  the peer reset its half: what it sent is incomplete
handler.on_stopped(code)                STOP_SENDING: the peer wants no more of what we send
handler.on_sent()                       our FIN was handed to quiche
handler.on_drained()                    everything queued was taken by quiche, more may be written
handler.on_closed(error)                the connection is gone
handler.on_datagram(payload)            an HTTP datagram of the request; a handler that takes none has no such
                                        attribute, or None there
"""

import logging
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memset
from quiche_h3._core.fields cimport (
    FIELD_ABSENT, FIELDS_MALFORMED, FIELDS_OK, FIELDS_PATH_TOO_LONG, FIELDS_REQUEST, FIELDS_RESPONSE, FIELDS_TOO_LARGE, FIELDS_TRAILERS,
    HEADERS_OUT_ROOM, MAX_HEADERS_OUT, PSEUDO_PROTOCOL, FieldSection, Http3Limits, announced_length, fill_date, fill_fields,
    parse_fields, section_facts,
)
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.stateless cimport bucket_init, bucket_take

from quiche_h3.capsules import encode_capsule, encode_varint
from quiche_h3.priorities import Priority
from quiche_h3.errors import (
    ConnectionClosed, DatagramNotEnabled, DatagramTooLarge, H3ErrorCode, InvalidState, QuicheH3Error,
    ResponseEnded, StreamClosed, StreamReset, WouldBlock, check_h3, check_quic,
)

log = logging.getLogger("quiche_h3")

cdef enum:
    CANCELLED = 0x10C       # H3_REQUEST_CANCELLED
    EVENTS_PER_TURN = 256
    DATAGRAMS_PER_TURN = 1024
    WRITABLE_PER_TURN = 4096
    OWN_STREAMS = 12        # unidirectional ones below are our control and QPACK streams (RFC 9114 6.2.1)
    SCRATCH = 65536
    DEFAULT_URGENCY = 3                 # RFC 9218 4.1
    URGENCY_OFFSET = 124                # where quiche has urgency 0 of HTTP/3 among the priorities of streams
    MAX_DATAGRAM_CAPSULE = 65535        # no frame carries more either
    MAX_CAPSULES_PENDING = 262144       # bytes: datagrams are not worth waiting for

cdef uint8_t scratch[SCRATCH]           # used between two calls, always with the GIL
cdef uint8_t EMPTY[1]                   # quiche takes no NULL, not even for no bytes

cdef int no_setting(uint64_t identifier, uint64_t value, void *argp) noexcept nogil:
    return 0


cdef int keep_value(uint8_t *value, uint64_t n, void *argp) noexcept with gil:
    (<list>argp).append(PyBytes_FromStringAndSize(<char *>value, n))
    return 0


cdef bint peer_stopped(int64_t rc) noexcept:
    """The peer sent STOP_SENDING. Once all else of the stream is over too, quiche does not know it any more."""
    return rc == QUICHE_H3_TRANSPORT_ERR_STREAM_STOPPED or rc == QUICHE_H3_TRANSPORT_ERR_INVALID_STREAM_STATE


cdef class Http3Counters:
    """HTTP/3 counters, shared by the connections of one server or client."""

    def __cinit__(self):
        memset(&self.n, 0, sizeof(self.n))

    def as_dict(self):
        out = dict(self.n)
        out["responses"] = {f"{i}xx": self.n.responses[i] for i in range(1, 6)}
        return out


cdef class Claims:
    cdef bint service(self) except -1:
        return False

    cdef bint writable(self, uint64_t stream_id) except -1:
        return False

    cdef bint datagram(self, const uint8_t *data, Py_ssize_t n) except -1:
        return False

    cdef int drain(self) except -1:
        return 0

    cdef int closed(self) except -1:
        return 0


cdef class Http3(Protocol):
    """The HTTP/3 state of one connection."""

    def __cinit__(self, Connection connection not None, *args, **kwargs):
        self.connection = connection
        if connection.c.quic == NULL:
            raise QuicheH3Error("the connection is closed")
        self.h3 = quiche_h3_conn_new_with_transport(connection.c.quic, connection.settings.h3)
        if self.h3 == NULL:
            raise QuicheH3Error("HTTP/3 could not be started on the connection")

    def __init__(self, Connection connection, app, Http3Limits limits, Http3Counters counters, *, server):
        self.app = app
        self.limits = limits
        self.counters = counters
        self.server = server
        self.keeps_lengths = True
        self.extended_connect = connection.settings.extended_connect
        self.dated = server and connection.settings.config.date_header
        self.announced_datagrams = connection.settings.config.enable_dgram
        self.streams = {}
        self.waiting = deque()
        self.refuse_from = -1
        self.unacknowledged = []
        self.resetting = []
        self.early_updates = {}
        self.early_datagrams = deque()
        self.wrote_first = -1
        if server:
            config = connection.settings.config
            bucket_init(&self.resets, config.stream_resets_per_second, config.stream_resets_burst, connection.c.now)
            updates = config.priority_updates_per_second
            bucket_init(&self.updates, updates, 10 * updates, connection.c.now)

    def __dealloc__(self):
        if self.h3 != NULL:
            quiche_h3_conn_free(self.h3)
            self.h3 = NULL

    # Protocol

    cdef bint service(self) except -1:
        cdef quiche_h3_event *event = NULL
        cdef int64_t stream_id
        cdef int64_t writable[WRITABLE_PER_TURN]
        cdef int i, count = 0
        cdef int left = EVENTS_PER_TURN
        cdef bint more = False
        cdef list raw = None
        cdef uint64_t code
        cdef Stream stream
        if self.h3 == NULL:
            return False
        if self.flooded:  # the GOAWAY went out in the turn before
            self.connection.close(<uint64_t>H3ErrorCode.H3_EXCESSIVE_LOAD, b"too many resets or updates")
            return False
        if self.resetting:
            for stream, code in self.resetting:
                if stream.sending or stream.receiving:
                    stream.reset(code)
            self.resetting.clear()
        # First all ids, then the streams: the write of nothing below makes its stream writable anew.
        while count < WRITABLE_PER_TURN:
            stream_id = quiche_conn_stream_writable_next(self.connection.c.quic)
            if stream_id < 0:
                break
            writable[count] = stream_id
            count += 1
        if self.any_incremental and count > 1:
            self.alternate(writable, count)
        for i in range(count):
            # Every id is touched, known or not: a stream that the peer stopped is collected only then. And before
            # anything is read: reading the last of a stopped stream collects it, and nobody would be told.
            stream_id = writable[i]
            stream = self.streams.get(stream_id)
            try:
                if stream is None and self.claims is not None and self.claims.writable(stream_id):
                    pass
                elif stream is None or not stream.sending:
                    if (quiche_conn_stream_capacity(self.connection.c.quic, stream_id) == QUICHE_ERR_STREAM_STOPPED
                            and stream_id & 2 and stream_id < OWN_STREAMS):
                        self.connection.close(H3ErrorCode.H3_CLOSED_CRITICAL_STREAM)
                # Sends nothing: of all calls it alone tells the code, and it must be the first to see the stop.
                elif (quiche_conn_stream_send(self.connection.c.quic, stream_id, EMPTY, 0, False, &code)
                        == QUICHE_ERR_STREAM_STOPPED):
                    stream.stopped(code)
                else:
                    stream.pump()
            except Exception as error:
                self.failed(stream_id, error)
        # Before the events: what ends a request must not overtake its datagrams.
        if quiche_conn_dgram_recv_queue_len(self.connection.c.quic) > 0:
            raw = []
            more = self.read_datagrams(raw)
        while left > 0 and not self.flooded:
            stream_id = quiche_h3_conn_poll(self.h3, self.connection.c.quic, &event)
            if stream_id < 0:
                break  # DONE, or a protocol error for which quiche has closed the connection itself
            left -= 1
            try:
                self.on_event(stream_id, event)
            except Exception as error:
                self.failed(stream_id, error)
        if self.claims is not None:
            more = self.claims.service() or more
        if raw is not None:
            self.give_raw_datagrams(raw)
        if self.waiting:
            self.open_waiting()
        if self.refuse_from >= 0 and not self.goaway_sent:
            self.send_goaway()
        return left == 0 or more or len(self.resetting) > 0 or self.flooded

    cdef int failed(self, uint64_t stream_id, object error) except -1:
        """A handler raised where nobody can catch it: its stream is given up, nothing else."""
        cdef uint64_t code = <uint64_t>H3ErrorCode.H3_INTERNAL_ERROR
        cdef Stream stream = self.streams.get(stream_id)
        log.error("connection %d: the handler of stream %d failed", self.connection.id, stream_id, exc_info=error)
        if stream is None:  # a request that its handler did not survive
            quiche_conn_stream_shutdown(self.connection.c.quic, stream_id, QUICHE_SHUTDOWN_READ, code)
            quiche_conn_stream_shutdown(self.connection.c.quic, stream_id, QUICHE_SHUTDOWN_WRITE, code)
            quiche_h3_conn_stream_discard(self.h3, self.connection.c.quic, stream_id)
            return 0
        told = not stream.receiving and not stream.sending  # it was over already
        stream.reset(code)
        handler, stream.handler = stream.handler, None
        if handler is not None and not told:
            try:
                handler.on_reset(code)
            except Exception:
                log.exception("connection %d: on_reset() of stream %d failed", self.connection.id, stream_id)
        return 0

    cdef int closed(self) except -1:
        error = self.connection.close_reason
        if error is None:
            error = ConnectionClosed(False, 0, b"", False)
        quiche_h3_conn_free(self.h3)
        self.h3 = NULL
        claims, self.claims = self.claims, None
        if claims is not None:
            (<Claims>claims).closed()
        streams = [*self.streams.values(), *self.waiting]
        self.streams.clear()
        self.waiting.clear()
        for stream in streams:
            (<Stream>stream).receiving = (<Stream>stream).sending = False
            (<Stream>stream).queue = None
            handler, (<Stream>stream).handler = stream.handler, None
            if handler is not None:
                try:
                    handler.on_closed(error)
                except Exception:
                    log.exception("connection %d: on_closed() of a stream failed", self.connection.id)
        return 0

    # Events

    cdef int on_event(self, uint64_t stream_id, quiche_h3_event *event) except -1:
        cdef int kind = quiche_h3_event_type(event)
        cdef uint64_t code = 0
        cdef Stream stream
        if kind == QUICHE_H3_EVENT_HEADERS:
            return self.on_headers(stream_id, event, self.streams.get(stream_id))
        if kind == QUICHE_H3_EVENT_RESET:
            code = quiche_h3_event_reset_code(event)
        quiche_h3_event_free(event)
        if kind == QUICHE_H3_EVENT_GOAWAY:
            self.counters.n.goaways_received += 1
            try:
                self.app.goaway(self.connection, stream_id)
            except Exception:
                log.exception("connection %d: goaway() failed", self.connection.id)
            return 0
        if kind == QUICHE_H3_EVENT_PRIORITY_UPDATE:
            return self.on_priority_update(stream_id)
        stream = self.streams.get(stream_id)
        if kind == QUICHE_H3_EVENT_RESET:
            self.counters.n.resets_received += 1
            self.charge_reset()
            if stream is None:
                # Nobody serves it any more; our half must go too, or its credit never comes back.
                quiche_conn_stream_shutdown(self.connection.c.quic, stream_id, QUICHE_SHUTDOWN_WRITE, code)
                quiche_h3_conn_stream_discard(self.h3, self.connection.c.quic, stream_id)
                return 0
            stream.receiving = False
            stream.broken = True
            stream.drop_sending()
            if stream.handler is not None:
                stream.handler.on_reset(code)
            stream.settle()
        elif stream is None:
            if kind == QUICHE_H3_EVENT_DATA:  # a body nobody wants: its credit goes back at once
                quiche_conn_stream_shutdown(self.connection.c.quic, stream_id, QUICHE_SHUTDOWN_READ,
                                            <uint64_t>H3ErrorCode.H3_NO_ERROR)
                quiche_h3_conn_stream_discard(self.h3, self.connection.c.quic, stream_id)
        elif kind == QUICHE_H3_EVENT_DATA:
            if stream.handler is not None:
                stream.handler.on_readable()
        elif kind == QUICHE_H3_EVENT_FINISHED and stream.receiving:  # else it was told with the field section
            stream.receiving = False
            if stream.handler is not None:
                stream.handler.on_finished()
            stream.settle()
        return 0

    cdef int alternate(self, int64_t *writable, int count) except -1:
        """RFC 9218 10: of equally urgent incremental responses another one is the first to write in each turn."""
        cdef int i = 0, j
        cdef Stream stream, other
        while i < count:
            j = i + 1
            stream = self.streams.get(writable[i])
            while stream is not None and stream.incremental and j < count:
                other = self.streams.get(writable[j])
                if other is None or not other.incremental or other.urgency != stream.urgency:
                    break
                j += 1
            if j - i > 1:
                ids = sorted([(writable[k] <= self.wrote_first, writable[k]) for k in range(i, j)])
                self.wrote_first = ids[0][1]
                for k in range(i, j):
                    writable[k] = ids[k - i][1]
            i = j
        return 0

    cdef int on_priority_update(self, uint64_t stream_id) except -1:
        """RFC 9218 7: it may come before its request, and counts more than the request's own field."""
        cdef Stream stream = self.streams.get(stream_id)
        value = []
        quiche_h3_take_last_priority_update(self.h3, stream_id, keep_value, <void *>value)
        if not bucket_take(&self.updates, self.connection.c.now):
            self.counters.n.update_floods += 1
            return self.flood()
        if not value:
            return 0
        if stream is not None:
            stream.ask_priority(value[0])
            stream.update = value[0]
        elif stream_id >= self.highest_request:  # quiche takes none beyond the limit of streams
            self.early_updates[stream_id] = value[0]
        return 0

    cdef int on_headers(self, uint64_t stream_id, quiche_h3_event *event, Stream stream) except -1:
        cdef FieldSection fields
        cdef int kind, result
        cdef bint more
        if stream is None:
            kind = FIELDS_REQUEST
        elif self.server or stream.fields is not None:
            kind = FIELDS_TRAILERS
        else:
            kind = FIELDS_RESPONSE
        fields = parse_fields(event, kind, self.limits, &result)
        more = quiche_h3_event_headers_has_more_frames(event)
        quiche_h3_event_free(event)
        if stream is None:
            if not self.server:  # of a request that was given up
                return 0
            if result == FIELDS_OK and (
                    # RFC 9114 4.1.2: a body was announced and does not come.
                    (fields.content_length > 0 and not more)
                    # RFC 9220 3: only where we have announced it.
                    or (fields.pseudo[PSEUDO_PROTOCOL].offset != FIELD_ABSENT and not self.extended_connect)):
                result = FIELDS_MALFORMED
            self.on_request(stream_id, fields, result, more)
            return 0
        if result != FIELDS_OK:
            self.counters.n.malformed += 1
            stream.malformed = "its fields are malformed" if result == FIELDS_MALFORMED else "its fields are too large"
            stream.reset(H3ErrorCode.H3_MESSAGE_ERROR)
            if stream.handler is not None:
                stream.handler.on_reset(H3ErrorCode.H3_MESSAGE_ERROR)
            return 0
        if stream.handler is None:
            return 0
        if kind == FIELDS_TRAILERS:
            stream.handler.on_trailers(fields)
        elif 100 <= fields.status < 200:
            stream.handler.on_headers(fields, True)
        else:
            stream.fields = fields
            stream.handler.on_headers(fields, False)
        return 0

    cdef int on_request(self, uint64_t stream_id, FieldSection fields, int result, bint more) except -1:
        cdef Stream stream = Stream.__new__(Stream)
        stream.http3 = self
        stream.id = stream_id
        stream.receiving = more
        stream.sending = True
        stream.announced = -1
        stream.early_data = not self.connection.c.established
        stream.fields = fields
        stream.urgency = DEFAULT_URGENCY
        if fields.priority.offset != FIELD_ABSENT:
            stream.ask_priority(fields.span(fields.priority))
        if self.early_updates:
            stream.update = self.early_updates.pop(stream_id, None)
            if stream.update is not None:
                stream.ask_priority(stream.update)
        if stream_id >= self.highest_request:
            self.highest_request = stream_id + 4
        if self.refuse_from >= 0 and stream_id >= <uint64_t>self.refuse_from:
            stream.reset(H3ErrorCode.H3_REQUEST_REJECTED)  # RFC 9114 5.2: safe to try elsewhere
            return 0
        self.counters.n.requests += 1
        if result == FIELDS_OK:
            self.app.request(stream)
        else:
            self.counters.n.malformed += 1
            self.app.refused(
                stream, 431 if result == FIELDS_TOO_LARGE else 414 if result == FIELDS_PATH_TOO_LONG else 400)
        # Most requests are answered by now; only the others are found again by their events.
        if (stream.sending or stream.receiving) and self.h3 != NULL:
            self.streams[stream_id] = stream
        if self.early_datagrams:
            self.give_early_datagrams(stream_id)
        return 0

    # Client

    def open_request(self, list pairs, bint fin, handler):
        """Sends a request, now or when the peer grants a stream. Returns its Stream."""
        cdef Stream stream = Stream.__new__(Stream)
        if self.h3 == NULL:
            raise self.connection.close_reason or ConnectionClosed(False, 0, b"", False)
        stream.http3 = self
        stream.id = <uint64_t>-1
        stream.announced = -1
        stream.handler = handler
        stream.receiving = stream.sending = True
        stream.head = (pairs, fin)
        if self.waiting or stream.send_head(pairs, fin):
            self.waiting.append(stream)
        else:
            self.streams[stream.id] = stream
        self.connection.touch()
        return stream

    cdef int open_waiting(self) except -1:
        cdef Stream stream
        while self.waiting:
            stream = self.waiting[0]
            if not stream.sending and not stream.receiving:  # given up before it was sent
                self.waiting.popleft()
                continue
            pairs, fin = stream.head
            try:
                if stream.send_head(pairs, fin):
                    return 0
                self.waiting.popleft()
                self.streams[stream.id] = stream
                if not fin:
                    stream.pump()
            except Exception as error:
                if stream.id != <uint64_t>-1:
                    self.failed(stream.id, error)
                    continue
                self.waiting.popleft()
                stream.sending = stream.receiving = False
                if stream.handler is not None:  # after the peer's GOAWAY: it was never sent
                    stream.handler.on_reset(H3ErrorCode.H3_REQUEST_REJECTED)
        return 0

    # Datagrams

    cdef int read_datagrams(self, list raw) except -1:
        """Gives datagrams to the requests that there are; the others go to `raw`. 1: there may be more."""
        cdef ssize_t n
        cdef bytes payload
        for _ in range(DATAGRAMS_PER_TURN):
            n = quiche_conn_dgram_recv(self.connection.c.quic, scratch, sizeof(scratch))
            if n < 0:
                return 0
            self.counters.n.datagrams_received += 1
            if self.claims is not None and self.claims.datagram(scratch, n):
                continue
            payload = PyBytes_FromStringAndSize(<char *>scratch, n)
            if not self.give_datagram(payload):
                raw.append(payload)
        return 1

    cdef int64_t quarter_stream_id(self, bytes payload, ssize_t *size) except -2:
        """What a datagram begins with (RFC 9297 2.1), and how long that is; -1 when it is none."""
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(payload)
        cdef uint64_t quarter = p[0] & 0x3F
        cdef ssize_t i, n = PyBytes_GET_SIZE(payload)
        size[0] = 1 << (p[0] >> 6)
        if n < size[0] or n == 0:
            return -1
        for i in range(1, size[0]):
            quarter = quarter << 8 | p[i]
        return -1 if quarter >= <uint64_t>1 << 60 else <int64_t>quarter

    cdef bint give_datagram(self, bytes payload) except -1:
        """Gives a datagram to its request. False: there is none, or it takes none."""
        cdef ssize_t size
        cdef int64_t quarter
        cdef Stream stream
        if not self.streams:
            return False
        quarter = self.quarter_stream_id(payload, &size)
        stream = None if quarter < 0 else self.streams.get(quarter * 4)
        take = None if stream is None else getattr(stream.handler, "on_datagram", None)
        if take is None:
            return False
        try:
            take(payload[size:])
        except Exception as error:
            self.failed(quarter * 4, error)
        return True

    cdef int give_raw_datagrams(self, list raw) except -1:
        """Those that were nobody's before this turn's events: of a request that has just come, or raw."""
        cdef bytes payload
        cdef ssize_t size
        cdef int64_t quarter
        for payload in raw:
            if self.h3 == NULL or self.give_datagram(payload):
                continue
            quarter = self.quarter_stream_id(payload, &size)
            if self.keeps_early and quarter >= 0 and <uint64_t>quarter * 4 >= self.highest_request:
                self.keep_early_datagram(quarter * 4, payload)
                continue
            try:
                if self.app.datagram(self.connection, payload) is not False:
                    continue
            except Exception:
                log.exception("connection %d: datagram() failed", self.connection.id)
                continue
            self.counters.n.datagrams_dropped += 1
            if quarter < 0:  # RFC 9297 2.1; a program that takes raw ones knows better
                self.connection.close(<uint64_t>H3ErrorCode.H3_DATAGRAM_ERROR, b"no quarter stream ID")
        return 0

    cdef int keep_early_datagram(self, uint64_t stream_id, bytes payload) except -1:
        """RFC 9297 2.1: it may overtake its request. The newest are kept."""
        if len(self.early_datagrams) >= self.connection.settings.config.h3_datagram_queue_len:
            self.early_datagrams.popleft()
            self.counters.n.datagrams_dropped += 1
        self.early_datagrams.append((stream_id, payload))
        return 0

    cdef int give_early_datagrams(self, uint64_t stream_id) except -1:
        """Their request has come: they are its own now, or nobody's."""
        kept = self.early_datagrams
        self.early_datagrams = deque([pair for pair in kept if pair[0] != stream_id])
        return self.give_raw_datagrams([payload for other, payload in kept if other == stream_id])

    cpdef send_datagram(self, bytes payload):
        """Queues a QUIC DATAGRAM (RFC 9221). Raises a DatagramError when it cannot be taken."""
        cdef ssize_t rc, limit
        if self.h3 == NULL:
            raise self.connection.close_reason or ConnectionClosed(False, 0, b"", False)
        if not self.announced_datagrams:
            raise DatagramNotEnabled("datagrams are disabled: enable_dgram is False")
        limit = quiche_conn_dgram_max_writable_len(self.connection.quic())
        if limit < 0:
            raise DatagramNotEnabled("the peer takes no datagrams")
        if len(payload) > limit:
            raise DatagramTooLarge(f"a datagram of {len(payload)} bytes: this path takes {limit}")
        rc = quiche_conn_dgram_send(self.connection.c.quic, <const uint8_t *>payload if payload else EMPTY, len(payload))
        if rc == QUICHE_ERR_DONE:
            self.counters.n.datagrams_dropped += 1
            raise WouldBlock("the datagram queue is full")
        if rc < 0:
            check_quic(rc)
        self.counters.n.datagrams_sent += 1
        self.connection.touch()

    @property
    def datagrams_enabled_by_peer(self):
        """HTTP datagrams may be sent: both sides announced them (RFC 9297 2.1.1)."""
        return self.announced_datagrams and self.h3 != NULL and quiche_h3_dgram_enabled_by_peer(self.h3, self.connection.c.quic)

    cdef int charge_reset(self) except -1:
        """Streams given up cost the peer nothing, and us a request: a server takes so many, whoever gives them up.

        A peer can make us reset, too (CVE-2025-8671).
        """
        if not self.server or self.flooded or bucket_take(&self.resets, self.connection.c.now):
            return 0
        self.counters.n.reset_floods += 1
        return self.flood()

    cdef int flood(self) except -1:
        """It was too much: no event is looked at any more, so that no handler starts.

        GOAWAY goes out in this turn, H3_EXCESSIVE_LOAD in the next.
        """
        self.flooded = True
        self.goaway()
        self.connection.touch()
        return 0

    def refuse_incomplete(self, uint64_t stream_id):
        """A request whose field section is not complete gets 408 where there is room for it, and ends."""
        cdef Stream stream = Stream.__new__(Stream)
        if self.h3 == NULL:
            return
        stream.http3 = self
        stream.id = stream_id
        stream.receiving = stream.sending = True
        try:
            stream.send_head([(b":status", b"408"), (b"content-length", b"0")], True)
        except QuicheH3Error:
            pass  # then it is only reset
        if stream.sending:
            stream.reset(CANCELLED)
            return
        stream.broken = True
        self.charge_reset()
        stream.stop_receiving(CANCELLED)

    # Shutdown

    def goaway(self):
        """Announces that requests not yet seen will not be processed (RFC 9114 5.2)."""
        cdef int64_t stream_id
        if self.h3 == NULL or self.refuse_from >= 0:
            return
        self.refuse_from = self.highest_request
        if self.claims is not None:
            self.claims.drain()
        # The peer may have no more streams open than it was granted, and few gaps between them.
        for stream_id in range(max(0, self.refuse_from - 8 * self.connection.settings.config.initial_max_streams_bidi),
                               self.refuse_from, 4):
            if stream_id not in self.streams:
                self.unacknowledged.append(stream_id)
        self.send_goaway()

    cdef int send_goaway(self) except -1:
        """Sends the GOAWAY as soon as the congestion window takes it."""
        if quiche_h3_send_goaway(self.h3, self.connection.c.quic, self.refuse_from) == 0:
            self.goaway_sent = True
            self.counters.n.goaways_sent += 1
            self.connection.touch()
        return 0

    @property
    def drained(self):
        """After a GOAWAY: no request is in flight any more, and the peer has acknowledged every response."""
        if self.h3 == NULL:
            return True
        if self.streams:
            return False
        while self.unacknowledged:
            # quiche forgets a stream when the acknowledgement of its end has come.
            if quiche_conn_stream_capacity(self.connection.c.quic, self.unacknowledged[-1]) >= 0:
                return False
            self.unacknowledged.pop()
        return True


cdef class Stream:
    """One request stream: the receiving and the sending half, each with its own end."""

    def __init__(self):
        raise TypeError("streams are made by Http3")

    @property
    def connection(self):
        return self.http3.connection

    @property
    def connection_closed(self):
        return self.http3.h3 == NULL

    def check_open(self):
        """Raises what stands in the way of sending."""
        if self.http3.h3 == NULL:
            raise self.http3.connection.close_reason or ConnectionClosed(False, 0, b"", False)
        if not self.sending or self.fin_queued or self.trailers is not None:
            raise StreamClosed("the stream's sending half is closed")

    def send_datagram(self, bytes payload, bint capsules=False):
        """Sends an HTTP datagram of this request (RFC 9297): in a DATAGRAM frame, its quarter stream ID before it.

        Where the peer takes none and the stream speaks the capsule protocol (`capsules`), it goes as a capsule.
        """
        self.check_open()
        if self.id == <uint64_t>-1:
            raise WouldBlock("the request waits for stream credit")
        if self.http3.datagrams_enabled_by_peer:
            self.http3.send_datagram(encode_varint(self.id // 4) + payload)
            return
        if not capsules:
            if quiche_h3_for_each_setting(self.http3.h3, no_setting, NULL) < 0:
                raise WouldBlock("the peer's settings have not come yet")
            raise DatagramNotEnabled("the peer takes no HTTP datagrams")
        if len(payload) > MAX_DATAGRAM_CAPSULE:
            raise DatagramTooLarge(f"a datagram of {len(payload)} bytes: a capsule takes {MAX_DATAGRAM_CAPSULE}")
        if self.pending >= MAX_CAPSULES_PENDING:
            self.drop_datagram()
            raise WouldBlock("the stream takes no more now")
        self.enqueue(encode_capsule(0, payload))
        self.http3.counters.n.datagrams_sent += 1

    def drop_datagram(self):
        """Counts a datagram of this request that nobody took."""
        self.http3.counters.n.datagrams_dropped += 1

    # Priority (RFC 9218)

    @property
    def priority(self):
        """(urgency, incremental) that the client asks for."""
        return (DEFAULT_URGENCY, False) if self.asked is None else self.asked

    def take_last_priority_update(self):
        """The value of the last PRIORITY_UPDATE, once; None when there is none."""
        value, self.update = self.update, None
        return value

    def set_priority(self, int urgency, bint incremental):
        """Ranks the response, urgency 0 (first) to 7, whatever the client asks for."""
        if not 0 <= urgency <= 7:
            raise ValueError(f"urgency: {urgency} is not 0 to 7")
        self.ranked = True
        self.urgency = urgency
        self.incremental = incremental
        self.apply_priority()

    def send_priority_update(self, int urgency, bint incremental):
        """Asks the server to rank the response so (client)."""
        cdef quiche_h3_priority priority
        if not 0 <= urgency <= 7:
            raise ValueError(f"urgency: {urgency} is not 0 to 7")
        if self.http3.h3 == NULL:
            raise self.http3.connection.close_reason or ConnectionClosed(False, 0, b"", False)
        if self.http3.server or self.id == <uint64_t>-1:
            raise InvalidState("a client asks for a priority, once its request was sent")
        priority.urgency = urgency
        priority.incremental = incremental
        check_h3(quiche_h3_send_priority_update_for_request(
            self.http3.h3, self.http3.connection.quic(), self.id, &priority))
        self.http3.connection.touch()

    cdef int ask_priority(self, bytes value) except -1:
        self.asked = Priority.parse(value.decode("latin-1"))
        if not self.ranked:
            self.urgency, self.incremental = self.asked
            self.apply_priority()
        return 0

    cdef int apply_priority(self) except -1:
        """Tells quiche, which forgets it with each field section that is to be sent."""
        if self.sending and self.http3.h3 != NULL:
            self.http3.any_incremental = self.http3.any_incremental or self.incremental
            quiche_conn_stream_priority(self.http3.connection.c.quic, self.id, URGENCY_OFFSET + self.urgency,
                                        self.incremental)
        return 0

    # Receiving

    def recv(self, Py_ssize_t n=SCRATCH):
        """Up to `n` bytes of the body that are there now; empty when there are none yet, or no more."""
        cdef ssize_t got
        cdef bytes data
        if self.http3.h3 == NULL or not self.receiving or n <= 0:
            return b""
        got = quiche_h3_recv_body(self.http3.h3, self.http3.connection.c.quic, self.id, scratch, min(n, SCRATCH))
        # Before anything else: the call below runs Python, where another loop's thread may take over and fill `scratch`.
        data = PyBytes_FromStringAndSize(<char *>scratch, got) if got > 0 else b""
        # Flow control credit goes out, and what follows is seen, in the turn that this asks for. Also when there was
        # nothing: an empty DATA frame was passed, and the trailers behind it wait for the next poll.
        self.http3.connection.touch()
        if got <= 0:
            return b""
        self.bytes_received += got
        self.http3.counters.n.body_bytes_received += got
        return data

    def stop_receiving(self, uint64_t code=0x100):
        """Tells the peer that the rest of its body is not wanted (STOP_SENDING)."""
        if self.id == <uint64_t>-1:  # not sent yet: then it never need be
            self.reset(code)
        elif self.http3.h3 != NULL and self.receiving:
            self.receiving = False
            self.broken = True
            quiche_conn_stream_shutdown(self.http3.connection.c.quic, self.id, QUICHE_SHUTDOWN_READ, code)
            self.http3.connection.touch()
            self.settle()

    # Sending

    def send_headers(self, list pairs, bint fin=False):
        """Sends a field section: (name, value) bytes. A final one goes first, interim ones (1xx) before it."""
        self.check_open()
        if self.pending or self.head is not None:
            raise InvalidState("a field section must not follow a body")
        if self.send_head(pairs, fin):
            self.head = (pairs, fin)
        self.http3.connection.touch()

    cdef int send_head(self, list pairs, bint fin) except -1:
        """1: no credit for it now, the stream turns up as writable later."""
        cdef quiche_h3_header fields[HEADERS_OUT_ROOM]
        cdef section_facts facts
        cdef int64_t rc
        cdef Py_ssize_t i, n = fill_fields(fields, pairs, &facts)
        cdef bint final = not self.http3.server or n == 0 or fields[0].value[0] != 49  # no 1xx
        if final and self.http3.keeps_lengths:
            self.announced = announced_length(fields, facts.lengths)
            if self.http3.server and self.announced >= 0:
                self.not_modified = memcmp(fields[0].value, b"304", fields[0].value_len) == 0
            if fin:
                self.check_length(0, True)
        if final and self.http3.dated and not facts.dated:
            fill_date(&fields[n])
            n += 1
        if not self.http3.server:
            rc = quiche_h3_send_request(self.http3.h3, self.http3.connection.c.quic, fields, n, fin)
            if rc >= 0:
                self.id = rc
        elif self.head_sent:
            rc = quiche_h3_send_additional_headers(
                self.http3.h3, self.http3.connection.c.quic, self.id, fields, n, False, fin)
        else:
            rc = quiche_h3_send_response(self.http3.h3, self.http3.connection.c.quic, self.id, fields, n, fin)
        if self.http3.server and (self.urgency != DEFAULT_URGENCY or self.incremental):
            self.apply_priority()  # also where it is blocked: in its turn it is to be asked again
        if rc == QUICHE_H3_ERR_STREAM_BLOCKED or rc == QUICHE_H3_TRANSPORT_ERR_STREAM_LIMIT:
            return 1
        self.head = None
        if peer_stopped(rc):
            self.stopped(CANCELLED)  # quiche has forgotten the true code by now
            return 0
        if rc < 0:
            check_h3(rc)
        self.head_sent = True
        if self.http3.server and n > 0:
            i = fields[0].value[0] - 48  # the status comes first
            if 1 <= i <= 5:
                self.http3.counters.n.responses[i] += 1
        if fin:
            self.sent_fin()
        return 0

    cdef int check_length(self, Py_ssize_t more, bint fin) except -1:
        """Raises InvalidState where `more` bytes of body are not what was announced (RFC 9114 4.1.2)."""
        cdef int64_t left
        if self.announced < 0:
            return 0
        left = self.announced - <int64_t>self.bytes_sent - self.pending - more
        if left >= 0 and (left == 0 or not fin):
            return 0
        # RFC 9110 8.6: here it is the length of a body that is not sent.
        if left > 0 and self.bytes_sent == 0 and more == 0 and self.http3.server and (
                self.fields.method == b"HEAD" or self.not_modified):
            return 0
        raise InvalidState(
            f"the body is {'shorter' if left > 0 else 'longer'} than its content-length, which is {self.announced}")

    cdef Py_ssize_t send_body(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2:
        """Bytes taken; -1 when nothing can be taken now. A stopped stream takes everything, and drops it."""
        cdef ssize_t rc = quiche_h3_send_body(self.http3.h3, self.http3.connection.c.quic, self.id, data, n, fin)
        if rc == QUICHE_H3_ERR_DONE or rc == QUICHE_H3_TRANSPORT_ERR_DONE:
            return -1
        if peer_stopped(rc):
            self.stopped(CANCELLED)  # quiche has forgotten the true code by now
            return n
        if rc < 0:
            check_h3(rc)
        self.bytes_sent += rc
        self.http3.counters.n.body_bytes_sent += rc
        if fin and rc == n:
            self.sent_fin()
        return rc

    def write(self, const uint8_t[::1] data):
        """Gives quiche what it takes of `data` now. Returns the number of bytes, 0 when something waits before them."""
        cdef Py_ssize_t n, sent = 0, size = data.shape[0]
        self.check_open()
        if self.pending or self.head is not None or not self.head_sent:
            self.blocked = size > 0
            return 0
        self.check_length(size, False)
        while sent < size:
            n = self.send_body(&data[sent], size - sent, False)
            if n < 0:
                break
            sent += n
        self.blocked = sent < size
        if sent:
            self.http3.connection.touch()
        return sent

    def enqueue(self, bytes data, bint fin=False):
        """Sends `data` now as far as it goes; keeps a reference to the rest and sends that when credit comes."""
        cdef Py_ssize_t n, sent = 0, size = PyBytes_GET_SIZE(data)
        self.check_open()
        self.check_length(size, fin)
        if not self.pending and self.head is None and self.head_sent and (size or fin):
            while True:
                n = self.send_body(<const uint8_t *>PyBytes_AS_STRING(data) + sent, size - sent, fin)
                if n > 0:
                    sent += n
                if n < 0 or sent == size:
                    break
            if sent == size and (n >= 0 or not fin):
                self.http3.connection.touch()
                return
        if sent < size:
            if self.queue is None:
                self.queue = deque()
            if not self.queue:
                self.offset = sent
            self.queue.append(data)
            self.pending += size - sent
        self.fin_queued = fin
        if self.head_sent or self.head is not None:
            self.http3.connection.touch()

    def finish(self, list trailers=None):
        """Ends the sending half after what is queued, with trailers when given."""
        self.check_open()
        if trailers is None:
            self.enqueue(b"", True)
            return
        if len(trailers) > MAX_HEADERS_OUT:
            raise InvalidState(f"a field section has at most {MAX_HEADERS_OUT} fields")
        for name, value in trailers:
            if not (isinstance(name, bytes) and isinstance(value, bytes)):
                raise TypeError("field names and values are bytes")
        self.check_length(0, True)
        self.trailers = trailers
        if self.head_sent:
            self.pump()
        self.http3.connection.touch()

    cdef int pump(self) except -1:
        """Sends what waits: the field section, the queue, then trailers or the FIN."""
        cdef bytes data
        cdef Py_ssize_t n, size
        cdef bint had = self.pending > 0 or self.head is not None or self.blocked
        if self.head is not None:
            pairs, fin = self.head
            if self.send_head(pairs, fin):
                return 0
        while self.pending and self.sending:
            data = self.queue[0]
            size = PyBytes_GET_SIZE(data)
            n = self.send_body(<const uint8_t *>PyBytes_AS_STRING(data) + self.offset, size - self.offset,
                               self.fin_queued and self.pending == size - self.offset)
            if n < 0 or not self.pending:
                return 0
            self.pending -= n
            self.offset += n
            if self.offset == size:
                self.queue.popleft()
                self.offset = 0
        if not self.sending:
            return 0
        if self.trailers is not None:
            self.send_trailers()
            return 0
        if self.fin_queued:
            self.send_body(EMPTY, 0, True)
        elif had:
            self.blocked = False
            if self.handler is not None:
                self.handler.on_drained()
        return 0

    cdef int send_trailers(self) except -1:
        cdef quiche_h3_header fields[MAX_HEADERS_OUT]
        cdef section_facts facts
        cdef Py_ssize_t n = fill_fields(fields, self.trailers, &facts)
        cdef int rc
        rc = quiche_h3_send_additional_headers(
            self.http3.h3, self.http3.connection.c.quic, self.id, fields, n, True, True)
        if rc == QUICHE_H3_ERR_STREAM_BLOCKED:
            return 0
        if peer_stopped(rc):
            self.stopped(CANCELLED)  # quiche has forgotten the true code by now
            return 0
        check_h3(rc)
        return self.sent_fin()

    cdef int sent_fin(self) except -1:
        self.sending = False
        self.fin_queued = False
        self.trailers = None
        if self.http3.refuse_from >= 0:
            self.http3.unacknowledged.append(self.id)
        handler = self.handler
        if handler is not None:
            handler.on_sent()
        return self.settle()

    cdef int stopped(self, uint64_t code) except -1:
        """STOP_SENDING came: the peer wants no more of what we send."""
        if not self.sending:
            return 0
        self.http3.counters.n.resets_received += 1
        self.http3.charge_reset()
        self.drop_sending()
        if self.handler is not None:
            self.handler.on_stopped(code)
        return self.settle()

    cdef int drop_sending(self) except -1:
        """What is queued goes, and our half is reset if it was not yet."""
        self.queue = None
        self.pending = 0
        self.head = None
        self.trailers = None
        self.fin_queued = False
        if self.sending:
            self.sending = False
            self.broken = True
            quiche_conn_stream_shutdown(self.http3.connection.c.quic, self.id, QUICHE_SHUTDOWN_WRITE, CANCELLED)
        return 0

    def reset(self, uint64_t code):
        """Gives the stream up in both directions (RESET_STREAM and STOP_SENDING with `code`)."""
        self.queue = None
        self.pending = 0
        self.head = None
        if self.http3.h3 == NULL or self.id == <uint64_t>-1:
            self.sending = self.receiving = False
            self.http3.connection.touch()  # the turn drops it from those that wait for credit
            return
        self.http3.counters.n.resets_sent += 1
        self.http3.charge_reset()
        if self.receiving:
            quiche_conn_stream_shutdown(self.http3.connection.c.quic, self.id, QUICHE_SHUTDOWN_READ, code)
        if self.sending:
            quiche_conn_stream_shutdown(self.http3.connection.c.quic, self.id, QUICHE_SHUTDOWN_WRITE, code)
        self.sending = self.receiving = False
        self.broken = True
        self.http3.connection.touch()
        self.settle()

    def reset_after_turn(self, uint64_t code):
        """The same in the next turn: what was sent until now goes out before, where there is room for it."""
        self.http3.resetting.append((self, code))
        self.http3.connection.touch()

    cdef int settle(self) except -1:
        """Both halves are over: nothing refers to the stream any more but its handler."""
        if self.sending or self.receiving or self.http3.h3 == NULL:
            return 0
        if self.broken:  # HTTP/3 has not seen how it ended, and would keep its state for ever
            quiche_h3_conn_stream_discard(self.http3.h3, self.http3.connection.c.quic, self.id)
        self.http3.streams.pop(self.id, None)
        return 0
