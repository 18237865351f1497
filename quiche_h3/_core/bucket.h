/* A token bucket: `rate` events per second in the long run, `burst` of them at once. A rate of 0 with a burst of 0
 * is no limit. */
#ifndef QUICHE_H3_BUCKET_H
#define QUICHE_H3_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    double rate, burst;
    double left;
    uint64_t filled_at; /* nanoseconds */
} token_bucket;

static inline void bucket_init(token_bucket *b, double rate, double burst, uint64_t now)
{
    b->rate = rate;
    b->burst = b->left = burst;
    b->filled_at = now;
}

static inline bool bucket_take(token_bucket *b, uint64_t now)
{
    if (b->burst == 0)
        return true;
    if (now > b->filled_at) {
        b->left += (double)(now - b->filled_at) * b->rate / 1e9;
        if (b->left > b->burst)
            b->left = b->burst;
        b->filled_at = now;
    }
    if (b->left < 1)
        return false;
    b->left -= 1;
    return true;
}

#endif
