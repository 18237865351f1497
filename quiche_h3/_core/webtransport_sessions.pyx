"""A WebTransport session: its life, and its datagrams (draft-ietf-webtrans-http3, sections 4.5 to 6).

The layer above derives its sessions from `SessionBase`, and hears of what happens by these calls:

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
"""

from collections import deque

from quiche_h3._core.flow_control cimport SessionFlow
from quiche_h3._core.http3_stream cimport Stream
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.libquiche cimport quiche_conn_dgram_max_writable_len
from quiche_h3._core.webtransport_streams cimport Carrier, StreamBase

from quiche_h3.capsules import encode_varint
from quiche_h3.errors import DatagramError, DatagramNotEnabled, DatagramTooLarge, H3ErrorCode, StreamReset, WouldBlock

# WT_INITIAL_MAX_DATA, WT_INITIAL_MAX_STREAMS_UNI and _BIDI
INITIAL_MAX = (0x2B61, 0x2B64, 0x2B65)
WT_ENABLED = 0x2C7CF000                 # sent by both sides from draft 15 on


cdef class Tunnel:
    """The handler of a CONNECT stream, which hands on what concerns the session."""

    def __cinit__(self, SessionBase session not None):
        self.session = session

    def on_headers(self, fields, interim):
        if not interim:
            self.session._headers(fields)

    def on_trailers(self, fields):
        """Of the server (a client's do not come so far): only DATA frames are permitted (RFC 9114 4.4)."""
        self.session.stream.connection.close(
            H3ErrorCode.H3_FRAME_UNEXPECTED, b"HEADERS on the stream of a CONNECT")

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
        # After this turn's events: the capsule that ends the session may have come in the same packet.
        self.session.transport.stopped.append((self.session, StreamReset(code, True)))
        self.session.stream.connection.touch()

    def on_closed(self, error):
        self.session._aborted(error)

    def on_datagram(self, bytes payload):
        self.session.take_datagram(payload)


cdef class SessionBase:
    """A session: what its streams and datagrams need of it."""

    def __cinit__(self, Carrier transport not None, Stream stream not None, *args):
        config = transport.config
        self.transport = transport
        self.stream = stream
        self.streams = {}
        self.datagram_queue = deque()
        self.queue_limit = config.wt_max_queued_datagrams
        bucket_init(&self.stream_rate, config.wt_max_stream_rate, config.wt_max_stream_rate, transport.now)
        bucket_init(&self.datagram_rate, config.wt_max_datagram_rate, config.wt_max_datagram_rate, transport.now)
        stream.handler = Tunnel(self)

    def begin(self):
        """The session's ID is known: from here on it takes streams and datagrams."""
        self.session_id = self.stream.id
        self.prefix = encode_varint(self.session_id // 4)
        self.transport.enter(self)

    def establish(self):
        """The session was accepted: it may send."""
        self.open = True
        if self.transport.http3.server:
            self.held = []
            self.answered_at = self.transport.turn
            self.transport.answered.append(self)
            self.transport.http3.connection.touch()
        self.start_flow_control(self.transport.peer_settings() or {})
        self.transport.counters.n.sessions += 1
        self.transport.counters.n.sessions_active += 1

    def flow_controlled(self):
        """Section 5.1: on where both sides have announced a limit. Known once the peer's SETTINGS have come."""
        peer = self.transport.peer_settings() or {}
        return self.transport.config.wt_session_window > 0 and any(peer.get(identifier) for identifier in INITIAL_MAX)

    cdef int start_flow_control(self, dict peer) except -1:
        """Section 5: counted from the session's start."""
        config = self.transport.config
        peers = tuple(peer.get(identifier, 0) for identifier in INITIAL_MAX)
        if not (config.wt_session_window and any(peers)):
            return 0
        self.flow = SessionFlow(
            (config.wt_session_window, config.wt_max_streams_uni, config.wt_max_streams_bidi), peers, WT_ENABLED in peer)
        self.flow.begun = self.accepted
        self.flow.ended[0] = self.accepted[0] - self.incoming[0]
        self.flow.ended[1] = self.accepted[1] - self.incoming[1]
        self.flow.consumed = self.flow.received = self.n.bytes_received
        for stream in self.streams.values():
            (<StreamBase>stream).counted = (<StreamBase>stream).bytes_received
        return 0

    def more_credit(self):
        """The peer has given more: what waited for it goes on."""
        cdef StreamBase stream
        for stream in list(self.streams.values()):
            if stream.pending:
                stream.pump()
        self.transport.http3.connection.touch()

    def end(self, uint64_t code=H3ErrorCode.WT_SESSION_GONE):
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
            raise self.transport.http3.connection.ending()
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
        if not self.open or self.transport.http3.h3 == NULL:
            self.check_open()
        if not self.datagrams_taken:
            if not self.transport.http3.datagrams_enabled_by_peer:
                raise DatagramNotEnabled("the peer takes no HTTP datagrams")
            self.datagrams_taken = True
        self.queue_datagram(self.prefix + <bytes>(data if type(data) is bytes else bytes(data)))

    cdef int queue_datagram(self, bytes payload) except -1:
        """To quiche, which sends datagrams before streams; to `held` while that would be before the response, when
        browsers know of no session yet and drop them.
        """
        cdef Py_ssize_t limit
        try:
            if self.held is None:
                self.transport.http3.send_datagram(payload)
            else:
                limit = self.max_datagram_size + len(self.prefix)
                if len(payload) > limit:
                    raise DatagramTooLarge(f"a datagram of {len(payload)} bytes: this path takes {limit}")
                if len(self.held) >= self.transport.config.dgram_send_queue_len:
                    raise WouldBlock("the datagram queue is full")
                self.held.append(payload)
                return 0
        except WouldBlock:
            self.drop_datagram()
            raise
        self.n.datagrams_sent += 1
        self.transport.counters.n.datagrams_sent += 1
        return 0

    cdef int release(self) except -1:
        """The response has been sent: so are the datagrams that waited for it."""
        held, self.held = self.held, None
        for payload in held:
            try:
                if self.open:
                    self.queue_datagram(payload)
            except DatagramError:
                pass  # it is lost, as datagrams may be
        return 0

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
