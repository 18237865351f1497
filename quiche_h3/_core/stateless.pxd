from libc.stdint cimport uint64_t, uint8_t, uint32_t
from quiche_h3._core.settings cimport EngineSettings
from quiche_h3._core.udp cimport udp_message, udp_socket

cdef extern from "packet.h" nogil:
    enum:
        PACKET_INITIAL
        PACKET_ZERO_RTT
        PACKET_SHORT

    ctypedef struct packet_header:
        int type
        uint32_t version
        const uint8_t *dcid
        const uint8_t *scid
        const uint8_t *token
        size_t dcid_len
        size_t scid_len
        size_t token_len

    bint packet_parse(const uint8_t *p, size_t len, size_t short_dcid_len, packet_header *h)

cdef extern from "bucket.h" nogil:
    ctypedef struct token_bucket:
        pass

    void bucket_init(token_bucket *b, double rate, double burst, uint64_t now)
    bint bucket_take(token_bucket *b, uint64_t now)

cdef extern from "siphash.h" nogil:
    uint64_t siphash(const uint8_t *key, const uint8_t *data, size_t n)
    void sip_store(uint8_t *p, uint64_t v)

cdef struct stateless_counters:
    uint64_t version_negotiations_sent
    uint64_t retries_sent
    uint64_t retry_tokens_rejected
    uint64_t stateless_resets_sent
    uint64_t refusals_sent
    uint64_t rate_limited


cpdef bytes reset_token(bytes key, bytes cid)


cdef class StatelessAnswers:
    cdef EngineSettings settings
    cdef readonly object keys           # TokenKeys
    cdef bytes reset_key                # theirs
    cdef stateless_counters n
    cdef token_bucket negotiations
    cdef token_bucket retries
    cdef token_bucket resets
    cdef token_bucket refusals
    cdef bytes random_pool
    cdef Py_ssize_t random_used

    cdef bytes fresh_cid(self)
    cdef bytes reset_token(self, bytes cid)
    cdef bytes open_retry(self, packet_header *h, bytes address, bytes dcid)
    cdef bint may(self, token_bucket *bucket, uint64_t now)
    cdef int send(self, udp_socket *u, udp_message *m, bytes payload) except -1
    cdef int negotiate_version(self, udp_socket *u, udp_message *m, packet_header *h, uint64_t now) except -1
    cdef int reset(self, udp_socket *u, udp_message *m, packet_header *h, size_t n, uint64_t now) except -1
    cdef int retry(self, udp_socket *u, udp_message *m, packet_header *h, bytes dcid, bytes address,
                   uint64_t now) except -1
    cdef int refuse(self, udp_socket *u, udp_message *m, packet_header *h, uint8_t *data, size_t n,
                    uint64_t now) except -1
