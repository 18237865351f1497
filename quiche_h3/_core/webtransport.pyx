"""WebTransport on one connection (draft-ietf-webtrans-http3, section 4): what belongs to which session.

HTTP/3 claims the streams that are no part of it (see `quiche_h3_extra.h`). Here their session IDs are read, they are
given to their sessions or refused, and what comes before its session waits.
"""

from collections import OrderedDict, deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy
from quiche_h3._core.http3 cimport Http3
from quiche_h3._core.libc_net cimport monotonic, ssize_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.webtransport_sessions cimport SessionBase, bucket_take
from quiche_h3._core.streams cimport EMPTY
from quiche_h3._core.webtransport_streams cimport Carrier, StreamBase, StreamOwner, WebTransportCounters

from quiche_h3.capsules import encode_varint
from quiche_h3.errors import H3ErrorCode
from quiche_h3.webtransport_codes import to_wire

cdef enum:
    MAX_EARLY_STREAMS = 16
    MAX_GONE = 64


cdef int collect_setting(uint64_t identifier, uint64_t value, void *argp) noexcept with gil:
    (<dict>argp)[identifier] = value
    return 0


cdef class WebTransport(Carrier):
    """The sessions of one connection, and the streams that belong to them or will."""

    def __cinit__(self, Http3 http3 not None, WebTransportCounters counters not None):
        self.http3 = http3
        self.counters = counters
        self.config = http3.connection.settings.config
        self.early_ns = self.config.wt_early_timeout_ms * 1_000_000
        self.sessions = {}
        self.streams = {}
        self.heads = {}
        self.early = {}
        self.gone = OrderedDict()
        self.starved = []
        self.answered = []
        self.stopped = []
        self.late_resets = {}
        self.settings_waiters = []
        self.openers = (deque(), deque())  # by kind: unidirectional, bidirectional
        http3.claims = self

    def peer_settings(self):
        """The peer's SETTINGS, raw, as identifier -> value; None before they have come."""
        out = {}
        if self.http3.h3 == NULL or quiche_h3_for_each_setting(self.http3.h3, collect_setting, <void *>out) < 0:
            return None
        return out

    def when_settings(self, callback):
        """Calls back once when the peer's SETTINGS are there, or the connection is gone."""
        if self.http3.h3 == NULL or self.peer_settings() is not None:
            callback()
        else:
            self.settings_waiters.append(callback)

    # Calls of HTTP/3

    cdef bint service(self) except -1:
        cdef int64_t stream_id
        cdef StreamBase stream
        cdef list starved
        cdef bint idle = not self.sessions and self.http3.connection.c.wake_at == 0
        stream_id = quiche_h3_conn_next_claimed_stream(self.http3.h3)
        if self.settings_waiters and self.peer_settings() is not None:
            waiters, self.settings_waiters = self.settings_waiters, []
            for waiter in waiters:
                waiter()
        if self.late_resets:
            self.reset_late()
        if self.stopped:
            stopped, self.stopped = self.stopped, []
            for session, error in stopped:
                session._stopped(error)
        if idle and stream_id < 0:
            return False
        self.turn += 1
        self.now = monotonic()
        if self.answered:
            self.release()
        if self.starved:
            starved, self.starved = self.starved, []
            for stream in starved:
                try:
                    stream.pump()
                except Exception as error:
                    self.failed(stream.session, error)
        while stream_id >= 0:
            self.read_head(stream_id, b"", self.now)
            stream_id = quiche_h3_conn_next_claimed_stream(self.http3.h3)
        for stream_id in list(self.heads):
            head, since = self.heads[stream_id]
            self.read_head(stream_id, head, since)
        if self.streams:
            self.read_all()
        self.open_waiting()
        self.watch()
        return len(self.starved) > 0 or len(self.answered) > 0

    cdef int release(self) except -1:
        """A response may have been written in this turn, before this call, or in the events that were handled ahead of
        it: in the next one it has been sent.
        """
        cdef SessionBase session
        answered, self.answered = self.answered, []
        for session in answered:
            if self.turn < session.answered_at + 3:
                self.answered.append(session)
            else:
                session.release()
        return 0

    cdef bint writable(self, uint64_t stream_id) except -1:
        cdef uint64_t code = 0
        cdef StreamBase stream = self.streams.get(stream_id)
        if stream is None or not stream.sending:
            return False
        try:
            # Sends nothing: of all calls it alone tells the code, and it must be the first to see the stop.
            if (quiche_conn_stream_send(self.http3.connection.c.quic, stream_id, EMPTY, 0, False, &code)
                    == QUICHE_ERR_STREAM_STOPPED):
                stream.was_stopped(code)
            else:
                stream.pump()
        except Exception as error:
            self.failed(stream.session, error)
        return True

    cdef bint datagram(self, const uint8_t *data, Py_ssize_t n) except -1:
        """The short way of a datagram to its session (RFC 9297 2.1): there may be very many of them."""
        cdef uint64_t quarter = data[0] & 0x3F
        cdef Py_ssize_t i, size = 1 << (data[0] >> 6)
        cdef SessionBase session
        if n < size or not self.sessions:
            return False
        for i in range(1, size):
            quarter = quarter << 8 | data[i]
        session = self.sessions.get(quarter * 4)
        if session is None:
            return False
        try:
            session.take_datagram(PyBytes_FromStringAndSize(<const char *>data + size, n - size))
        except Exception as error:
            self.failed(session, error)
        return True

    cdef int drain(self) except -1:
        for session in list(self.sessions.values()):
            session._drain()
        return 0

    cdef int closed(self) except -1:
        """The sessions learn of it by their CONNECT streams. Whoever waits for a stream to open is told here."""
        self.streams = {}
        self.heads = {}
        self.early = {}
        self.starved = []
        self.answered = []
        self.late_resets = {}
        self.openers[0].extend(self.settings_waiters)
        self.settings_waiters = []
        for waiting in self.openers:
            while waiting:
                waiting.popleft()()
        return 0

    cdef int failed(self, SessionBase session, object error) except -1:
        """A handler raised where nobody can catch it: its session is given up, nothing else."""
        if self.http3.h3 != NULL:
            self.http3.failed(session.session_id, error)
        return 0

    # Streams of the peer

    cdef int read_head(self, uint64_t stream_id, bytes head, uint64_t since) except -1:
        """Reads the session ID, which comes first."""
        cdef uint8_t data[8]
        cdef Py_ssize_t i, size, have = len(head)
        cdef uint64_t session_id, kind = 0, received = 0, code = 0
        cdef c_bool fin = False
        cdef ssize_t got
        memcpy(data, PyBytes_AS_STRING(head), have)
        size = 1 if have == 0 else 1 << (data[0] >> 6)
        self.heads.pop(stream_id, None)
        # What was read until now is the stream's type, which may be longer than it need be, and these bytes.
        if quiche_h3_conn_stream_offsets(self.http3.connection.c.quic, stream_id, &kind, &received):
            kind -= have
        while have < size:
            got = quiche_conn_stream_recv(self.http3.connection.c.quic, stream_id, data + have, size - have, &fin, &code)
            if got == QUICHE_ERR_DONE:
                self.heads[stream_id] = (PyBytes_FromStringAndSize(<char *>data, have), since)
                return 0
            if got > 0:
                have += got
                size = 1 << (data[0] >> 6)
            if got < 0 or (fin and have < size):
                # It ended before it said whose it is, as where a browser opens a stream and aborts it at once.
                return self.refuse(stream_id, to_wire(self.config.wt_app_err_invalid_stream))
        session_id = data[0] & 0x3F
        for i in range(1, size):
            session_id = session_id << 8 | data[i]
        return self.bind(stream_id, session_id, kind + size, fin)

    cdef int bind(self, uint64_t stream_id, uint64_t session_id, uint64_t head, bint fin) except -1:
        """Gives the stream to its session, or keeps it for a while when that has not come yet."""
        cdef SessionBase session
        if session_id & 3:
            self.http3.connection.close(<uint64_t>H3ErrorCode.H3_ID_ERROR, b"no session ID")
            return 0
        session = self.sessions.get(session_id)
        if session is not None:
            return self.give(stream_id, session, head, fin)
        if session_id in self.gone or not self.http3.server:
            return self.refuse(stream_id, H3ErrorCode.WT_SESSION_GONE)
        if session_id in self.http3.streams:  # a request, but no session
            return self.refuse(stream_id, to_wire(self.config.wt_app_err_invalid_stream))
        if len(self.early) >= MAX_EARLY_STREAMS:
            return self.refuse(stream_id, H3ErrorCode.WT_BUFFERED_STREAM_REJECTED)
        self.early[stream_id] = (session_id, self.now, head, fin)
        return 0

    cdef int give(self, uint64_t stream_id, SessionBase session, uint64_t head, bint fin) except -1:
        cdef StreamBase stream
        cdef bint bidi = not stream_id & 2
        cdef uint64_t limit = self.config.wt_max_streams_bidi if bidi else self.config.wt_max_streams_uni
        if session.flow is not None and not session.flow.take_stream(bidi):
            self.refuse(stream_id, H3ErrorCode.WT_FLOW_CONTROL_ERROR)
            session._flow_error()
            return 0
        if session.incoming[bidi] >= limit or not bucket_take(&session.stream_rate, self.now):
            session.n.streams_refused += 1
            return self.refuse(stream_id, to_wire(self.config.wt_app_err_stream_limit))
        stream = session._new_stream()
        stream.id = stream_id
        stream.incoming = True
        stream.head = head
        stream.receiving = not fin
        stream.sending = bidi
        self.add(stream)
        session.incoming[bidi] += 1
        session.accepted[bidi] += 1
        session.n.streams_accepted += 1
        self.counters.n.streams_accepted += 1
        try:
            session._incoming(stream)
            stream.settle()
        except Exception as error:
            self.failed(session, error)
        return 0

    cdef int refuse(self, uint64_t stream_id, uint64_t code) except -1:
        self.counters.n.streams_refused += 1
        quiche_conn_stream_shutdown(self.http3.connection.c.quic, stream_id, QUICHE_SHUTDOWN_READ, code)
        if not stream_id & 2:
            quiche_conn_stream_shutdown(self.http3.connection.c.quic, stream_id, QUICHE_SHUTDOWN_WRITE, code)
        return 0

    cdef int add(self, StreamBase stream) except -1:
        self.streams[stream.id] = stream
        stream.session.streams[stream.id] = stream
        self.counters.n.streams_active += 1
        self.counters.n.streams_peak = max(self.counters.n.streams_peak, <uint64_t>len(stream.session.streams))
        return 0

    cdef int read_all(self) except -1:
        """Tells the streams that have something to read."""
        cdef quiche_stream_iter *ids = quiche_conn_readable(self.http3.connection.c.quic)
        cdef uint64_t stream_id = 0
        cdef list found = []
        cdef StreamBase stream
        while quiche_stream_iter_next(ids, &stream_id):
            known = self.streams.get(stream_id)
            if known is not None:
                found.append(known)
        quiche_stream_iter_free(ids)
        for stream in found:
            try:
                stream.arrived()
            except Exception as error:
                self.failed(stream.session, error)
        return 0

    # Sessions

    cdef int enter(self, StreamOwner owner) except -1:
        """A session has come to be: so do the streams that came before it."""
        cdef SessionBase session = owner
        self.now = monotonic()
        self.sessions[session.session_id] = session
        session.seen_at = self.now
        self.idle_check_at = 0
        waiting = [stream_id for stream_id, kept in self.early.items() if kept[0] == session.session_id]
        for stream_id in waiting:
            kept = self.early.pop(stream_id)
            self.give(stream_id, session, kept[2], kept[3])
        self.http3.connection.touch()
        return 0

    cdef int leave(self, StreamOwner owner) except -1:
        cdef SessionBase session = owner
        if self.sessions.pop(session.session_id, None) is None:
            return 0
        self.gone[session.session_id] = None
        if len(self.gone) > MAX_GONE:
            self.gone.popitem(False)
        for stream_id in [i for i, kept in self.early.items() if kept[0] == session.session_id]:
            del self.early[stream_id]
            self.refuse(stream_id, H3ErrorCode.WT_SESSION_GONE)
        return 0

    cdef int watch(self) except -1:
        """What is too old goes. Sets when to look again."""
        cdef uint64_t at = 0, since, idle_ns
        cdef SessionBase session
        for kept in (self.heads, self.early):
            for stream_id in list(kept):
                since = kept[stream_id][1]
                if self.now - since >= self.early_ns:
                    del kept[stream_id]
                    self.refuse(stream_id, H3ErrorCode.WT_BUFFERED_STREAM_REJECTED)
                elif at == 0 or since + self.early_ns < at:
                    at = since + self.early_ns
        if self.sessions:
            if self.now >= self.idle_check_at:
                idle_ns = self.config.wt_session_idle_ms * 1_000_000
                self.idle_check_at = self.now + idle_ns // 4
                for session in list(self.sessions.values()):
                    session.look(self.now, idle_ns)
            if at == 0 or self.idle_check_at < at:
                at = self.idle_check_at
        self.http3.connection.c.wake_at = at
        return 0

    # Streams of ours

    def open_stream(self, SessionBase session not None, bint bidi):
        """Opens a stream of the session; None when the peer gives no credit for another."""
        cdef StreamBase stream
        cdef int64_t stream_id
        cdef ssize_t sent
        cdef uint64_t code = 0
        cdef bytes header
        session.check_open()
        if session.flow is not None and not session.flow.may_open(bidi):
            session._send_capsule(session.flow.streams_blocked(bidi))
            return None
        header = (b"\x40\x41" if bidi else b"\x40\x54") + encode_varint(session.session_id)
        stream_id = quiche_h3_conn_open_claimed_stream(self.http3.h3, self.quic(), bidi)
        if stream_id < 0:
            return None
        stream = session._new_stream()
        stream.id = stream_id
        stream.receiving = bidi
        stream.sending = True
        self.add(stream)
        if session.flow is not None:
            session.flow.opened[bidi] += 1
        session.n.streams_opened += 1
        self.counters.n.streams_opened += 1
        sent = quiche_conn_stream_send(self.quic(), stream_id, header, len(header), False, &code)
        stream.header = len(header)
        if sent < <ssize_t>len(header):
            stream.keep(header[max(0, sent):])
            stream.header_waits = True
        self.http3.connection.touch()
        return stream

    def when_credit(self, bint bidi, callback):
        """Calls back once when a stream may be opened, or there is no use in waiting any more."""
        self.openers[bidi].append(callback)

    cdef int open_waiting(self) except -1:
        cdef int bidi
        cdef uint64_t left
        for bidi in range(2):
            waiting = self.openers[bidi]
            if not waiting:
                continue
            left = (quiche_conn_peer_streams_left_bidi(self.http3.connection.c.quic) if bidi
                    else quiche_conn_peer_streams_left_uni(self.http3.connection.c.quic))
            while waiting and left > 0:
                waiting.popleft()()
                left -= 1
        return 0
