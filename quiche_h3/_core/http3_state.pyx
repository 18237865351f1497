"""The HTTP/3 state of one connection, as its streams see it: datagrams out, what they may cost, and GOAWAY."""

from libc.string cimport memset
from quiche_h3._core.libc_net cimport ssize_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.stateless cimport bucket_init, bucket_take
from quiche_h3._core.streams cimport EMPTY

from quiche_h3.errors import (
    DatagramNotEnabled, DatagramTooLarge, QuicheH3Error, WouldBlock, check_quic,
)


cdef class Http3Counters:
    """HTTP/3 counters, shared by the connections of one server or client."""

    def __cinit__(self):
        memset(&self.n, 0, sizeof(self.n))

    def as_dict(self):
        out = dict(self.n)
        out["responses"] = {f"{i}xx": self.n.responses[i] for i in range(1, 6)}
        return out


cdef class Claims:
    cdef bint service(self) except -1:
        return False

    cdef bint writable(self, uint64_t stream_id) except -1:
        return False

    cdef bint datagram(self, const uint8_t *data, Py_ssize_t n) except -1:
        return False

    cdef int drain(self) except -1:
        return 0

    cdef int closed(self) except -1:
        return 0


cdef class Http3State(RequestProtocol):
    def __cinit__(self, Connection connection not None, *args, **kwargs):
        if connection.c.quic == NULL:
            raise QuicheH3Error("the connection is closed")
        self.h3 = quiche_h3_conn_new_with_transport(connection.c.quic, connection.settings.h3)
        if self.h3 == NULL:
            raise QuicheH3Error("HTTP/3 could not be started on the connection")

    cdef int begin(self, Connection connection, app, Http3Limits limits, Http3Counters counters, bint server) except -1:
        self.app = app
        self.limits = limits
        self.counters = counters
        self.server = server
        self.keeps_lengths = True
        self.dated = server and connection.settings.config.date_header
        self.announced_datagrams = connection.settings.config.enable_dgram
        self.refuse_from = -1
        self.resetting = []
        if server:
            config = connection.settings.config
            bucket_init(&self.resets, config.stream_resets_per_second, config.stream_resets_burst, connection.c.now)
            updates = config.priority_updates_per_second
            bucket_init(&self.updates, updates, 10 * updates, connection.c.now)
        return 0

    def __dealloc__(self):
        if self.h3 != NULL:
            quiche_h3_conn_free(self.h3)
            self.h3 = NULL

    cpdef send_datagram(self, bytes payload):
        """Queues a QUIC DATAGRAM (RFC 9221). Raises a DatagramError when it cannot be taken."""
        cdef ssize_t rc, limit
        if self.h3 == NULL:
            raise self.connection.ending()
        if not self.announced_datagrams:
            raise DatagramNotEnabled("datagrams are disabled: enable_dgram is False")
        limit = quiche_conn_dgram_max_writable_len(self.connection.quic())
        if limit < 0:
            raise DatagramNotEnabled("the peer takes no datagrams")
        if len(payload) > limit:
            raise DatagramTooLarge(f"a datagram of {len(payload)} bytes: this path takes {limit}")
        rc = quiche_conn_dgram_send(self.connection.c.quic, <const uint8_t *>payload if payload else EMPTY, len(payload))
        if rc == QUICHE_ERR_DONE:
            self.counters.n.datagrams_dropped += 1
            raise WouldBlock("the datagram queue is full")
        if rc < 0:
            check_quic(rc)
        self.counters.n.datagrams_sent += 1
        self.connection.touch()

    @property
    def datagrams_enabled_by_peer(self):
        """HTTP datagrams may be sent: both sides announced them (RFC 9297 2.1.1)."""
        return self.announced_datagrams and self.h3 != NULL and quiche_h3_dgram_enabled_by_peer(self.h3, self.connection.c.quic)

    cdef int charge_reset(self) except -1:
        """Streams given up cost the peer nothing, and us a request: a server takes so many, whoever gives them up.

        A peer can make us reset, too (CVE-2025-8671).
        """
        if not self.server or self.flooded or bucket_take(&self.resets, self.connection.c.now):
            return 0
        self.counters.n.reset_floods += 1
        return self.flood()

    cdef int flood(self) except -1:
        """It was too much: no event is looked at any more, so that no handler starts.

        GOAWAY goes out in this turn, H3_EXCESSIVE_LOAD in the next.
        """
        self.flooded = True
        self.goaway()
        self.connection.touch()
        return 0

    # Shutdown

    cpdef goaway(self):
        """Announces that requests not yet seen will not be processed (RFC 9114 5.2)."""
        if self.h3 == NULL or self.refuse_from >= 0:
            return
        self.refuse_from = self.highest_request
        if self.claims is not None:
            self.claims.drain()
        # The peer may have no more streams open than it was granted, and few gaps between them.
        self.wait_for_acknowledgements(
            self.refuse_from - 8 * self.connection.settings.config.initial_max_streams_bidi, self.refuse_from)
        self.send_goaway()

    cdef int send_goaway(self) except -1:
        """Sends the GOAWAY as soon as the congestion window takes it."""
        if quiche_h3_send_goaway(self.h3, self.connection.c.quic, self.refuse_from) == 0:
            self.goaway_sent = True
            self.counters.n.goaways_sent += 1
            self.connection.touch()
        return 0
