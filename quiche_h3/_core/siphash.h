/* SipHash-2-4 (Aumasson, Bernstein 2012): a pseudorandom function for short inputs, with a key of 128 bits.
 * The same on every machine: all bytes are read little-endian. */
#ifndef QUICHE_H3_SIPHASH_H
#define QUICHE_H3_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t sip_load(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* sip_load(p, 8), as compilers know it for one load. */
static inline uint64_t sip_word(const uint8_t *p)
{
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 | (uint64_t)p[7] << 56;
}

static inline void sip_store(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t sip_rotl(uint64_t v, int n) { return v << n | v >> (64 - n); }

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = sip_rotl(v[1], 13) ^ v[0], v[0] = sip_rotl(v[0], 32);
    v[2] += v[3], v[3] = sip_rotl(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = sip_rotl(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = sip_rotl(v[1], 17) ^ v[2], v[2] = sip_rotl(v[2], 32);
}

static inline uint64_t siphash(const uint8_t key[16], const uint8_t *data, size_t n)
{
    const uint64_t k0 = sip_word(key), k1 = sip_word(key + 8);
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575ULL, k1 ^ 0x646f72616e646f6dULL, k0 ^ 0x6c7967656e657261ULL,
                     k1 ^ 0x7465646279746573ULL};
    for (size_t at = 0; at <= n; at += 8) { /* the last word holds what is left, and the length */
        const uint64_t m = n - at >= 8 ? sip_word(data + at) : sip_load(data + at, n - at) | (uint64_t)n << 56;
        v[3] ^= m;
        sip_round(v);
        sip_round(v);
        v[0] ^= m;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
