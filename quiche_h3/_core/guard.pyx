"""A server's patience: requests that come too slowly, responses that nobody reads, connections that stay too long.

The endpoint has a connection looked at once in a tick while anything happens on it, and when the time comes that its
guard has named; nothing looks at all connections. What a look costs is bounded by the streams of the one.
"""

import logging

from quiche_h3._core.connection cimport Connection
from quiche_h3._core.libquiche cimport *

from quiche_h3.errors import H3ErrorCode

cdef extern from "quiche_h3_extra.h" nogil:
    ctypedef struct quiche_h3_stats:
        uint64_t qpack_encoder_stream_recv_bytes

    void quiche_h3_conn_stats(const quiche_h3_conn *h3, quiche_h3_stats *out)
    bint quiche_conn_stream_readable(const quiche_conn *conn, uint64_t stream_id)
    size_t quiche_h3_conn_incomplete_requests(const quiche_h3_conn *h3, uint64_t *ids, size_t n)

cdef enum:
    MAX_INCOMPLETE = 256
    CANCELLED = 0x10C       # H3_REQUEST_CANCELLED

cdef uint64_t NEVER = <uint64_t>1 << 62
cdef uint64_t LONGEST_TICK = 2_000_000_000
cdef uint64_t SHORTEST_TICK = 20_000_000

log = logging.getLogger("quiche_h3")


cdef class GuardLimits:
    """The limits of a configuration, shared by the guards of its connections."""

    def __init__(self, config):
        self.header_ns = config.header_timeout_ms * 1_000_000
        self.grace_ns = config.body_grace_ms * 1_000_000
        self.stall_ns = config.send_stall_timeout_ms * 1_000_000
        self.handler_ns = config.handler_timeout_ms * 1_000_000
        self.age_ns = config.max_connection_age_ms * 1_000_000
        self.idle_ns = config.max_idle_without_request_ms * 1_000_000
        self.drain_ns = config.drain_timeout_ms * 1_000_000
        self.body_rate = config.min_body_rate
        self.packets = config.max_packets_per_key
        self.encoder_bytes = config.max_encoder_stream_bytes
        times = [ns // 4 for ns in (
            self.header_ns, self.grace_ns, self.stall_ns, self.handler_ns, self.age_ns, self.idle_ns) if ns]
        self.tick_ns = max(SHORTEST_TICK, min(times + [LONGEST_TICK]))


