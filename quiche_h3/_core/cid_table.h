/* Destination connection ID -> connection: open addressing, linear probing, backward-shift deletion.
 * The hash is keyed (SipHash-2-4), because a client chooses the connection ID of its first Initial and
 * could otherwise aim all of them at one slot. */
#ifndef QUICHE_H3_CID_TABLE_H
#define QUICHE_H3_CID_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CID_MAX 20

typedef struct {
    void *value; /* NULL: an empty slot */
    uint8_t len;
    uint8_t id[CID_MAX];
} cid_slot;

typedef struct {
    cid_slot *slots;
    size_t mask, count;
    uint64_t key[2];
} cid_table;

static inline uint64_t cid_rotl(uint64_t v, int n) { return v << n | v >> (64 - n); }

#define SIPROUND                                                                                                       \
    do {                                                                                                               \
        v0 += v1, v1 = cid_rotl(v1, 13) ^ v0, v0 = cid_rotl(v0, 32);                                                   \
        v2 += v3, v3 = cid_rotl(v3, 16) ^ v2;                                                                          \
        v0 += v3, v3 = cid_rotl(v3, 21) ^ v0;                                                                          \
        v2 += v1, v1 = cid_rotl(v1, 17) ^ v2, v2 = cid_rotl(v2, 32);                                                   \
    } while (0)

static inline uint64_t cid_hash(const uint64_t key[2], const uint8_t *id, size_t len)
{
    uint64_t v0 = key[0] ^ 0x736f6d6570736575ULL, v1 = key[1] ^ 0x646f72616e646f6dULL;
    uint64_t v2 = key[0] ^ 0x6c7967656e657261ULL, v3 = key[1] ^ 0x7465646279746573ULL;
    uint64_t m;
    size_t left = len;
    for (; left >= 8; left -= 8, id += 8) {
        memcpy(&m, id, 8);
        v3 ^= m;
        SIPROUND;
        SIPROUND;
        v0 ^= m;
    }
    m = (uint64_t)len << 56;
    for (size_t i = 0; i < left; i++)
        m |= (uint64_t)id[i] << (8 * i);
    v3 ^= m;
    SIPROUND;
    SIPROUND;
    v0 ^= m;
    v2 ^= 0xff;
    SIPROUND;
    SIPROUND;
    SIPROUND;
    SIPROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

static inline bool cid_table_init(cid_table *t, const uint64_t key[2])
{
    t->key[0] = key[0];
    t->key[1] = key[1];
    t->mask = 63;
    t->count = 0;
    t->slots = (cid_slot *)calloc(t->mask + 1, sizeof(cid_slot));
    return t->slots != NULL;
}

static inline void cid_table_free(cid_table *t)
{
    free(t->slots);
    t->slots = NULL;
}

/* The slot that holds the ID, or the empty one where it would go. */
static inline cid_slot *cid_table_slot(const cid_table *t, const uint8_t *id, size_t len)
{
    size_t i = cid_hash(t->key, id, len) & t->mask;
    while (t->slots[i].value && (t->slots[i].len != len || memcmp(t->slots[i].id, id, len) != 0))
        i = (i + 1) & t->mask;
    return &t->slots[i];
}

static inline void *cid_table_get(const cid_table *t, const uint8_t *id, size_t len)
{
    return len > CID_MAX ? NULL : cid_table_slot(t, id, len)->value;
}

static inline bool cid_table_resize(cid_table *t, size_t size)
{
    cid_table next = *t;
    next.mask = size - 1;
    next.slots = (cid_slot *)calloc(size, sizeof(cid_slot));
    if (!next.slots)
        return false;
    for (size_t i = 0; i <= t->mask; i++)
        if (t->slots[i].value)
            *cid_table_slot(&next, t->slots[i].id, t->slots[i].len) = t->slots[i];
    free(t->slots);
    *t = next;
    return true;
}

/* False when memory is out or the ID is taken by another connection. */
static inline bool cid_table_put(cid_table *t, const uint8_t *id, size_t len, void *value)
{
    if (len > CID_MAX)
        return false;
    if (t->count * 2 > t->mask && !cid_table_resize(t, (t->mask + 1) * 2))
        return false;
    cid_slot *s = cid_table_slot(t, id, len);
    if (s->value)
        return s->value == value;
    s->value = value;
    s->len = (uint8_t)len;
    memcpy(s->id, id, len);
    t->count++;
    return true;
}

static inline void cid_table_remove(cid_table *t, const uint8_t *id, size_t len)
{
    if (len > CID_MAX)
        return;
    cid_slot *s = cid_table_slot(t, id, len);
    if (!s->value)
        return;
    size_t hole = (size_t)(s - t->slots), i = hole;
    for (;;) {
        i = (i + 1) & t->mask;
        if (!t->slots[i].value)
            break;
        size_t home = cid_hash(t->key, t->slots[i].id, t->slots[i].len) & t->mask;
        if (((i - home) & t->mask) >= ((i - hole) & t->mask)) {
            t->slots[hole] = t->slots[i];
            hole = i;
        }
    }
    t->slots[hole].value = NULL;
    t->count--;
    /* Shrink after a crowd has left: 10,000 connections must not keep their table for ever. */
    if (t->mask > 63 && t->count * 8 < t->mask)
        cid_table_resize(t, (t->mask + 1) / 2);
}

#endif
