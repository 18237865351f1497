"""Who may begin a connection: how many there are, how many are unfinished, and how fast one address makes them.

An address here is what one client is likely to hold: an IPv4 address, or a /64 of IPv6. Until a client has proved its
address (Retry, RFC 9000 8.1.2) it may be anybody's, so that what is counted against an address without proof is never
held against a client that brings one.
"""

from collections import deque

from libc.stdint cimport uint8_t
from libc.string cimport memcmp
from quiche_h3._core.libc_net cimport AF_INET, sockaddr_in, sockaddr_in6
from quiche_h3._core.stateless cimport bucket_init, bucket_take

cdef uint8_t[12] MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]   # ::ffff:0:0/96
cdef uint8_t[16] LOOPBACK6 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
# The buckets of an address are full again after twice the time that a burst takes at the rate: 2 s.
cdef uint64_t FORGET_AFTER = 2_000_000_000


cdef class Host:
    """What is counted of one address."""


cdef class Admission:
    """The books of one endpoint. Reads the configuration; a client's endpoint admits nobody and counts only."""

    def __init__(self, config, *, server):
        self.hosts = {}
        self.idle = deque()
        self.server = server
        if not server:
            return
        self.configure(config)

    def configure(self, config):
        """Takes the limits of `config`, for the connections that begin from now on."""
        self.retry_always = config.enable_retry
        self.limit_loopback = config.limit_loopback
        self.max_connections = config.max_connections
        self.max_per_address = config.max_connections_per_address
        self.max_half_open_per_address = config.max_half_open_per_address
        self.retry_threshold = config.half_open_retry_threshold
        self.max_unproven = config.max_unproven_per_turn
        self.rate = config.new_connections_per_address

    def counters(self):
        return self.n

    cdef Host host_of(self, const sockaddr_storage *address, uint64_t now):
        """The books of an address; None for one that nothing is held against."""
        cdef const uint8_t *ip
        cdef bint loopback
        cdef bytes key
        cdef Host host
        if address.ss_family == AF_INET:
            ip = <const uint8_t *>&(<const sockaddr_in *>address).sin_addr
            loopback = ip[0] == 127
            key = ip[:4]
        else:
            ip = <const uint8_t *>&(<const sockaddr_in6 *>address).sin6_addr
            if memcmp(ip, MAPPED, 12) == 0:
                loopback = ip[12] == 127
                key = ip[12:16]
            else:
                loopback = memcmp(ip, LOOPBACK6, 16) == 0
                key = ip[:8]
        if loopback and not self.limit_loopback:
            return None
        while self.idle and (<Host>self.idle[0]).idle_since + FORGET_AFTER <= now:
            host = self.idle.popleft()
            if host.connections == 0 and self.hosts.get(host.key) is host:
                del self.hosts[host.key]
        host = self.hosts.get(key)
        if host is None:
            host = Host.__new__(Host)
            host.key = key
            bucket_init(&host.fresh, self.rate, 2 * self.rate, now)
            bucket_init(&host.proven, self.rate, 2 * self.rate, now)
        return host

    cdef verdict judge(self, Host host, uint64_t connections, bint proven, uint64_t now):
        """What becomes of an Initial packet of no connection. `proven`: it brings a Retry token that is good."""
        if connections >= self.max_connections:
            self.n.refused += 1
            return REFUSE
        if self.retry_threshold and self.n.half_open >= 2 * self.retry_threshold:
            self.n.half_open_dropped += 1
            return DROP
        if not proven:
            if self.retry_always or self.n.half_open >= self.retry_threshold:
                return DEMAND_RETRY
            if self.max_unproven and self.unproven >= self.max_unproven:
                return DEMAND_RETRY  # each begins a TLS handshake at once, for which all others wait
            self.unproven += 1
        if host is None:
            return ADMIT
        if self.max_per_address and host.connections >= self.max_per_address:
            if proven:
                self.n.refused_by_address += 1
                return REFUSE
            return DEMAND_RETRY
        if self.max_half_open_per_address and host.half_open >= self.max_half_open_per_address:
            if proven and host.half_open >= 2 * self.max_half_open_per_address:
                self.n.half_open_dropped += 1
                return DROP
            if not proven:
                return DEMAND_RETRY
        if bucket_take(&host.proven if proven else &host.fresh, now):
            return ADMIT
        if proven:
            self.n.refused_by_address += 1
            return REFUSE
        return DEMAND_RETRY

    cdef void began(self, Host host) noexcept:
        """A connection is half-open."""
        self.n.half_open += 1
        if host is not None:
            self.hosts[host.key] = host
            host.connections += 1
            host.half_open += 1

    cdef void opened(self, Host host) noexcept:
        """Its handshake is complete."""
        self.n.half_open -= 1
        if host is not None:
            host.half_open -= 1

    cdef void ended(self, Host host, bint was_open, uint64_t now):
        """It is gone."""
        if not was_open:
            self.opened(host)
        if host is not None:
            host.connections -= 1
            if host.connections == 0:
                host.idle_since = now
                self.idle.append(host)
