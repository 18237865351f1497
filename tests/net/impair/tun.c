/* Between two network namespaces: one TUN device in each, so that addresses, TOS and MTU are real. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "impair.h"

enum { BATCH = 64, UDP_HEADER = 8, ADDRESS = 16 };

struct side {
    int fd;
    int direction; /* of what is read here */
};

struct endpoint {
    uint8_t address[ADDRESS]; /* 4 or 16 bytes */
    uint16_t port;            /* network order */
};

struct flow { /* a client's address and port, and what they look like beyond the NAT */
    unsigned index;
    unsigned width; /* bytes of an address: the family */
    struct endpoint inside, outside;
    uint16_t server_port; /* where its last datagram went, network order */
    uint8_t ecn[DIRECTIONS]; /* codepoint of the last datagram of each direction */
    struct flow *next;
};

static struct side sides[DIRECTIONS] = {{-1, TO_SERVER}, {-1, TO_CLIENT}};
static struct flow *flows;
static bool rebound;
static uint8_t nat; /* last byte of the clients' address as the server sees it; 0 leaves it */
static uint8_t buffer[MAX_PACKET];

static int open_tun(const char *namespace)
{
    char path[256];
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int fd;
    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET))
        die("namespace %s: %s", namespace, strerror(errno));
    close(fd);
    strcpy(request.ifr_name, "impair");
    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request))
        die("TUN device: %s", strerror(errno));
    return fd;
}

void tun_open(const char *client_namespace, const char *server_namespace)
{
    sides[TO_SERVER].fd = open_tun(client_namespace);
    sides[TO_CLIENT].fd = open_tun(server_namespace);
    for (int i = 0; i < DIRECTIONS; i++)
        watch(sides[i].fd, &sides[i]);
}

/* ---- what is in a packet ---- */

struct view {
    unsigned width;           /* of an address; 0 when this is no UDP packet */
    size_t udp;               /* offset of the UDP header */
    uint8_t *from, *to;       /* addresses */
    uint8_t *from_port, *to_port;
};

static struct view view_of(uint8_t *data, size_t len)
{
    struct view v = {0};
    if (len >= 28 && data[0] >> 4 == 4 && data[9] == IPPROTO_UDP && !((data[6] & 0x1f) | data[7])) {
        v.width = 4;
        v.udp = (size_t)(data[0] & 15) * 4;
        v.from = data + 12;
    } else if (len >= 48 && data[0] >> 4 == 6 && data[6] == IPPROTO_UDP) {
        v.width = 16;
        v.udp = 40;
        v.from = data + 8;
    }
    if (v.udp + UDP_HEADER > len)
        v.width = 0;
    v.to = v.from ? v.from + v.width : NULL;
    v.from_port = data + v.udp;
    v.to_port = data + v.udp + 2;
    return v;
}

static uint32_t sum(const uint8_t *data, size_t len)
{
    uint32_t total = 0;
    for (size_t i = 0; i < len; i++)
        total += i & 1 ? data[i] : (uint32_t)data[i] << 8;
    return total;
}

static uint16_t folded(uint32_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)~total;
}

static void set16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void set_checksums(uint8_t *data, size_t len, const struct view *v)
{
    uint16_t checksum;
    if (v->width == 4) {
        set16(data + 10, 0);
        set16(data + 10, folded(sum(data, v->udp)));
    }
    set16(data + v->udp + 6, 0);
    checksum = folded(sum(data + v->udp, len - v->udp) + sum(v->from, 2 * v->width) + IPPROTO_UDP
                      + (uint32_t)(len - v->udp));
    set16(data + v->udp + 6, checksum ? checksum : 0xffff);
}

/* ---- the NAT ---- */

static bool is(const struct endpoint *endpoint, const uint8_t *address, const uint8_t *port, unsigned width)
{
    return memcmp(endpoint->address, address, width) == 0 && memcmp(&endpoint->port, port, 2) == 0;
}

