"""How connections begin: a client's first packet is answered without one or becomes one; our own are opened.

Whoever is let in enters the books: the endpoint's connections, the routes of its packets, the admission's counts.
"""

import logging
import os

from libc.string cimport memcpy
from quiche_h3._core.admission cimport ADMIT, DEMAND_RETRY, REFUSE, verdict
from quiche_h3._core.connection cimport PREFERENCE_SETTLED, PREFERENCE_UNKNOWN
from quiche_h3._core.libc_net cimport sockaddr, sockaddr_storage, socklen_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.stateless cimport PACKET_INITIAL, PACKET_SHORT
from quiche_h3._core.udp cimport to_sockaddr

from quiche_h3.errors import QuicheH3Error

log = logging.getLogger("quiche_h3.quic")


cdef class Opening:
    """The beginnings of one endpoint's connections."""

    def __init__(self, EngineSettings settings, StatelessAnswers answers, Routes routes, *, server):
        self.settings = settings
        self.answers = answers
        self.routes = routes
        self.admission = Admission(settings.config, server=server)
        self.server = server
        self.connections = {}
        self.next_id = 1

    cdef Connection meet(self, udp_socket *u, udp_message *m, packet_header *h, uint8_t *data, size_t n, uint64_t now):
        """A server's packet for no known connection: a new one, a stateless answer, or nothing."""
        if h.type == PACKET_SHORT and h.version == 0:
            self.n.unknown_dropped += 1
            self.answers.reset(u, m, h, n, now)
        elif n < QUICHE_MIN_CLIENT_INITIAL_LEN:  # RFC 9000 6.1, 17.2.1: of whatever version and type
            self.n.short_initials_dropped += 1
        elif h.version not in self.settings.versions:
            self.answers.negotiate_version(u, m, h, now)
        elif h.type != PACKET_INITIAL or h.dcid_len < 8 or h.dcid_len > 20 or h.scid_len > 20:
            self.n.unknown_dropped += 1
        elif self.refusing:
            self.admission.n.refused += 1
            self.answers.refuse(u, m, h, data, n, now)
        else:
            return self.admit(u, m, h, data, n, now)
        return None

    cdef Connection admit(self, udp_socket *u, udp_message *m, packet_header *h, uint8_t *data, size_t n, uint64_t now):
        """Asks the admission about a client's first packet, and does as it says."""
        cdef bytes dcid = h.dcid[:h.dcid_len]
        cdef bytes odcid
        cdef Host host = self.admission.host_of(&m.peer, now)
        cdef verdict answer
        if now >= self.settings.tickets_until:
            self.settings.rotate_tickets(now)
        address = (<uint8_t *>&m.peer)[:m.peer_len]
        odcid = self.answers.open_retry(h, address, dcid)
        answer = self.admission.judge(host, len(self.connections), odcid is not None, now)
        if answer == ADMIT:
            return self.accept(u, m, host, dcid, odcid, now)
        if answer == DEMAND_RETRY:
            self.answers.retry(u, m, h, dcid, address, now)
        elif answer == REFUSE:
            self.answers.refuse(u, m, h, data, n, now)
        return None

    cdef Connection accept(self, udp_socket *u, udp_message *m, Host host, bytes dcid, bytes odcid, uint64_t now):
        """A new connection; `odcid` is its first destination connection ID where a Retry came between."""
        cdef Connection conn = Connection.__new__(Connection)
        # After a Retry the client already uses the connection ID we chose then.
        cdef bytes scid = self.answers.fresh_cid() if odcid is None else dcid
        cdef bytes reset_token = self.answers.reset_token(scid)
        quiche_config_set_stateless_reset_token(self.settings.quic, reset_token)
        conn.c.quic = quiche_accept(
            scid, len(scid), <const uint8_t *>odcid if odcid is not None else NULL,
            len(odcid) if odcid is not None else 0,
            <sockaddr *>&m.local, m.local_len, <sockaddr *>&m.peer, m.peer_len, self.settings.quic)
        if conn.c.quic == NULL:
            self.admission.n.refused += 1
            return None
        conn.host = host
        memcpy(&conn.c.peer, &m.peer, m.peer_len)
        memcpy(&conn.c.local, &m.local, m.local_len)
        conn.c.preferred = PREFERENCE_SETTLED
        self.adopt(conn, u, now)
        self.n.accepted += 1
        if not (self.routes.add(&conn.c, scid) and (odcid is not None or self.routes.add(&conn.c, dcid))):
            conn.c.given_up = conn.c.closing = True  # there is no memory for what it needs
        elif self.settings.preferred:
            self.prefer_address(&conn.c)
        return conn

    cdef int prefer_address(self, conn_t *c) except -1:
        """Tells the client where we want it to go, with the connection ID that it is to use there."""
        cdef bytes cid = self.answers.fresh_cid()
        cdef bytes token = self.answers.reset_token(cid)
        cdef bytes v4 = self.settings.preferred_v4, v6 = self.settings.preferred_v6
        if quiche_h3_conn_set_preferred_address(
                c.quic, <const uint8_t *>v4 if v4 is not None else NULL,
                <const uint8_t *>v6 if v6 is not None else NULL, cid, len(cid), token):
            self.routes.add(c, cid)
        return 0

    cdef Connection connect(self, udp_socket *u, peer, bytes name, bytes ticket, uint64_t now):
        """A client's connection from a socket to `peer` (host, port)."""
        cdef Connection conn = Connection.__new__(Connection)
        cdef sockaddr_storage to
        cdef socklen_t to_len = to_sockaddr(peer[0], peer[1], &to)
        cdef bytes scid = self.answers.fresh_cid()
        conn.c.quic = quiche_connect(
            <const char *>name if name is not None else NULL, scid, len(scid), <sockaddr *>&u.bound,
            u.bound_len, <sockaddr *>&to, to_len, self.settings.quic)
        if conn.c.quic == NULL:
            raise QuicheH3Error(f"no connection to {peer[0]} port {peer[1]} could be made")
        memcpy(&conn.c.peer, &to, to_len)
        memcpy(&conn.c.local, &u.bound, u.bound_len)
        conn.c.preferred = PREFERENCE_UNKNOWN if self.settings.use_preferred else PREFERENCE_SETTLED
        self.adopt(conn, u, now)
        self.routes.add(&conn.c, scid)
        if ticket is not None:
            quiche_conn_set_session(conn.c.quic, ticket, len(ticket))
        return conn

    cdef int adopt(self, Connection conn, udp_socket *u, uint64_t now) except -1:
        """A new connection enters the books: half-open, with its logs."""
        conn.settings = self.settings
        conn.c.owner = <void *>conn
        conn.c.sock = u
        conn.c.created_at = now
        if self.settings.keylog is not None or self.settings.qlog_dir is not None:
            self.start_logs(conn)
        conn.id = self.next_id
        self.next_id += 1
        self.connections[conn.id] = conn
        self.admission.began(conn.host)
        return 0

    cdef int start_logs(self, Connection conn) except -1:
        """Key log and qlog. Where they cannot be had the connection goes without: counted, and said once."""
        cdef const uint8_t *trace = NULL
        cdef size_t trace_len = 0
        problem = None
        if self.settings.keylog is not None:
            try:
                quiche_h3_conn_set_keylog(conn.c.quic, os.dup(self.settings.keylog.fileno()), &conn.c.log_failed)
            except OSError as error:
                problem = f"key log: {error.strerror}"
        if self.settings.qlog_dir is not None:
            quiche_conn_trace_id(conn.c.quic, &trace, &trace_len)
            name = f"{'server' if self.server else 'client'}-{(<bytes>trace[:trace_len]).decode('ascii')}.sqlog"
            path = os.path.join(self.settings.qlog_dir, name)
            if not quiche_h3_conn_set_qlog(conn.c.quic, os.fsencode(path), b"quiche_h3", name.encode("ascii"),
                                           &conn.c.log_failed):
                problem = f"the qlog file {path} could not be opened"
        if problem is not None:
            self.log_failed(&conn.c, problem)
        return 0

    cdef int log_failed(self, conn_t *c, str problem="a key log or qlog could not be written") except -1:
        """A connection goes on without the rest of its logs."""
        if self.n.log_failures == 0:
            log.warning("%s: such connections go without, which is counted and not said again", problem)
        if not c.log_failure_told:
            self.n.log_failures += 1
        c.log_failure_told = True
        return 0
