"""UDP sockets: options, batches, addresses.

The batches themselves are C (``udp_io.c``); this class owns the socket and its counters.
"""

import errno
import logging
import socket as _socket_module

from libc.string cimport memset
from quiche_h3._core.libc_net cimport (
    AF_INET, AF_INET6, htons, inet_ntop, inet_pton, ntohs, sockaddr_in, sockaddr_in6,
)

cdef extern from "udp_io.h" nogil:
    bint udp_init(udp_socket *u, int fd, unsigned batch, size_t slot, bint gro, bint gso, bint txtime,
                  bint errors)
    void udp_free(udp_socket *u)
    int udp_receive(udp_socket *u)
    bint udp_received_message(udp_socket *u, int i, udp_message *out)
    int udp_refused(udp_socket *u, sockaddr_storage *to)
    uint8_t *udp_reserve(udp_socket *u)
    void udp_commit(udp_socket *u, size_t len, size_t segment, const sockaddr_storage *from_,
                    socklen_t from_len, const sockaddr_storage *to, socklen_t to_len, uint64_t at, uint8_t ecn)
    int udp_flush(udp_socket *u)

cdef enum:
    MAX_ERRORS = 256                    # taken at once; the kernel keeps no more than the receive buffer holds

log = logging.getLogger("quiche_h3")


cdef int _receive(udp_socket *u) noexcept nogil:
    return udp_receive(u)


cdef bint _received_message(udp_socket *u, int i, udp_message *out) noexcept nogil:
    return udp_received_message(u, i, out)


cdef uint8_t *_reserve(udp_socket *u) noexcept nogil:
    return udp_reserve(u)


cdef void _commit(udp_socket *u, size_t len, size_t segment, const sockaddr_storage *from_,
                  socklen_t from_len, const sockaddr_storage *to, socklen_t to_len, uint64_t at,
                  uint8_t ecn) noexcept nogil:
    udp_commit(u, len, segment, from_, from_len, to, to_len, at, ecn)


cdef int _flush(udp_socket *u) noexcept nogil:
    return udp_flush(u)


udp.receive = _receive
udp.received_message = _received_message
udp.reserve = _reserve
udp.commit = _commit
udp.flush = _flush


cdef object address_of(const sockaddr_storage *a):
    """(host, port) of a socket address; an IPv4-mapped IPv6 address reads as IPv4."""
    cdef char text[64]
    if a.ss_family == AF_INET:
        inet_ntop(AF_INET, &(<const sockaddr_in *>a).sin_addr, text, sizeof(text))
        return (<bytes>text).decode("ascii"), ntohs((<const sockaddr_in *>a).sin_port)
    if a.ss_family != AF_INET6:
        return "", 0
    inet_ntop(AF_INET6, &(<const sockaddr_in6 *>a).sin6_addr, text, sizeof(text))
    host = (<bytes>text).decode("ascii")
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return host, ntohs((<const sockaddr_in6 *>a).sin6_port)


cdef socklen_t to_sockaddr(str host, int port, sockaddr_storage *out) except 0:
    """Fills `out` from a literal address. quiche aborts the process on any other family or length."""
    encoded = host.partition("%")[0].encode("ascii")
    memset(out, 0, sizeof(out[0]))
    if inet_pton(AF_INET, encoded, &(<sockaddr_in *>out).sin_addr) == 1:
        out.ss_family = AF_INET
        (<sockaddr_in *>out).sin_port = htons(port)
        return sizeof(sockaddr_in)
    if inet_pton(AF_INET6, encoded, &(<sockaddr_in6 *>out).sin6_addr) == 1:
        out.ss_family = AF_INET6
        (<sockaddr_in6 *>out).sin6_port = htons(port)
        if "%" in host:
            (<sockaddr_in6 *>out).sin6_scope_id = _socket_module.if_nametoindex(host.partition("%")[2])
        return sizeof(sockaddr_in6)
    raise ValueError(f"{host!r} is not an IPv4 or IPv6 address")


cdef class UdpSocket:
    """A bound UDP socket with its batch buffers, or (`memory`) a stand-in without a descriptor.

    A memory socket keeps what is sent until `take()`, within the same bound as a real one keeps it while
    the kernel refuses more: tests pump two endpoints through a pair of them.
    """

    def __cinit__(self):
        memset(&self.u, 0, sizeof(self.u))
        self.u.fd = -1

    def __init__(self, sock=None, *, batch=16, slot=65536, gro=True, gso=True, txtime=False, errors=False,
                 memory=None):
        self._socket = sock
        if memory is not None:
            self.u.bound_len = to_sockaddr(memory[0], memory[1], &self.u.bound)
        elif sock is not None:
            sock.setblocking(False)
        if not udp_init(&self.u, -1 if sock is None else sock.fileno(), batch, slot, gro, gso, txtime,
                        errors):
            raise MemoryError("no memory for the UDP buffers")
        if sock is not None and gso and not self.u.gso:
            log.info("UDP GSO is not available here: packets are sent one by one")
            self.warned_gso = True
        if txtime and not self.u.txtime:
            log.warning("SO_TXTIME is not available here: a timer paces the packets")

    def __dealloc__(self):
        udp_free(&self.u)

    def close(self):
        """Closes the descriptor. The buffers live until the object goes."""
        self.u.fd = -1
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def fileno(self):
        return self.u.fd

    @property
    def address(self):
        """(host, port) the socket is bound to."""
        return address_of(&self.u.bound)

    @property
    def blocked(self):
        """Packets wait for the socket to become writable."""
        return self.u.first < self.u.count

    def take(self):
        """What a memory socket was given to send since the last call: (udp_payload, from, to) each."""
        cdef udp_message *m
        cdef size_t offset, n
        out = []
        for i in range(self.u.first, self.u.count):
            m = &self.u.messages[i]
            offset = 0
            while offset < m.len:
                n = min(m.segment, m.len - offset)
                out.append((m.data[offset:offset + n], address_of(&m.local), address_of(&m.peer)))
                offset += n
        self.u.first = self.u.count = 0
        self.u.used = 0
        return out

    def refusals(self):
        """Takes the ICMP errors that wait (with `errors`): (host, port) of each peer where nobody listens."""
        cdef sockaddr_storage to
        cdef int refused
        found = set()
        for _ in range(MAX_ERRORS):
            refused = udp_refused(&self.u, &to)
            if refused < 0:
                break
            if refused:
                found.add(address_of(&to))
        return found

    def note_fallback(self):
        """Says once in the log that the kernel refused segmentation while running."""
        if self.u.gso_fallbacks and not self.warned_gso:
            self.warned_gso = True
            log.warning("the kernel refused UDP GSO: packets are sent one by one from now on")

    def counters(self):
        """Counters since the start: udp payloads and bytes both ways, and what was refused."""
        return {
            "datagrams_received": self.u.udp_received,
            "bytes_received": self.u.bytes_received,
            "datagrams_sent": self.u.udp_sent,
            "bytes_sent": self.u.bytes_sent,
            "recv_overflow": self.u.receive_overflow,
            "recv_errors": self.u.receive_errors,
            "send_blocked": self.u.send_blocked,
            "gso_fallbacks": self.u.gso_fallbacks,
            "txtime_messages": self.u.timed,
            "ecn_received": self.u.ect_received,
            "ecn_ce_received": self.u.ce_received,
            "send_errors": {
                errno.errorcode.get(i, "OTHER"): self.u.send_errors[i]
                for i in range(UDP_MAX_ERRNO) if self.u.send_errors[i]
            },
        }
