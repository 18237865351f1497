"""WebTransport's streams and datagrams on one connection (draft-ietf-webtrans-http3, section 4).

HTTP/3 claims the streams that are no part of it (see `quiche_h3_extra.h`). Here their session IDs are read, they are
given to their sessions, and their bytes go straight to and from quiche. The layer above derives its sessions and
streams from `SessionBase` and `StreamBase`, and hears of what happens by these calls:

session._new_stream()                   an object for a stream that is about to be opened, here or there
session._incoming(stream)               the peer has opened it
session._headers(fields)                the response to our CONNECT (client)
session._capsules()                     there is something to read on the CONNECT stream
session._finished()                     the peer's FIN on it
session._stopped(error)                 STOP_SENDING on the CONNECT stream
session._aborted(error)                 it was reset, or the connection is gone
session._send_capsule(capsule)          flow control has something to say
session._flow_error()                   the peer has sent more than it may
session._idle()                         nothing was sent or received for `wt_session_idle_ms`
session._drain()                        we have sent GOAWAY
session._ensure_open()                  it is not open and is to be used: accept it, or raise
stream._readable()                      `wanted` is set, and there is something to read
stream._drained()                       `watched` is set, and everything queued was taken by quiche
stream._was_reset(code)                 the peer reset its half; a code as it was on the wire
stream._was_stopped(code)               STOP_SENDING: the peer wants no more of what we send
stream._over()                          both halves have ended, or the session has
"""

import logging
from collections import OrderedDict, deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy, memset
from quiche_h3._core.http3 cimport Claims, Http3, Stream
from quiche_h3._core.libc_net cimport ssize_t, timespec
from quiche_h3._core.libquiche cimport *

from quiche_h3.capsules import encode_varint
from quiche_h3.errors import (
    ConnectionClosed, DatagramNotEnabled, H3ErrorCode, StreamClosed, StreamReset, WouldBlock, check_quic,
)

cdef extern from "time.h" nogil:
    int clock_gettime(int clock, timespec *out)
    enum:
        CLOCK_MONOTONIC

cdef enum:
    SCRATCH = 65536
    MAX_EARLY_STREAMS = 16
    MAX_EARLY_DATAGRAMS = 64
    MAX_GONE = 64
    MAX_RESET_CODES = 64
    SESSION_GONE = 0x170D7B68
    FLOW_CONTROL_ERROR = 0x045D4487
    BUFFERED_STREAM_REJECTED = 0x3994BD84
    CANCELLED = 0x10C       # H3_REQUEST_CANCELLED

# So long a stream or datagram waits for its session, and a stream for the rest of its session ID.
cdef uint64_t EARLY_NS = 10_000_000_000
# Section 4.4: application codes lie in this range of the codes of HTTP/3, around those that are reserved.
cdef uint64_t FIRST_APP_CODE = 0x52E4A40FA8DB
cdef uint64_t LAST_APP_CODE = 0x52E5AC983162

# WT_INITIAL_MAX_DATA, WT_INITIAL_MAX_STREAMS_UNI and _BIDI
INITIAL_MAX = (0x2B61, 0x2B64, 0x2B65)

cdef uint8_t scratch[SCRATCH]           # used between two calls, always with the GIL
cdef uint8_t EMPTY[1]                   # quiche takes no NULL, not even for no bytes

log = logging.getLogger("quiche_h3")


cdef uint64_t monotonic() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1_000_000_000 + <uint64_t>t.tv_nsec


cdef int collect_setting(uint64_t identifier, uint64_t value, void *argp) noexcept with gil:
    (<dict>argp)[identifier] = value
    return 0


cpdef uint64_t to_wire(uint64_t code) except? 0:
    """The HTTP/3 error code that carries an application's, which has 32 bits."""
    if code > 0xFFFFFFFF:
        raise ValueError("an error code of a WebTransport application is at least 0 and below 2**32")
    return FIRST_APP_CODE + code + code // 0x1E


def from_wire(uint64_t code):
    """The application's error code in one of HTTP/3; None when that carries none."""
    if not FIRST_APP_CODE <= code <= LAST_APP_CODE or (code - 0x21) % 0x1F == 0:
        return None
    shifted = code - FIRST_APP_CODE
    return shifted - shifted // 0x1F


