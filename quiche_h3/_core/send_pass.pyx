"""The send pass: what connections have to say leaves by the endpoint's sockets, in trains, each packet in its time.

It runs without the GIL, once in a turn: quiche writes packets straight into the arena of their socket, equal ones behind
one another, and `sendmmsg` takes all arenas at the end.
"""

from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy
from quiche_h3._core.libc_net cimport monotonic, sockaddr_in, sockaddr_storage, ssize_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.udp cimport UDP_ECT0, UDP_MAX_PAYLOAD, UDP_MAX_SEGMENTS, UDP_NOT_ECT, udp

cdef enum:
    # One client must not starve another: at most so much of one connection in one turn.
    TURN_BYTES = 1 << 20
    # Beyond two congestion windows, with nothing received and no timer run out: a defect.
    RUNAWAY_BYTES = 4 << 20
    # Packets before the first probe of the path MTU: it costs what another packet does, and many connections end before
    # larger ones were of use to them.
    PROBE_AFTER = 16

# A packet whose send time is this near leaves now: no timer is finer.
cdef uint64_t PACING_GRANULARITY = 500_000
# With SO_TXTIME the kernel holds packets; further ahead than this the congestion window may yet change.
cdef uint64_t TXTIME_HORIZON = 10_000_000
# Below this round trip an own burst bound would only add timers: the peer's buffer takes the window.
cdef uint64_t BURST_MIN_RTT = 2_000_000


cdef inline uint64_t send_time(const quiche_send_info *info) noexcept nogil:
    return <uint64_t>info.at.tv_sec * 1_000_000_000 + <uint64_t>info.at.tv_nsec


cdef bint same_port(const sockaddr_storage *a, const sockaddr_storage *b) noexcept nogil:
    """Of one family and port, which both families keep at the same place."""
    return (a.ss_family == b.ss_family
            and (<const sockaddr_in *>a).sin_port == (<const sockaddr_in *>b).sin_port)


cdef bint hold(conn_t *c, const uint8_t *packet, size_t n, const quiche_send_info *info) noexcept nogil:
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


cdef bint runs_away(conn_t *c) noexcept nogil:
    """A connection sends on and on though nothing happens to it: congestion control allows one window."""
    cdef quiche_path_stats p
    cdef size_t i = 0
    cdef uint64_t allowed = RUNAWAY_BYTES
    while quiche_conn_path_stats(c.quic, i, &p) == 0:
        allowed += 2 * p.cwnd
        i += 1
    return c.unprompted > allowed


cdef bint burst_spent(conn_t *c, size_t sent, uint64_t now) noexcept nogil:
    """RFC 9002 7.7 for congestion controls that pace nothing: the burst is over, wait for its share of the RTT."""
    cdef quiche_path_stats p
    cdef size_t i = 0
    while quiche_conn_path_stats(c.quic, i, &p) == 0:
        if p.active:
            if p.rtt < BURST_MIN_RTT or p.cwnd == 0:
                return False
            # A rate of 1.25 * cwnd / RTT, the RFC's own factor.
            c.release_at = now + sent * p.rtt * 4 // (5 * p.cwnd)
            return True
        i += 1
    return False


cdef inline void depart(train *t) noexcept nogil:
    if t.used:
        udp.commit(t.u, t.used, t.segment, &t.first.from_, t.first.from_len, &t.first.to, t.first.to_len, t.first_at,
                   t.ecn)
        t.total += t.used
        t.used = 0


cdef inline int next_train(train *t) noexcept nogil:
    """What is there departs. FLUSH_DONE: there is room for another one."""
    depart(t)
    if t.total >= TURN_BYTES:
        return FLUSH_MORE
    t.out = udp.reserve(t.u)
    return FLUSH_BLOCKED if t.out == NULL else FLUSH_DONE


cdef inline void begin(train *t, size_t n, const quiche_send_info *info) noexcept nogil:
    """Its first packet is there."""
    t.first = info[0]
    t.first_at = send_time(info)
    t.used = t.segment = n


cdef inline bint fits(const train *t, size_t n, const quiche_send_info *info) noexcept nogil:
    """A larger packet (a probe), a later one or one of another path cannot ride in this train."""
    return not (n > t.segment or (t.u.txtime and send_time(info) > t.first_at + PACING_GRANULARITY)
                or info.to_len != t.first.to_len
                or memcmp(&info.to, &t.first.to, t.first.to_len) != 0
                or memcmp(&info.from_, &t.first.from_, t.first.from_len) != 0)


