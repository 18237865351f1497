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
from quiche_h3._core.connection cimport Connection
from quiche_h3._core.fields cimport (
    FIELD_ABSENT, FIELDS_MALFORMED, FIELDS_OK, FIELDS_PATH_TOO_LONG, FIELDS_REQUEST, FIELDS_RESPONSE, FIELDS_TOO_LARGE, FIELDS_TRAILERS,
    PSEUDO_PROTOCOL, FieldSection, Http3Limits, parse_fields,
)
from quiche_h3._core.http3_state cimport Claims, Http3Counters
from quiche_h3._core.http3_stream cimport DEFAULT_URGENCY, Stream
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.stateless cimport bucket_take
from quiche_h3._core.streams cimport CANCELLED, EMPTY, scratch

from quiche_h3.errors import H3ErrorCode, QuicheH3Error

log = logging.getLogger("quiche_h3")

cdef enum:
    EVENTS_PER_TURN = 256
    DATAGRAMS_PER_TURN = 1024
    WRITABLE_PER_TURN = 4096
    OWN_STREAMS = 12        # unidirectional ones below are our control and QPACK streams (RFC 9114 6.2.1)


cdef int keep_value(uint8_t *value, uint64_t n, void *argp) noexcept with gil:
    (<list>argp).append(PyBytes_FromStringAndSize(<char *>value, n))
    return 0


cdef class Http3(Http3State):
    """HTTP/3 on one connection."""

    def __init__(self, Connection connection, app, Http3Limits limits, Http3Counters counters, *, server):
        self.begin(connection, app, limits, counters, server)
        self.extended_connect = connection.settings.extended_connect
        self.early_updates = {}
        self.wrote_first = -1

    # Protocol

    cdef bint service(self) except -1:
        cdef quiche_h3_event *event = NULL
        cdef int64_t stream_id
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
        self.write()
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

    cdef int write(self) except -1:
        """Every stream that may be written to sends what waits in it."""
        cdef int64_t stream_id
        cdef int64_t writable[WRITABLE_PER_TURN]
        cdef int i, count = 0
        cdef uint64_t code
        cdef Stream stream
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
        return 0

    cdef int failed(self, uint64_t stream_id, object error) except -1:
        """A handler raised where nobody can catch it: its stream is given up, nothing else."""
        cdef uint64_t code = <uint64_t>H3ErrorCode.H3_INTERNAL_ERROR
        cdef Stream stream = self.streams.get(stream_id)
        if stream is not None:
            return self.give_up(stream, error)
        log.error("connection %d: the handler of stream %d failed", self.connection.id, stream_id, exc_info=error)
        # A request that its handler did not survive.
        quiche_conn_stream_shutdown(self.connection.c.quic, stream_id, QUICHE_SHUTDOWN_READ, code)
        quiche_conn_stream_shutdown(self.connection.c.quic, stream_id, QUICHE_SHUTDOWN_WRITE, code)
        quiche_h3_conn_stream_discard(self.h3, self.connection.c.quic, stream_id)
        return 0

    cdef int closed(self) except -1:
        if quiche_h3_conn_idle_frames_spent(self.h3):
            error = self.connection.ending()
            if not error.remote and error.code == <uint64_t>H3ErrorCode.H3_EXCESSIVE_LOAD:
                self.counters.n.idle_frame_floods += 1
        quiche_h3_conn_free(self.h3)
        self.h3 = NULL
        self.over = True
        claims, self.claims = self.claims, None
        if claims is not None:
            (<Claims>claims).closed()
        return self.end()

    cdef Stream new_stream(self, uint64_t stream_id):
        cdef Stream stream = Stream.__new__(Stream)
        stream.http3 = self
        stream.connection = self.connection
        stream.id = stream_id
        stream.receiving = stream.sending = True
        stream.announced = -1
        return stream

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
                # No request came, or nobody serves it any more; our half must go too, or its credit never comes back.
                quiche_conn_stream_shutdown(self.connection.c.quic, stream_id, QUICHE_SHUTDOWN_WRITE,
                                            <uint64_t>H3ErrorCode.H3_REQUEST_INCOMPLETE if self.server else code)
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
            if stream.fields is None or stream.sealed:
                self.connection.close(H3ErrorCode.H3_FRAME_UNEXPECTED, b"DATA out of its place")
            elif stream.handler is not None:
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
        if stream.sealed:  # RFC 9114 4.1; quiche holds only requests to it
            self.connection.close(H3ErrorCode.H3_FRAME_UNEXPECTED, b"HEADERS after the trailers")
            return 0
        if kind == FIELDS_TRAILERS and self.server and stream.fields.method == b"CONNECT":  # RFC 9114 4.4
            self.connection.close(H3ErrorCode.H3_FRAME_UNEXPECTED, b"HEADERS on the stream of a CONNECT")
            return 0
        stream.sealed = kind == FIELDS_TRAILERS
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
        cdef Stream stream = self.new_stream(stream_id)
        stream.receiving = more
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
        cdef Stream stream
        if self.h3 == NULL:
            raise self.connection.ending()
        stream = self.new_stream(<uint64_t>-1)
        stream.handler = handler
        stream.head = (pairs, fin)
        if self.waiting or stream.send_head(pairs, fin):
            self.keep_waiting(stream)
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
        if self.early_datagrams is None:
            self.early_datagrams = deque()
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

    def refuse_incomplete(self, uint64_t stream_id):
        """A request whose field section is not complete gets 408 where there is room for it, and ends."""
        cdef Stream stream
        if self.h3 == NULL:
            return
        stream = self.new_stream(stream_id)
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
