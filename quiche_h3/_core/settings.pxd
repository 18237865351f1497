from libc.stdint cimport uint64_t
from quiche_h3._core.libquiche cimport quiche_config, quiche_h3_config

cdef class EngineSettings:
    cdef quiche_config *quic      # owned
    cdef quiche_h3_config *h3     # owned
    cdef readonly object config
    cdef readonly bint webtransport
    cdef readonly object keylog   # an open file object, or None
    cdef readonly object qlog_dir
    cdef readonly int connection_id_length
    cdef readonly uint64_t handshake_timeout_ns
    cdef readonly size_t max_burst
    cdef readonly size_t max_train    # bytes of one message to send
