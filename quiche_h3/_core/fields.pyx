"""Field sections: checked when they are received, pointed at when they are sent."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy, memset
from libc.time cimport time, time_t
from quiche_h3._core.libquiche cimport *

from quiche_h3.errors import InvalidState

cdef extern from "http_date.h":
    enum:
        HTTP_DATE_LEN

    const uint8_t *http_date(time_t now)

cdef field_section section  # the one that is being read, always with the GIL
memset(&section, 0, sizeof(section))

cdef const char *DATE = b"date"
cdef const char *LENGTH = b"content-length"


cdef int collect(uint8_t *name, size_t name_len, uint8_t *value, size_t value_len, void *argp) noexcept nogil:
    return field_section_add(<field_section *>argp, name, name_len, value, value_len)


cdef FieldSection parse_fields(quiche_h3_event *event, int kind, Http3Limits limits, int *result):
    """The field section of a HEADERS event. `result` says what is wrong with it, if anything: then it is empty."""
    cdef FieldSection fields = FieldSection.__new__(FieldSection)
    cdef int i
    field_section_begin(&section, kind, &limits.c)
    quiche_h3_event_for_each_header(event, collect, &section)
    result[0] = field_section_end(&section)
    fields.data = PyBytes_FromStringAndSize(<char *>section.data, section.len if result[0] == FIELDS_OK else 0)
    memcpy(fields.pseudo, section.pseudo, sizeof(fields.pseudo))
    fields.host = section.host
    fields.priority = section.priority
    fields.content_length = section.content_length
    fields.expect_continue = section.expect_continue
    if result[0] != FIELDS_OK:  # nothing of it is kept, so nothing may be found
        fields.host.offset = fields.priority.offset = FIELD_ABSENT
        for i in range(PSEUDO_COUNT):
            fields.pseudo[i].offset = FIELD_ABSENT
    return fields


cdef void fill_date(quiche_h3_header *field) noexcept:
    """Points `field` at the date field of a response that is sent now."""
    field.name = <const uint8_t *>DATE
    field.name_len = 4
    field.value = http_date(time(NULL))
    field.value_len = HTTP_DATE_LEN


cdef int64_t announced_length(const quiche_h3_header *fields, int lengths) except -2:
    """The value of the content-length among the first `lengths` fields, -1 when there is none."""
    cdef int64_t length = -1, value
    cdef uint8_t digit
    for i in range(lengths):
        if fields[i].name_len == 14 and memcmp(fields[i].name, LENGTH, 14) == 0:
            value = 0 if 0 < fields[i].value_len <= 18 else -1
            for j in range(fields[i].value_len if value == 0 else 0):
                digit = fields[i].value[j] - 48
                if digit > 9:
                    value = -1
                    break
                value = 10 * value + digit
            if length >= 0 or value < 0:
                value_bytes = fields[i].value[:fields[i].value_len]
                raise InvalidState(f"content-length: {value_bytes!r} is no length, or not the only one")
            length = value
    return length


cdef Py_ssize_t fill_fields(quiche_h3_header *fields, list pairs, section_facts *facts) except -1:
    """Points `fields`, which has room for MAX_HEADERS_OUT, at the bytes of `pairs`. Returns how many there are."""
    cdef Py_ssize_t i, n = len(pairs)
    cdef bytes name, value
    if n > MAX_HEADERS_OUT:
        raise InvalidState(f"a field section has at most {MAX_HEADERS_OUT} fields")
    facts.lengths = 0
    facts.dated = False
    for i in range(n):
        name, value = <tuple?>pairs[i]
        fields[i].name = <const uint8_t *>PyBytes_AS_STRING(name)
        fields[i].name_len = PyBytes_GET_SIZE(name)
        fields[i].value = <const uint8_t *>PyBytes_AS_STRING(value)
        fields[i].value_len = PyBytes_GET_SIZE(value)
        if fields[i].name_len == 4 and memcmp(fields[i].name, DATE, 4) == 0:
            facts.dated = True
        elif fields[i].name_len == 14:
            facts.lengths = i + 1
    return n


cdef class FieldSection:
    """A received field section, checked. Its fields become Python objects when asked for."""

    cdef bytes span(self, field_span s):
        if s.offset == FIELD_ABSENT:
            return None
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.data) + s.offset, s.len)

    @property
    def method(self):
        return self.span(self.pseudo[PSEUDO_METHOD])

    @property
    def scheme(self):
        return self.span(self.pseudo[PSEUDO_SCHEME])

    @property
    def authority(self):
        """``:authority``, or the host field where a client left it out."""
        value = self.span(self.pseudo[PSEUDO_AUTHORITY])
        return self.span(self.host) if value is None else value

    @property
    def path(self):
        return self.span(self.pseudo[PSEUDO_PATH])

    @property
    def protocol(self):
        return self.span(self.pseudo[PSEUDO_PROTOCOL])

    @property
    def status(self):
        value = self.span(self.pseudo[PSEUDO_STATUS])
        return 0 if value is None else int(value)

    def pairs(self):
        """(name, value) of every field in order, without the pseudo-header fields."""
        cdef const char *p = PyBytes_AS_STRING(self.data)
        cdef const char *end = p + PyBytes_GET_SIZE(self.data)
        cdef uint32_t sizes[2]
        out = []
        while p < end:
            memcpy(sizes, p, 8)
            p += 8
            if p[0] != b":":
                out.append((PyBytes_FromStringAndSize(p, sizes[0]),
                            PyBytes_FromStringAndSize(p + sizes[0], sizes[1])))
            p += sizes[0] + sizes[1]
        return out


cdef class Http3Limits:
    """What a received field section may be at most (counts and bytes; `total` as RFC 9114 4.2.2 counts it)."""

    def __init__(self, *, count, name, value, total, path):
        self.c.max_count = count
        self.c.max_name = name
        self.c.max_value = value
        self.c.max_total = total
        self.c.max_path = path
