"""The endpoint: demultiplexes udp payloads to connections, owns their deadlines, and runs the turn.

It knows no loop and no clock but the monotonic one. A driver gives it batches of datagrams
(`receive`), calls `turn()` afterwards and whenever `deadline()` has come or `wake` was called, and
watches a socket for writability while it is `blocked`.
"""

import logging
import os

from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset, strlen
from cpython.bytearray cimport PyByteArray_AS_STRING
from quiche_h3._core.connection cimport (
    DEADLINE_NONE, PREFERENCE_PROBED, PREFERENCE_SETTLED, deadlines_next, deadlines_remove, deadlines_set,
)
from quiche_h3._core.libc_net cimport monotonic, sockaddr, sockaddr_storage, socklen_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.send_pass cimport FLUSH_DONE
from quiche_h3._core.stateless cimport PACKET_INITIAL, PACKET_SHORT, PACKET_ZERO_RTT, packet_parse
from quiche_h3._core.udp cimport UDP_NOT_ECT, to_sockaddr, udp

cdef enum:
    # One client must not starve another: at most so much in one turn.
    RECEIVE_BATCHES = 4
    TURN_DEADLINES = 64
    # So many timers without an answer: the path may have become too narrow for our packets (RFC 8899 4.3).
    BLACK_HOLE_TIMEOUTS = 3
    # So often is the server's preferred address asked for an answer, at intervals that double.
    PREFERRED_PROBES = 5
    PREFERRED_PROBE_INTERVAL = 300_000_000

log = logging.getLogger("quiche_h3.quic")

cdef int forks = 0      # since the interpreter began, on the way down to this process


def _forked():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_forked)


cdef void give_up(conn_t *c, uint64_t code, const char *why) noexcept nogil:
    """Closes a handshake that leads nowhere: what is left to send goes, then the connection."""
    c.given_up = c.closing = True
    quiche_conn_close(c.quic, False, code, <const uint8_t *>why, strlen(why))


