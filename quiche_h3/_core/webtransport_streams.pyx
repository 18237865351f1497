"""A WebTransport stream, and what it needs of its session and of its connection.

The layer above derives its streams from `StreamBase`, and hears of what happens by these calls:

stream._readable()                      `wanted` is set, and there is something to read
stream._drained()                       `watched` is set, and everything queued was taken by quiche
stream._was_reset(code)                 the peer reset its half; a code as it was on the wire
stream._was_stopped(code)               STOP_SENDING: the peer wants no more of what we send
stream._over()                          both halves have ended, or the session has
"""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memset
from quiche_h3._core.flow_control cimport SessionFlow
from quiche_h3._core.http3_state cimport Claims
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.streams cimport CANCELLED, EMPTY, SCRATCH, scratch

from quiche_h3.errors import StreamClosed, check_quic
from quiche_h3.webtransport_codes import from_wire

cdef enum:
    MAX_RESET_CODES = 64


cdef class WebTransportCounters:
    """WebTransport counters, shared by the connections of one server or client."""

    def __cinit__(self):
        memset(&self.n, 0, sizeof(self.n))
        self.reset_codes = {}

    def reject(self):
        """A CONNECT that became no session."""
        self.n.sessions_rejected += 1

    def as_dict(self):
        return {**self.n, "reset_codes": dict(self.reset_codes)}

    cdef int note_reset(self, uint64_t code) except -1:
        self.n.resets_received += 1
        app = from_wire(code)
        key = f"0x{code:x}" if app is None else str(app)
        if key not in self.reset_codes and len(self.reset_codes) >= MAX_RESET_CODES:
            key = "other"
        self.reset_codes[key] = self.reset_codes.get(key, 0) + 1
        return 0


cdef class Carrier(Claims):
    """The connection, as its sessions and streams see it."""

    cdef quiche_conn *quic(self) except? NULL:
        return self.http3.connection.quic()

    cdef int reset_late(self) except -1:
        """Resets the streams that were given up before their headers could be sent, as soon as those are."""
        cdef uint64_t stop = 0
        cdef ssize_t sent
        cdef bytes rest
        for stream_id, (rest, code, header) in list(self.late_resets.items()):
            sent = quiche_conn_stream_send(
                self.quic(), stream_id, <const uint8_t *>PyBytes_AS_STRING(rest), len(rest), False, &stop)
            if sent == QUICHE_ERR_DONE:
                continue
            if 0 <= sent < len(rest):
                self.late_resets[stream_id] = (rest[sent:], code, header)
                continue
            del self.late_resets[stream_id]  # also one that the peer has stopped: quiche has reset it
            if sent >= 0:
                quiche_h3_conn_stream_reset_at(self.quic(), stream_id, code, header)
        return 0

    cdef int enter(self, StreamOwner session) except -1:
        return 0

    cdef int leave(self, StreamOwner session) except -1:
        return 0


cdef class StreamOwner:
    """The session, as its streams see it."""

    cdef int give_credit(self) except -1:
        cdef bytes capsules = self.flow.grants()
        if capsules:
            self._send_capsule(capsules)
        return 0


