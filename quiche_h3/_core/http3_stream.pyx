"""One request stream of HTTP/3: its field sections, its body in both directions, its priority and its end."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno
from libc.string cimport memcmp
from posix.types cimport off_t
from posix.unistd cimport pread
from quiche_h3._core.fields cimport (
    HEADERS_OUT_ROOM, MAX_HEADERS_OUT, announced_length, fill_date, fill_fields, section_facts,
)
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.streams cimport CANCELLED, EMPTY, SCRATCH, RequestProtocol, scratch

from quiche_h3.capsules import encode_capsule, encode_varint
from quiche_h3.errors import (
    DatagramNotEnabled, DatagramTooLarge, InvalidState, WouldBlock, check_h3,
)
from quiche_h3.priorities import Priority

cdef enum:
    URGENCY_OFFSET = 124                # where quiche has urgency 0 of HTTP/3 among the priorities of streams
    MAX_DATAGRAM_CAPSULE = 65535        # no frame carries more either
    MAX_CAPSULES_PENDING = 262144       # bytes: datagrams are not worth waiting for
    FILE_PIECE = 98304                  # bytes of one read: of 32 to 256 KiB what costs least (docs/performance.md)


cdef struct file_part:
    int fd
    off_t offset
    int error


cdef size_t read_file(uint8_t *room, size_t n, void *argp) noexcept nogil:
    cdef file_part *part = <file_part *>argp
    cdef ssize_t got
    while True:
        got = pread(part.fd, room, n, part.offset)
        if got >= 0:
            return got
        if errno != EINTR:
            part.error = errno
            return 0


cdef int no_setting(uint64_t identifier, uint64_t value, void *argp) noexcept nogil:
    return 0


cdef bint peer_stopped(int64_t rc) noexcept:
    """The peer sent STOP_SENDING. Once all else of the stream is over too, quiche does not know it any more."""
    return rc == QUICHE_H3_TRANSPORT_ERR_STREAM_STOPPED or rc == QUICHE_H3_TRANSPORT_ERR_INVALID_STREAM_STATE


cdef class Stream(RequestStream):
    """One request stream: the receiving and the sending half, each with its own end."""

    cpdef RequestProtocol protocol(self):
        return self.http3

    def send_datagram(self, bytes payload, bint capsules=False):
        """Sends an HTTP datagram of this request (RFC 9297): in a DATAGRAM frame, its quarter stream ID before it.

        Where the peer takes none and the stream speaks the capsule protocol (`capsules`), it goes as a capsule.
        """
        self.check_open()
        if self.id == <uint64_t>-1:
            raise WouldBlock("the request waits for stream credit")
        if self.http3.datagrams_enabled_by_peer:
            self.http3.send_datagram(encode_varint(self.id // 4) + payload)
            return
        if not capsules:
            if quiche_h3_for_each_setting(self.http3.h3, no_setting, NULL) < 0:
                raise WouldBlock("the peer's settings have not come yet")
            raise DatagramNotEnabled("the peer takes no HTTP datagrams")
        if len(payload) > MAX_DATAGRAM_CAPSULE:
            raise DatagramTooLarge(f"a datagram of {len(payload)} bytes: a capsule takes {MAX_DATAGRAM_CAPSULE}")
        if self.pending >= MAX_CAPSULES_PENDING:
            self.drop_datagram()
            raise WouldBlock("the stream takes no more now")
        self.enqueue(encode_capsule(0, payload))
        self.http3.counters.n.datagrams_sent += 1

    def drop_datagram(self):
        """Counts a datagram of this request that nobody took."""
        self.http3.counters.n.datagrams_dropped += 1

    # Priority (RFC 9218)

    @property
    def priority(self):
        """(urgency, incremental) that the client asks for."""
        return (DEFAULT_URGENCY, False) if self.asked is None else self.asked

    def take_last_priority_update(self):
        """The value of the last PRIORITY_UPDATE, once; None when there is none."""
        value, self.update = self.update, None
        return value

    def set_priority(self, int urgency, bint incremental):
        """Ranks the response, urgency 0 (first) to 7, whatever the client asks for."""
        if not 0 <= urgency <= 7:
            raise ValueError(f"urgency: {urgency} is not 0 to 7")
        self.ranked = True
        self.urgency = urgency
        self.incremental = incremental
        self.apply_priority()

    def send_priority_update(self, int urgency, bint incremental):
        """Asks the server to rank the response so (client)."""
        cdef quiche_h3_priority priority
        if not 0 <= urgency <= 7:
            raise ValueError(f"urgency: {urgency} is not 0 to 7")
        if self.http3.h3 == NULL:
            raise self.connection.ending()
        if self.http3.server or self.id == <uint64_t>-1:
            raise InvalidState("a client asks for a priority, once its request was sent")
        priority.urgency = urgency
        priority.incremental = incremental
        check_h3(quiche_h3_send_priority_update_for_request(
            self.http3.h3, self.connection.quic(), self.id, &priority))
        self.connection.touch()

    cdef int ask_priority(self, bytes value) except -1:
        self.asked = Priority.parse(value.decode("latin-1"))
        if not self.ranked:
            self.urgency, self.incremental = self.asked
            self.apply_priority()
        return 0

    cdef int apply_priority(self) except -1:
        """Tells quiche, which forgets it with each field section that is to be sent."""
        if self.sending and self.http3.h3 != NULL:
            self.http3.any_incremental = self.http3.any_incremental or self.incremental
            quiche_conn_stream_priority(self.connection.c.quic, self.id, URGENCY_OFFSET + self.urgency,
                                        self.incremental)
        return 0

    # Receiving

    def recv(self, Py_ssize_t n=SCRATCH):
        """Up to `n` bytes of the body that are there now; empty when there are none yet, or no more."""
        cdef ssize_t got
        cdef bytes data
        if self.http3.h3 == NULL or not self.receiving or n <= 0:
            return b""
        got = quiche_h3_recv_body(self.http3.h3, self.connection.c.quic, self.id, scratch, min(n, SCRATCH))
        # Before anything else: the call below runs Python, where another loop's thread may take over and fill `scratch`.
        data = PyBytes_FromStringAndSize(<char *>scratch, got) if got > 0 else b""
        # Flow control credit goes out, and what follows is seen, in the turn that this asks for. Also when there was
        # nothing: an empty DATA frame was passed, and the trailers behind it wait for the next poll.
        self.connection.touch()
        if got <= 0:
            return b""
        self.bytes_received += got
        self.http3.counters.n.body_bytes_received += got
        return data

    def stop_receiving(self, uint64_t code=0x100):
        """Tells the peer that the rest of its body is not wanted (STOP_SENDING)."""
        if self.id == <uint64_t>-1:  # not sent yet: then it never need be
            self.reset(code)
        elif self.http3.h3 != NULL and self.receiving:
            self.receiving = False
            self.broken = True
            quiche_conn_stream_shutdown(self.connection.c.quic, self.id, QUICHE_SHUTDOWN_READ, code)
            self.connection.touch()
            self.settle()

    # Sending

    cpdef send_headers(self, list pairs, bint fin=False):
        """Sends a field section: (name, value) bytes. A final one goes first, interim ones (1xx) before it."""
        self.check_open()
        if self.pending or self.head is not None:
            raise InvalidState("a field section must not follow a body")
        if self.send_head(pairs, fin):
            self.head = (pairs, fin)
        self.connection.touch()

    cdef int send_head(self, list pairs, bint fin) except -1:
        """1: no credit for it now, the stream turns up as writable later."""
        cdef quiche_h3_header fields[HEADERS_OUT_ROOM]
        cdef section_facts facts
        cdef int64_t rc
        cdef Py_ssize_t i, n = fill_fields(fields, pairs, &facts)
        cdef bint final = not self.http3.server or n == 0 or fields[0].value[0] != 49  # no 1xx
        if final and self.http3.keeps_lengths:
            self.announced = announced_length(fields, facts.lengths)
            if self.http3.server and self.announced >= 0:
                self.not_modified = memcmp(fields[0].value, b"304", fields[0].value_len) == 0
            if fin:
                self.check_length(0, True)
        if final and self.http3.dated and not facts.dated:
            fill_date(&fields[n])
            n += 1
        if not self.http3.server:
            rc = quiche_h3_send_request(self.http3.h3, self.connection.c.quic, fields, n, fin)
            if rc >= 0:
                self.id = rc
        elif self.head_sent:
            rc = quiche_h3_send_additional_headers(
                self.http3.h3, self.connection.c.quic, self.id, fields, n, False, fin)
        else:
            rc = quiche_h3_send_response(self.http3.h3, self.connection.c.quic, self.id, fields, n, fin)
        if self.http3.server and (self.urgency != DEFAULT_URGENCY or self.incremental):
            self.apply_priority()  # also where it is blocked: in its turn it is to be asked again
        if rc == QUICHE_H3_ERR_STREAM_BLOCKED or rc == QUICHE_H3_TRANSPORT_ERR_STREAM_LIMIT:
            return 1
        self.head = None
        if peer_stopped(rc):
            self.stopped(CANCELLED)  # quiche has forgotten the true code by now
            return 0
        if rc < 0:
            check_h3(rc)
        self.head_sent = True
        if self.http3.server and n > 0:
            i = fields[0].value[0] - 48  # the status comes first
            if 1 <= i <= 5:
                self.http3.counters.n.responses[i] += 1
        if fin:
            self.sent_fin()
        return 0

    cdef int check_length(self, Py_ssize_t more, bint fin) except -1:
        """Raises InvalidState where `more` bytes of body are not what was announced (RFC 9114 4.1.2)."""
        cdef int64_t left
        if self.announced < 0:
            return 0
        left = self.announced - <int64_t>self.bytes_sent - self.pending - more
        if left >= 0 and (left == 0 or not fin):
            return 0
        # RFC 9110 8.6: here it is the length of a body that is not sent.
        if left > 0 and self.bytes_sent == 0 and more == 0 and self.http3.server and (
                self.fields.method == b"HEAD" or self.not_modified):
            return 0
        raise InvalidState(
            f"the body is {'shorter' if left > 0 else 'longer'} than its content-length, which is {self.announced}")

    cdef Py_ssize_t send_body(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2:
        """Bytes taken; -1 when nothing can be taken now. A stopped stream takes everything, and drops it."""
        cdef Py_ssize_t taken = self.count_taken(
            quiche_h3_send_body(self.http3.h3, self.connection.c.quic, self.id, data, n, fin), n)
        if fin and taken == n and self.sending:
            self.sent_fin()
        return taken

    cdef Py_ssize_t count_taken(self, ssize_t rc, Py_ssize_t n) except -2:
        """What `send_body()` returns, by what quiche has returned for `n` bytes."""
        if rc == QUICHE_H3_ERR_DONE or rc == QUICHE_H3_TRANSPORT_ERR_DONE:
            return -1
        if peer_stopped(rc):
            self.stopped(CANCELLED)  # quiche has forgotten the true code by now
            return n
        if rc < 0:
            check_h3(rc)
        self.bytes_sent += rc
        self.http3.counters.n.body_bytes_sent += rc
        return rc

    cdef bint may_write(self, Py_ssize_t size) except -1:
        """Whether nothing waits before a body of so many bytes more. Raises what stands in their way for good."""
        self.check_open()
        if self.pending or self.head is not None or not self.head_sent:
            self.blocked = size > 0
            return False
        self.check_length(size, False)
        return True

    def write(self, const uint8_t[::1] data):
        """Gives quiche what it takes of `data` now. Returns the number of bytes, 0 when something waits before them."""
        cdef Py_ssize_t n, sent = 0, size = data.shape[0]
        if not self.may_write(size):
            return 0
        while sent < size:
            n = self.send_body(&data[sent], size - sent, False)
            if n < 0:
                break
            sent += n
        self.blocked = sent < size
        if sent:
            self.connection.touch()
        return sent

    cpdef Py_ssize_t write_file(self, int fd, int64_t offset, Py_ssize_t size) except -1:
        """As `write()`, of `size` bytes of a file, which are read where quiche keeps them.

        Raises OSError, and EOFError where the file has ended before.
        """
        cdef file_part part = file_part(fd, offset, 0)
        cdef Py_ssize_t n, sent = 0
        if not self.may_write(size):
            return 0
        while sent < size:
            n = self.count_taken(quiche_h3_conn_send_body_with(
                self.http3.h3, self.connection.c.quic, self.id, min(size - sent, FILE_PIECE), read_file, &part),
                size - sent)
            if n < 0:
                break
            if n == 0:
                raise OSError(part.error, os.strerror(part.error)) if part.error else EOFError()
            part.offset += n
            sent += n
        self.blocked = sent < size
        if sent:
            self.connection.touch()
        return sent

    cpdef enqueue(self, bytes data, bint fin=False):
        """Sends `data` now as far as it goes; keeps a reference to the rest and sends that when credit comes."""
        cdef Py_ssize_t n, sent = 0, size = PyBytes_GET_SIZE(data)
        self.check_open()
        self.check_length(size, fin)
        if not self.pending and self.head is None and self.head_sent and (size or fin):
            while True:
                n = self.send_body(<const uint8_t *>PyBytes_AS_STRING(data) + sent, size - sent, fin)
                if n > 0:
                    sent += n
                if n < 0 or sent == size:
                    break
            if sent == size and (n >= 0 or not fin):
                self.connection.touch()
                return
        if sent < size:
            self.queue_rest(data, sent)
        self.fin_queued = fin
        if self.head_sent or self.head is not None:
            self.connection.touch()

    cpdef finish(self, list trailers=None):
        """Ends the sending half after what is queued, with trailers when given."""
        self.check_open()
        if trailers is None:
            self.enqueue(b"", True)
            return
        if len(trailers) > MAX_HEADERS_OUT:
            raise InvalidState(f"a field section has at most {MAX_HEADERS_OUT} fields")
        for name, value in trailers:
            if not (isinstance(name, bytes) and isinstance(value, bytes)):
                raise TypeError("field names and values are bytes")
        self.check_length(0, True)
        self.trailers = trailers
        if self.head_sent:
            self.pump()
        self.connection.touch()

    cdef int pump(self) except -1:
        """Sends what waits: the field section, the queue, then trailers or the FIN."""
        cdef bint had = self.pending > 0 or self.head is not None or self.blocked
        if self.head is not None:
            pairs, fin = self.head
            if self.send_head(pairs, fin):
                return 0
        if not self.send_queue():
            return 0
        if self.trailers is not None:
            self.send_trailers()
            return 0
        if self.fin_queued:
            self.send_body(EMPTY, 0, True)
        elif had:
            self.blocked = False
            if self.handler is not None:
                self.handler.on_drained()
        return 0

    cdef int send_trailers(self) except -1:
        cdef quiche_h3_header fields[MAX_HEADERS_OUT]
        cdef section_facts facts
        cdef Py_ssize_t n = fill_fields(fields, self.trailers, &facts)
        cdef int rc
        rc = quiche_h3_send_additional_headers(
            self.http3.h3, self.connection.c.quic, self.id, fields, n, True, True)
        if rc == QUICHE_H3_ERR_STREAM_BLOCKED:
            return 0
        if peer_stopped(rc):
            self.stopped(CANCELLED)  # quiche has forgotten the true code by now
            return 0
        check_h3(rc)
        return self.sent_fin()

    cdef int sent_fin(self) except -1:
        self.sending = False
        self.fin_queued = False
        self.trailers = None
        if self.http3.refuse_from >= 0:
            self.http3.unacknowledged.append(self.id)
        handler = self.handler
        if handler is not None:
            handler.on_sent()
        return self.settle()

    cdef int stopped(self, uint64_t code) except -1:
        """STOP_SENDING came: the peer wants no more of what we send."""
        if not self.sending:
            return 0
        self.http3.counters.n.resets_received += 1
        self.http3.charge_reset()
        self.drop_sending()
        if self.handler is not None:
            self.handler.on_stopped(code)
        return self.settle()

    cdef int drop_sending(self) except -1:
        """What is queued goes, and our half is reset if it was not yet."""
        self.empty_queue()
        self.head = None
        self.trailers = None
        self.fin_queued = False
        if self.sending:
            self.sending = False
            self.broken = True
            quiche_conn_stream_shutdown(self.connection.c.quic, self.id, QUICHE_SHUTDOWN_WRITE, CANCELLED)
        return 0

    def reset(self, uint64_t code):
        """Gives the stream up in both directions (RESET_STREAM and STOP_SENDING with `code`)."""
        self.empty_queue()
        self.head = None
        if self.http3.h3 == NULL or self.id == <uint64_t>-1:
            self.sending = self.receiving = False
            self.connection.touch()  # the turn drops it from those that wait for credit
            return
        self.http3.counters.n.resets_sent += 1
        self.http3.charge_reset()
        if self.receiving:
            quiche_conn_stream_shutdown(self.connection.c.quic, self.id, QUICHE_SHUTDOWN_READ, code)
        if self.sending:
            quiche_conn_stream_shutdown(self.connection.c.quic, self.id, QUICHE_SHUTDOWN_WRITE, code)
        self.sending = self.receiving = False
        self.broken = True
        self.connection.touch()
        self.settle()

    def reset_after_turn(self, uint64_t code):
        """The same in the next turn: what was sent until now goes out before, where there is room for it."""
        self.http3.resetting.append((self, code))
        self.connection.touch()

    cdef int settle(self) except -1:
        """Both halves are over: nothing refers to the stream any more but its handler."""
        if self.sending or self.receiving or self.http3.h3 == NULL:
            return 0
        if self.broken:  # HTTP/3 has not seen how it ended, and would keep its state for ever
            quiche_h3_conn_stream_discard(self.http3.h3, self.connection.c.quic, self.id)
        self.http3.streams.pop(self.id, None)
        return 0
