"""HTTP/0.9 over the streams of a QUIC connection, the protocol that interoperability tests speak (`hq-interop`).

A client opens a bidirectional stream and sends ``GET /path`` and a line feed; what comes back until the FIN is the
file. There are no fields, no statuses and no control streams. The calls to the layer above are those of `http3.pyx`,
so routes, handlers and clients work over both: a request gets the fields it would have had, a response counts as a
200. An answer with any other status is none here: its stream is reset with the status as the code.
"""

import logging

from cpython.bytes cimport PyBytes_FromStringAndSize
from quiche_h3._core.connection cimport Connection
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.streams cimport CANCELLED, EMPTY, SCRATCH, scratch

from quiche_h3.errors import DatagramNotEnabled, H3ErrorCode, InvalidState, check_quic

HQ_ALPN = ("hq-interop", *(f"hq-{draft}" for draft in (34, 33, 32, 31, 30, 29)))

log = logging.getLogger("quiche_h3")

cdef enum:
    MAX_LINE = 4096
    WRITABLE_PER_TURN = 4096
    READABLE_PER_TURN = 256
    NO_ERROR = 0
    ACKNOWLEDGED_WINDOW = 1000  # how many past requests a drain looks at


class HqFields:
    """What stands for a field section, which HTTP/0.9 does not have."""

    __slots__ = ("authority", "method", "path", "scheme", "status")

    content_length = -1
    expect_continue = False
    protocol = None

    def __init__(self, method=None, path=None, authority=None, status=0):
        self.method = method
        self.path = path
        self.authority = authority
        self.scheme = None if method is None else b"https"
        self.status = status

    def pairs(self):
        """No fields."""
        return []