cdef class StreamBase:
    """One stream: the receiving and the sending half, each with its own end."""

    def __cinit__(self, StreamOwner session not None):
        self.session = session

    # Receiving

    def recv(self, Py_ssize_t n=SCRATCH):
        """Up to `n` bytes that are there now; empty when there are none yet, or no more."""
        cdef c_bool fin = False
        cdef uint64_t code = 0
        cdef ssize_t got
        cdef Carrier transport = self.session.transport
        if not self.receiving or n <= 0 or transport.quic() == NULL or not self.count_arrived():
            return b""
        got = quiche_conn_stream_recv(transport.http3.connection.c.quic, self.id, scratch, min(n, SCRATCH), &fin, &code)
        if got < 0:
            self.broke(got, code)
            return b""
        # First of all: touch() runs Python, where another loop's thread may take over and fill `scratch`.
        data = PyBytes_FromStringAndSize(<char *>scratch, got)
        transport.http3.connection.touch()  # flow control credit goes out, and more of the stream is seen, in a turn
        self.bytes_received += got
        self.session.n.bytes_received += got
        transport.counters.n.bytes_received += got
        if self.session.flow is not None:
            self.session.flow.consume(got)
            self.session.give_credit()
        if fin:
            self.receiving = False
            self.settle()
        return data

    cdef int arrived(self) except -1:
        """There is something to read. When nobody wants it, it is only looked at whether it is the end."""
        cdef c_bool fin = False
        cdef uint64_t code = 0
        cdef ssize_t got
        cdef quiche_conn *quic = self.session.transport.http3.connection.c.quic
        if not self.receiving or not self.count_arrived():
            return 0
        if self.wanted:
            self._readable()
        elif quiche_conn_stream_finished(quic, self.id):  # a FIN without data before it, or a reset
            got = quiche_conn_stream_recv(quic, self.id, scratch, sizeof(scratch), &fin, &code)
            if got < 0:
                self.broke(got, code)
            elif fin:
                self.receiving = False
                self.settle()
        return 0

    cdef bint count_arrived(self) except -1:
        """Flow control of what has arrived, read or not (section 5.6.4). What lies behind a gap counts once that is
        closed. False: the peer had no credit for it, and the session is over.
        """
        cdef uint64_t read = 0, received = 0, more
        cdef SessionFlow flow = self.session.flow
        if flow is None or not quiche_h3_conn_stream_offsets(
                self.session.transport.http3.connection.c.quic, self.id, &read, &received):
            return True
        more = received - self.head - self.counted
        self.counted += more
        if more == 0 or flow.take_data(more):
            return True
        self.session._flow_error()
        return False

    cdef int cut_off(self, uint64_t unread) except -1:
        """The peer's half has ended before its end was read: what nobody will read is given back."""
        if self.session.flow is not None and self.session.open:
            self.session.flow.cut(unread)
            self.session.give_credit()
        return 0

    cdef int broke(self, ssize_t rc, uint64_t code) except -1:
        if rc == QUICHE_ERR_DONE:
            return 0
        self.receiving = False
        self.cut_off(self.counted - min(self.counted, self.bytes_received))  # up to the final size, which a reset tells
        self.session.transport.counters.note_reset(code)
        self._was_reset(code)
        return self.settle()

    def stop_receiving(self, uint64_t code):
        """STOP_SENDING with a code of HTTP/3."""
        if self.receiving and self.session.transport.quic() != NULL:
            self.receiving = False
            self.cut_off(self.session.transport.config.max_stream_window)  # nobody tells us how much it has sent
            self.session.transport.counters.n.resets_sent += 1
            quiche_conn_stream_shutdown(self.session.transport.quic(), self.id, QUICHE_SHUTDOWN_READ, code)
            self.session.transport.http3.connection.touch()
            self.settle()

    # Sending

    def check_sending(self):
        """Raises what stands in the way of sending."""
        self.session.check_open()
        if not self.sending or self.fin_queued:
            raise StreamClosed("the stream's sending half is closed")

    cdef int keep(self, bytes data) except -1:
        if self.queue is None:
            self.queue = deque()
        self.queue.append(data)
        self.pending += len(data)
        return 0

    def enqueue(self, bytes data, bint fin=False):
        """Sends `data` now as far as it goes; keeps a reference to the rest and sends that when it can."""
        cdef bint waits = self.pending > 0
        self.check_sending()
        if data:
            self.keep(data)
        self.fin_queued = fin
        if not waits:
            self.session.transport.quic()
            self.pump()
        self.session.transport.http3.connection.touch()

    cdef int pump(self) except -1:
        """Sends what waits, as far as the stream's share of this turn and its credit go, then the FIN."""
        cdef Carrier transport = self.session.transport
        cdef SessionFlow flow = self.session.flow
        cdef bytes data
        cdef Py_ssize_t n, sent
        cdef bint had = self.pending > 0
        if self.turn != transport.turn:
            self.turn = transport.turn
            self.share = transport.config.wt_write_quota_per_tick
        while self.pending and self.sending:
            if self.share <= 0:
                transport.starved.append(self)
                transport.http3.connection.touch()
                return 0
            data = self.queue[0]
            n = min(PyBytes_GET_SIZE(data) - self.offset, self.share)
            if flow is not None:
                n = min(<uint64_t>n, flow.room())
                if n == 0:
                    self.session._send_capsule(flow.blocked())
                    return 0
            sent = self.send_some(<const uint8_t *>PyBytes_AS_STRING(data) + self.offset, n,
                                  self.fin_queued and self.pending == n)
            if sent < 0 or not self.pending:
                return 0
            self.pending -= sent
            self.offset += sent
            self.share -= sent
            if self.offset == PyBytes_GET_SIZE(data):
                self.queue.popleft()
                self.offset = 0
                self.header_waits = False
        if not self.sending:
            return 0
        if self.fin_queued:
            self.send_some(EMPTY, 0, True)
        elif had and self.watched:
            self._drained()
        return 0

    cdef Py_ssize_t send_some(self, const uint8_t *data, Py_ssize_t n, bint fin) except -2:
        """Bytes taken; -1 when nothing can be taken now, or ever again."""
        cdef uint64_t code = 0
        cdef Carrier transport = self.session.transport
        cdef ssize_t rc = quiche_conn_stream_send(
            transport.http3.connection.c.quic, self.id, data, n, fin, &code)
        if rc == QUICHE_ERR_DONE:
            # Also of a stream that is over by a stop, and that quiche has forgotten since.
            rc = quiche_conn_stream_capacity(transport.http3.connection.c.quic, self.id)
            if rc != QUICHE_ERR_INVALID_STREAM_STATE:
                return -1
        if rc == QUICHE_ERR_STREAM_STOPPED or rc == QUICHE_ERR_INVALID_STREAM_STATE:
            self.was_stopped(code if rc == QUICHE_ERR_STREAM_STOPPED else CANCELLED)
            return -1
        if rc < 0:
            check_quic(rc)
        self.bytes_sent += rc
        if self.session.flow is not None:
            self.session.flow.sent += rc
        self.session.n.bytes_sent += rc
        transport.counters.n.bytes_sent += rc
        if fin and rc == n:
            self.sent_fin()
        return rc

    cdef int sent_fin(self) except -1:
        self.sending = False
        self.drop_queue()
        if self.watched:
            self._drained()
        return self.settle()

    cdef int was_stopped(self, uint64_t code) except -1:
        if not self.sending:
            return 0
        self.sending = False
        self.drop_queue()
        self.session.transport.counters.note_reset(code)
        self._was_stopped(code)
        return self.settle()

    def reset_sending(self, uint64_t code):
        """Resets with a code of HTTP/3: what is queued or not yet acknowledged may never arrive."""
        if self.sending and self.session.transport.quic() != NULL:
            self.sending = False
            self.session.transport.counters.n.resets_sent += 1
            self.shut_sending(code)
            self.drop_queue()
            self.session.transport.http3.connection.touch()
            self.settle()

    cdef int shut_sending(self, uint64_t code) except -1:
        """Section 4.4: the header arrives all the same, where the peer can do that."""
        cdef quiche_conn *quic = self.session.transport.quic()
        if not self.header or not quiche_h3_conn_reset_stream_at_negotiated(quic):
            quiche_conn_stream_shutdown(quic, self.id, QUICHE_SHUTDOWN_WRITE, code)
        elif self.header_waits:
            self.session.transport.late_resets[self.id] = (self.queue[0][self.offset:], code, self.header)
        else:
            quiche_h3_conn_stream_reset_at(quic, self.id, code, self.header)
        return 0

    cdef int drop_queue(self) noexcept:
        self.header_waits = False
        self.queue = None
        self.pending = 0
        self.offset = 0
        self.fin_queued = False
        return 0

    # Ending

    cdef int abort(self, uint64_t code) except -1:
        """The session is over, or the connection is gone."""
        cdef quiche_conn *quic = self.session.transport.quic()
        if self.session.transport.http3.h3 != NULL:
            if self.receiving:
                quiche_conn_stream_shutdown(quic, self.id, QUICHE_SHUTDOWN_READ, code)
            if self.sending:
                self.shut_sending(code)
        self.receiving = self.sending = False
        self.drop_queue()
        return self.settle()

    cdef int settle(self) except -1:
        """Both halves are over: nothing refers to the stream any more but the program."""
        if self.sending or self.receiving or self.session.streams.pop(self.id, None) is None:
            return 0
        self.session.transport.streams.pop(self.id, None)
        self.session.transport.counters.n.streams_active -= 1
        if self.incoming:
            self.session.incoming[0 if self.id & 2 else 1] -= 1
        if self.session.flow is not None and self.session.open:
            if self.incoming:
                self.session.flow.end_stream(not (self.id & 2))
            self.session.give_credit()
        self._over()
        return 0
