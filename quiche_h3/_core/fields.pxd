from libc.stdint cimport int64_t, uint8_t, uint32_t
from quiche_h3._core.libquiche cimport quiche_h3_event, quiche_h3_header

cdef extern from "fields.h" nogil:
    enum:
        FIELDS_REQUEST
        FIELDS_RESPONSE
        FIELDS_TRAILERS
        FIELDS_OK
        FIELDS_MALFORMED
        FIELDS_TOO_LARGE
        FIELDS_PATH_TOO_LONG
        PSEUDO_METHOD
        PSEUDO_SCHEME
        PSEUDO_AUTHORITY
        PSEUDO_PATH
        PSEUDO_PROTOCOL
        PSEUDO_STATUS
        PSEUDO_COUNT
        FIELD_ABSENT

    ctypedef struct field_span:
        uint32_t offset
        uint32_t len

    ctypedef struct field_limits:
        uint32_t max_count
        uint32_t max_name
        uint32_t max_value
        uint32_t max_total
        uint32_t max_path

    ctypedef struct field_section:
        uint8_t *data
        size_t len
        uint32_t count
        bint expect_continue
        int64_t content_length
        field_span *pseudo
        field_span host
        field_span priority

    void field_section_begin(field_section *s, int kind, const field_limits *limits)
    int field_section_add(field_section *s, const uint8_t *name, size_t n, const uint8_t *value, size_t value_len)
    int field_section_end(field_section *s)


cdef class FieldSection:
    cdef bytes data
    cdef field_span pseudo[6]
    cdef field_span host
    cdef field_span priority
    cdef readonly int64_t content_length
    cdef readonly bint expect_continue
    cdef bytes span(self, field_span s)


cdef class Http3Limits:
    cdef field_limits c


cdef enum:
    MAX_HEADERS_OUT = 256   # fields of one section that a program sends
    HEADERS_OUT_ROOM = 257  # and one that is added here

cdef FieldSection parse_fields(quiche_h3_event *event, int kind, Http3Limits limits, int *result)
# What is to be known of a section that we send.
cdef struct section_facts:
    int lengths     # a content-length is at most among so many fields
    bint dated      # there is a date

cdef Py_ssize_t fill_fields(quiche_h3_header *fields, list pairs, section_facts *facts) except -1
cdef int64_t announced_length(const quiche_h3_header *fields, int lengths) except -2
cdef void fill_date(quiche_h3_header *field) noexcept
