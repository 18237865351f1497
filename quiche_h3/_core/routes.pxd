from libc.stdint cimport uint8_t, uint64_t
from quiche_h3._core.connection cimport conn_t
from quiche_h3._core.stateless cimport StatelessAnswers

cdef extern from "cid_table.h" nogil:
    ctypedef struct cid_table:
        void *slots
        size_t count

    bint cid_table_init(cid_table *t, const uint8_t *key)
    void cid_table_free(cid_table *t)
    void *cid_table_get(const cid_table *t, const uint8_t *id, size_t len)
    bint cid_table_put(cid_table *t, const uint8_t *id, size_t len, void *value)
    void cid_table_remove(cid_table *t, const uint8_t *id, size_t len)


cdef class Routes:
    cdef cid_table table
    cdef conn_t nobody      # whose connection IDs were retired
    cdef StatelessAnswers answers

    cdef conn_t *find(self, const uint8_t *cid, size_t n) noexcept nogil
    cdef bint add(self, conn_t *c, bytes cid) except -1
    cdef int issue(self, conn_t *c) except -1
    cdef int replace_retired(self, conn_t *c) except -1
    cdef void bury(self, conn_t *c, const uint8_t *cid, size_t n) noexcept
    cdef void remove_all(self, conn_t *c) noexcept