static struct flow *outgoing(const struct view *v)
{
    struct flow *flow;
    for (flow = flows; flow; flow = flow->next)
        if (flow->width == v->width && is(&flow->inside, v->from, v->from_port, v->width))
            return flow;
    flow = calloc(1, sizeof *flow);
    if (!flow)
        die("no memory");
    flow->index = flows ? flows->index + 1 : 1;
    flow->width = v->width;
    memcpy(flow->inside.address, v->from, v->width);
    memcpy(&flow->inside.port, v->from_port, 2);
    flow->outside = flow->inside;
    if (nat)
        flow->outside.address[v->width - 1] = nat;
    flow->next = flows;
    return flows = flow;
}

static struct flow *incoming(const struct view *v)
{
    struct flow *flow = flows;
    while (flow && !(flow->width == v->width && is(&flow->outside, v->to, v->to_port, v->width)))
        flow = flow->next;
    return flow;
}

/* A client that goes to another port of the server has migrated, or is about to (RFC 9000 9.6). */
static void note_port(struct flow *flow, const struct view *v)
{
    uint16_t before = flow->server_port;
    memcpy(&flow->server_port, v->to_port, 2);
    if (before && before != flow->server_port)
        link_note("flow %u goes to port %u", flow->index, ntohs(flow->server_port));
}

static void note_ecn(struct flow *flow, const uint8_t *data, int direction)
{
    uint8_t tos = data[0] >> 4 == 4 ? data[1] : (uint8_t)(data[0] << 4 | data[1] >> 4), codepoint = tos & 3;
    if (codepoint != flow->ecn[direction])
        link_note("flow %u %s has codepoint %u", flow->index, direction == TO_SERVER ? "toserver" : "toclient",
                  codepoint);
    flow->ecn[direction] = codepoint;
}

static void rebind(void)
{
    uint8_t old = nat;
    while (scenario.rebind_addr && (nat == old || nat == 0 || (flows && nat == flows->inside.address[flows->width - 1])))
        nat = (uint8_t)(1 + random_below(254));
    rebound = true;
    for (struct flow *flow = flows; flow; flow = flow->next) {
        flow->outside.port = htons((uint16_t)(1024 + random_below(64512)));
        if (nat)
            flow->outside.address[flow->width - 1] = nat;
        link_note("rebind flow %u port %u", flow->index, ntohs(flow->outside.port));
    }
}

/* ---- packets ---- */

static void read_device(void *source)
{
    struct side *side = source;
    for (int i = 0; i < BATCH; i++) {
        ssize_t n = read(side->fd, buffer, sizeof buffer);
        if (n <= 0)
            return;
        struct view v = view_of(buffer, (size_t)n);
        struct flow *flow = !v.width ? NULL : side->direction == TO_SERVER ? outgoing(&v) : incoming(&v);
        if (flow && side->direction == TO_SERVER)
            note_port(flow, &v);
        if (flow)
            note_ecn(flow, buffer, side->direction);
        link_offer(side->direction, flow, buffer, (size_t)n, v.width ? v.udp + UDP_HEADER : (size_t)n, 0);
    }
}

static void deliver(struct packet *packet)
{
    struct view v = view_of(packet->data, packet->len);
    struct flow *flow = packet->flow;
    if (v.width && rebound) {
        if (packet->direction == TO_SERVER) {
            memcpy(v.from, flow->outside.address, v.width);
            memcpy(v.from_port, &flow->outside.port, 2);
        } else {
            if (!(flow = incoming(&v)))
                return; /* a binding that is no more */
            memcpy(v.to, flow->inside.address, v.width);
            memcpy(v.to_port, &flow->inside.port, 2);
        }
    }
    if (v.width && (rebound || packet->changed))
        set_checksums(packet->data, packet->len, &v);
    if (write(sides[!packet->direction].fd, packet->data, packet->len) < 0)
        link_note("not sent: %s", strerror(errno));
}

const struct wire tun_wire = {read_device, deliver, rebind};
