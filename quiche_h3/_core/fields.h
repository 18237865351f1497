/* A field section as it arrives: checked while it is copied (RFC 9114 4.2 and 4.3, RFC 9110 5, RFC 8441 4), because
 * quiche checks nothing but the encoding. The copy is one flat buffer, so that a request costs one allocation
 * however many fields it has, and a Python object is made only for what the handler asks for. */
#ifndef QUICHE_H3_FIELDS_H
#define QUICHE_H3_FIELDS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FIELDS_REQUEST, FIELDS_RESPONSE, FIELDS_TRAILERS };
enum { FIELDS_OK, FIELDS_MALFORMED, FIELDS_TOO_LARGE, FIELDS_PATH_TOO_LONG };
enum { PSEUDO_METHOD, PSEUDO_SCHEME, PSEUDO_AUTHORITY, PSEUDO_PATH, PSEUDO_PROTOCOL, PSEUDO_STATUS, PSEUDO_COUNT };

#define FIELD_ABSENT UINT32_MAX

typedef struct {
    uint32_t offset, len; /* of the value, in `data`; offset FIELD_ABSENT: there is none */
} field_span;

typedef struct {
    uint32_t max_count, max_name, max_value, max_total, max_path;
} field_limits;

typedef struct {
    /* For each field: name length, value length (32 bits each, native order), name, value. */
    uint8_t *data; /* owned, reused for every section */
    size_t len, capacity;
    uint32_t count, total;
    int kind, result;
    bool regular_seen;
    bool expect_continue;   /* RFC 9110 10.1.1 */
    int64_t content_length; /* -1: none */
    field_span pseudo[PSEUDO_COUNT], host, priority;
    const field_limits *limits;
} field_section;

/* RFC 9110 5.6.2 without the upper case letters, which RFC 9114 4.2 forbids. */
static const uint8_t field_name_byte[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1, ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,
    ['^'] = 1, ['_'] = 1, ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1,
    ['5'] = 1, ['6'] = 1, ['7'] = 1, ['8'] = 1, ['9'] = 1, ['a'] = 1, ['b'] = 1, ['c'] = 1, ['d'] = 1, ['e'] = 1,
    ['f'] = 1, ['g'] = 1, ['h'] = 1, ['i'] = 1, ['j'] = 1, ['k'] = 1, ['l'] = 1, ['m'] = 1, ['n'] = 1, ['o'] = 1,
    ['p'] = 1, ['q'] = 1, ['r'] = 1, ['s'] = 1, ['t'] = 1, ['u'] = 1, ['v'] = 1, ['w'] = 1, ['x'] = 1, ['y'] = 1,
    ['z'] = 1,
};

static inline bool field_name_valid(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!field_name_byte[p[i]])
            return false;
    return n > 0;
}

static inline bool field_method_valid(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!field_name_byte[p[i]] && !(p[i] >= 'A' && p[i] <= 'Z'))
            return false;
    return n > 0;
}

/* RFC 9110 5.5: visible characters, obs-text, inner spaces and tabs; no surrounding white space. */
static inline bool field_value_valid(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((p[i] < 0x20 && p[i] != '\t') || p[i] == 0x7f)
            return false;
    return n == 0 || (p[0] != ' ' && p[0] != '\t' && p[n - 1] != ' ' && p[n - 1] != '\t');
}

#define FIELD_IS(p, n, text) ((n) == sizeof(text) - 1 && memcmp(p, text, sizeof(text) - 1) == 0)

static inline void field_section_begin(field_section *s, int kind, const field_limits *limits)
{
    s->len = 0;
    s->count = s->total = 0;
    s->kind = kind;
    s->result = FIELDS_OK;
    s->regular_seen = s->expect_continue = false;
    s->content_length = -1;
    for (int i = 0; i < PSEUDO_COUNT; i++)
        s->pseudo[i].offset = FIELD_ABSENT;
    s->host.offset = s->priority.offset = FIELD_ABSENT;
    s->limits = limits;
}

static inline int field_pseudo(const uint8_t *name, size_t n)
{
    if (FIELD_IS(name, n, ":method"))
        return PSEUDO_METHOD;
    if (FIELD_IS(name, n, ":path"))
        return PSEUDO_PATH;
    if (FIELD_IS(name, n, ":scheme"))
        return PSEUDO_SCHEME;
    if (FIELD_IS(name, n, ":authority"))
        return PSEUDO_AUTHORITY;
    if (FIELD_IS(name, n, ":protocol"))
        return PSEUDO_PROTOCOL;
    if (FIELD_IS(name, n, ":status"))
        return PSEUDO_STATUS;
    return -1;
}

