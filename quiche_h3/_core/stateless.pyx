"""What is answered to a packet of no connection: Version Negotiation, Retry, a stateless reset, a refusal.

Nothing is kept of the question. Each kind of answer has a bucket of its own, so that a flood earns no more than the
bucket gives, and every answer is smaller than what it answers (RFC 9000 8, 21.11).
"""

import os

from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from quiche_h3._core.libc_net cimport sockaddr, ssize_t
from quiche_h3._core.libquiche cimport *
from quiche_h3._core.udp cimport udp



cpdef bytes reset_token(bytes key, bytes cid):
    """The stateless reset token of one of our connection IDs (RFC 9000 10.3.2), by a key of 32 bytes.

    Each half is a pseudorandom function of the connection ID under a key of its own. Every connection needs some of
    them: this costs a tenth of a BLAKE2, which costs a tenth of an HMAC.
    """
    cdef const uint8_t *k = <const uint8_t *>PyBytes_AS_STRING(key)
    cdef const uint8_t *id = <const uint8_t *>PyBytes_AS_STRING(cid)
    cdef uint64_t half
    cdef uint8_t token[16]
    cdef int i
    if len(key) != 32:
        raise ValueError("the key of stateless reset tokens has 32 bytes")
    for i in range(2):
        half = siphash(k + 16 * i, id, len(cid))
        sip_store(token + 8 * i, half)
    return token[:16]


cdef class StatelessAnswers:
    """The answers of one endpoint, with the keys of their tokens and the source of its connection IDs."""

    def __init__(self, EngineSettings settings, uint64_t now, *, server):
        config = settings.config
        self.random_pool = b""
        self.take_settings(settings)
        if server:
            self.configure(config, now)

    def take_settings(self, EngineSettings settings):
        """Takes other certificates and keys."""
        self.settings = settings
        self.keys = settings.keys
        self.reset_key = settings.keys.reset_key

    def configure(self, config, uint64_t now):
        """Takes the rates of `config`; the buckets are full."""
        bucket_init(&self.negotiations, config.version_negotiations_per_second,
                    2 * config.version_negotiations_per_second, now)
        bucket_init(&self.retries, config.retries_per_second, 2 * config.retries_per_second, now)
        bucket_init(&self.resets, config.stateless_resets_per_second, 2 * config.stateless_resets_per_second, now)
        bucket_init(&self.refusals, config.refusals_per_second, 2 * config.refusals_per_second, now)

    def counters(self):
        return self.n

    cdef bytes fresh_cid(self):
        """A random connection ID. The pool spares a system call for each."""
        cdef Py_ssize_t n = self.settings.connection_id_length
        if self.random_used + n > len(self.random_pool):
            self.random_pool = os.urandom(4096)
            self.random_used = 0
        cid = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.random_pool) + self.random_used, n)
        self.random_used += n
        return cid

    cdef bytes reset_token(self, bytes cid):
        return reset_token(self.reset_key, cid)

    cdef bytes open_retry(self, packet_header *h, bytes address, bytes dcid):
        """The connection ID before the Retry, None when the token (if any) does not prove one."""
        if not h.token_len:
            return None
        odcid = self.keys.open_retry(h.token[:h.token_len], address, dcid)
        if odcid is None:
            self.n.retry_tokens_rejected += 1
        return odcid

    cdef bint may(self, token_bucket *bucket, uint64_t now):
        if bucket_take(bucket, now):
            return True
        self.n.rate_limited += 1
        return False

    cdef int send(self, udp_socket *u, udp_message *m, bytes payload) except -1:
        cdef uint8_t *out = udp.reserve(u)
        if out != NULL:
            memcpy(out, PyBytes_AS_STRING(payload), len(payload))
            udp.commit(u, len(payload), len(payload), &m.local, m.local_len, &m.peer, m.peer_len, 0, 0)
            udp.flush(u)
        return 0

    cdef int negotiate_version(self, udp_socket *u, udp_message *m, packet_header *h, uint64_t now) except -1:
        """RFC 9000 6.1 and 17.2.1: the client's connection IDs come back swapped, whatever their lengths."""
        if h.version == 0 or not self.may(&self.negotiations, now):
            return 0
        first = bytes([0xC0 | os.urandom(1)[0]])
        self.send(u, m, b"".join((
            first, b"\0\0\0\0", bytes([h.scid_len]), h.scid[:h.scid_len], bytes([h.dcid_len]), h.dcid[:h.dcid_len],
            *(version.to_bytes(4, "big") for version in self.settings.versions),
        )))
        self.n.version_negotiations_sent += 1
        return 0

    cdef int reset(self, udp_socket *u, udp_message *m, packet_header *h, size_t n, uint64_t now) except -1:
        """RFC 9000 10.3: shorter than the packet it answers, so that two endpoints cannot reset each other for ever."""
        cdef size_t length
        if n <= 21 or not self.settings.config.stateless_reset or not self.may(&self.resets, now):
            return 0
        length = min(n - 1, <size_t>43)
        head = bytearray(os.urandom(length - 16))
        head[0] = head[0] & 0x3F | 0x40
        self.send(u, m, bytes(head) + self.reset_token(h.dcid[:h.dcid_len]))
        self.n.stateless_resets_sent += 1
        return 0

    cdef int retry(self, udp_socket *u, udp_message *m, packet_header *h, bytes dcid, bytes address,
                   uint64_t now) except -1:
        """RFC 9000 8.1.2: the client is to prove that it is where it says."""
        cdef uint8_t out[512]
        cdef ssize_t written
        cdef bytes new_scid, token
        if not self.may(&self.retries, now):
            return 0
        new_scid = self.fresh_cid()
        token = self.keys.seal_retry(address, dcid, new_scid)
        written = quiche_retry(h.scid, h.scid_len, h.dcid, h.dcid_len, new_scid, len(new_scid),
                               token, len(token), h.version, out, sizeof(out))
        if written > 0:
            self.send(u, m, out[:written])
            self.n.retries_sent += 1
        return 0

    cdef int refuse(self, udp_socket *u, udp_message *m, packet_header *h, uint8_t *data, size_t n,
                    uint64_t now) except -1:
        """RFC 9000 5.2.2: CONNECTION_REFUSED in an Initial packet, so that the client need not wait in vain."""
        cdef quiche_conn *conn
        cdef quiche_recv_info received
        cdef quiche_send_info sent
        cdef uint8_t out[1500]
        cdef ssize_t written
        cdef bytes scid
        if not self.may(&self.refusals, now):
            return 0
        scid = self.fresh_cid()
        conn = quiche_accept(scid, len(scid), NULL, 0, <sockaddr *>&m.local, m.local_len,
                             <sockaddr *>&m.peer, m.peer_len, self.settings.quic)
        if conn == NULL:
            return 0
        received.from_ = <sockaddr *>&m.peer
        received.from_len = m.peer_len
        received.to = <sockaddr *>&m.local
        received.to_len = m.local_len
        quiche_conn_recv(conn, data, n, &received)
        quiche_conn_close(conn, False, 0x02, b"", 0)
        written = quiche_conn_send(conn, out, sizeof(out), &sent)
        quiche_conn_free(conn)
        if written > 0:
            self.send(u, m, out[:written])
            self.n.refusals_sent += 1
        return 0
