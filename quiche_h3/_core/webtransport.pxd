from libc.stdint cimport uint64_t
from quiche_h3._core.webtransport_sessions cimport SessionBase
from quiche_h3._core.webtransport_streams cimport Carrier, StreamBase


cdef class WebTransport(Carrier):
    cdef readonly dict sessions         # session ID -> SessionBase
    cdef dict heads                     # stream ID -> (bytes of its session ID so far, when it came)
    cdef dict early                     # stream ID -> (session ID, when it came, length of its head, whether it ended): no such session yet
    cdef object gone                    # the last sessions that ended, oldest first
    cdef uint64_t early_ns              # how long that is kept
    cdef list settings_waiters          # called when the peer's SETTINGS have come
    cdef tuple openers                  # for each kind a deque of callbacks that wait for stream credit
    cdef uint64_t idle_check_at
    cdef int failed(self, SessionBase session, object error) except -1
    cdef int read_head(self, uint64_t stream_id, bytes head, uint64_t since) except -1
    cdef int bind(self, uint64_t stream_id, uint64_t session_id, uint64_t head, bint fin) except -1
    cdef int give(self, uint64_t stream_id, SessionBase session, uint64_t head, bint fin) except -1
    cdef int refuse(self, uint64_t stream_id, uint64_t code) except -1
    cdef int add(self, StreamBase stream) except -1
    cdef int read_all(self) except -1
    cdef int open_waiting(self) except -1
    cdef int release(self) except -1
    cdef int watch(self) except -1