static inline bool field_content_length(field_section *s, const uint8_t *p, size_t n)
{
    int64_t v = 0;
    if (n == 0 || n > 18)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        v = v * 10 + (p[i] - '0');
    }
    if (s->content_length >= 0 && s->content_length != v)
        return false;
    s->content_length = v;
    return true;
}

/* Expectations are compared without regard to case. */
static inline bool field_is_100_continue(const uint8_t *p, size_t n)
{
    static const char text[] = "100-continue";
    for (size_t i = 0; i < n; i++)
        if (n != sizeof(text) - 1 || (p[i] >= 'A' && p[i] <= 'Z' ? p[i] | 0x20 : p[i]) != (uint8_t)text[i])
            return false;
    return n > 0;
}

/* RFC 9114 4.2: fields of a connection have no meaning here. */
static inline bool field_forbidden(const uint8_t *name, size_t n, const uint8_t *value, size_t value_len)
{
    switch (n) {
    case 2:
        return memcmp(name, "te", 2) == 0 && !FIELD_IS(value, value_len, "trailers");
    case 7:
        return memcmp(name, "upgrade", 7) == 0;
    case 10:
        return memcmp(name, "connection", 10) == 0 || memcmp(name, "keep-alive", 10) == 0;
    case 16:
        return memcmp(name, "proxy-connection", 16) == 0;
    case 17:
        return memcmp(name, "transfer-encoding", 17) == 0;
    default:
        return false;
    }
}

static inline bool field_section_grow(field_section *s, size_t need)
{
    if (s->len + need <= s->capacity)
        return true;
    size_t capacity = s->capacity ? s->capacity * 2 : 4096;
    while (capacity < s->len + need)
        capacity *= 2;
    uint8_t *data = (uint8_t *)realloc(s->data, capacity);
    if (!data)
        return false;
    s->data = data;
    s->capacity = capacity;
    return true;
}

/* The check of one field, before its place in the buffer is known. Returns FIELDS_*; *span: where to note it. */
static inline int field_check(field_section *s, const uint8_t *name, size_t n, const uint8_t *value, size_t value_len,
                              field_span **span)
{
    const field_limits *l = s->limits;
    *span = NULL;
    if (n > l->max_name || value_len > l->max_value) {
        if (FIELD_IS(name, n, ":path"))
            return FIELDS_PATH_TOO_LONG;
        return FIELDS_TOO_LARGE;
    }
    if (!field_value_valid(value, value_len))
        return FIELDS_MALFORMED;
    if (n > 0 && name[0] == ':') {
        int which = field_pseudo(name, n);
        if (which < 0 || s->regular_seen || s->kind == FIELDS_TRAILERS || s->pseudo[which].offset != FIELD_ABSENT ||
            (which == PSEUDO_STATUS) != (s->kind == FIELDS_RESPONSE))
            return FIELDS_MALFORMED;
        *span = &s->pseudo[which];
        return FIELDS_OK;
    }
    s->regular_seen = true;
    if (!field_name_valid(name, n) || field_forbidden(name, n, value, value_len))
        return FIELDS_MALFORMED;
    if (FIELD_IS(name, n, "content-length"))
        return s->kind == FIELDS_TRAILERS || !field_content_length(s, value, value_len) ? FIELDS_MALFORMED : FIELDS_OK;
    if (FIELD_IS(name, n, "expect"))
        s->expect_continue = field_is_100_continue(value, value_len);
    if (FIELD_IS(name, n, "priority"))
        *span = &s->priority;
    if (FIELD_IS(name, n, "host")) {
        if (s->host.offset != FIELD_ABSENT)
            return FIELDS_MALFORMED;
        *span = &s->host;
    }
    return FIELDS_OK;
}

/* Non-zero stops the iteration; `result` says why. */
static inline int field_section_add(field_section *s, const uint8_t *name, size_t n, const uint8_t *value,
                                    size_t value_len)
{
    field_span *span;
    s->count++;
    s->total += (uint32_t)(n + value_len + 32); /* RFC 9114 4.2.2 */
    if (s->count > s->limits->max_count || s->total > s->limits->max_total) {
        s->result = FIELDS_TOO_LARGE;
        return 1;
    }
    s->result = field_check(s, name, n, value, value_len, &span);
    if (s->result != FIELDS_OK)
        return 1;
    if (!field_section_grow(s, 8 + n + value_len)) {
        s->result = FIELDS_TOO_LARGE;
        return 1;
    }
    uint32_t sizes[2] = {(uint32_t)n, (uint32_t)value_len};
    memcpy(s->data + s->len, sizes, 8);
    memcpy(s->data + s->len + 8, name, n);
    memcpy(s->data + s->len + 8 + n, value, value_len);
    if (span) {
        span->offset = (uint32_t)(s->len + 8 + n);
        span->len = (uint32_t)value_len;
    }
    s->len += 8 + n + value_len;
    return 0;
}

