"""Routes: which connection a packet belongs to, by the connection IDs that we have given out (RFC 9000 5.1)."""

import os

from cpython.bytes cimport PyBytes_AS_STRING
from libc.string cimport memcmp, memcpy, memset
from quiche_h3._core.connection cimport issued_cid
from quiche_h3._core.libquiche cimport *

cdef enum:
    MAX_ISSUED_CIDS = 8


cdef class Routes:
    """Destination connection ID -> connection. The table borrows: who owns a connection takes it out first."""

    def __init__(self, StatelessAnswers answers):
        cdef bytes key = os.urandom(16)
        if not cid_table_init(&self.table, key):
            raise MemoryError("no memory for the connection table")
        memset(&self.nobody, 0, sizeof(self.nobody))
        self.answers = answers

    def __dealloc__(self):
        cid_table_free(&self.table)

    cdef conn_t *find(self, const uint8_t *cid, size_t n) noexcept nogil:
        return <conn_t *>cid_table_get(&self.table, cid, n)

    cdef bint add(self, conn_t *c, bytes cid) except -1:
        """Routes packets with this destination connection ID to the connection. False when that cannot be."""
        cdef issued_cid *slot
        if c.cid_count >= sizeof(c.cids) // sizeof(c.cids[0]):
            return False
        if not cid_table_put(&self.table, cid, len(cid), c):
            return False
        slot = &c.cids[c.cid_count]
        slot.len = len(cid)
        memcpy(slot.id, PyBytes_AS_STRING(cid), len(cid))
        c.cid_count += 1
        return True

    cdef int issue(self, conn_t *c) except -1:
        """Gives the peer spare connection IDs, so that it can change paths (RFC 9000 5.1.1)."""
        cdef bytes cid, token
        cdef uint64_t seq
        while quiche_conn_scids_left(c.quic) > 0 and c.cid_count < MAX_ISSUED_CIDS + 1:
            cid = self.answers.fresh_cid()
            token = self.answers.reset_token(cid)
            if quiche_conn_new_scid(c.quic, cid, len(cid), token, False, &seq) != 0:
                break
            self.add(c, cid)
        return 0

    cdef int replace_retired(self, conn_t *c) except -1:
        """Forgets the connection IDs that the peer has retired, and gives it others."""
        cdef quiche_connection_id_iter *ids
        cdef const uint8_t *cid = NULL
        cdef size_t n = 0, i
        if quiche_conn_retired_scids(c.quic) == 0:
            return 0
        ids = quiche_conn_retired_scid_iter(c.quic)
        while quiche_connection_id_iter_next(ids, &cid, &n):
            self.bury(c, cid, n)
            for i in range(c.cid_count):
                if c.cids[i].len == n and memcmp(c.cids[i].id, cid, n) == 0:
                    c.cid_count -= 1
                    c.cids[i] = c.cids[c.cid_count]
                    break
        quiche_connection_id_iter_free(ids)
        return self.issue(c)

    cdef void bury(self, conn_t *c, const uint8_t *cid, size_t n) noexcept:
        """A packet that was overtaken by the retirement of its connection ID is no reason for a stateless reset.

        Some peers still take one for it (RFC 9000 10.3.1 forbids that), and lose a connection that is well.
        """
        cdef size_t room = sizeof(c.buried) // sizeof(c.buried[0])
        cdef issued_cid *slot = &c.buried[c.buried_count % room]
        cid_table_remove(&self.table, cid, n)
        if c.buried_count >= room:
            cid_table_remove(&self.table, slot.id, slot.len)
        c.buried_count += 1
        slot.len = n
        memcpy(slot.id, cid, n)
        cid_table_put(&self.table, cid, n, &self.nobody)  # without memory for it there is a reset

    cdef void remove_all(self, conn_t *c) noexcept:
        cdef size_t i
        for i in range(c.cid_count):
            cid_table_remove(&self.table, c.cids[i].id, c.cids[i].len)
        c.cid_count = 0
        for i in range(min(<size_t>c.buried_count, sizeof(c.buried) // sizeof(c.buried[0]))):
            cid_table_remove(&self.table, c.buried[i].id, c.buried[i].len)
        c.buried_count = 0
