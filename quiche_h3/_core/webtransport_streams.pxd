from libc.stdint cimport uint8_t, uint64_t
from quiche_h3._core.flow_control cimport SessionFlow
from quiche_h3._core.http3 cimport Http3
from quiche_h3._core.http3_state cimport Claims
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.libquiche cimport quiche_conn


cdef struct webtransport_counters:
    uint64_t sessions
    uint64_t sessions_active
    uint64_t sessions_rejected
    uint64_t sessions_idle
    uint64_t streams_opened
    uint64_t streams_accepted
    uint64_t streams_refused
    uint64_t streams_active
    uint64_t streams_peak
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t datagrams_received
    uint64_t datagrams_sent
    uint64_t datagrams_dropped
    uint64_t resets_received
    uint64_t resets_sent


cdef class WebTransportCounters:
    cdef webtransport_counters n
    cdef dict reset_codes               # code of a received reset or stop -> how many
    cdef int note_reset(self, uint64_t code) except -1


cdef struct session_counters:
    uint64_t streams_opened
    uint64_t streams_accepted
    uint64_t streams_refused
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t datagrams_received
    uint64_t datagrams_sent
    uint64_t datagrams_dropped


cdef class Carrier(Claims):
    cdef readonly Http3 http3
    cdef readonly WebTransportCounters counters
    cdef readonly object config
    cdef dict streams                   # stream ID -> StreamBase
    cdef list starved                   # streams that have written their share of the turn
    cdef list stopped                   # (session, error): STOP_SENDING on the CONNECT stream, in this turn
    cdef list answered                  # sessions of which a response has been written, but maybe not sent
    cdef dict late_resets               # stream ID -> (rest of its header, code, length of the header)
    cdef uint64_t turn                  # counts turns: a stream's share is for one
    cdef uint64_t now                   # nanoseconds, read once a turn
    cdef quiche_conn *quic(self) except? NULL
    cdef int reset_late(self) except -1
    cdef int enter(self, StreamOwner session) except -1
    cdef int leave(self, StreamOwner session) except -1


cdef class StreamOwner:
    cdef readonly Carrier transport
    cdef readonly dict streams          # stream ID -> StreamBase
    cdef readonly bint open             # accepted, and not over
    cdef readonly SessionFlow flow      # None where there is no flow control
    cdef uint64_t incoming[2]           # the peer's streams there are, by kind: unidirectional, bidirectional
    cdef session_counters n
    cdef int give_credit(self) except -1


cdef class StreamBase:
    cdef readonly StreamOwner session
    cdef readonly uint64_t id
    cdef readonly bint receiving        # the peer may still send, or there is more to read
    cdef readonly bint sending          # we may still send
    cdef readonly bint incoming         # the peer has opened it
    cdef public bint watched            # `_drained()` is to be called when nothing waits to be sent any more
    cdef public bint wanted             # `_readable()` is to be called when there is something to read
    cdef Py_ssize_t header              # length of what says whose stream it is, where that is ours to send,
    cdef bint header_waits              # and whether queue[0] is the rest of it
    cdef object queue                   # deque of bytes not yet taken by quiche, or None
    cdef Py_ssize_t offset              # bytes of queue[0] that were taken
    cdef readonly Py_ssize_t pending    # bytes of the queue not yet taken
    cdef readonly bint fin_queued
    cdef uint64_t turn                  # when `share` was given
    cdef Py_ssize_t share               # bytes it may still write in that turn
    cdef uint64_t head                  # bytes that say whose stream it is, where the peer has sent them
    cdef uint64_t counted               # bytes after these that have arrived, as the session's flow control knows
    cdef readonly uint64_t bytes_sent
    cdef readonly uint64_t bytes_received
    cdef int arrived(self) except -1
    cdef bint count_arrived(self) except -1
    cdef int cut_off(self, uint64_t unread) except -1
    cdef int broke(self, ssize_t rc, uint64_t code) except -1
    cdef int keep(self, bytes data) except -1
    cdef int pump(self) except -1
    cdef Py_ssize_t send_some(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2
    cdef int was_stopped(self, uint64_t code) except -1
    cdef int shut_sending(self, uint64_t code) except -1
    cdef int drop_queue(self) noexcept
    cdef int sent_fin(self) except -1
    cdef int abort(self, uint64_t code) except -1
    cdef int settle(self) except -1