static inline bool field_span_is(const field_section *s, field_span span, const char *text)
{
    size_t n = strlen(text);
    return span.offset != FIELD_ABSENT && span.len == n && memcmp(s->data + span.offset, text, n) == 0;
}

/* RFC 3986 3.1 */
static inline bool field_scheme_valid(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool alpha = (p[i] | 0x20) >= 'a' && (p[i] | 0x20) <= 'z';
        if (!alpha && (i == 0 || !((p[i] >= '0' && p[i] <= '9') || p[i] == '+' || p[i] == '-' || p[i] == '.')))
            return false;
    }
    return n > 0;
}

static inline bool field_authority_valid(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] <= ' ' || p[i] == '@' || p[i] == '/' || p[i] == '?' || p[i] == '#' || p[i] >= 0x7f)
            return false; /* RFC 9114 4.3.1: no userinfo */
    return true;
}

static inline int field_request_check(const field_section *s)
{
    const field_span *p = s->pseudo;
    if (p[PSEUDO_METHOD].offset == FIELD_ABSENT ||
        !field_method_valid(s->data + p[PSEUDO_METHOD].offset, p[PSEUDO_METHOD].len))
        return FIELDS_MALFORMED;
    bool connect = field_span_is(s, p[PSEUDO_METHOD], "CONNECT");
    bool extended = p[PSEUDO_PROTOCOL].offset != FIELD_ABSENT;
    field_span authority = p[PSEUDO_AUTHORITY];
    if (authority.offset != FIELD_ABSENT && !field_authority_valid(s->data + authority.offset, authority.len))
        return FIELDS_MALFORMED;
    if (authority.offset != FIELD_ABSENT && s->host.offset != FIELD_ABSENT &&
        (authority.len != s->host.len ||
         memcmp(s->data + authority.offset, s->data + s->host.offset, authority.len) != 0))
        return FIELDS_MALFORMED;
    if (extended && !connect)
        return FIELDS_MALFORMED;
    if (connect && !extended) /* RFC 9114 4.4 */
        return p[PSEUDO_SCHEME].offset == FIELD_ABSENT && p[PSEUDO_PATH].offset == FIELD_ABSENT &&
                       authority.offset != FIELD_ABSENT && authority.len > 0
                   ? FIELDS_OK
                   : FIELDS_MALFORMED;
    if (p[PSEUDO_SCHEME].offset != FIELD_ABSENT &&
        !field_scheme_valid(s->data + p[PSEUDO_SCHEME].offset, p[PSEUDO_SCHEME].len))
        return FIELDS_MALFORMED;
    if (p[PSEUDO_SCHEME].offset == FIELD_ABSENT || p[PSEUDO_PATH].offset == FIELD_ABSENT || p[PSEUDO_PATH].len == 0)
        return FIELDS_MALFORMED;
    if (authority.offset == FIELD_ABSENT ? s->host.offset == FIELD_ABSENT || s->host.len == 0 : authority.len == 0)
        return FIELDS_MALFORMED; /* http and https URIs always have an authority */
    const uint8_t *path = s->data + p[PSEUDO_PATH].offset;
    size_t n = p[PSEUDO_PATH].len;
    if (path[0] != '/' && !(n == 1 && path[0] == '*' && field_span_is(s, p[PSEUDO_METHOD], "OPTIONS")))
        return FIELDS_MALFORMED;
    for (size_t i = 0; i < n; i++)
        if (path[i] <= ' ' || path[i] == '#' || path[i] == 0x7f)
            return FIELDS_MALFORMED;
    return n > s->limits->max_path ? FIELDS_PATH_TOO_LONG : FIELDS_OK;
}

/* What can be said only of the whole section. */
static inline int field_section_end(field_section *s)
{
    if (s->result == FIELDS_OK && s->kind == FIELDS_REQUEST)
        s->result = field_request_check(s);
    if (s->result == FIELDS_OK && s->kind == FIELDS_RESPONSE) {
        field_span status = s->pseudo[PSEUDO_STATUS];
        s->result = FIELDS_MALFORMED;
        if (status.offset != FIELD_ABSENT && status.len == 3 && s->data[status.offset] >= '1' &&
            s->data[status.offset] <= '9') {
            const uint8_t *d = s->data + status.offset;
            if (d[1] >= '0' && d[1] <= '9' && d[2] >= '0' && d[2] <= '9')
                s->result = FIELDS_OK;
        }
    }
    return s->result;
}

#endif
