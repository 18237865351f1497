from libc.stdint cimport uint8_t, uint64_t
from quiche_h3._core.connection cimport conn_t
from quiche_h3._core.libquiche cimport quiche_send_info
from quiche_h3._core.settings cimport EngineSettings
from quiche_h3._core.udp cimport UdpSocket, udp_socket

cdef enum:
    MAX_SOCKETS = 16

# How the pass ended for a connection.
cdef enum:
    FLUSH_DONE = 0
    FLUSH_MORE = 1      # the turn's share is spent, more is ready
    FLUSH_BLOCKED = 2   # the socket takes no more

# Packets of one path that leave together, being written into the arena of their socket.
cdef struct train:
    udp_socket *u
    uint8_t *out            # where the first one begins
    size_t used
    size_t segment          # the length of all of them but the last, which may be shorter
    size_t total            # bytes of the trains before this one, in this pass
    quiche_send_info first
    uint64_t first_at
    uint8_t ecn             # the codepoint of all of them


cdef class SendPass:
    cdef EngineSettings settings
    cdef list sockets
    cdef udp_socket *raw_sockets[MAX_SOCKETS]   # the same, for the loops without the GIL
    cdef int socket_count
    cdef list free_slots                # indices of sockets that were removed
    cdef uint64_t now
    cdef uint64_t runaways

    cdef int add(self, UdpSocket sock) except -1
    cdef int remove(self, int index) except -1
    cdef bint blocked(self) noexcept
    cdef int note_fallbacks(self) except -1
    cdef uint64_t run(self, conn_t *head, uint64_t now) noexcept nogil
    cdef udp_socket *socket_for(self, conn_t *c, const quiche_send_info *info) noexcept nogil
    cdef int flush(self, conn_t *c) noexcept nogil
    cdef bint too_early(self, conn_t *c, const train *t, size_t n, const quiche_send_info *info) noexcept nogil