cdef class Endpoint:
    """A server's or client's side of any number of connections over any number of sockets.

    `app` has `protocol(connection)` (returns the Protocol to run once a connection may carry data, or None),
    `connection_opened(connection)` and `connection_closed(connection)`.
    """

    def __cinit__(self):
        memset(&self.due, 0, sizeof(self.due))
        memset(&self.n, 0, sizeof(self.n))

    def __init__(self, EngineSettings settings, app, *, server, wake=None):
        self.forks = forks
        self.settings = settings
        self.gate = Gate()
        self.app = app
        self.server = server
        self.wake = wake
        self.now = monotonic()
        config = settings.config
        self.handshake_limit = config.max_handshake_bytes if server else 1 << 62
        self.packet_limit = config.max_packets_per_key
        self.answers = StatelessAnswers(settings, self.now, server=server)
        self.routes = Routes(self.answers)
        self.opening = Opening(settings, self.answers, self.routes, server=server)
        self.admission = self.opening.admission
        self.connections = self.opening.connections
        self.send_pass = SendPass(settings)
        self.sockets = self.send_pass.sockets

    def __dealloc__(self):
        free(self.due.items)

    def take_settings(self, EngineSettings settings):
        """Connections that begin from now on get these settings: certificates, keys. The others keep theirs."""
        if settings.connection_id_length != self.settings.connection_id_length:
            raise ValueError("connection IDs of two lengths cannot be told apart")
        self.settings = settings
        self.answers.take_settings(settings)
        self.opening.settings = self.send_pass.settings = settings

    def set_wake(self, wake):
        """`wake()` is called once when a turn is wanted: something was queued outside of one."""
        self.wake = wake

    def add_socket(self, UdpSocket sock):
        """Takes a socket into service. Returns its index for `receive()`."""
        return self.send_pass.add(sock)

    def remove_socket(self, int index):
        """Closes a socket that no connection's path begins at any more; its index is free for another one.

        Raises ValueError for one that is in use, RuntimeError in a turn.
        """
        cdef UdpSocket sock = self.sockets[index]
        cdef Connection conn
        cdef quiche_send_info path
        if self.in_turn:
            raise RuntimeError("remove_socket() was called from a handler")
        for conn in self.connections.values():
            if conn.c.sock == &sock.u:
                memcpy(&path.from_, &conn.c.local, sizeof(path.from_))
                path.from_len = conn.local_len()
                # Not this one if just a late packet came in by it.
                conn.c.sock = self.send_pass.socket_for(&conn.c, &path)
                if conn.c.sock == &sock.u:
                    raise ValueError("the socket is in use")
        self.send_pass.remove(index)

    # Incoming

    cpdef bint receive(self, int index) except -1:
        """Drains a readable socket: a few batches, so that handlers and other sockets get their turn.

        Returns True when the socket may hold more.
        """
        cdef UdpSocket sock = self.sockets[index]
        cdef udp_socket *u = &sock.u
        cdef udp_message m
        cdef int i, n, batches
        self.check_process()
        self.now = monotonic()
        self.gate.shut = True
        try:
            with nogil:
                for batches in range(RECEIVE_BATCHES):
                    n = udp.receive(u)
                    for i in range(n):
                        if udp.received_message(u, i, &m):
                            self.receive_message(u, &m)
                    if n < <int>u.batch:
                        break
                else:
                    n = -1
        finally:
            self.gate.shut = False
        if u.errors_wait:
            self.take_refusals(sock)
        return n < 0

    cdef int take_refusals(self, UdpSocket sock) except -1:
        """Ends the handshakes with peers of which ICMP says that nobody listens. Later it is nobody's word."""
        cdef Connection conn
        refusals = sock.refusals()
        for conn in list(self.connections.values()) if refusals else ():
            if conn.c.sock == &sock.u and not conn.c.established and conn.peer_address in refusals:
                give_up(&conn.c, 0, b"refused")
                self.mark(&conn.c)
        return 0

    def receive_udp_payload(self, int index, bytes payload, peer, local=None):
        """Hands over one udp payload that came some other way than through the socket."""
        cdef UdpSocket sock = self.sockets[index]
        cdef udp_message m
        data = bytearray(payload)
        cdef uint8_t[::1] view = data
        if not data:
            return
        self.now = monotonic()
        m.peer_len = to_sockaddr(peer[0], peer[1], &m.peer)
        m.local_len = sock.u.bound_len
        memcpy(&m.local, &sock.u.bound, sizeof(m.local))
        if local is not None:
            m.local_len = to_sockaddr(local[0], local[1], &m.local)
        m.data = &view[0]
        m.len = m.segment = len(data)
        m.ecn = UDP_NOT_ECT
        self.receive_message(&sock.u, &m)

    cdef int receive_message(self, udp_socket *u, udp_message *m) except -1 nogil:
        cdef size_t offset = 0, n
        while offset < m.len:
            n = m.len - offset
            if n > m.segment:
                n = m.segment
            self.receive_packet(u, m, m.data + offset, n)
            offset += n
        return 0

    cdef int receive_packet(self, udp_socket *u, udp_message *m, uint8_t *data, size_t n) except -1 nogil:
        cdef packet_header h
        cdef conn_t *c
        cdef quiche_recv_info info
        if not packet_parse(data, n, self.settings.connection_id_length, &h):
            self.n.malformed_dropped += 1
            return 0
        if h.type == PACKET_INITIAL and n < QUICHE_MIN_CLIENT_INITIAL_LEN and self.server and h.version:
            # RFC 9000 14.1: no state and no answer, which would be larger than the question.
            self.opening.n.short_initials_dropped += 1
            return 0
        c = self.routes.find(h.dcid, h.dcid_len)
        if c == NULL:
            c = self.unknown_packet(u, m, &h, data, n)
            if c == NULL:
                return 0
        if c == &self.routes.nobody:
            self.opening.n.unknown_dropped += 1
            return 0
        info.from_ = <sockaddr *>&m.peer
        info.from_len = m.peer_len
        info.to = <sockaddr *>&m.local
        info.to_len = m.local_len
        c.sock = u
        c.unprompted = 0
        c.silent_timeouts = 0
        if c.received_ecn != m.ecn:
            c.received_ecn = m.ecn
            quiche_h3_conn_set_received_ecn(c.quic, m.ecn)
        quiche_conn_recv(c.quic, data, n, &info)
        if not c.established and h.type != PACKET_SHORT:
            self.count_handshake(c, &h, data, n)
        self.mark(c)
        return 0

    cdef void count_handshake(self, conn_t *c, const packet_header *h, const uint8_t *data, size_t n) noexcept nogil:
        """A client that sends and sends but never completes its handshake is given up: it makes us keep it all."""
        if h.type == PACKET_ZERO_RTT and quiche_conn_is_in_early_data(c.quic):
            return
        # Zeros behind the last packet fill the datagram (RFC 9000 14.1): where packets are lost there are many.
        while n > 0 and data[n - 1] == 0:
            n -= 1
        c.handshake_bytes += n
        if c.handshake_bytes > self.handshake_limit and not c.given_up:
            self.n.handshake_overruns += 1
            give_up(c, 0x02, b"handshake too long")

    cdef conn_t *unknown_packet(self, udp_socket *u, udp_message *m, packet_header *h,
                                uint8_t *data, size_t n) noexcept with gil:
        """Apart from its caller, which would otherwise take the GIL for every packet."""
        cdef conn_t *c = NULL
        cdef bint shut = self.gate.shut
        self.gate.shut = False
        try:
            c = self.unknown(u, m, h, data, n)
        except Exception as error:
            self.caught(error, "a packet of no known connection")
        finally:
            self.gate.shut = shut
        return c

    cdef void mark(self, conn_t *c) noexcept nogil:
        if c.dirty:
            return
        c.dirty = True
        c.next_dirty = NULL
        if self.dirty_tail == NULL:
            self.dirty_head = c
        else:
            self.dirty_tail.next_dirty = c
        self.dirty_tail = c

    def mark_dirty(self, Connection conn):
        """The connection has something to send: it takes part in the next turn, which is asked for."""
        self.mark(&conn.c)
        if not self.in_turn and not self.woken and self.wake is not None:
            self.woken = True
            self.wake()

    cdef conn_t *unknown(self, udp_socket *u, udp_message *m, packet_header *h, uint8_t *data, size_t n) except? NULL:
        """A packet for no known connection: at a server perhaps the first of one."""
        cdef Connection conn
        if not self.server:
            self.opening.n.unknown_dropped += 1
            if h.type == PACKET_SHORT and h.version == 0:
                self.heed_reset(u, m, data, n)
            return NULL
        conn = self.opening.meet(u, m, h, data, n, self.now)
        if conn is None:
            return NULL
        self.adopt(conn)
        return &conn.c

    cdef int heed_reset(self, udp_socket *u, udp_message *m, const uint8_t *data, size_t n) except -1:
        """RFC 9000 10.3.1: the connection ID of a stateless reset is random. Its address tells whom it may concern."""
        cdef Connection conn
        cdef quiche_recv_info info
        cdef bytearray copy
        if n < 21:
            return 0
        info.from_ = <sockaddr *>&m.peer
        info.from_len = m.peer_len
        info.to = <sockaddr *>&m.local
        info.to_len = m.local_len
        for conn in self.connections.values():
            if conn.c.sock != u or memcmp(&conn.c.peer, &m.peer, m.peer_len) != 0:
                continue
            copy = bytearray(data[:n])  # quiche decrypts in place
            quiche_conn_recv(conn.c.quic, <uint8_t *>PyByteArray_AS_STRING(copy), n, &info)
            if quiche_conn_is_closed(conn.c.quic):
                self.mark(&conn.c)
                break
        return 0

    def connect(self, int index, peer, server_name=None, session=None):
        """Opens a client connection from socket `index` to `peer` (host, port). Returns the Connection."""
        cdef UdpSocket sock = self.sockets[index]
        cdef Connection conn
        self.now = monotonic()
        name = None if server_name is None else server_name.encode("ascii")
        conn = self.opening.connect(&sock.u, peer, name, session, self.now)
        self.adopt(conn)
        self.mark_dirty(conn)
        return conn

    cdef int adopt(self, Connection conn) except -1:
        conn._endpoint = self
        conn.gate = self.gate
        return 0

    cdef int check_process(self) except -1:
        """A packet of two processes with one key tells everybody what is in it (RFC 9001 5.3)."""
        if self.forks != forks:
            raise RuntimeError("the process has forked: connections and sockets are the parent's, make your own here")
        return 0

    @property
    def forked(self):
        """This process is a fork of the one that the endpoint belongs to."""
        return self.forks != forks

    # The turn

    cpdef deadline(self, Connection connection=None):
        """When `turn()` is due next, or for one connection, in nanoseconds of the monotonic clock; None for never."""
        at = deadlines_next(&self.due) if connection is None else connection.c.due.at
        return None if at == DEADLINE_NONE else at

    cpdef int64_t due_at(self):
        """`deadline()` for drivers: 0 for never."""
        at = deadlines_next(&self.due)
        return 0 if at == DEADLINE_NONE else <int64_t>at

    cpdef bint turn(self) except -1:
        """Expired deadlines, then events and handlers of every touched connection, then one send pass.

        Returns True when work is left that need not wait for anything. What a callback raises is logged; a
        KeyboardInterrupt or SystemExit is raised again when the turn is over.
        """
        cdef conn_t *c
        cdef conn_t *head
        cdef conn_t *next_c
        cdef list closed = None
        if self.in_turn:
            raise RuntimeError("turn() was called from a handler")
        self.check_process()
        self.in_turn = True
        self.woken = False
        self.admission.unproven = 0
        try:
            self.handle_events()
            self.check_process()  # a handler may have forked
            head = self.dirty_head
            self.dirty_head = self.dirty_tail = NULL
            self.gate.shut = True
            with nogil:
                self.now = self.send_pass.run(head, self.now)
            self.gate.shut = False
            self.send_pass.note_fallbacks()
            self.blocked = self.send_pass.blocked()
            c = head
            while c != NULL:
                next_c = c.next_dirty
                if quiche_conn_is_closed(c.quic) or c.given_up:
                    if closed is None:
                        closed = []
                    closed.append(<Connection>c.owner)
                else:
                    c.dirty = False
                    self.finish(c)
                    if c.more or c.flushed != FLUSH_DONE:
                        self.mark(c)
                c = next_c
            # Last, for the application may touch any connection now, also those that the loop above walked.
            if closed is not None:
                for conn in closed:
                    self.retire(conn)
        finally:
            self.in_turn = False
        if self.interrupt is not None:
            error, self.interrupt = self.interrupt, None
            raise error
        return self.dirty_head != NULL and not self.blocked

    cpdef handle(self):
        """The first part of a turn: deadlines, events, handlers. Asks for the turn in which what they say leaves.

        Handlers that wait in tasks are woken now, run before that turn, and what they write goes in its packets.
        """
        if self.in_turn:
            raise RuntimeError("handle() was called from a handler")
        self.check_process()
        self.in_turn = True
        try:
            self.handle_events()
        finally:
            self.in_turn = False
        if not self.woken and self.wake is not None:
            self.woken = True
            self.wake()

    cdef int handle_events(self) except -1:
        cdef conn_t *c
        self.now = monotonic()
        self.expire()
        c = self.dirty_head
        while c != NULL:  # handlers may append to the list while it is walked
            self.service(<Connection>c.owner)
            c = c.next_dirty
        return 0

    @property
    def refusing(self):
        """No new connection is accepted."""
        return self.opening.refusing

    @property
    def turning(self):
        """A turn is in progress: this is called from one of its handlers."""
        return self.in_turn

    cdef int expire(self) except -1:
        """At most so many: the half-open connections of a flood end together."""
        cdef conn_t *c
        cdef int n
        for n in range(TURN_DEADLINES):
            if deadlines_next(&self.due) > self.now:
                break
            c = <conn_t *>self.due.items[0]
            deadlines_remove(&self.due, &c.due)
            if not c.established and self.now - c.created_at >= self.settings.handshake_timeout_ns:
                give_up(c, 0, b"handshake timeout")
            c.unprompted = 0
            if quiche_conn_timeout_as_nanos(c.quic) == 0:
                c.silent_timeouts += 1
                if c.silent_timeouts == BLACK_HOLE_TIMEOUTS and c.established:
                    quiche_h3_conn_revalidate_pmtu(c.quic)
            quiche_conn_on_timeout(c.quic)
            self.mark(c)
        return 0

    cdef int caught(self, object error, str what) except -1:
        """Something raised that must not end the turn."""
        if isinstance(error, Exception):
            log.error("%s failed", what, exc_info=error)
        elif self.interrupt is None:
            self.interrupt = error
        return 0

    cdef int service(self, Connection conn) except -1:
        """Everything between the packets that came and those that go: state changes, paths, the protocol."""
        cdef conn_t *c = &conn.c
        c.more = False
        try:
            if not c.established and quiche_conn_is_established(c.quic):
                c.established = True
                self.admission.opened(conn.host)
                self.routes.issue(c)
                self.app.connection_opened(conn)
        except BaseException as error:
            self.caught(error, "connection_opened()")
        try:
            if conn.protocol is None and (c.established or quiche_conn_is_in_early_data(c.quic)):
                self.open_protocol(conn)
            c.now = self.now
            if conn.protocol is not None:
                c.more = conn.protocol.service()
            if conn.watch is not None:
                self.watch(conn)
            if c.established:
                self.handle_paths(conn)
            if c.log_failed and not c.log_failure_told:
                self.opening.log_failed(c)
        except BaseException as error:
            self.caught(error, "a connection")
            quiche_conn_close(c.quic, True, 0x102, b"", 0)  # H3_INTERNAL_ERROR
            c.closing = True
        return 0

    cdef int watch(self, Connection conn) except -1:
        """A look when its time has come, and within a tick of whatever happens."""
        cdef conn_t *c = &conn.c
        if self.now >= c.watch_at:
            c.watch_at = conn.watch.look(self.now) if c.watch_at else self.now + conn.watch.tick_ns
        elif c.watch_at > self.now + conn.watch.tick_ns:
            c.watch_at = self.now + conn.watch.tick_ns
        return 0

    cdef int open_protocol(self, Connection conn) except -1:
        if conn.ended_by() is None:  # else nothing may be sent
            conn.protocol = self.app.protocol(conn)
        return 0

    cdef int handle_paths(self, Connection conn) except -1:
        """Drains path events and retired connection IDs: left alone, a path slot is lost at each rebinding."""
        cdef conn_t *c = &conn.c
        cdef quiche_path_event *event
        cdef int kind
        cdef sockaddr_storage local
        cdef socklen_t local_len, peer_len
        if c.preferred != PREFERENCE_SETTLED and self.now >= c.probe_at:
            self.probe_preferred(c)
        while True:
            event = quiche_conn_path_event_next(c.quic)
            if event == NULL:
                break
            kind = quiche_path_event_type(event)
            if kind == QUICHE_PATH_EVENT_VALIDATED and c.preferred == PREFERENCE_PROBED:
                self.path_validated(c, event)
            elif kind == QUICHE_PATH_EVENT_PEER_MIGRATED:
                quiche_path_event_peer_migrated(event, &local, &local_len, &c.peer, &peer_len)
                self.n.migrations += 1
                if memcmp(&local, &c.local, local_len) != 0:  # our address changes by our own wish alone
                    self.n.preferred_moves += not c.moved
                    c.moved = True
                    c.local = local
            quiche_path_event_free(event)
        return self.routes.replace_retired(c)

    cdef int probe_preferred(self, conn_t *c) except -1:
        """RFC 9000 8.2.1: the answer may be lost though the challenge was acknowledged, so there is more than one."""
        cdef int begun = -1 if c.probes == PREFERRED_PROBES else quiche_h3_conn_probe_preferred_address(c.quic)
        if begun < 0:
            c.preferred = PREFERENCE_SETTLED
        elif begun:
            c.preferred = PREFERENCE_PROBED
            c.probe_at = self.now + (<uint64_t>PREFERRED_PROBE_INTERVAL << c.probes)
            c.probes += 1
        return 0

    cdef int path_validated(self, conn_t *c, const quiche_path_event *event) except -1:
        """RFC 9000 9.6.1: the client goes to the server's preferred address as soon as that has answered."""
        cdef sockaddr_storage local, peer
        cdef socklen_t local_len, peer_len
        cdef uint64_t seq
        quiche_path_event_validated(event, &local, &local_len, &peer, &peer_len)
        if memcmp(&peer, &c.peer, peer_len) == 0 or memcmp(&local, &c.local, local_len) != 0:
            return 0  # the way to the address that is in use, from a new one of ours
        c.preferred = PREFERENCE_SETTLED
        if quiche_conn_migrate(c.quic, <sockaddr *>&local, local_len, <sockaddr *>&peer, peer_len, &seq) == 0:
            c.peer = peer
            c.moved = True
            self.n.preferred_moves += 1
        return 0

    cdef int finish(self, conn_t *c) except -1:
        """After the send pass a connection gets its next deadline."""
        cdef uint64_t at, left
        left = quiche_conn_timeout_as_nanos(c.quic)
        at = DEADLINE_NONE if left == DEADLINE_NONE else self.now + left
        if not c.established:
            at = min(at, c.created_at + self.settings.handshake_timeout_ns)
        if c.release_at:
            at = min(at, c.release_at)
        if c.wake_at:
            at = min(at, c.wake_at)
        if c.watch_at:
            at = min(at, c.watch_at)
        if c.preferred == PREFERENCE_PROBED:
            at = min(at, c.probe_at)
        if c.sent - c.key_began >= self.packet_limit // 2 and not c.closing:
            self.renew_key(c)
        if not deadlines_set(&self.due, &c.due, at):
            raise MemoryError("no memory for the deadlines")
        return 0

    cdef int renew_key(self, conn_t *c) except -1:
        """RFC 9001 6.6: a key update in good time; the end of a connection whose peer does not follow (6.2)."""
        if quiche_h3_conn_update_key(c.quic):
            c.key_began = c.sent
            self.n.key_updates += 1
        elif c.sent - c.key_began >= self.packet_limit:
            self.n.packet_limit_closes += 1
            c.closing = True
            quiche_conn_close(c.quic, True, 0x100, b"packet limit", 12)
            self.mark(c)
        return 0

    cdef int retire(self, Connection conn) except -1:
        """Takes a closed connection out of every table, tells the application, frees everything."""
        cdef conn_t *c = &conn.c
        cdef quiche_stats s
        cdef quiche_path_stats p
        cdef c_bool app
        cdef uint64_t code, ce
        cdef const uint8_t *reason = NULL
        cdef size_t reason_len = 0
        cdef size_t i
        if c.quic == NULL:
            return 0
        self.routes.remove_all(c)
        deadlines_remove(&self.due, &c.due)
        c.dirty = True  # whatever the application still does to it: it joins no further turn
        quiche_conn_stats(c.quic, &s)
        self.n.packets_received += s.recv
        self.n.packets_sent += s.sent
        self.n.packets_lost += s.lost
        self.n.packets_retransmitted += s.retrans
        self.n.datagrams_received += s.dgram_recv
        self.n.datagrams_sent += s.dgram_sent
        self.n.bytes_received += s.recv_bytes
        self.n.bytes_sent += s.sent_bytes
        self.n.bytes_lost += s.lost_bytes
        self.n.ecn_failed += quiche_h3_conn_ecn(c.quic, &ce) == QUICHE_H3_ECN_FAILED
        self.n.ecn_congestion += ce
        for i in range(s.paths_count):
            if quiche_conn_path_stats(c.quic, i, &p) == 0:
                self.n.pto_count += p.total_pto_count
        self.n.closed += 1
        if quiche_conn_peer_error(c.quic, &app, &code, &reason, &reason_len):
            self.n.closed_by_peer += 1
        elif quiche_conn_local_error(c.quic, &app, &code, &reason, &reason_len):
            self.n.closed_by_us += 1
        if quiche_conn_is_timed_out(c.quic):
            self.n.timed_out += 1
        self.admission.ended(conn.host, c.established, self.now)
        if not c.established:
            self.n.handshake_failed += 1
        self.connections.pop(conn.id, None)
        try:
            self.app.connection_closed(conn)
        except BaseException as error:
            self.caught(error, "connection_closed()")
        try:
            conn.release()
        except BaseException as error:
            self.caught(error, "a connection's end")
        if c.log_failed and not c.log_failure_told:  # in writing what was left
            self.opening.log_failed(c)
        return 0

    # Ending

    def refuse_new(self):
        """From now on no new connection is accepted."""
        self.opening.refusing = True

    def close_all(self, code=0x100, reason=b""):
        """Closes every connection with an application error code. The next turn sends it."""
        for conn in list(self.connections.values()):
            conn.close(code, reason)

    def drop_all(self):
        """Frees every connection at once, without a word to the peers."""
        cdef Connection conn
        cdef list dropped = list(self.connections.values())
        if self.in_turn:
            raise RuntimeError("drop_all() was called from a handler")
        self.dirty_head = self.dirty_tail = NULL
        for conn in dropped:
            conn.c.dirty = True  # nothing puts it into the list any more
        for conn in dropped:
            self.retire(conn)

    def counters(self):
        """Counters of this endpoint and its sockets since the start."""
        cdef UdpSocket sock
        out = {**self.n, **self.opening.n, **self.answers.counters(), **self.admission.counters(),
               "runaways": self.send_pass.runaways, "connections": len(self.connections),
               "cids": self.routes.table.count}
        return out, [sock.counters() for sock in self.sockets]
