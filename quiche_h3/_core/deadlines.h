/* One deadline for each connection in an indexed binary heap: the next one is read in O(1), one moves in
 * O(log n), and no wake-up ever walks all connections. */
#ifndef QUICHE_H3_DEADLINES_H
#define QUICHE_H3_DEADLINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define DEADLINE_NONE UINT64_MAX

typedef struct {
    uint64_t at;  /* nanoseconds of the monotonic clock */
    size_t index; /* place in the heap plus one; 0: not in it */
} deadline;

typedef struct {
    deadline **items;
    size_t count, capacity;
} deadlines;

static inline void deadlines_place(deadlines *h, size_t i, deadline *d)
{
    h->items[i] = d;
    d->index = i + 1;
}

static inline void deadlines_sift(deadlines *h, size_t i, deadline *d)
{
    while (i > 0 && h->items[(i - 1) / 2]->at > d->at) {
        deadlines_place(h, i, h->items[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (size_t child; (child = 2 * i + 1) < h->count; i = child) {
        if (child + 1 < h->count && h->items[child + 1]->at < h->items[child]->at)
            child++;
        if (h->items[child]->at >= d->at)
            break;
        deadlines_place(h, i, h->items[child]);
    }
    deadlines_place(h, i, d);
}

static inline void deadlines_remove(deadlines *h, deadline *d)
{
    if (!d->index)
        return;
    size_t i = d->index - 1;
    deadline *last = h->items[--h->count];
    d->index = 0;
    if (last != d)
        deadlines_sift(h, i, last);
}

/* Sets or moves the deadline; DEADLINE_NONE takes it out. False when memory is out. */
static inline bool deadlines_set(deadlines *h, deadline *d, uint64_t at)
{
    if (at == DEADLINE_NONE) {
        deadlines_remove(h, d);
        d->at = at;
        return true;
    }
    if (d->index) {
        if (d->at != at) {
            d->at = at;
            deadlines_sift(h, d->index - 1, d);
        }
        return true;
    }
    if (h->count == h->capacity) {
        size_t capacity = h->capacity ? h->capacity * 2 : 64;
        deadline **items = (deadline **)realloc(h->items, capacity * sizeof *items);
        if (!items)
            return false;
        h->items = items;
        h->capacity = capacity;
    }
    d->at = at;
    h->count++;
    deadlines_sift(h, h->count - 1, d);
    return true;
}

static inline uint64_t deadlines_next(const deadlines *h) { return h->count ? h->items[0]->at : DEADLINE_NONE; }

#endif
