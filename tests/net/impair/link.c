/* The model of a link: a drop-tail queue, a bandwidth, a delay, then what is lost, changed, doubled or late.
 *
 * Every decision about a packet is made when it comes in, with a fixed number of draws from its direction's own
 * generator: the same packets in the same order meet the same fate under the same seed. The order of things is that
 * of the network simulator's point-to-point link, whose error models stand at the receiving end. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "impair.h"

static struct link {
    uint64_t random, count, passed_queue, in_a_row;
    uint64_t *leaving; /* ring: when the packets that have not left yet will have left */
    size_t head, waiting, capacity;
    uint64_t free_at;
} links[DIRECTIONS];

static struct packet **heap;
static size_t heap_count, heap_room;
static uint64_t order, started_at;
static FILE *log_file;

/* What each draw is for: the same place in the sequence for every packet. */
enum { DRAW_FATE, DRAW_OFFSET, DRAW_BYTE, DRAW_REORDER, DRAW_DUPLICATE, DRAW_JITTER, DRAWS };

static double draw(struct link *link) /* splitmix64, as a number from 0 to below 1 */
{
    uint64_t z = link->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

void link_start(uint64_t seed, FILE *log)
{
    log_file = log;
    for (int i = 0; i < DIRECTIONS; i++)
        links[i].random = seed * 2 + (uint64_t)i;
}

uint64_t link_since_start(uint64_t now)
{
    return started_at && now > started_at ? now - started_at : 0;
}

void link_note(const char *text, ...)
{
    va_list arguments;
    if (!log_file)
        return;
    fprintf(log_file, "# %.3f ", (double)link_since_start(now_ns()) / 1e6);
    va_start(arguments, text);
    vfprintf(log_file, text, arguments);
    va_end(arguments);
    fputc('\n', log_file);
}

/* ---- packets under way, the earliest first ---- */

static bool before(const struct packet *a, const struct packet *b)
{
    return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void heap_push(struct packet *packet)
{
    size_t i = heap_count++;
    if (heap_count > heap_room) {
        heap_room = heap_room ? heap_room * 2 : 1024;
        heap = realloc(heap, heap_room * sizeof *heap);
        if (!heap)
            die("no memory");
    }
    for (; i && before(packet, heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = packet;
}

uint64_t link_next(void)
{
    return heap_count ? heap[0]->due : UINT64_MAX;
}

struct packet *link_take(uint64_t now)
{
    struct packet *first, *last;
    size_t i = 0, child;
    if (!heap_count || heap[0]->due > now)
        return NULL;
    first = heap[0];
    last = heap[--heap_count];
    while ((child = 2 * i + 1) < heap_count) {
        if (child + 1 < heap_count && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], last))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return first;
}

/* ---- the queue and the wire ---- */

/* When the packet has left the sender; 0 when the queue was full. One packet is on the wire, one in the device, the
 * others in the queue. */
static uint64_t transmit(struct link *link, uint64_t now, size_t bytes)
{
    if (scenario.bandwidth == 0)
        return now;
    while (link->waiting && link->leaving[link->head] <= now) {
        link->head = (link->head + 1) % link->capacity;
        link->waiting--;
    }
    if (scenario.queue != UINT64_MAX && link->waiting >= scenario.queue + 2)
        return 0;
    if (link->waiting == link->capacity) { /* grows, unrolled */
        size_t capacity = link->capacity ? link->capacity * 2 : 256;
        uint64_t *ring = malloc(capacity * sizeof *ring);
        if (!ring)
            die("no memory");
        for (size_t i = 0; i < link->waiting; i++)
            ring[i] = link->leaving[(link->head + i) % link->capacity];
        free(link->leaving);
        link->leaving = ring;
        link->capacity = capacity;
        link->head = 0;
    }
    if (link->free_at < now)
        link->free_at = now;
    link->free_at += (uint64_t)((double)(bytes + PPP_HEADER) * 8e9 / scenario.bandwidth);
    link->leaving[(link->head + link->waiting++) % link->capacity] = link->free_at;
    return link->free_at;
}

/* ---- the receiving end ---- */

/* The connection is there for `on`, gone for `off`, so many times. */
static bool is_dark(int direction, uint64_t since_start)
{
    uint64_t period = scenario.on + scenario.off;
    if (scenario.kind != BLACKHOLE || !scenario.dark[direction] || !scenario.off)
        return false;
    return since_start / period < scenario.repeat && since_start % period >= scenario.on;
}

/* The rate, but never more than `burst` in a row: the next one then is spared. */
static bool is_hit(struct link *link, int direction, double chance)
{
    bool hit = link->in_a_row < scenario.burst[direction] && chance * 100 < scenario.rate[direction];
    link->in_a_row = hit ? link->in_a_row + 1 : 0;
    return hit;
}

static bool is_listed(const struct list *list, uint64_t number)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i] == number)
            return true;
    return false;
}

static bool is_version_negotiation(const uint8_t *payload, size_t len)
{
    return len > 5 && !(payload[1] | payload[2] | payload[3] | payload[4]);
}