cdef class Guard(Watch):
    """Looks at one connection."""

    def __init__(self, Http3 http3, GuardLimits limits):
        self.http3 = http3
        self.limits = limits
        self.tick_ns = limits.tick_ns
        self.incomplete = {}
        self.progress = {}

    cdef uint64_t look(self, uint64_t now) except 0:
        """Ends what has had its time. Returns when to look again."""
        cdef Connection conn = self.http3.connection
        cdef GuardLimits limits = self.limits
        cdef uint64_t at
        cdef quiche_h3_stats stats
        if self.http3.h3 == NULL or conn.c.closing:
            return NEVER
        quiche_h3_conn_stats(self.http3.h3, &stats)
        if limits.encoder_bytes and stats.qpack_encoder_stream_recv_bytes > limits.encoder_bytes:
            self.http3.counters.n.encoder_floods += 1
            conn.close(<uint64_t>H3ErrorCode.QPACK_ENCODER_STREAM_ERROR, b"too many encoder instructions")
            return NEVER
        self.look_at_incomplete(now)
        self.look_at_streams(now)
        if self.http3.h3 == NULL or conn.c.closing:
            return NEVER
        if self.active() or self.active_at == 0:
            self.active_at = now
        if self.left_at:
            return self.leave(now) or now + limits.tick_ns
        if conn.c.sent - conn.c.key_began >= limits.packets - limits.packets // 8:  # no key update has helped
            self.http3.counters.n.left_by_packets += 1
            return self.leave(now) or now + limits.tick_ns
        if limits.age_ns and now >= conn.c.created_at + limits.age_ns:
            self.http3.counters.n.left_by_age += 1
            return self.leave(now) or now + limits.tick_ns
        if limits.idle_ns and now >= self.active_at + limits.idle_ns:
            self.http3.counters.n.left_by_idleness += 1
            return self.leave(now) or now + limits.tick_ns
        if self.incomplete or self.progress:
            return now + limits.tick_ns
        at = conn.c.created_at + limits.age_ns if limits.age_ns else NEVER
        return min(at, self.active_at + limits.idle_ns) if limits.idle_ns else at

    cdef bint active(self):
        """A request or a datagram has come since the last look, or a request is at work."""
        cdef quiche_stats s
        cdef uint64_t datagrams
        quiche_conn_stats(self.http3.connection.c.quic, &s)
        datagrams = s.dgram_recv + s.dgram_sent
        if (not self.http3.streams and self.http3.highest_request == self.last_request
                and datagrams == self.last_datagrams):
            return False
        self.last_request = self.http3.highest_request
        self.last_datagrams = datagrams
        return True

    cdef int look_at_incomplete(self, uint64_t now) except -1:
        """Requests whose field section is not complete in time get 408, or are reset."""
        cdef uint64_t ids[MAX_INCOMPLETE]
        cdef size_t i, n = quiche_h3_conn_incomplete_requests(self.http3.h3, ids, MAX_INCOMPLETE)
        cdef dict before = self.incomplete
        if not self.limits.header_ns or (n == 0 and not before):
            return 0
        self.incomplete = {}
        for i in range(n):
            since = before.get(ids[i], now)
            if now - since >= self.limits.header_ns:
                self.http3.counters.n.slow_headers += 1
                self.http3.refuse_incomplete(ids[i])
            else:
                self.incomplete[ids[i]] = since
        return 0

    cdef int look_at_streams(self, uint64_t now) except -1:
        cdef Stream stream
        cdef Progress p
        cdef dict before = self.progress
        if not self.http3.streams and not before:
            return 0
        self.progress = {}
        for stream in list(self.http3.streams.values()):
            p = before.get(stream.id)
            if p is None:
                p = Progress.__new__(Progress)
                p.received_at = p.sent_at = p.seen_at = now
                p.received = stream.bytes_received
                p.sent = stream.bytes_sent
            self.progress[stream.id] = p
            if self.too_slow(stream, p, now):
                self.http3.counters.n.slow_bodies += 1
                self.give_up(stream, "on_too_slow")
            elif self.overdue(stream, p, now):
                self.http3.counters.n.overdue_handlers += 1
                self.give_up(stream, "on_overdue")
            elif self.stalled(stream, p, now):
                self.http3.counters.n.stalled_responses += 1
                self.give_up(stream, "on_stalled")
        return 0

    cdef bint too_slow(self, Stream stream, Progress p, uint64_t now) except -1:
        """The body comes slower than it may, and it is not our side that does not read it.

        A request that is being answered already is a conversation, in which the client may be silent.
        """
        if not stream.receiving or not self.limits.body_rate or not self.limits.grace_ns:
            return False
        if (stream.head_sent or quiche_conn_stream_readable(self.http3.connection.c.quic, stream.id)
                or (stream.fields is not None and stream.fields.method == b"CONNECT")):
            p.received_at = now
            p.received = stream.bytes_received
            return False
        if now - p.received_at < self.limits.grace_ns:
            return False
        if stream.bytes_received - p.received < self.limits.body_rate * (now - p.received_at) // 1_000_000_000:
            return True
        p.received_at = now
        p.received = stream.bytes_received
        return False

    cdef bint overdue(self, Stream stream, Progress p, uint64_t now) except -1:
        """Nothing of the request has come for a whole timeout, and its handler has not begun to answer."""
        if stream.bytes_received != p.seen:
            p.seen = stream.bytes_received
            p.seen_at = now
        if not self.limits.handler_ns or now - p.seen_at < self.limits.handler_ns or stream.fields is None:
            return False
        return stream.fields.method != b"CONNECT" and getattr(stream.handler, "unanswered", False)

    cdef bint stalled(self, Stream stream, Progress p, uint64_t now):
        """There is something to send, and for a whole timeout the client has taken next to nothing of it."""
        cdef bint waits = stream.sending and (stream.pending or stream.blocked or stream.fin_queued
                                              or stream.head is not None or stream.trailers is not None)
        cdef uint64_t least = self.limits.body_rate * (self.limits.stall_ns // 1_000_000) // 1000
        if not waits or not self.limits.stall_ns or stream.bytes_sent - p.sent > least:
            p.sent_at = now
            p.sent = stream.bytes_sent
            return False
        return now - p.sent_at >= self.limits.stall_ns

    def give_up(self, Stream stream, str call):
        """Has the handler answer for it if it can; whatever is open then is reset."""
        handler = stream.handler
        tell = getattr(handler, call, None)
        if tell is not None:
            try:
                tell()
            except Exception:
                log.exception("connection %d: %s() of stream %d failed", self.http3.connection.id, call, stream.id)
        elif stream.sending or stream.receiving:
            stream.reset(CANCELLED)
            if handler is not None:
                handler.on_reset(CANCELLED)

    cdef int leave(self, uint64_t now) except -1:
        """GOAWAY, and a close when the requests in flight are done, or had their time.

        Not before the next look: requests that cross the GOAWAY are refused one by one, and may be sent elsewhere.
        """
        if self.left_at == 0:
            self.left_at = now
            self.http3.goaway()
        elif self.http3.drained or now >= self.left_at + self.limits.drain_ns:
            self.http3.connection.close(<uint64_t>H3ErrorCode.H3_NO_ERROR)
        return 0
