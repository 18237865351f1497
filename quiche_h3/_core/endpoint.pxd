cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t
from quiche_h3._core.admission cimport Admission
from quiche_h3._core.connection cimport Connection, Gate, conn_t, deadlines
from quiche_h3._core.libquiche cimport quiche_path_event
from quiche_h3._core.opening cimport Opening
from quiche_h3._core.routes cimport Routes
from quiche_h3._core.send_pass cimport SendPass
from quiche_h3._core.settings cimport EngineSettings
from quiche_h3._core.stateless cimport StatelessAnswers, packet_header
from quiche_h3._core.udp cimport UdpSocket, udp_message, udp_socket


cdef struct engine_counters:
    uint64_t closed
    uint64_t handshake_failed
    uint64_t timed_out
    uint64_t malformed_dropped
    uint64_t handshake_overruns
    uint64_t key_updates
    uint64_t packet_limit_closes
    uint64_t packets_received
    uint64_t packets_sent
    uint64_t packets_lost
    uint64_t packets_retransmitted
    uint64_t datagrams_received
    uint64_t datagrams_sent
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t bytes_lost
    uint64_t closed_by_peer
    uint64_t closed_by_us
    uint64_t pto_count
    uint64_t migrations
    uint64_t preferred_moves
    uint64_t ecn_congestion
    uint64_t ecn_failed


@cython.final
cdef class Endpoint:
    cdef EngineSettings settings
    cdef Gate gate                      # shut while a pass without the GIL runs
    cdef readonly object app
    cdef readonly list sockets          # the send pass's
    cdef object wake                    # called without arguments when a turn is wanted from outside of one
    cdef deadlines due
    cdef conn_t *dirty_head
    cdef conn_t *dirty_tail
    cdef readonly dict connections      # the opening's
    cdef engine_counters n
    cdef uint64_t now                   # nanoseconds, read once a turn
    cdef bint in_turn
    cdef readonly bint blocked          # some socket takes no more: what is left waits until it is writable
    cdef int forks                      # of the process, when this was made
    cdef object interrupt               # what the turn is to raise at its end: KeyboardInterrupt and its like
    cdef bint woken
    cdef bint server
    cdef readonly StatelessAnswers answers
    cdef readonly Admission admission
    cdef Routes routes
    cdef Opening opening
    cdef SendPass send_pass
    cdef uint64_t packet_limit          # packets sent with one key
    cdef uint64_t handshake_limit       # bytes a client may send before its handshake is complete

    cpdef bint receive(self, int index) except -1
    cdef int take_refusals(self, UdpSocket sock) except -1
    cpdef deadline(self, Connection connection=*)
    cpdef int64_t due_at(self)
    cpdef bint turn(self) except -1
    cpdef handle(self)
    cdef void mark(self, conn_t *c) noexcept nogil
    cdef int handle_events(self) except -1
    cdef int receive_packet(self, udp_socket *u, udp_message *m, uint8_t *data, size_t len) except -1 nogil
    cdef int receive_message(self, udp_socket *u, udp_message *m) except -1 nogil
    cdef conn_t *unknown_packet(self, udp_socket *u, udp_message *m, packet_header *h,
                                uint8_t *data, size_t n) noexcept with gil
    cdef conn_t *unknown(self, udp_socket *u, udp_message *m, packet_header *h, uint8_t *data, size_t n) except? NULL
    cdef void count_handshake(self, conn_t *c, const packet_header *h, const uint8_t *data, size_t n) noexcept nogil
    cdef int adopt(self, Connection conn) except -1
    cdef int heed_reset(self, udp_socket *u, udp_message *m, const uint8_t *data, size_t n) except -1
    cdef int check_process(self) except -1
    cdef int caught(self, object error, str what) except -1
    cdef int service(self, Connection conn) except -1
    cdef int watch(self, Connection conn) except -1
    cdef int open_protocol(self, Connection conn) except -1
    cdef int handle_paths(self, Connection conn) except -1
    cdef int probe_preferred(self, conn_t *c) except -1
    cdef int path_validated(self, conn_t *c, const quiche_path_event *event) except -1
    cdef int expire(self) except -1
    cdef int finish(self, conn_t *c) except -1
    cdef int renew_key(self, conn_t *c) except -1
    cdef int retire(self, Connection conn) except -1