/* Why the packet is lost, or NULL. */
static const char *loss(struct link *link, int direction, uint64_t arrival, size_t ip_len, bool udp, double chance)
{
    uint64_t since = link_since_start(arrival);
    if (is_dark(direction, since))
        return "blackhole";
    if (scenario.mtu && ip_len > scenario.mtu && since >= scenario.mtu_at)
        return "mtu";
    if (!udp)
        return NULL;
    link->passed_queue++;
    if (scenario.kind == DROPLIST && is_listed(&scenario.drops[direction], link->passed_queue))
        return "list";
    if (scenario.kind == DROP_RATE && is_hit(link, direction, chance))
        return "rate";
    return NULL;
}

/* One byte among the first fifty becomes another: often in the header. Version Negotiation is spared, for it is the
 * answer to a corrupted version. */
static bool corrupt(struct link *link, struct packet *packet, size_t payload, const double *draws)
{
    size_t len = packet->len - payload;
    int direction = packet->direction;
    if (scenario.kind != CORRUPT_RATE || !len)
        return false;
    if (is_version_negotiation(packet->data + payload, len)) {
        link->in_a_row = 0;
        return false;
    }
    if (!is_hit(link, direction, draws[DRAW_FATE]))
        return false;
    size_t at = (size_t)(draws[DRAW_OFFSET] * (double)(len < 50 ? len : 50));
    packet->data[payload + at] += 1 + (uint8_t)(draws[DRAW_BYTE] * 255);
    packet->changed = true;
    return true;
}

/* A line for each packet: ms since the first one when it came in and when it goes on (- if it does not), direction,
 * flow, number, bytes, what became of it, and of long headers (RFC 8999 5.1), which are clear text, the beginning. */
static void record(uint64_t now, uint64_t due, int direction, unsigned flow, const uint8_t *payload, size_t len,
                   const char *fate)
{
    enum { SHOWN = 96 };
    char goes_on[32] = "-";
    if (!log_file)
        return;
    if (due)
        snprintf(goes_on, sizeof goes_on, "%.3f", (double)link_since_start(due) / 1e6);
    fprintf(log_file, "%.3f %s %s %u %llu %zu %s", (double)link_since_start(now) / 1e6, goes_on,
            direction == TO_SERVER ? "toserver" : "toclient", flow, (unsigned long long)links[direction].count, len,
            fate);
    if (len && payload[0] & 0x80) {
        fputc(' ', log_file);
        for (size_t i = 0; i < len && i < SHOWN; i++)
            fprintf(log_file, "%02x", payload[i]);
    }
    fputc('\n', log_file);
}

static struct packet *make(int direction, struct flow *flow, const uint8_t *data, size_t len)
{
    struct packet *packet = malloc(sizeof *packet + len);
    if (!packet)
        die("no memory");
    packet->flow = flow;
    packet->len = (uint32_t)len;
    packet->direction = (uint8_t)direction;
    packet->changed = false;
    packet->order = order++;
    memcpy(packet->data, data, len);
    return packet;
}

void link_offer(int direction, struct flow *flow, const uint8_t *data, size_t len, size_t payload, size_t overhead)
{
    struct link *link = &links[direction];
    double draws[DRAWS];
    char fate[64];
    uint64_t now = now_ns(), arrival;
    const char *lost;
    unsigned index = flow ? *(unsigned *)flow : 0;

    /* Not with what an interface that comes up says by itself: the endpoints may take seconds to start. */
    if (!started_at && payload < len)
        started_at = now;
    link->count++;
    for (int i = 0; i < DRAWS; i++)
        draws[i] = draw(link);
    arrival = transmit(link, now, len + overhead);
    if (arrival) {
        arrival += scenario.delay;
        lost = loss(link, direction, arrival, len + overhead, payload < len, draws[DRAW_FATE]);
    } else {
        lost = "queue";
    }
    if (lost) {
        snprintf(fate, sizeof fate, "drop:%s", lost);
        record(now, 0, direction, index, data + payload, len - payload, fate);
        return;
    }
    struct packet *packet = make(direction, flow, data, len);
    bool late = draws[DRAW_REORDER] * 100 < scenario.reorder;
    bool twice = draws[DRAW_DUPLICATE] * 100 < scenario.duplicate;
    bool wrong = corrupt(link, packet, payload, draws);
    packet->due = arrival + (uint64_t)(draws[DRAW_JITTER] * (double)scenario.jitter);
    if (late)
        packet->due += scenario.reorder_delay;
    snprintf(fate, sizeof fate, "%s%s%s", wrong ? "corrupt" : "forward", late ? "+late" : "", twice ? "+twice" : "");
    record(now, packet->due, direction, index, data + payload, len - payload, fate);
    heap_push(packet);
    if (twice) {
        struct packet *copy = make(direction, flow, packet->data, len);
        copy->due = packet->due;
        copy->changed = packet->changed;
        heap_push(copy);
    }
}