cdef class Hq(RequestProtocol):
    """HTTP/0.9 on one connection, with the interface of `Http3`."""

    def __init__(self, Connection connection not None, app, *, server):
        self.app = app
        self.server = server
        self.finishing = []

    cdef bint service(self) except -1:
        cdef int64_t stream_id
        cdef int64_t ids[WRITABLE_PER_TURN]
        cdef int i, count = 0, left = READABLE_PER_TURN
        cdef uint64_t code
        cdef HqStream stream
        # First all ids, then the streams: a write makes its stream writable anew.
        while count < WRITABLE_PER_TURN:
            stream_id = quiche_conn_stream_writable_next(self.connection.c.quic)
            if stream_id < 0:
                break
            ids[count] = stream_id
            count += 1
        for i in range(count):
            stream = self.streams.get(ids[i])
            if stream is None or not stream.sending:
                quiche_conn_stream_capacity(self.connection.c.quic, ids[i])  # collects a stream that was stopped
                continue
            try:
                # Sends nothing: it tells the code of a stop.
                if (quiche_conn_stream_send(self.connection.c.quic, ids[i], EMPTY, 0, False, &code)
                        == QUICHE_ERR_STREAM_STOPPED):
                    stream.was_stopped(code)
                else:
                    stream.pump(True)
            except Exception as error:
                self.give_up(stream, error)
        while left > 0:
            stream_id = quiche_conn_stream_readable_next(self.connection.c.quic)
            if stream_id < 0:
                break
            left -= 1
            self.readable(stream_id)
        while self.finishing:
            stream = self.finishing.pop()
            if stream.receiving:
                stream.receiving = False
                try:
                    if stream.handler is not None:
                        stream.handler.on_finished()
                except Exception as error:
                    self.give_up(stream, error)
            stream.settle()
        while self.waiting and self.open(self.waiting[0]):
            self.waiting.popleft()
        return left == 0

    cdef int readable(self, uint64_t stream_id) except -1:
        cdef HqStream stream = self.streams.get(stream_id)
        if stream is None and self.server and not stream_id & 3:
            stream = self.accept(stream_id)
        if stream is None:  # of a kind that is not used here
            quiche_conn_stream_shutdown(self.connection.c.quic, stream_id, QUICHE_SHUTDOWN_READ, NO_ERROR)
            return 0
        try:
            if self.server:
                stream.read_line()
                return 0
            if stream.fields is None:  # the first bytes are what tells a file from a refusal
                stream.ahead = stream.read(SCRATCH)
                if not stream.receiving:
                    return 0
                stream.fields = HqFields(status=200)
                if stream.handler is not None:
                    stream.handler.on_headers(stream.fields, False)
            if stream.handler is not None:
                stream.handler.on_readable()
            if stream.fin_read and not stream.ahead:
                self.finishing.append(stream)
        except Exception as error:
            self.give_up(stream, error)
        return 0

    cdef HqStream accept(self, uint64_t stream_id):
        cdef HqStream stream = HqStream.__new__(HqStream)
        stream.http3 = self
        stream.connection = self.connection
        stream.id = stream_id
        stream.ahead = b""
        stream.sending = True
        stream.early_data = not self.connection.c.established
        self.streams[stream_id] = stream
        if stream_id >= self.next_stream:
            self.next_stream = stream_id + 4
        if self.refusing:
            stream.reset(<uint64_t>H3ErrorCode.H3_REQUEST_REJECTED)
        return stream

    cdef int closed(self) except -1:
        self.over = True
        self.finishing.clear()
        return self.end()

    # Client

    def open_request(self, list pairs, bint fin, handler):
        """Asks for a file, now or when the peer grants a stream. Returns its HqStream.

        Of the fields only the path is sent. Raises InvalidState for another method than GET: there are no others.
        """
        cdef HqStream stream = HqStream.__new__(HqStream)
        if self.over:
            raise self.connection.ending()
        fields = dict(pairs)
        path = fields.get(b":path", b"/")
        if fields.get(b":method") != b"GET" or not fin:
            raise InvalidState("HTTP/0.9 knows no method but GET, and no body with it")
        if any(byte <= 32 or byte == 127 for byte in path):
            raise InvalidState("a path must not hold blanks or control characters")
        stream.http3 = self
        stream.connection = self.connection
        stream.id = <uint64_t>-1
        stream.handler = handler
        stream.receiving = stream.sending = stream.head_sent = stream.fin_queued = True
        stream.ahead = b""
        line = b"GET " + path + b"\r\n"
        stream.queue_rest(line, 0)
        if self.waiting or not self.open(stream):
            self.keep_waiting(stream)
        self.connection.touch()
        return stream

    cdef bint open(self, HqStream stream) except -1:
        """False: there is no stream credit now."""
        if not stream.sending and not stream.receiving:
            return True  # given up before it was sent
        if quiche_conn_peer_streams_left_bidi(self.connection.c.quic) == 0:
            return False
        stream.id = self.next_stream
        self.next_stream += 4
        self.streams[stream.id] = stream
        stream.pump(False)
        return True

    # Shutdown

    def goaway(self):
        """Takes no further request. HTTP/0.9 has no word for it: what comes is reset."""
        if self.over or self.refusing:
            return
        self.refusing = True
        self.wait_for_acknowledgements(
            <int64_t>self.next_stream - 4 * ACKNOWLEDGED_WINDOW, <int64_t>self.next_stream)


