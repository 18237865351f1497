"""The endpoint: demultiplexes udp payloads to connections, owns their deadlines, and runs the turn.

It knows no loop and no clock but the monotonic one. A driver gives it batches of datagrams
(`receive`), calls `turn()` afterwards and whenever `deadline()` has come or `wake` was called, and
watches a socket for writability while it is `blocked`.
"""

import logging
import os

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING
from quiche_h3._core.connection cimport (
    DEADLINE_NONE, Gate, deadlines_next, deadlines_remove, deadlines_set, issued_cid,
)
from quiche_h3._core.libc_net cimport sockaddr, sockaddr_in, sockaddr_storage, socklen_t, ssize_t, timespec
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.admission cimport ADMIT, DEMAND_RETRY, REFUSE, Admission, Host, verdict
from quiche_h3._core.stateless cimport (
    PACKET_INITIAL, PACKET_SHORT, PACKET_ZERO_RTT, StatelessAnswers, packet_header, packet_parse,
)
from quiche_h3._core.udp cimport (
    UDP_MAX_PAYLOAD, UDP_MAX_SEGMENTS, UDP_SEND_OK, to_sockaddr, udp,
)

from quiche_h3.errors import QuicheH3Error

cdef extern from "time.h" nogil:
    int clock_gettime(int clock, timespec *out)
    enum:
        CLOCK_MONOTONIC

cdef enum:
    FLUSH_DONE = 0
    FLUSH_MORE = 1      # the turn's share is spent, more is ready
    FLUSH_BLOCKED = 2   # the socket takes no more

# One client must not starve another: at most so much of one connection in one turn.
cdef enum:
    RECEIVE_BATCHES = 4
    TURN_BYTES = 1 << 20
    TURN_DEADLINES = 64
    # Beyond two congestion windows, with nothing received and no timer run out: a defect.
    RUNAWAY_BYTES = 4 << 20
    MAX_ISSUED_CIDS = 8
    # So many timers without an answer: the path may have become too narrow for our packets (RFC 8899 4.3).
    BLACK_HOLE_TIMEOUTS = 3


cdef inline uint64_t send_time(const quiche_send_info *info) noexcept nogil:
    return <uint64_t>info.at.tv_sec * 1_000_000_000 + <uint64_t>info.at.tv_nsec

# A packet whose send time is this near leaves now: no timer is finer.
cdef uint64_t PACING_GRANULARITY = 500_000
# With SO_TXTIME the kernel holds packets; further ahead than this the congestion window may yet change.
cdef uint64_t TXTIME_HORIZON = 10_000_000
# Below this round trip an own burst bound would only add timers: the peer's buffer takes the window.
cdef uint64_t BURST_MIN_RTT = 2_000_000

log = logging.getLogger("quiche_h3.quic")

cdef int forks = 0      # since the interpreter began, on the way down to this process


def _forked():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_forked)


cdef bint same_port(const sockaddr_storage *a, const sockaddr_storage *b) noexcept nogil:
    """Of one family and port, which both families keep at the same place."""
    return (a.ss_family == b.ss_family
            and (<const sockaddr_in *>a).sin_port == (<const sockaddr_in *>b).sin_port)


cdef uint64_t monotonic() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1_000_000_000 + <uint64_t>t.tv_nsec


