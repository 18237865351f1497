from libc.stdint cimport uint8_t, uint64_t
from quiche_h3._core.admission cimport Admission, Host
from quiche_h3._core.connection cimport Connection, conn_t
from quiche_h3._core.routes cimport Routes
from quiche_h3._core.settings cimport EngineSettings
from quiche_h3._core.stateless cimport StatelessAnswers, packet_header
from quiche_h3._core.udp cimport udp_message, udp_socket

cdef struct opening_counters:
    uint64_t accepted
    uint64_t unknown_dropped
    uint64_t short_initials_dropped
    uint64_t log_failures


cdef class Opening:
    cdef EngineSettings settings
    cdef StatelessAnswers answers
    cdef Admission admission
    cdef dict connections      # id -> Connection: the references that keep them alive
    cdef Routes routes
    cdef uint64_t next_id
    cdef bint server
    cdef bint refusing                  # a server that is shutting down accepts nobody
    cdef opening_counters n

    cdef Connection meet(self, udp_socket *u, udp_message *m, packet_header *h, uint8_t *data, size_t n, uint64_t now)
    cdef Connection admit(self, udp_socket *u, udp_message *m, packet_header *h, uint8_t *data, size_t n, uint64_t now)
    cdef Connection accept(self, udp_socket *u, udp_message *m, Host host, bytes dcid, bytes odcid, uint64_t now)
    cdef Connection connect(self, udp_socket *u, peer, bytes name, bytes ticket, uint64_t now)
    cdef int prefer_address(self, conn_t *c) except -1
    cdef int adopt(self, Connection conn, udp_socket *u, uint64_t now) except -1
    cdef int start_logs(self, Connection conn) except -1
    cdef int log_failed(self, conn_t *c, str problem=*) except -1