cdef class HqStream(RequestStream):
    """One request and its answer. The sending half is a queue, the receiving one is read by whoever handles it."""

    cpdef RequestProtocol protocol(self):
        return self.http3

    @property
    def malformed(self):
        """Nothing is: there is no form."""
        return None

    def send_datagram(self, bytes payload, bint capsules=False):
        """Raises DatagramNotEnabled: HTTP/0.9 has none."""
        raise DatagramNotEnabled("HTTP/0.9 has no datagrams")

    def drop_datagram(self):
        """None comes."""

    @property
    def priority(self):
        """The default: there is no field to ask for another."""
        return 3, False

    def take_last_priority_update(self):
        """None comes."""
        return None

    def set_priority(self, urgency, incremental):
        """Answers are sent as they come."""

    # Receiving

    cdef bytes read(self, Py_ssize_t n):
        """What is there now, at most `n` bytes. Tells the handler of a reset."""
        cdef c_bool fin = False
        cdef uint64_t code = 0
        cdef ssize_t got
        if self.fin_read:
            return b""
        got = quiche_conn_stream_recv(self.connection.c.quic, self.id, scratch, min(n, SCRATCH), &fin, &code)
        if got == QUICHE_ERR_STREAM_RESET:
            self.was_reset(code)
            return b""
        if got < 0:
            return b""
        self.fin_read = fin
        return PyBytes_FromStringAndSize(<char *>scratch, got)

    cdef int read_line(self) except -1:
        """The server's side of a request: a line, then its end."""
        cdef bytes data
        while not self.fin_read:
            data = self.read(MAX_LINE)
            if not data:
                break
            if self.fields is None:
                self.ahead += data
                if b"\n" in self.ahead or len(self.ahead) > MAX_LINE:
                    line, _, rest = self.ahead.partition(b"\n")
                    self.begin(line, rest)
            else:
                self.stop_reading(NO_ERROR)
        if self.fin_read and self.fields is None:
            self.begin(self.ahead, b"")
        return self.settle()

    cdef int begin(self, bytes line, bytes rest) except -1:
        method, _, path = line.rstrip(b"\r").partition(b" ")
        self.ahead = b""
        self.fields = HqFields(method, path, self.connection.server_name.encode())
        if rest:
            self.stop_reading(NO_ERROR)
        if method == b"GET" and path[:1] == b"/" and len(line) <= MAX_LINE and all(32 < byte != 127 for byte in path):
            self.http3.app.request(self)
        else:
            self.http3.app.refused(self, 400)
        return 0

    cdef int stop_reading(self, uint64_t code) except -1:
        """Nothing that may still come is wanted."""
        if not self.fin_read:
            self.fin_read = True
            quiche_conn_stream_shutdown(self.connection.c.quic, self.id, QUICHE_SHUTDOWN_READ, code)
        return 0

    def recv(self, Py_ssize_t n=SCRATCH):
        """Up to `n` bytes of the answer that are there now; empty when there are none yet, or no more."""
        cdef bytes data
        if self.http3.over or not self.receiving or n <= 0:
            return b""
        if self.ahead:
            data, self.ahead = self.ahead[:n], self.ahead[n:]
        else:
            data = self.read(n)
        self.bytes_received += len(data)
        if self.fin_read and not self.ahead:
            self.http3.finishing.append(self)
        self.connection.touch()  # flow control credit goes out, and the end is told
        return data

    def stop_receiving(self, uint64_t code=0):
        """Tells the peer that the rest is not wanted (STOP_SENDING)."""
        if self.id == <uint64_t>-1:
            self.reset(code)
        elif not self.http3.over and self.receiving:
            self.receiving = False
            self.ahead = b""
            self.stop_reading(code)
            self.connection.touch()
            self.settle()

    # Sending

    cpdef send_headers(self, list pairs, bint fin=False):
        """Sends nothing. An answer that is no 200 becomes a reset, where its body would end."""
        self.check_open()
        status = int(dict(pairs).get(b":status", 200))
        if status >= 200:
            self.head_sent = True
            self.refusal = 0 if status < 300 else status
        if fin:
            self.enqueue(b"", True)

    def write(self, const uint8_t[::1] data):
        """Gives quiche what it takes of `data` now. Returns the number of bytes, 0 when something waits before them."""
        cdef Py_ssize_t n, size = data.shape[0]
        self.check_open()
        if self.refusal or not size:
            return size
        n = 0 if self.pending else max(0, self.send_body(&data[0], size, False))
        self.blocked = self.sending and n < size
        self.connection.touch()
        return n

    cpdef enqueue(self, bytes data, bint fin=False):
        """Sends `data` now as far as it goes; keeps the rest and sends that when credit comes."""
        self.check_open()
        if not self.refusal and data:
            self.queue_rest(data, 0)
        self.fin_queued = fin
        self.pump(False)
        self.connection.touch()

    cpdef finish(self, list trailers=None):
        """Ends the sending half after what is queued. Trailers are not sent: HTTP/0.9 has none."""
        self.enqueue(b"", True)

    cdef Py_ssize_t send_body(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2:
        """Bytes taken; -1 when nothing can be taken now, or any more."""
        cdef uint64_t code = 0
        cdef ssize_t rc = quiche_conn_stream_send(
            self.connection.c.quic, self.id, data if n else EMPTY, n, fin, &code)
        if rc == QUICHE_ERR_DONE:
            return -1
        if rc == QUICHE_ERR_STREAM_STOPPED or rc == QUICHE_ERR_INVALID_STREAM_STATE:
            self.was_stopped(code)
            return -1
        if rc < 0:
            check_quic(rc)
        self.bytes_sent += rc
        if fin and rc == n:
            self.sent_fin()
        return rc

    cdef int pump(self, bint tell) except -1:
        """Sends what waits: the queue, then the FIN."""
        cdef bint had = self.pending > 0 or self.blocked
        if not self.send_queue():
            return 0
        if self.fin_queued:
            if self.refusal:
                self.drop_sending(self.refusal)
                self.tell_sent()
            else:
                self.send_body(EMPTY, 0, True)
        elif had:
            self.blocked = False
            if tell and self.handler is not None:
                self.handler.on_drained()
        return 0

    cdef int sent_fin(self) except -1:
        self.sending = False
        self.empty_queue()
        if self.http3.refusing:
            self.http3.unacknowledged.append(self.id)
        return self.tell_sent()

    cdef int tell_sent(self) except -1:
        handler = self.handler
        if handler is not None:
            handler.on_sent()
        return self.settle()

    cdef int drop_sending(self, uint64_t code) except -1:
        """What is queued goes, and our half is reset."""
        self.empty_queue()
        self.blocked = False
        if self.sending:
            self.sending = False
            quiche_conn_stream_shutdown(self.connection.c.quic, self.id, QUICHE_SHUTDOWN_WRITE, code)
        return 0

    cdef int was_reset(self, uint64_t code) except -1:
        """The peer reset its half: what it sent is incomplete."""
        self.fin_read = True
        self.ahead = b""
        told = not self.receiving and not self.sending
        self.receiving = False
        self.drop_sending(CANCELLED)
        if self.handler is not None and not told:
            self.handler.on_reset(code)
        return self.settle()

    cdef int was_stopped(self, uint64_t code) except -1:
        """STOP_SENDING came: the peer wants no more of what we send."""
        if not self.sending:
            return 0
        self.drop_sending(CANCELLED)
        if self.handler is not None:
            self.handler.on_stopped(code)
        return self.settle()

    def reset(self, uint64_t code):
        """Gives the stream up in both directions (RESET_STREAM and STOP_SENDING with `code`)."""
        if self.http3.over or self.id == <uint64_t>-1:
            self.sending = self.receiving = False
            self.empty_queue()
            return
        self.receiving = False
        self.ahead = b""
        self.stop_reading(code)
        self.drop_sending(code)
        self.connection.touch()
        self.settle()

    def reset_after_turn(self, uint64_t code):
        """Ends an answer that is no 200, as always; there is nothing that would have to go out before."""
        self.enqueue(b"", True)
        self.stop_receiving(code)

    cdef int settle(self) except -1:
        """Both halves are over: nothing refers to the stream any more but its handler."""
        if self.fin_read and not self.receiving and not self.sending:
            self.http3.streams.pop(self.id, None)
        return 0
