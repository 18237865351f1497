/* A relay that impairs a network: what its parts know of each other. See main.c for what it does. */
#ifndef IMPAIR_H
#define IMPAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { TO_SERVER, TO_CLIENT, DIRECTIONS };
enum { MAX_PACKET = 65535, PPP_HEADER = 2 };

#define SECOND UINT64_C(1000000000)

/* ---- scenario.c: what was asked for ---- */

enum kind {
    SIMPLE_P2P = 1,
    DROP_RATE = 2,
    DROPLIST = 4,
    CORRUPT_RATE = 8,
    BLACKHOLE = 16,
    REBIND = 32,
    ANY = 63,
};

struct list {
    uint64_t *items;
    size_t count;
};

struct scenario {
    enum kind kind;
    uint64_t delay, on, off, first_rebind, rebind_freq, jitter, reorder_delay, mtu_at; /* ns */
    double bandwidth;                                                               /* bits/s, 0: no limit */
    double rate[DIRECTIONS], reorder, duplicate;                                    /* percent */
    uint64_t burst[DIRECTIONS], queue, repeat, mtu;
    struct list drops[DIRECTIONS];
    bool dark[DIRECTIONS]; /* a blackhole swallows this direction */
    bool rebind_addr;
};

extern struct scenario scenario;

/* Reads one word of a scenario: its name, or --parameter=value. Returns NULL, or what is wrong with it. */
const char *scenario_word(const char *word);

/* ---- link.c: what happens to a packet ---- */

struct flow;

struct packet {
    uint64_t due, order;
    struct flow *flow;
    uint32_t len;
    uint8_t direction;
    bool changed; /* its payload was corrupted */
    uint8_t data[];
};

void link_start(uint64_t seed, FILE *log);

/* Takes a packet in. `payload` is where the UDP payload begins, `len` for packets that are not UDP; `overhead` are
 * bytes that the packet has on the wire beside `data`. */
void link_offer(int direction, struct flow *flow, const uint8_t *data, size_t len, size_t payload, size_t overhead);

uint64_t link_next(void);             /* when the next packet is due; UINT64_MAX for never */
struct packet *link_take(uint64_t now); /* one that is due, or NULL; free() it */
uint64_t link_since_start(uint64_t now);  /* ns since the first UDP packet, 0 before it */
void link_note(const char *text, ...);

/* ---- udp.c, tun.c: where packets come from and go to ---- */

struct wire {
    void (*read)(void *source);
    void (*deliver)(struct packet *packet);
    void (*rebind)(void); /* every client gets another port, and another address if the scenario says so */
};

extern const struct wire udp_wire, tun_wire;

/* Opens the sockets; returns the port clients shall send to. */
unsigned udp_open(const char *listen, const char *upstream);
void tun_open(const char *client_namespace, const char *server_namespace);

/* ---- main.c ---- */

uint64_t now_ns(void);
void watch(int fd, void *source);
void unwatch(int fd);
unsigned random_below(unsigned n); /* of a generator that packets do not use */
_Noreturn void die(const char *format, ...);

#endif
