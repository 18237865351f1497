/* What a server must read from a QUIC packet before any connection is known: the invariants of
 * RFC 8999 and, for versions 1 and 2, the token of an Initial. quiche_header_info() copies into buffers of a
 * fixed size and fails on longer tokens and connection IDs, so the fields are located in place here. */
#ifndef QUICHE_H3_PACKET_H
#define QUICHE_H3_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_VERSION_2 0x6b3343cf

enum { PACKET_INITIAL = 0, PACKET_ZERO_RTT = 1, PACKET_HANDSHAKE = 2, PACKET_RETRY = 3, PACKET_SHORT = 4 };

typedef struct {
    int type;              /* PACKET_*; meaningless for versions other than 1 and 2 */
    uint32_t version;      /* 0 in a short header and in a Version Negotiation packet */
    const uint8_t *dcid, *scid, *token;
    size_t dcid_len, scid_len, token_len;
} packet_header;

/* RFC 9000 section 16. Returns the bytes read, 0 when the buffer is too short. */
static inline size_t packet_varint(const uint8_t *p, size_t len, uint64_t *out)
{
    if (len == 0)
        return 0;
    size_t n = (size_t)1 << (p[0] >> 6);
    if (len < n)
        return 0;
    uint64_t v = p[0] & 0x3f;
    for (size_t i = 1; i < n; i++)
        v = v << 8 | p[i];
    *out = v;
    return n;
}

/* Locates the fields of the first packet of a UDP payload. `short_dcid_len` is the length of the
 * connection IDs this endpoint issues: a short header does not carry it. */
static inline bool packet_parse(const uint8_t *p, size_t len, size_t short_dcid_len, packet_header *h)
{
    const uint8_t *end = p + len;
    h->scid = h->token = p;
    h->scid_len = h->token_len = 0;
    h->version = 0;
    if (len == 0)
        return false;
    if (!(p[0] & 0x80)) {
        if (len < 1 + short_dcid_len)
            return false;
        h->type = PACKET_SHORT;
        h->dcid = p + 1;
        h->dcid_len = short_dcid_len;
        return true;
    }
    if (len < 7)
        return false;
    h->version = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
    h->type = ((p[0] >> 4) - (h->version == PACKET_VERSION_2)) & 3; /* RFC 9369 section 3.2 */
    p += 5;
    h->dcid_len = *p++;
    if ((size_t)(end - p) < h->dcid_len + 1)
        return false;
    h->dcid = p;
    p += h->dcid_len;
    h->scid_len = *p++;
    if ((size_t)(end - p) < h->scid_len)
        return false;
    h->scid = p;
    p += h->scid_len;
    if ((h->version == 1 || h->version == PACKET_VERSION_2) && h->type == PACKET_INITIAL) {
        uint64_t token_len;
        size_t n = packet_varint(p, (size_t)(end - p), &token_len);
        if (n == 0 || token_len > (uint64_t)(end - p) - n)
            return false;
        h->token = p + n;
        h->token_len = (size_t)token_len;
    }
    return true;
}

#endif
