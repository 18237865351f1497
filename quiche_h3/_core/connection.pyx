"""A QUIC connection: what the application sees of it, and the owner of its C state."""

import time

from libc.stdlib cimport free
from libc.string cimport memset
from quiche_h3._core.libc_net cimport AF_INET, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.udp cimport address_of, to_sockaddr

from quiche_h3.errors import ConnectionClosed, check_quic


cdef socklen_t sockaddr_len(const sockaddr_storage *a) noexcept:
    return sizeof(sockaddr_in) if a.ss_family == AF_INET else sizeof(sockaddr_in6)


cdef class Protocol:
    cdef bint service(self) except -1:
        return False

    cdef int closed(self) except -1:
        return 0


cdef class Watch:
    cdef uint64_t look(self, uint64_t now) except 0:
        return now + self.tick_ns


cdef class Gate:
    cdef int wait(self) except -1:
        while self.shut:
            time.sleep(0.00005)
        return 0


cdef class Connection:
    """One QUIC connection, server or client side.

    `state` is the program's own: anything may be kept there, it lives as long as the connection object.
    """

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))

    def __dealloc__(self):
        # The protocol object freed its C state before: it holds the only other pointer into `quic`.
        if self.c.quic != NULL:
            quiche_conn_free(self.c.quic)
            self.c.quic = NULL
        free(self.c.held)
        free(self.c.held_info)

    cdef quiche_conn *quic(self) except? NULL:
        """The connection's C state, safe to use until the GIL is given up; NULL once it is gone."""
        if self.gate is not None and self.gate.shut:
            self.gate.wait()
        return self.c.quic

    cdef int release(self) except -1:
        """Frees the C state, HTTP/3 first. Called once by the endpoint when the connection is closed."""
        self._ended_by = self.ended_by()
        if self.protocol is not None:
            self.protocol.closed()
            self.protocol = None
        self.watch = None
        quiche_conn_free(self.c.quic)
        self.c.quic = NULL
        free(self.c.held)
        free(self.c.held_info)
        self.c.held = NULL
        self.c.held_info = NULL
        self._endpoint = None
        return 0

    cdef object ending(self):
        """ConnectionClosed for a connection that is gone, also where nobody said why."""
        return self.close_reason or ConnectionClosed(False, 0, b"", False)

    cdef socklen_t local_len(self):
        return sockaddr_len(&self.c.local)

    cdef void touch(self):
        """Something was queued: the endpoint sends for this connection at the end of the turn."""
        if self.c.quic != NULL:
            self._endpoint.mark_dirty(self)

    @property
    def closed(self):
        """The connection is gone: nothing can be sent or received any more."""
        return self.c.quic == NULL

    @property
    def draining(self):
        """CONNECTION_CLOSE was sent or received: no more data flows (RFC 9000 10.2). True for a closed one too."""
        return self.quic() == NULL or quiche_conn_is_draining(self.c.quic)

    @property
    def established(self):
        """The handshake is complete."""
        return self.c.established

    @property
    def peer_address(self):
        """(host, port) of the peer; follows it when it migrates."""
        return address_of(&self.c.peer)

    @property
    def local_address(self):
        """(host, port) the connection arrived on."""
        return address_of(&self.c.local)

    @property
    def alpn(self):
        """The application protocol that was negotiated, e.g. ``"h3"``; empty before the handshake."""
        cdef const uint8_t *p = NULL
        cdef size_t n = 0
        if self.quic() == NULL:
            return ""
        quiche_conn_application_proto(self.c.quic, &p, &n)
        return p[:n].decode("ascii", "replace") if n else ""

    @property
    def server_name(self):
        """The name the client asked for (SNI), or an empty string."""
        cdef const uint8_t *p = NULL
        cdef size_t n = 0
        if self.quic() == NULL:
            return ""
        quiche_conn_server_name(self.c.quic, &p, &n)
        return p[:n].decode("utf-8", "replace") if n else ""

    @property
    def peer_certificate(self):
        """The peer's leaf certificate as DER bytes, or None."""
        cdef const uint8_t *p = NULL
        cdef size_t n = 0
        if self.quic() == NULL:
            return None
        quiche_conn_peer_cert(self.c.quic, &p, &n)
        return p[:n] if n else None

    @property
    def resumed(self):
        """The TLS session was resumed from an earlier one."""
        return self.quic() != NULL and quiche_conn_is_resumed(self.c.quic)

    @property
    def quic_version(self):
        """1 or 2 (RFC 9369), final once the handshake is complete; 0 when the connection is gone."""
        if self.quic() == NULL:
            return 0
        return 2 if quiche_h3_conn_version(self.c.quic) == QUICHE_H3_PROTOCOL_VERSION_2 else 1

    @property
    def in_early_data(self):
        """The handshake is not complete and 0-RTT data is being exchanged."""
        return self.quic() != NULL and quiche_conn_is_in_early_data(self.c.quic)

    @property
    def session(self):
        """What resumes the TLS session in a later connection (RFC 8446 4.6.1); None before a ticket came."""
        cdef const uint8_t *p = NULL
        cdef size_t n = 0
        if self.quic() == NULL:
            return None
        quiche_conn_session(self.c.quic, &p, &n)
        return p[:n] if n else None

    @property
    def migration_disabled(self):
        """The peer asks us not to migrate (RFC 9000 18.2, disable_active_migration).

        From its preferred address, if we are there, we may.
        """
        return (self.quic() != NULL and quiche_h3_conn_peer_disables_migration(self.c.quic)
                and not self.c.moved)

    def probe_path(self, local):
        """Begins to validate the path from `local` (host, port) to the peer (RFC 9000 8.2). Client only.

        `local` is the address of one of the endpoint's sockets. Raises QuicError, with OUT_OF_IDENTIFIERS while the
        peer has given no connection ID for another path.
        """
        cdef sockaddr_storage address
        cdef socklen_t n = to_sockaddr(local[0], local[1], &address)
        cdef uint64_t seq
        if self.quic() == NULL:
            raise self.ending()
        check_quic(quiche_conn_probe_path(
            self.c.quic, <sockaddr *>&address, n, <sockaddr *>&self.c.peer, sockaddr_len(&self.c.peer), &seq))
        self.touch()

    def path_validated(self, local):
        """The peer has answered on the path from `local`."""
        cdef sockaddr_storage address
        cdef socklen_t n = to_sockaddr(local[0], local[1], &address)
        return self.quic() != NULL and quiche_conn_is_path_validated(
            self.c.quic, <sockaddr *>&address, n, <sockaddr *>&self.c.peer, sockaddr_len(&self.c.peer)) == 1

    def migrate(self, local):
        """From now on everything goes by the path from `local` (RFC 9000 9.2). Raises QuicError. Client only."""
        cdef sockaddr_storage address
        cdef socklen_t n = to_sockaddr(local[0], local[1], &address)
        cdef uint64_t seq
        if self.quic() == NULL:
            raise self.ending()
        check_quic(quiche_conn_migrate_source(self.c.quic, <sockaddr *>&address, n, &seq))
        self.c.local = address
        if self.c.preferred == PREFERENCE_PROBED:
            self.c.preferred = PREFERENCE_UNKNOWN  # it is the way there from here that has to be validated now
            self.c.probe_at = self.c.probes = 0
        self.touch()

    @property
    def close_reason(self):
        """ConnectionClosed that tells how the connection ended, or None while nobody closed it."""
        ended = self.ended_by() if self.quic() != NULL else self._ended_by
        return None if ended is None else ConnectionClosed(*ended)

    cdef tuple ended_by(self):
        """What ConnectionClosed is made of, if somebody asks: an exception for each connection costs more than that."""
        cdef c_bool app = False
        cdef uint64_t code = 0
        cdef const uint8_t *reason = NULL
        cdef size_t n = 0
        if quiche_conn_peer_error(self.c.quic, &app, &code, &reason, &n):
            return bool(app), code, reason[:n] if n else b"", True
        if quiche_conn_local_error(self.c.quic, &app, &code, &reason, &n):
            return bool(app), code, reason[:n] if n else b"", False
        if quiche_conn_is_timed_out(self.c.quic):
            return False, 0, b"idle timeout", False
        return None

    def close(self, code=0x100, reason=b"", *, app=True):
        """Closes the connection with an application error code (default H3_NO_ERROR, 0x100).

        `reason` is text or bytes for the peer's log, at most 1,000 bytes. A second call changes nothing.
        With `app=False` the code is a QUIC transport error code (RFC 9000, section 20.1).
        """
        cdef bytes text = reason.encode() if isinstance(reason, str) else bytes(reason)
        cdef int rc
        if not 0 <= code < 1 << 62:
            raise ValueError("an error code is at least 0 and below 2**62")
        if len(text) > 1000:
            raise ValueError("a close reason has at most 1,000 bytes")
        if self.quic() == NULL:
            return
        rc = quiche_conn_close(self.c.quic, app, code, <const uint8_t *>text, len(text))
        if rc != QUICHE_ERR_DONE:
            check_quic(rc)
        self.c.closing = True  # nothing paces a close: the loop may end before its time came
        self.touch()

    def update_key(self):
        """Begins a key update (RFC 9001 6). Returns False where that is not allowed.

        That is before the handshake is confirmed, and until the previous update is over: three probe timeouts after
        the peer has answered it.
        """
        begun = self.quic() != NULL and quiche_h3_conn_update_key(self.c.quic)
        if begun:
            self.c.key_began = self.c.sent
            self.send_ping()  # tells the peer at once
        return begun

    def send_ping(self):
        """Sends an ack-eliciting packet, which keeps an idle connection alive."""
        if self.quic() != NULL:
            quiche_conn_send_ack_eliciting(self.c.quic)
            self.touch()

    def stats(self):
        """Packet, byte, loss, path and reset counters of the connection (RTTs in seconds). Empty once it is gone."""
        cdef quiche_stats s
        cdef quiche_path_stats p
        cdef uint64_t ce
        if self.quic() == NULL:
            return {}
        ecn = quiche_h3_conn_ecn(self.c.quic, &ce)
        quiche_conn_stats(self.c.quic, &s)
        out = {
            "quic_version": self.quic_version,
            "packets_received": s.recv,
            "packets_sent": s.sent,
            "packets_lost": s.lost,
            "packets_spurious_lost": s.spurious_lost,
            "packets_retransmitted": s.retrans,
            "bytes_received": s.recv_bytes,
            "bytes_sent": s.sent_bytes,
            "bytes_lost": s.lost_bytes,
            "datagrams_received": s.dgram_recv,
            "datagrams_sent": s.dgram_sent,
            "streams_reset_local": s.reset_stream_count_local,
            "streams_reset_remote": s.reset_stream_count_remote,
            "paths": s.paths_count,
            "ecn_congestion": ce,
            "ecn_failed": int(ecn == QUICHE_H3_ECN_FAILED),
        }
        for i in range(s.paths_count):
            if quiche_conn_path_stats(self.c.quic, i, &p) != 0:
                break
            if p.active:
                out.update(
                    rtt=p.rtt / 1e9, min_rtt=p.min_rtt / 1e9, rttvar=p.rttvar / 1e9, cwnd=p.cwnd,
                    pmtu=p.pmtu, delivery_rate=p.delivery_rate, pto_count=p.total_pto_count,
                )
                break
        return out

    def __repr__(self):
        host, port = self.peer_address
        state = "closed" if self.closed else "established" if self.established else "handshake"
        return f"<Connection {self.id} {host} port {port} {state}>"