cdef class SendPass:
    """The sockets of an endpoint, and what goes out by them."""

    def __init__(self, EngineSettings settings):
        self.settings = settings
        self.sockets = []
        self.free_slots = []

    # Sockets

    cdef int add(self, UdpSocket sock) except -1:
        """Takes a socket into service. Returns its index."""
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

    cdef int remove(self, int index) except -1:
        """Closes a socket that nobody sends by; its index is free for another one."""
        cdef UdpSocket sock = self.sockets[index]
        sock.close()
        sock.u.bound_len = sock.u.wildcard = 0
        sock.u.first = sock.u.count = sock.u.used = 0
        self.free_slots.append(index)
        return 0

    cdef bint blocked(self) noexcept:
        """Some socket takes no more: what is left waits until it is writable."""
        cdef int i
        for i in range(self.socket_count):
            if self.raw_sockets[i].first < self.raw_sockets[i].count:
                return True
        return False

    cdef int note_fallbacks(self) except -1:
        """Sockets whose kernel has refused GSO say so, once."""
        cdef int i
        for i in range(self.socket_count):
            if self.raw_sockets[i].gso_fallbacks:
                (<UdpSocket>self.sockets[i]).note_fallback()
        return 0

    cdef udp_socket *socket_for(self, conn_t *c, const quiche_send_info *info) noexcept nogil:
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

    # The pass

    cdef uint64_t run(self, conn_t *head, uint64_t now) noexcept nogil:
        """Sends for every connection of a list. Returns the time, which it looks at again where that matters."""
        cdef conn_t *c = head
        cdef int i
        self.now = now
        while c != NULL:
            c.flushed = self.flush(c)
            c = c.next_dirty
        for i in range(self.socket_count):
            udp.flush(self.raw_sockets[i])
        return self.now

    cdef int flush(self, conn_t *c) noexcept nogil:
        """Encrypts and sends for one connection: trains of equal-sized packets, one GSO message each."""
        cdef train t
        cdef quiche_send_info info
        cdef size_t size, quantum, burst = self.settings.max_burst
        cdef ssize_t written
        cdef int left
        if c.release_at > self.now and not c.closing:
            return FLUSH_DONE  # the endpoint keeps the deadline
        if c.unprompted > RUNAWAY_BYTES and runs_away(c):
            c.given_up = c.closing = True
            self.runaways += 1
            return FLUSH_DONE
        c.release_at = 0
        size = min(self.settings.max_packet, <size_t>UDP_MAX_PAYLOAD)
        if self.settings.discovers_pmtu and c.sent < PROBE_AFTER:
            size = min(size, <size_t>QUICHE_MIN_CLIENT_INITIAL_LEN)  # no room for a probe, and for all else there is
        quantum = min(UDP_MAX_SEGMENTS * size, <size_t>UDP_MAX_PAYLOAD, self.settings.max_train)
        t.used = t.segment = t.total = 0
        t.ecn = UDP_ECT0 if quiche_h3_conn_ecn(c.quic, NULL) == QUICHE_H3_ECN_MARKING else UDP_NOT_ECT
        t.u = c.sock
        t.out = udp.reserve(t.u)
        if t.out == NULL:
            return FLUSH_BLOCKED
        while True:
            if c.held_len:  # starts a train: it was too early, or did not fit into the one before
                t.u = self.socket_for(c, c.held_info)
                t.out = udp.reserve(t.u)
                if t.out == NULL:
                    return FLUSH_BLOCKED
                memcpy(t.out, c.held, c.held_len)
                begin(&t, c.held_len, c.held_info)
                c.held_len = 0
            if burst and t.total + t.used >= burst and not c.closing:
                if burst_spent(c, t.total + t.used, self.now):
                    break
                burst = 0
            # The train is full, or its last packet was short, which ends it.
            if t.used and (t.used % t.segment or t.used + size > quantum or t.used >= UDP_MAX_SEGMENTS * t.segment):
                left = next_train(&t)
                if left != FLUSH_DONE:
                    return left
            written = quiche_conn_send(c.quic, t.out + t.used, size, &info)
            if written <= 0:
                break
            c.sent += 1
            c.unprompted += written
            if self.too_early(c, &t, written, &info):
                break
            if t.used and fits(&t, written, &info):
                t.used += written
            elif t.used == 0 and (self.socket_count == 1 or self.socket_for(c, &info) == t.u):
                begin(&t, written, &info)
            else:  # it starts the next one
                hold(c, t.out + t.used, written, &info)
                left = next_train(&t)
                if left != FLUSH_DONE:
                    return left
        depart(&t)
        return FLUSH_DONE

    cdef bint too_early(self, conn_t *c, const train *t, size_t n, const quiche_send_info *info) noexcept nogil:
        """The time of the packet just written lies ahead: it is held, and the connection waits for it."""
        cdef uint64_t at = send_time(info)
        cdef uint64_t ahead = TXTIME_HORIZON if t.u.txtime else PACING_GRANULARITY
        if at <= self.now + ahead or c.closing:
            return False
        self.now = monotonic()  # handlers may have taken longer than that
        if at <= self.now + ahead:
            return False
        if hold(c, t.out + t.used, n, info):
            c.release_at = at
        return True
