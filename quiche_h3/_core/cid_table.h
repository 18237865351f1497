/* Destination connection ID -> connection: open addressing, linear probing, backward-shift deletion.
 * The hash is keyed, because a client chooses the connection ID of its first Initial and
 * could otherwise aim all of them at one slot. */
#ifndef QUICHE_H3_CID_TABLE_H
#define QUICHE_H3_CID_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "siphash.h"

#define CID_MAX 20

typedef struct {
    void *value; /* NULL: an empty slot */
    uint8_t len;
    uint8_t id[CID_MAX];
} cid_slot;

typedef struct {
    cid_slot *slots;
    size_t mask, count;
    uint8_t key[16];
} cid_table;

static inline bool cid_table_init(cid_table *t, const uint8_t key[16])
{
    memcpy(t->key, key, sizeof(t->key));
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
    size_t i = siphash(t->key, id, len) & t->mask;
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
        size_t home = siphash(t->key, t->slots[i].id, t->slots[i].len) & t->mask;
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