cdef class WebTransportCounters:
    """WebTransport counters, shared by the connections of one server or client."""

    def __cinit__(self):
        memset(&self.n, 0, sizeof(self.n))
        self.reset_codes = {}

    def reject(self):
        """A CONNECT that became no session."""
        self.n.sessions_rejected += 1

    def as_dict(self):
        return {**self.n, "reset_codes": dict(self.reset_codes)}

    cdef int note_reset(self, uint64_t code) except -1:
        self.n.resets_received += 1
        app = from_wire(code)
        key = f"0x{code:x}" if app is None else str(app)
        if key not in self.reset_codes and len(self.reset_codes) >= MAX_RESET_CODES:
            key = "other"
        self.reset_codes[key] = self.reset_codes.get(key, 0) + 1
        return 0


cdef class WebTransport(Claims):
    """The sessions of one connection, and the streams that belong to them or will."""

    def __cinit__(self, Http3 http3 not None, WebTransportCounters counters not None):
        self.http3 = http3
        self.counters = counters
        self.config = http3.connection.settings.config
        self.sessions = {}
        self.streams = {}
        self.heads = {}
        self.early = {}
        self.early_datagrams = deque()
        self.gone = OrderedDict()
        self.starved = []
        self.settings_waiters = []
        self.openers = (deque(), deque())  # by kind: unidirectional, bidirectional
        http3.claims = self

    cdef quiche_conn *quic(self) except? NULL:
        return self.http3.connection.quic()

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
        if idle and stream_id < 0:
            return False
        self.turn += 1
        self.now = monotonic()
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
        return len(self.starved) > 0

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

    cdef bint datagram(self, uint64_t stream_id, bytes payload) except -1:
        """Section 4.5: datagrams may come before their session."""
        if stream_id < self.http3.highest_request or not self.http3.server:
            return False
        if len(self.early_datagrams) >= MAX_EARLY_DATAGRAMS:
            self.early_datagrams.popleft()
            self.counters.n.datagrams_dropped += 1
        self.now = monotonic()
        self.early_datagrams.append((stream_id, payload, self.now))
        if self.http3.connection.c.wake_at == 0:
            self.http3.connection.c.wake_at = self.now + EARLY_NS
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
        self.early_datagrams.clear()
        self.starved = []
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
        cdef uint64_t session_id, code = 0
        cdef c_bool fin = False
        cdef ssize_t got
        memcpy(data, PyBytes_AS_STRING(head), have)
        size = 1 if have == 0 else 1 << (data[0] >> 6)
        self.heads.pop(stream_id, None)
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
        return self.bind(stream_id, session_id, fin)

    cdef int bind(self, uint64_t stream_id, uint64_t session_id, bint fin) except -1:
        """Gives the stream to its session, or keeps it for a while when that has not come yet."""
        cdef SessionBase session
        if session_id & 3:
            self.http3.connection.close(<uint64_t>H3ErrorCode.H3_ID_ERROR, b"no session ID")
            return 0
        session = self.sessions.get(session_id)
        if session is not None:
            return self.give(stream_id, session, fin)
        if session_id in self.gone or not self.http3.server:
            return self.refuse(stream_id, SESSION_GONE)
        if session_id in self.http3.streams:  # a request, but no session
            return self.refuse(stream_id, to_wire(self.config.wt_app_err_invalid_stream))
        if len(self.early) >= MAX_EARLY_STREAMS:
            return self.refuse(stream_id, BUFFERED_STREAM_REJECTED)
        self.early[stream_id] = (session_id, self.now, fin)
        return 0

    cdef int give(self, uint64_t stream_id, SessionBase session, bint fin) except -1:
        cdef StreamBase stream
        cdef bint bidi = not stream_id & 2
        cdef uint64_t limit = self.config.wt_max_streams_bidi if bidi else self.config.wt_max_streams_uni
        if session.flow is not None and not session.flow.take_stream(bidi):
            self.refuse(stream_id, FLOW_CONTROL_ERROR)
            session._flow_error()
            return 0
        if session.incoming[bidi] >= limit or not bucket_take(&session.stream_rate, self.now):
            session.n.streams_refused += 1
            return self.refuse(stream_id, to_wire(self.config.wt_app_err_stream_limit))
        stream = session._new_stream()
        stream.id = stream_id
        stream.incoming = True
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

    cdef int enter(self, SessionBase session) except -1:
        """A session has come to be: so do the streams and datagrams that came before it."""
        self.now = monotonic()
        self.sessions[session.session_id] = session
        session.seen_at = self.now
        self.idle_check_at = 0
        waiting = [stream_id for stream_id, kept in self.early.items() if kept[0] == session.session_id]
        for stream_id in waiting:
            self.give(stream_id, session, self.early.pop(stream_id)[2])
        for _ in range(len(self.early_datagrams)):
            kept = self.early_datagrams.popleft()
            if kept[0] == session.session_id:
                session.take_datagram(kept[1])
            else:
                self.early_datagrams.append(kept)
        self.http3.connection.touch()
        return 0

    cdef int leave(self, SessionBase session) except -1:
        if self.sessions.pop(session.session_id, None) is None:
            return 0
        self.gone[session.session_id] = None
        if len(self.gone) > MAX_GONE:
            self.gone.popitem(False)
        for stream_id in [i for i, kept in self.early.items() if kept[0] == session.session_id]:
            del self.early[stream_id]
            self.refuse(stream_id, SESSION_GONE)
        return 0

    cdef int watch(self) except -1:
        """What is too old goes. Sets when to look again."""
        cdef uint64_t at = 0, since, idle_ns
        cdef SessionBase session
        for kept in (self.heads, self.early):
            for stream_id in list(kept):
                since = kept[stream_id][1]
                if self.now - since >= EARLY_NS:
                    del kept[stream_id]
                    self.refuse(stream_id, BUFFERED_STREAM_REJECTED)
                elif at == 0 or since + EARLY_NS < at:
                    at = since + EARLY_NS
        while self.early_datagrams and self.now - <uint64_t>self.early_datagrams[0][2] >= EARLY_NS:
            self.early_datagrams.popleft()
            self.counters.n.datagrams_dropped += 1
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
        if sent < <ssize_t>len(header):
            stream.keep(header[max(0, sent):])
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


