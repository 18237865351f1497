from libc.stdint cimport int64_t, uint8_t, uint64_t
from quiche_h3._core.connection cimport Connection, Protocol

cdef enum:
    SCRATCH = 65536
    CANCELLED = 0x10C       # H3_REQUEST_CANCELLED

cdef uint8_t scratch[SCRATCH]           # used between two calls, always with the GIL
cdef uint8_t EMPTY[1]                   # quiche takes no NULL, not even for no bytes


cdef class RequestProtocol(Protocol):
    """A protocol of requests, each on a stream of its own."""

    cdef readonly Connection connection
    cdef object app
    cdef readonly bint server
    cdef bint over                      # the connection is gone
    cdef readonly dict streams          # stream id -> RequestStream, those that are not finished
    cdef object waiting                 # client: deque of requests that wait for stream credit, None before the first
    cdef list unacknowledged            # once we take no more: ids of answered requests, some perhaps not acknowledged
    cdef int wait_for_acknowledgements(self, int64_t first, int64_t end) except -1
    cdef int give_up(self, RequestStream stream, object error) except -1
    cdef int end(self) except -1
    cdef int keep_waiting(self, RequestStream stream) except -1


cdef class RequestStream:
    cdef readonly Connection connection
    cdef readonly uint64_t id
    cdef public object handler          # the exchange above: see http3.pyx for the calls it gets
    cdef readonly object fields         # FieldSection, or HqFields: of the request (server) or the final response (client)
    cdef readonly bint receiving        # the peer may still send
    cdef readonly bint sending          # we may still send
    cdef readonly bint head_sent
    cdef readonly bint early_data       # the request came before the handshake was complete
    cdef object queue                   # deque of bytes not yet taken by quiche, or None
    cdef Py_ssize_t offset              # bytes of queue[0] that were taken
    cdef readonly Py_ssize_t pending    # bytes of the queue not yet taken
    cdef readonly bint blocked          # write() could not take all: on_drained() follows
    cdef bint fin_queued
    cdef object trailers                # pairs to send after the queue, else None
    cdef readonly uint64_t bytes_sent
    cdef readonly uint64_t bytes_received
    cpdef RequestProtocol protocol(self)
    cpdef check_open(self)
    cpdef send_headers(self, list pairs, bint fin=*)
    cpdef enqueue(self, bytes data, bint fin=*)
    cpdef finish(self, list trailers=*)
    cpdef Py_ssize_t write_file(self, int fd, int64_t offset, Py_ssize_t size) except -1
    cdef Py_ssize_t send_body(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2
    cdef int queue_rest(self, bytes data, Py_ssize_t sent) except -1
    cdef bint send_queue(self) except -1
    cdef void empty_queue(self)
