"""What HTTP/3 and HTTP/0.9 have in common: requests on streams of their own, which end one by one or all together.

A stream has two halves, each with its own end. What is to be sent and finds no credit waits in its queue.
"""

import logging
import os
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from quiche_h3._core.libquiche cimport *

from quiche_h3.errors import H3ErrorCode, StreamClosed

log = logging.getLogger("quiche_h3")


cdef class RequestProtocol(Protocol):
    def __cinit__(self, Connection connection not None, *args, **kwargs):
        self.connection = connection
        self.streams = {}
        self.unacknowledged = []

    cdef int give_up(self, RequestStream stream, object error) except -1:
        """A handler raised where nobody can catch it: its stream is given up, nothing else."""
        cdef uint64_t code = <uint64_t>H3ErrorCode.H3_INTERNAL_ERROR
        log.error("connection %d: the handler of stream %d failed", self.connection.id, stream.id, exc_info=error)
        told = not stream.receiving and not stream.sending  # it was over already
        stream.reset(code)
        handler, stream.handler = stream.handler, None
        if handler is not None and not told:
            try:
                handler.on_reset(code)
            except Exception:
                log.exception("connection %d: on_reset() of stream %d failed", self.connection.id, stream.id)
        return 0

    cdef int end(self) except -1:
        """The connection is gone: all streams are, with those that wait for credit."""
        cdef RequestStream stream
        streams = [*self.streams.values(), *(self.waiting or ())]
        if not streams:
            return 0
        self.streams.clear()
        self.waiting = None
        error = self.connection.ending()
        for stream in streams:
            stream.receiving = stream.sending = False
            stream.queue = None
            handler, stream.handler = stream.handler, None
            if handler is not None:
                try:
                    handler.on_closed(error)
                except Exception:
                    log.exception("connection %d: on_closed() of a stream failed", self.connection.id)
        return 0

    cdef int keep_waiting(self, RequestStream stream) except -1:
        """It opens when there is credit for it."""
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append(stream)
        return 0

    cdef int wait_for_acknowledgements(self, int64_t first, int64_t end) except -1:
        """Of the requests with these stream ids, those that are answered; from now on each adds itself at its end."""
        cdef int64_t stream_id
        for stream_id in range(max(0, first), end, 4):
            if stream_id not in self.streams:
                self.unacknowledged.append(stream_id)
        return 0

    @property
    def drained(self):
        """After `goaway()`: no request is in flight any more, and the peer has acknowledged every response."""
        if self.over:
            return True
        if self.streams:
            return False
        while self.unacknowledged:
            # quiche forgets a stream when the acknowledgement of its end has come.
            if quiche_conn_stream_capacity(self.connection.c.quic, self.unacknowledged[-1]) >= 0:
                return False
            self.unacknowledged.pop()
        return True


cdef class RequestStream:
    """One request and its response.

    What raises NotImplementedError is HTTP/3's and HTTP/0.9's own, in Stream and HqStream.
    """

    def __init__(self):
        raise TypeError("streams are made by their protocol")

    cpdef RequestProtocol protocol(self):
        """HTTP/3 or HTTP/0.9 on the stream's connection."""
        raise NotImplementedError

    cpdef send_headers(self, list pairs, bint fin=False):
        """Sends a field section: (name, value) bytes."""
        raise NotImplementedError

    cpdef enqueue(self, bytes data, bint fin=False):
        """Sends `data` now as far as it goes; keeps a reference to the rest and sends that when credit comes."""
        raise NotImplementedError

    cpdef finish(self, list trailers=None):
        """Ends the sending half after what is queued, with trailers when given."""
        raise NotImplementedError

    cpdef Py_ssize_t write_file(self, int fd, int64_t offset, Py_ssize_t size) except -1:
        """As `write()`, of `size` bytes of a file. Raises OSError, and EOFError where it has ended before.

        Less than `size` may be taken without that anything is in the way.
        """
        data = os.pread(fd, min(size, SCRATCH), offset)
        if not data:
            raise EOFError
        return self.write(data)

    cdef Py_ssize_t send_body(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2:
        """Bytes taken; -1 when nothing can be taken now, or any more."""
        raise NotImplementedError

    @property
    def connection_closed(self):
        return self.protocol().over

    cpdef check_open(self):
        """Raises what stands in the way of sending."""
        if self.protocol().over:
            raise self.connection.ending()
        if not self.sending or self.fin_queued or self.trailers is not None:
            raise StreamClosed("the stream's sending half is closed")

    cdef int queue_rest(self, bytes data, Py_ssize_t sent) except -1:
        """Keeps a reference to data of which so many bytes have been sent; the others follow when credit comes."""
        if self.queue is None:
            self.queue = deque()
        if not self.queue:
            self.offset = sent
        self.queue.append(data)
        self.pending += PyBytes_GET_SIZE(data) - sent
        return 0

    cdef bint send_queue(self) except -1:
        """Sends what is queued, the FIN with the last of it. False: it cannot take more now, or any more."""
        cdef bytes data
        cdef Py_ssize_t n, size
        while self.pending and self.sending:
            data = self.queue[0]
            size = PyBytes_GET_SIZE(data)
            n = self.send_body(<const uint8_t *>PyBytes_AS_STRING(data) + self.offset, size - self.offset,
                               self.fin_queued and self.pending == size - self.offset)
            if n < 0 or not self.pending:
                return False
            self.pending -= n
            self.offset += n
            if self.offset == size:
                self.queue.popleft()
                self.offset = 0
        return self.sending

    cdef void empty_queue(self):
        self.queue = None
        self.pending = 0
