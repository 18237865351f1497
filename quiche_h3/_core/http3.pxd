from libc.stdint cimport int64_t, uint64_t
from quiche_h3._core.fields cimport FieldSection
from quiche_h3._core.http3_state cimport Http3State
from quiche_h3._core.http3_stream cimport Stream
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.libquiche cimport quiche_h3_event


cdef class Http3(Http3State):
    cdef bint extended_connect          # RFC 9220: announced by us
    cdef int64_t wrote_first            # of several incremental ones, in the last turn
    cdef dict early_updates             # stream id -> PRIORITY_UPDATE of a request that has not come
    cdef public bint keeps_early        # datagrams wait for their request; else they are raw ones
    cdef object early_datagrams         # deque of (stream id, datagram), the newest ones; None before the first
    cdef int write(self) except -1
    cdef Stream new_stream(self, uint64_t stream_id)
    cdef int on_headers(self, uint64_t stream_id, quiche_h3_event *event, Stream stream) except -1
    cdef int on_request(self, uint64_t stream_id, FieldSection fields, int result, bint more) except -1
    cdef int on_event(self, uint64_t stream_id, quiche_h3_event *event) except -1
    cdef int read_datagrams(self, list raw) except -1
    cdef int64_t quarter_stream_id(self, bytes payload, ssize_t *size) except -2
    cdef bint give_datagram(self, bytes payload) except -1
    cdef int give_raw_datagrams(self, list raw) except -1
    cdef int keep_early_datagram(self, uint64_t stream_id, bytes payload) except -1
    cdef int give_early_datagrams(self, uint64_t stream_id) except -1
    cdef int alternate(self, int64_t *writable, int count) except -1
    cdef int on_priority_update(self, uint64_t stream_id) except -1
    cdef int failed(self, uint64_t stream_id, object error) except -1
    cdef int open_waiting(self) except -1