cdef class Tunnel:
    """The handler of a CONNECT stream, which hands on what concerns the session."""

    def __cinit__(self, SessionBase session not None):
        self.session = session

    def on_headers(self, fields, interim):
        if not interim:
            self.session._headers(fields)

    def on_trailers(self, fields):
        pass

    def on_readable(self):
        self.session._capsules()

    def on_finished(self):
        self.session._finished()

    def on_sent(self):
        pass

    def on_drained(self):
        pass

    def on_reset(self, code):
        self.session._aborted(StreamReset(code, True))

    def on_stopped(self, code):
        self.session._stopped(StreamReset(code, True))

    def on_closed(self, error):
        self.session._aborted(error)

    def on_datagram(self, bytes payload):
        self.session.take_datagram(payload)


cdef class SessionBase:
    """A session: what its streams and datagrams need of it."""

    def __cinit__(self, WebTransport transport not None, Stream stream not None, *args):
        config = transport.config
        self.transport = transport
        self.stream = stream
        self.streams = {}
        self.datagram_queue = deque()
        self.queue_limit = config.wt_max_queued_datagrams
        bucket_init(&self.stream_rate, config.wt_max_stream_rate, config.wt_max_stream_rate, monotonic())
        bucket_init(&self.datagram_rate, config.wt_max_datagram_rate, config.wt_max_datagram_rate, monotonic())
        stream.handler = Tunnel(self)

    def begin(self):
        """The session's ID is known: from here on it takes streams and datagrams."""
        self.session_id = self.stream.id
        self.prefix = encode_varint(self.session_id // 4)
        self.transport.enter(self)

    def establish(self):
        """The session was accepted: it may send."""
        self.open = True
        self.start_flow_control(self.transport.peer_settings() or {})
        self.transport.counters.n.sessions += 1
        self.transport.counters.n.sessions_active += 1

    cdef int start_flow_control(self, dict peer) except -1:
        """Section 5.6: on where both sides have announced a limit, counted from the session's start."""
        config = self.transport.config
        peers = tuple(peer.get(identifier, 0) for identifier in INITIAL_MAX)
        if not any(peers) or not config.wt_session_window:
            return 0
        self.flow = SessionFlow(
            (config.wt_session_window, config.wt_max_streams_uni, config.wt_max_streams_bidi), peers)
        self.flow.begun = self.accepted
        self.flow.ended[0] = self.accepted[0] - self.incoming[0]
        self.flow.ended[1] = self.accepted[1] - self.incoming[1]
        self.flow.consumed = self.n.bytes_received
        return 0

    def more_credit(self):
        """The peer has given more: what waited for it goes on."""
        cdef StreamBase stream
        for stream in list(self.streams.values()):
            if stream.pending:
                stream.pump()
        self.transport.http3.connection.touch()

    def end(self, uint64_t code=SESSION_GONE):
        """The session is over: its streams are reset, and those that come are refused."""
        cdef StreamBase stream
        if self.open:
            self.open = False
            self.transport.counters.n.sessions_active -= 1
        self.transport.leave(self)
        for stream in list(self.streams.values()):
            stream.abort(code)
        waiter, self.datagram_waiter = self.datagram_waiter, None
        if waiter is not None:
            waiter()

    def check_open(self):
        """Raises what stands in the way of sending."""
        if self.transport.http3.h3 == NULL:
            raise self.transport.http3.connection.close_reason or ConnectionClosed(False, 0, b"", False)
        if not self.open:
            self._ensure_open()

    cdef uint64_t activity(self) noexcept:
        return (self.n.streams_opened + self.n.streams_accepted + self.n.bytes_received + self.n.bytes_sent
                + self.n.datagrams_received + self.n.datagrams_sent)

    cdef int look(self, uint64_t now, uint64_t idle_ns) except -1:
        """Whether anything has happened since the last look; the session may have gone idle."""
        cdef uint64_t activity = self.activity()
        if activity != self.seen:
            self.seen = activity
            self.seen_at = now
        elif self.open and now - self.seen_at >= idle_ns:
            self.transport.counters.n.sessions_idle += 1
            self._idle()
        return 0

    cdef bint take_data(self, Py_ssize_t n) except -1:
        """Flow control of what was read. False: the peer had no credit for it, and the session is over."""
        if not self.flow.take_data(n):
            self._flow_error()
            return False
        self.give_credit()
        return True

    cdef int give_credit(self) except -1:
        cdef bytes capsules = self.flow.grants()
        if capsules:
            self._send_capsule(capsules)
        return 0

    @property
    def stats(self):
        """Counters of the session: streams, their bytes, datagrams."""
        return {**self.n, "streams_active": len(self.streams)}

    # Datagrams

    @property
    def max_datagram_size(self):
        """The largest payload in bytes that a datagram can have now; 0 when the peer takes none."""
        cdef ssize_t room
        if self.transport.http3.h3 == NULL or not self.transport.http3.datagrams_enabled_by_peer:
            return 0
        room = quiche_conn_dgram_max_writable_len(self.transport.quic())
        return max(0, room - len(self.prefix))

    def send_datagram(self, data):
        """Sends a datagram, which may be lost on the way, and is not sent again.

        Raises WouldBlock when `dgram_send_queue_len` of them wait to be sent (it is counted as dropped),
        DatagramTooLarge, DatagramNotEnabled, SessionClosed or ConnectionClosed.
        """
        self.check_open()
        if not self.transport.http3.datagrams_enabled_by_peer:
            raise DatagramNotEnabled("the peer takes no HTTP datagrams")
        try:
            self.transport.http3.send_datagram(self.prefix + <bytes>(data if type(data) is bytes else bytes(data)))
        except WouldBlock:
            self.n.datagrams_dropped += 1
            self.transport.counters.n.datagrams_dropped += 1
            raise
        self.n.datagrams_sent += 1
        self.transport.counters.n.datagrams_sent += 1

    cdef int take_datagram(self, bytes payload) except -1:
        self.n.datagrams_received += 1
        self.transport.counters.n.datagrams_received += 1
        if not bucket_take(&self.datagram_rate, self.transport.now):
            self.drop_datagram()
            return 0
        if self.on_datagram is not None and self.open:
            self.on_datagram(payload)
            return 0
        if len(self.datagram_queue) >= self.queue_limit:
            self.datagram_queue.popleft()  # what is newest is worth most
            self.drop_datagram()
        self.datagram_queue.append(payload)
        if self.datagram_waiter is not None:
            waiter, self.datagram_waiter = self.datagram_waiter, None
            waiter()
        return 0

    cdef int drop_datagram(self) except -1:
        self.n.datagrams_dropped += 1
        self.transport.counters.n.datagrams_dropped += 1
        return 0

    def next_datagram(self):
        """The oldest datagram that waits, or None."""
        return self.datagram_queue.popleft() if self.datagram_queue else None


cdef class StreamBase:
    """One stream: the receiving and the sending half, each with its own end."""

    def __cinit__(self, SessionBase session not None):
        self.session = session

    # Receiving

    def recv(self, Py_ssize_t n=SCRATCH):
        """Up to `n` bytes that are there now; empty when there are none yet, or no more."""
        cdef c_bool fin = False
        cdef uint64_t code = 0
        cdef ssize_t got
        cdef WebTransport transport = self.session.transport
        if not self.receiving or n <= 0 or transport.quic() == NULL:
            return b""
        got = quiche_conn_stream_recv(transport.http3.connection.c.quic, self.id, scratch, min(n, SCRATCH), &fin, &code)
        if got < 0:
            self.broke(got, code)
            return b""
        # First of all: touch() runs Python, where another loop's thread may take over and fill `scratch`.
        data = PyBytes_FromStringAndSize(<char *>scratch, got)
        transport.http3.connection.touch()  # flow control credit goes out, and more of the stream is seen, in a turn
        self.bytes_received += got
        self.session.n.bytes_received += got
        transport.counters.n.bytes_received += got
        if self.session.flow is not None and not self.session.take_data(got):
            return b""
        if fin:
            self.receiving = False
            self.settle()
        return data

    cdef int arrived(self) except -1:
        """There is something to read. When nobody wants it, it is only looked at whether it is the end."""
        cdef c_bool fin = False
        cdef uint64_t code = 0
        cdef ssize_t got
        cdef quiche_conn *quic = self.session.transport.http3.connection.c.quic
        if not self.receiving:
            return 0
        if self.wanted:
            self._readable()
        elif quiche_conn_stream_finished(quic, self.id):  # a FIN without data before it, or a reset
            got = quiche_conn_stream_recv(quic, self.id, scratch, sizeof(scratch), &fin, &code)
            if got < 0:
                self.broke(got, code)
            elif fin:
                self.receiving = False
                self.settle()
        return 0

    cdef int broke(self, ssize_t rc, uint64_t code) except -1:
        if rc == QUICHE_ERR_DONE:
            return 0
        self.receiving = False
        self.cut = True
        self.session.transport.counters.note_reset(code)
        self._was_reset(code)
        return self.settle()

    def stop_receiving(self, uint64_t code):
        """STOP_SENDING with a code of HTTP/3."""
        if self.receiving and self.session.transport.quic() != NULL:
            self.receiving = False
            self.cut = True
            self.session.transport.counters.n.resets_sent += 1
            quiche_conn_stream_shutdown(self.session.transport.quic(), self.id, QUICHE_SHUTDOWN_READ, code)
            self.session.transport.http3.connection.touch()
            self.settle()

    # Sending

    def check_sending(self):
        """Raises what stands in the way of sending."""
        self.session.check_open()
        if not self.sending or self.fin_queued:
            raise StreamClosed("the stream's sending half is closed")

    cdef int keep(self, bytes data) except -1:
        if self.queue is None:
            self.queue = deque()
        self.queue.append(data)
        self.pending += len(data)
        return 0

    def enqueue(self, bytes data, bint fin=False):
        """Sends `data` now as far as it goes; keeps a reference to the rest and sends that when it can."""
        cdef bint waits = self.pending > 0
        self.check_sending()
        if data:
            self.keep(data)
        self.fin_queued = fin
        if not waits:
            self.session.transport.quic()
            self.pump()
        self.session.transport.http3.connection.touch()

    cdef int pump(self) except -1:
        """Sends what waits, as far as the stream's share of this turn and its credit go, then the FIN."""
        cdef WebTransport transport = self.session.transport
        cdef SessionFlow flow = self.session.flow
        cdef bytes data
        cdef Py_ssize_t n, sent
        cdef bint had = self.pending > 0
        if self.turn != transport.turn:
            self.turn = transport.turn
            self.share = transport.config.wt_write_quota_per_tick
        while self.pending and self.sending:
            if self.share <= 0:
                transport.starved.append(self)
                transport.http3.connection.touch()
                return 0
            data = self.queue[0]
            n = min(PyBytes_GET_SIZE(data) - self.offset, self.share)
            if flow is not None:
                n = min(<uint64_t>n, flow.room())
                if n == 0:
                    self.session._send_capsule(flow.blocked())
                    return 0
            sent = self.send_some(<const uint8_t *>PyBytes_AS_STRING(data) + self.offset, n,
                                  self.fin_queued and self.pending == n)
            if sent < 0 or not self.pending:
                return 0
            self.pending -= sent
            self.offset += sent
            self.share -= sent
            if self.offset == PyBytes_GET_SIZE(data):
                self.queue.popleft()
                self.offset = 0
        if not self.sending:
            return 0
        if self.fin_queued:
            self.send_some(EMPTY, 0, True)
        elif had and self.watched:
            self._drained()
        return 0

    cdef Py_ssize_t send_some(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2:
        """Bytes taken; -1 when nothing can be taken now, or ever again."""
        cdef uint64_t code = 0
        cdef WebTransport transport = self.session.transport
        cdef ssize_t rc = quiche_conn_stream_send(
            transport.http3.connection.c.quic, self.id, data, n, fin, &code)
        if rc == QUICHE_ERR_DONE:
            return -1
        if rc == QUICHE_ERR_STREAM_STOPPED or rc == QUICHE_ERR_INVALID_STREAM_STATE:
            self.was_stopped(code if rc == QUICHE_ERR_STREAM_STOPPED else CANCELLED)
            return -1
        if rc < 0:
            check_quic(rc)
        self.bytes_sent += rc
        if self.session.flow is not None:
            self.session.flow.sent += rc
        self.session.n.bytes_sent += rc
        transport.counters.n.bytes_sent += rc
        if fin and rc == n:
            self.sent_fin()
        return rc

    cdef int sent_fin(self) except -1:
        self.sending = False
        self.drop_queue()
        if self.watched:
            self._drained()
        return self.settle()

    cdef int was_stopped(self, uint64_t code) except -1:
        if not self.sending:
            return 0
        self.sending = False
        self.drop_queue()
        self.session.transport.counters.note_reset(code)
        self._was_stopped(code)
        return self.settle()

    def reset_sending(self, uint64_t code):
        """RESET_STREAM with a code of HTTP/3: what is queued or not yet acknowledged may never arrive."""
        if self.sending and self.session.transport.quic() != NULL:
            self.sending = False
            self.drop_queue()
            self.session.transport.counters.n.resets_sent += 1
            quiche_conn_stream_shutdown(self.session.transport.quic(), self.id, QUICHE_SHUTDOWN_WRITE, code)
            self.session.transport.http3.connection.touch()
            self.settle()

    cdef int drop_queue(self) noexcept:
        self.queue = None
        self.pending = 0
        self.offset = 0
        self.fin_queued = False
        return 0

    # Ending

    cdef int abort(self, uint64_t code) except -1:
        """The session is over, or the connection is gone."""
        cdef quiche_conn *quic = self.session.transport.quic()
        if self.session.transport.http3.h3 != NULL:
            if self.receiving:
                quiche_conn_stream_shutdown(quic, self.id, QUICHE_SHUTDOWN_READ, code)
            if self.sending:
                quiche_conn_stream_shutdown(quic, self.id, QUICHE_SHUTDOWN_WRITE, code)
        self.receiving = self.sending = False
        self.drop_queue()
        return self.settle()

    cdef int settle(self) except -1:
        """Both halves are over: nothing refers to the stream any more but the program."""
        if self.sending or self.receiving or self.session.streams.pop(self.id, None) is None:
            return 0
        self.session.transport.streams.pop(self.id, None)
        self.session.transport.counters.n.streams_active -= 1
        if self.incoming:
            self.session.incoming[0 if self.id & 2 else 1] -= 1
        if self.session.flow is not None and self.session.open:
            if self.incoming:
                self.session.flow.end_stream(not (self.id & 2))
            if self.cut:
                self.session.flow.cut(self.session.transport.config.max_stream_window)
            self.session.give_credit()
        self._over()
        return 0