cdef class Endpoint:
    """A server's or client's side of any number of connections over any number of sockets.

    `app` has `protocol(connection)` (returns the Protocol to run once a connection may carry data, or None),
    `connection_opened(connection)` and `connection_closed(connection)`.
    """

    def __cinit__(self):
        memset(&self.due, 0, sizeof(self.due))
        memset(&self.n, 0, sizeof(self.n))

    def __init__(self, EngineSettings settings, app, *, server, wake=None):
        cdef uint64_t key[2]
        seed = os.urandom(16)
        memcpy(key, PyBytes_AS_STRING(seed), 16)
        if not cid_table_init(&self.table, key):
            raise MemoryError("no memory for the connection table")
        self.forks = forks
        self.settings = settings
        self.gate = Gate()
        self.app = app
        self.server = server
        self.wake = wake
        self.sockets = []
        self.free_slots = []
        self.connections = {}
        self.next_id = 1
        self.now = monotonic()
        config = settings.config
        self.handshake_limit = config.max_handshake_bytes if server else 1 << 62
        self.packet_limit = config.max_packets_per_key
        self.answers = StatelessAnswers(settings, self.now, server=server)
        self.admission = Admission(config, server=server)

    def __dealloc__(self):
        cid_table_free(&self.table)
        free(self.due.items)

    def take_settings(self, EngineSettings settings):
        """Connections that begin from now on get these settings: certificates, keys. The others keep theirs."""
        if settings.connection_id_length != self.settings.connection_id_length:
            raise ValueError("connection IDs of two lengths cannot be told apart")
        self.settings = settings
        self.answers.take_settings(settings)

    def set_wake(self, wake):
        """`wake()` is called once when a turn is wanted: something was queued outside of one."""
        self.wake = wake

    def add_socket(self, UdpSocket sock):
        """Takes a socket into service. Returns its index for `receive()`."""
        cdef int index
        if self.free_slots:
            index = self.free_slots.pop()
            self.sockets[index] = sock
            self.raw_sockets[index] = &sock.u
            return index
        if self.socket_count == MAX_SOCKETS:
            raise ValueError(f"an endpoint has at most {MAX_SOCKETS} sockets")
        self.sockets.append(sock)
        self.raw_sockets[self.socket_count] = &sock.u
        self.socket_count += 1
        return self.socket_count - 1

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
                conn.c.sock = self.socket_for(&conn.c, &path)  # not this one if just a late packet came in by it
                if conn.c.sock == &sock.u:
                    raise ValueError("the socket is in use")
        sock.close()
        sock.u.bound_len = sock.u.wildcard = 0
        sock.u.first = sock.u.count = sock.u.used = 0
        self.free_slots.append(index)

    # Incoming

    def receive(self, int index):
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
        return n < 0

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
            self.n.short_initials_dropped += 1
            return 0
        c = <conn_t *>cid_table_get(&self.table, h.dcid, h.dcid_len)
        if c == NULL:
            c = self.unknown_packet(u, m, &h, data, n)
            if c == NULL:
                return 0
        info.from_ = <sockaddr *>&m.peer
        info.from_len = m.peer_len
        info.to = <sockaddr *>&m.local
        info.to_len = m.local_len
        c.sock = u
        c.unprompted = 0
        c.silent_timeouts = 0
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
            c.given_up = c.closing = True
            self.n.handshake_overruns += 1
            quiche_conn_close(c.quic, False, 0x02, b"handshake too long", 18)

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
        """A packet for no known connection: a new one, a stateless answer, or nothing."""
        if h.type == PACKET_SHORT and h.version == 0:
            if self.server:
                self.n.unknown_dropped += 1
                self.answers.reset(u, m, h, n, self.now)
                return NULL
            return self.heed_reset(u, m, data, n)
        if not self.server:
            self.n.unknown_dropped += 1
            return NULL
        if n < QUICHE_MIN_CLIENT_INITIAL_LEN:  # RFC 9000 6.1, 17.2.1: of whatever version and type
            self.n.short_initials_dropped += 1
            return NULL
        if not quiche_version_is_supported(h.version):
            self.answers.negotiate_version(u, m, h, self.now)
            return NULL
        if h.type != PACKET_INITIAL or h.dcid_len < 8 or h.dcid_len > 20 or h.scid_len > 20:
            self.n.unknown_dropped += 1
            return NULL
        if self.refusing:
            self.admission.n.refused += 1
            self.answers.refuse(u, m, h, data, n, self.now)
            return NULL
        return self.accept(u, m, h, data, n)

    cdef conn_t *heed_reset(self, udp_socket *u, udp_message *m, const uint8_t *data, size_t n) except? NULL:
        """RFC 9000 10.3.1: the connection ID of a stateless reset is random. Its address tells whom it may concern."""
        cdef Connection conn
        cdef quiche_recv_info info
        cdef bytearray copy
        self.n.unknown_dropped += 1
        if n < 21:
            return NULL
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
        return NULL

    cdef conn_t *accept(self, udp_socket *u, udp_message *m, packet_header *h, uint8_t *data, size_t n) except? NULL:
        cdef Connection conn
        cdef bytes dcid = h.dcid[:h.dcid_len]
        cdef bytes scid, reset_token, odcid
        cdef Host host = self.admission.host_of(&m.peer, self.now)
        cdef verdict answer
        if self.now >= self.settings.tickets_until:
            self.settings.rotate_tickets(self.now)
        address = (<uint8_t *>&m.peer)[:m.peer_len]
        odcid = self.answers.open_retry(h, address, dcid)
        answer = self.admission.judge(host, len(self.connections), odcid is not None, self.now)
        if answer == DEMAND_RETRY:
            self.answers.retry(u, m, h, dcid, address, self.now)
        elif answer == REFUSE:
            self.answers.refuse(u, m, h, data, n, self.now)
        if answer != ADMIT:
            return NULL
        # After a Retry the client already uses the connection ID we chose then.
        scid = self.answers.fresh_cid() if odcid is None else dcid
        reset_token = self.answers.reset_token(scid)
        quiche_config_set_stateless_reset_token(self.settings.quic, reset_token)
        conn = Connection.__new__(Connection)
        conn.c.quic = quiche_accept(
            scid, len(scid), <const uint8_t *>odcid if odcid is not None else NULL,
            len(odcid) if odcid is not None else 0,
            <sockaddr *>&m.local, m.local_len, <sockaddr *>&m.peer, m.peer_len, self.settings.quic)
        if conn.c.quic == NULL:
            self.admission.n.refused += 1
            return NULL
        conn.host = host
        memcpy(&conn.c.peer, &m.peer, m.peer_len)
        memcpy(&conn.c.local, &m.local, m.local_len)
        self.adopt(conn, u)
        self.n.accepted += 1
        if not (self.add_cid(conn, scid) and (odcid is not None or self.add_cid(conn, dcid))):
            self.retire(conn)
            return NULL
        return &conn.c

    def connect(self, int index, peer, server_name=None, session=None):
        """Opens a client connection from socket `index` to `peer` (host, port). Returns the Connection."""
        cdef UdpSocket sock = self.sockets[index]
        cdef Connection conn = Connection.__new__(Connection)
        cdef sockaddr_storage to
        cdef socklen_t to_len = to_sockaddr(peer[0], peer[1], &to)
        cdef bytes scid = self.answers.fresh_cid()
        cdef bytes name = None if server_name is None else server_name.encode("ascii")
        cdef bytes ticket = session
        self.now = monotonic()
        conn.c.quic = quiche_connect(
            <const char *>name if name is not None else NULL, scid, len(scid), <sockaddr *>&sock.u.bound,
            sock.u.bound_len, <sockaddr *>&to, to_len, self.settings.quic)
        if conn.c.quic == NULL:
            raise QuicheH3Error(f"no connection to {peer[0]} port {peer[1]} could be made")
        memcpy(&conn.c.peer, &to, to_len)
        memcpy(&conn.c.local, &sock.u.bound, sock.u.bound_len)
        self.adopt(conn, &sock.u)
        self.add_cid(conn, scid)
        if ticket is not None:
            quiche_conn_set_session(conn.c.quic, ticket, len(ticket))
        self.mark_dirty(conn)
        return conn

    cdef Connection adopt(self, Connection conn, udp_socket *u):
        """A new connection enters the books: half-open, with its logs."""
        conn._endpoint = self
        conn.gate = self.gate
        conn.settings = self.settings
        conn.id = self.next_id
        self.next_id += 1
        conn.c.owner = <void *>conn
        conn.c.sock = u
        conn.c.created_at = self.now
        self.connections[conn.id] = conn
        self.admission.began(conn.host)
        if self.settings.keylog is not None or self.settings.qlog_dir is not None:
            self.start_logs(conn)
        return conn

    cdef int start_logs(self, Connection conn) except -1:
        """Key log and qlog. Where they cannot be had the connection goes without: counted, and said once."""
        cdef const uint8_t *trace = NULL
        cdef size_t trace_len = 0
        problem = None
        if self.settings.keylog is not None:
            try:
                quiche_conn_set_keylog_fd(conn.c.quic, os.dup(self.settings.keylog.fileno()))
            except OSError as error:
                problem = f"key log: {error.strerror}"
        if self.settings.qlog_dir is not None:
            quiche_conn_trace_id(conn.c.quic, &trace, &trace_len)
            name = f"{'server' if self.server else 'client'}-{(<bytes>trace[:trace_len]).decode('ascii')}.sqlog"
            path = os.path.join(self.settings.qlog_dir, name)
            if not quiche_conn_set_qlog_path(conn.c.quic, os.fsencode(path), b"quiche_h3", name.encode("ascii")):
                problem = f"the qlog file {path} could not be opened"
        if problem is not None:
            if self.n.log_failures == 0:
                log.warning("%s: such connections go without, which is counted and not said again", problem)
            self.n.log_failures += 1
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

    cdef bint add_cid(self, Connection conn, bytes cid) except -1:
        """Routes packets with this destination connection ID to the connection. False when that cannot be."""
        cdef conn_t *c = &conn.c
        cdef issued_cid *slot
        if c.cid_count >= sizeof(c.cids) // sizeof(c.cids[0]):
            return False
        if not cid_table_put(&self.table, cid, len(cid), c):
            return False
        slot = &c.cids[c.cid_count]
        slot.len = len(cid)
        memcpy(slot.id, PyBytes_AS_STRING(cid), len(cid))
        c.cid_count += 1
        return True

    # The turn

    def deadline(self, Connection connection=None):
        """When `turn()` is due next, or for one connection, in nanoseconds of the monotonic clock; None for never."""
        at = deadlines_next(&self.due) if connection is None else connection.c.due.at
        return None if at == DEADLINE_NONE else at

    def turn(self):
        """Expired deadlines, then events and handlers of every touched connection, then one send pass.

        Returns True when work is left that need not wait for anything. What a callback raises is logged; a
        KeyboardInterrupt or SystemExit is raised again when the turn is over.
        """
        cdef conn_t *c
        cdef conn_t *head
        cdef conn_t *next_c
        cdef int i
        cdef list closed = []
        if self.in_turn:
            raise RuntimeError("turn() was called from a handler")
        self.check_process()
        self.in_turn = True
        self.woken = False
        self.admission.unproven = 0
        try:
            self.now = monotonic()
            self.expire()
            c = self.dirty_head
            while c != NULL:  # handlers may append to the list while it is walked
                self.service(<Connection>c.owner)
                c = c.next_dirty
            self.check_process()  # a handler may have forked
            head = self.dirty_head
            self.dirty_head = self.dirty_tail = NULL
            self.gate.shut = True
            with nogil:
                c = head
                while c != NULL:
                    c.flushed = self.flush(c)
                    c = c.next_dirty
                for i in range(self.socket_count):
                    udp.flush(self.raw_sockets[i])
            self.gate.shut = False
            for i in range(self.socket_count):
                if self.raw_sockets[i].gso_fallbacks:
                    (<UdpSocket>self.sockets[i]).note_fallback()
            c = head
            while c != NULL:
                next_c = c.next_dirty
                if quiche_conn_is_closed(c.quic) or c.given_up:
                    closed.append(<Connection>c.owner)
                else:
                    c.dirty = False
                    self.finish(c)
                    if c.more or c.flushed != FLUSH_DONE:
                        self.mark(c)
                c = next_c
            # Last, for the application may touch any connection now, also those that the loop above walked.
            for conn in closed:
                self.retire(conn)
        finally:
            self.in_turn = False
        if self.interrupt is not None:
            error, self.interrupt = self.interrupt, None
            raise error
        return self.dirty_head != NULL and not self.blocked

    @property
    def turning(self):
        """A turn is in progress: this is called from one of its handlers."""
        return self.in_turn

    @property
    def blocked(self):
        """Some socket takes no more: what is left waits until it is writable."""
        cdef int i
        for i in range(self.socket_count):
            if self.raw_sockets[i].first < self.raw_sockets[i].count:
                return True
        return False

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
                c.given_up = c.closing = True
                quiche_conn_close(c.quic, False, 0, b"handshake timeout", 17)
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
                self.issue_cids(c)
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
        if conn.close_reason is None:  # else nothing may be sent
            conn.protocol = self.app.protocol(conn)
        return 0

    cdef int issue_cids(self, conn_t *c) except -1:
        """Gives the peer spare connection IDs, so that it can change paths (RFC 9000 5.1.1)."""
        cdef bytes cid, token
        cdef uint64_t seq
        while quiche_conn_scids_left(c.quic) > 0 and c.cid_count < MAX_ISSUED_CIDS + 1:
            cid = self.answers.fresh_cid()
            token = self.answers.reset_token(cid)
            if quiche_conn_new_scid(c.quic, cid, len(cid), token, False, &seq) != 0:
                break
            self.add_cid(<Connection>c.owner, cid)
        return 0

    cdef int handle_paths(self, Connection conn) except -1:
        """Drains path events and retired connection IDs: left alone, a path slot is lost at each rebinding."""
        cdef conn_t *c = &conn.c
        cdef quiche_path_event *event
        cdef quiche_connection_id_iter *ids
        cdef const uint8_t *cid = NULL
        cdef size_t n = 0, i
        cdef socklen_t local_len, peer_len
        while True:
            event = quiche_conn_path_event_next(c.quic)
            if event == NULL:
                break
            if quiche_path_event_type(event) == QUICHE_PATH_EVENT_PEER_MIGRATED:
                quiche_path_event_peer_migrated(event, &c.local, &local_len, &c.peer, &peer_len)
                self.n.migrations += 1
            quiche_path_event_free(event)
        if quiche_conn_retired_scids(c.quic) == 0:
            return 0
        ids = quiche_conn_retired_scid_iter(c.quic)
        while quiche_connection_id_iter_next(ids, &cid, &n):
            cid_table_remove(&self.table, cid, n)
            for i in range(c.cid_count):
                if c.cids[i].len == n and memcmp(c.cids[i].id, cid, n) == 0:
                    c.cid_count -= 1
                    c.cids[i] = c.cids[c.cid_count]
                    break
        quiche_connection_id_iter_free(ids)
        return self.issue_cids(c)

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
        cdef uint64_t code
        cdef const uint8_t *reason = NULL
        cdef size_t reason_len = 0
        cdef size_t i
        if c.quic == NULL:
            return 0
        for i in range(c.cid_count):
            cid_table_remove(&self.table, c.cids[i].id, c.cids[i].len)
        c.cid_count = 0
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
        return 0

    # Outgoing

    cdef udp_socket *socket_for(self, conn_t *c, quiche_send_info *info) noexcept nogil:
        """The socket a path leaves by: the one bound to its local address, else where packets last came in."""
        cdef int i
        if self.socket_count > 1:
            for i in range(self.socket_count):
                if (self.raw_sockets[i].bound_len == info.from_len
                        and memcmp(&self.raw_sockets[i].bound, &info.from_, info.from_len) == 0):
                    return self.raw_sockets[i]
            for i in range(self.socket_count):
                if self.raw_sockets[i].wildcard and same_port(&self.raw_sockets[i].bound, &info.from_):
                    return self.raw_sockets[i]
        return c.sock

    cdef bint hold(self, conn_t *c, const uint8_t *packet, size_t n, const quiche_send_info *info) noexcept nogil:
        """Keeps one packet for later. False when memory is out: to QUIC the packet is lost."""
        if c.held == NULL:
            c.held = <uint8_t *>malloc(UDP_MAX_PAYLOAD)
        if c.held_info == NULL:
            c.held_info = <quiche_send_info *>malloc(sizeof(quiche_send_info))
        if c.held == NULL or c.held_info == NULL:
            return False
        memcpy(c.held, packet, n)
        c.held_len = n
        c.held_info[0] = info[0]
        return True

    cdef bint burst_spent(self, conn_t *c, size_t sent) noexcept nogil:
        """RFC 9002 7.7 for congestion controls that pace nothing: the burst is over, wait for its share of the RTT."""
        cdef quiche_path_stats p
        cdef size_t i = 0
        while quiche_conn_path_stats(c.quic, i, &p) == 0:
            if p.active:
                if p.rtt < BURST_MIN_RTT or p.cwnd == 0:
                    return False
                # A rate of 1.25 * cwnd / RTT, the RFC's own factor.
                c.release_at = self.now + sent * p.rtt * 4 // (5 * p.cwnd)
                return True
            i += 1
        return False

    cdef bint runs_away(self, conn_t *c) noexcept nogil:
        """A connection sends on and on though nothing happens to it: congestion control allows one window."""
        cdef quiche_path_stats p
        cdef size_t i = 0
        cdef uint64_t allowed = RUNAWAY_BYTES
        while quiche_conn_path_stats(c.quic, i, &p) == 0:
            allowed += 2 * p.cwnd
            i += 1
        return c.unprompted > allowed

    cdef int flush(self, conn_t *c) noexcept nogil:
        """Encrypts and sends for one connection: trains of equal-sized packets, one GSO message each."""
        cdef quiche_send_info first, info
        cdef udp_socket *u = c.sock
        cdef uint8_t *out
        cdef size_t size, quantum, segment = 0, used = 0, total = 0, burst = self.settings.max_burst
        cdef ssize_t written
        cdef uint64_t at, ahead, first_at = 0
        if c.release_at > self.now and not c.closing:
            return FLUSH_DONE  # finish() keeps the deadline
        if c.unprompted > RUNAWAY_BYTES and self.runs_away(c):
            c.given_up = c.closing = True
            self.n.runaways += 1
            return FLUSH_DONE
        c.release_at = 0
        size = min(self.settings.max_packet, <size_t>UDP_MAX_PAYLOAD)
        quantum = min(UDP_MAX_SEGMENTS * size, <size_t>UDP_MAX_PAYLOAD, self.settings.max_train)
        out = udp.reserve(u)
        if out == NULL:
            return FLUSH_BLOCKED
        while True:
            if c.held_len:  # starts a train: it was too early, or did not fit into the one before
                first = c.held_info[0]
                u = self.socket_for(c, &first)
                out = udp.reserve(u)
                if out == NULL:
                    return FLUSH_BLOCKED
                memcpy(out, c.held, c.held_len)
                used = segment = c.held_len
                c.held_len = 0
                first_at = send_time(&first)
            if burst and total + used >= burst and not c.closing:
                if self.burst_spent(c, total + used):
                    if used:
                        udp.commit(u, used, segment, &first.from_, first.from_len, &first.to, first.to_len, first_at)
                    return FLUSH_DONE
                burst = 0
            if used and (used % segment or used + size > quantum or used >= UDP_MAX_SEGMENTS * segment):
                # The train is full, or its last packet was short, which ends it.
                udp.commit(u, used, segment, &first.from_, first.from_len, &first.to, first.to_len, first_at)
                total += used
                used = 0
                if total >= TURN_BYTES:
                    return FLUSH_MORE
                out = udp.reserve(u)
                if out == NULL:
                    return FLUSH_BLOCKED
            written = quiche_conn_send(c.quic, out + used, size, &info)
            if written <= 0:
                break
            c.sent += 1
            c.unprompted += written
            at = send_time(&info)
            ahead = TXTIME_HORIZON if u.txtime else PACING_GRANULARITY
            if at > self.now + ahead and not c.closing:
                self.now = monotonic()  # handlers may have taken longer than that
                if at > self.now + ahead:
                    if self.hold(c, out + used, written, &info):
                        c.release_at = at
                    break
            if used == 0:
                if self.socket_count > 1 and self.socket_for(c, &info) != u:
                    self.hold(c, out, written, &info)
                    continue
                first = info
                first_at = at
                segment = written
            elif (<size_t>written > segment or (u.txtime and at > first_at + PACING_GRANULARITY)
                  or info.to_len != first.to_len
                  or memcmp(&info.to, &first.to, first.to_len) != 0
                  or memcmp(&info.from_, &first.from_, first.from_len) != 0):
                # A larger packet (a probe), a later one or another path cannot ride in this train: it starts the next.
                self.hold(c, out + used, written, &info)
                udp.commit(u, used, segment, &first.from_, first.from_len, &first.to, first.to_len, first_at)
                total += used
                used = 0
                if total >= TURN_BYTES:
                    return FLUSH_MORE
                out = udp.reserve(u)
                if out == NULL:
                    return FLUSH_BLOCKED
                continue
            used += written
        if used:
            udp.commit(u, used, segment, &first.from_, first.from_len, &first.to, first.to_len, first_at)
        return FLUSH_DONE

    # Ending

    def refuse_new(self):
        """From now on no new connection is accepted."""
        self.refusing = True

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
        out = {**self.n, **self.answers.counters(), **self.admission.counters(),
               "connections": len(self.connections), "cids": self.table.count}
        return out, [sock.counters() for sock in self.sockets]
