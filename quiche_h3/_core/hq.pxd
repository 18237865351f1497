from libc.stdint cimport int64_t, uint8_t, uint64_t
from quiche_h3._core.connection cimport Connection, Protocol


cdef class Hq(Protocol):
    cdef readonly Connection connection
    cdef readonly dict streams          # stream id -> HqStream
    cdef object app
    cdef object waiting                 # client: requests that wait for stream credit
    cdef list finishing                 # streams whose FIN was read and whose handlers were not told yet
    cdef bint server
    cdef bint over                      # the connection is gone
    cdef bint refusing
    cdef uint64_t next_stream           # client: the next id; server: the first that was not seen yet
    cdef list unacknowledged            # while refusing: ids of answered requests, some perhaps not acknowledged
    cdef int readable(self, uint64_t stream_id) except -1
    cdef HqStream accept(self, uint64_t stream_id)
    cdef int failed(self, HqStream stream, object error) except -1
    cdef bint open(self, HqStream stream) except -1


cdef class HqStream:
    cdef readonly Hq http3
    cdef readonly uint64_t id
    cdef public object handler
    cdef readonly object fields
    cdef readonly bint receiving        # body may still come
    cdef readonly bint sending
    cdef readonly bint head_sent
    cdef readonly bint early_data
    cdef readonly bint blocked
    cdef readonly Py_ssize_t pending
    cdef readonly uint64_t bytes_sent
    cdef readonly uint64_t bytes_received
    cdef bint fin_read                  # nothing more comes of the peer's half
    cdef bint fin_queued
    cdef int refusal                    # the status of an answer that is none in HTTP/0.9
    cdef bytes ahead                    # read, not yet taken: a request's line (server), an answer's first bytes
    cdef object queue
    cdef Py_ssize_t offset
    cdef bytes read(self, Py_ssize_t n)
    cdef Py_ssize_t send(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2
    cdef int read_line(self) except -1
    cdef int begin(self, bytes line, bytes rest) except -1
    cdef int stop_reading(self, uint64_t code) except -1
    cdef int pump(self, bint tell) except -1
    cdef int sent_fin(self) except -1
    cdef int tell_sent(self) except -1
    cdef int drop_sending(self, uint64_t code) except -1
    cdef int was_reset(self, uint64_t code) except -1
    cdef int was_stopped(self, uint64_t code) except -1
    cdef int settle(self) except -1
