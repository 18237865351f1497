from libc.stdint cimport uint8_t, uint64_t
from quiche_h3._core.libquiche cimport quiche_config, quiche_h3_config

cdef extern from "quiche_h3_extra.h" nogil:
    ctypedef struct quiche_h3_tls:
        pass

    quiche_h3_tls *quiche_h3_tls_new()
    void quiche_h3_tls_free(quiche_h3_tls *tls)
    void quiche_h3_tls_add_ticket_key(quiche_h3_tls *tls, const uint8_t *key, size_t capacity)
    void quiche_h3_tls_rotate_ticket_key(quiche_h3_tls *tls, const uint8_t *key, size_t capacity)
    int quiche_h3_tls_add_name(quiche_h3_tls *tls, const char *name, quiche_config *config)
    int quiche_h3_tls_attach(quiche_h3_tls *tls, quiche_config *config, const uint8_t *context, bint demand_certificate)


cdef class EngineSettings:
    cdef quiche_config *quic      # owned
    cdef quiche_h3_config *h3     # owned
    cdef quiche_h3_tls *tls       # owned; outlives the configurations and their connections
    cdef quiche_config **others   # owned: those of further certificates
    cdef int other_count
    cdef readonly tuple versions  # of QUIC, as on the wire, the best first
    cdef readonly object keys     # TokenKeys
    cdef readonly object config
    cdef readonly bint webtransport
    cdef readonly bint extended_connect   # RFC 9220: announced
    cdef readonly object keylog   # an open file object, or None
    cdef readonly object qlog_dir
    cdef readonly int connection_id_length
    cdef readonly uint64_t handshake_timeout_ns
    cdef readonly size_t max_burst
    cdef readonly size_t max_train    # bytes of one message to send
    cdef readonly bint discovers_pmtu
    cdef readonly size_t max_packet   # bytes of the largest packet, a probe of the path MTU
    cdef bint preferred               # a server has a preferred address
    cdef bytes preferred_v4           # as on the wire: address and port; or None
    cdef bytes preferred_v6
    cdef bint use_preferred           # a client goes to the server's
    cdef uint64_t tickets_until       # nanoseconds of the monotonic clock: then the ticket keys rotate

    cdef int rotate_tickets(self, uint64_t now) except -1
