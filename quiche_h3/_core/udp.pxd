from libc.stdint cimport uint8_t, uint32_t, uint64_t
from quiche_h3._core.libc_net cimport sockaddr_storage, socklen_t

cdef extern from "udp_io.h" nogil:
    enum:
        UDP_MAX_PAYLOAD
        UDP_MAX_SEGMENTS
        UDP_MAX_ERRNO
        UDP_SEND_OK
        UDP_SEND_BLOCKED
        UDP_SEND_NO_BUFFERS
        UDP_NOT_ECT
        UDP_ECT0

    ctypedef struct udp_message:
        sockaddr_storage peer
        sockaddr_storage local
        socklen_t peer_len
        socklen_t local_len
        uint8_t *data
        size_t len
        size_t segment
        uint8_t ecn

    ctypedef struct udp_socket:
        int fd
        bint wildcard
        bint gso
        bint gro
        bint txtime
        bint errors_wait
        sockaddr_storage bound
        socklen_t bound_len
        unsigned batch
        size_t used
        unsigned first
        unsigned count
        udp_message *messages
        uint64_t udp_received
        uint64_t bytes_received
        uint64_t udp_sent
        uint64_t bytes_sent
        uint64_t send_blocked
        uint64_t gso_fallbacks
        uint64_t receive_errors
        uint64_t timed
        uint64_t ect_received
        uint64_t ce_received
        uint32_t receive_overflow
        uint64_t *send_errors

# Implemented in udp_io.c, which is compiled into this module only; the others call through the pointers
# below, so that each C function exists once in the process.
cdef struct udp_calls:
    int (*receive)(udp_socket *u) noexcept nogil
    bint (*received_message)(udp_socket *u, int i, udp_message *out) noexcept nogil
    uint8_t *(*reserve)(udp_socket *u) noexcept nogil
    void (*commit)(udp_socket *u, size_t len, size_t segment, const sockaddr_storage *from_,
                   socklen_t from_len, const sockaddr_storage *to, socklen_t to_len, uint64_t at,
                   uint8_t ecn) noexcept nogil
    int (*flush)(udp_socket *u) noexcept nogil

cdef class UdpSocket:
    cdef udp_socket u
    cdef object _socket
    cdef readonly bint warned_gso

cdef udp_calls udp
cdef object address_of(const sockaddr_storage *a)
cdef socklen_t to_sockaddr(str host, int port, sockaddr_storage *out) except 0
