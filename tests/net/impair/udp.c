/* On one machine: clients send to one port, each gets a socket of its own towards the server. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "impair.h"

enum { BUCKETS = 4096, BUFFER = 8 << 20, BATCH = 64, UDP_HEADER = 8 };

struct flow {
    unsigned index;
    int fd; /* towards the server */
    struct sockaddr_storage client;
    struct flow *next, *next_in_bucket;
};

static struct flow *flows, *buckets[BUCKETS], front; /* `front` stands for the socket that clients send to */
static struct sockaddr_storage server;
static socklen_t address_len;
static uint32_t nat; /* the clients' own address as the server sees it (IPv4, host order) */
static uint8_t buffer[MAX_PACKET];

static void resolve(const char *text, struct sockaddr_storage *out)
{
    struct addrinfo *found, hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (text[0] == '[' && length > 1) {
        text++;
        length -= 2;
    }
    if (!length || length >= sizeof host)
        die("%s is no address:port", text);
    memcpy(host, text, length);
    host[length] = 0;
    if (getaddrinfo(host, colon + 1, &hints, &found))
        die("%s is no address:port", text);
    memcpy(out, found->ai_addr, found->ai_addrlen);
    address_len = found->ai_addrlen;
    freeaddrinfo(found);
}

static int open_socket(const struct sockaddr *local)
{
    int size = BUFFER, fd = socket(server.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket: %s", strerror(errno));
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (local && bind(fd, local, address_len))
        die("bind: %s", strerror(errno));
    return fd;
}

unsigned udp_open(const char *listen, const char *upstream)
{
    struct sockaddr_storage local;
    socklen_t len = sizeof local;
    resolve(upstream, &server);
    if (!listen)
        listen = server.ss_family == AF_INET6 ? "[::1]:0" : "127.0.0.1:0";
    resolve(listen, &local);
    if (local.ss_family != server.ss_family)
        die("%s and %s are of different families", listen, upstream);
    nat = INADDR_LOOPBACK;
    front.fd = open_socket((struct sockaddr *)&local);
    getsockname(front.fd, (struct sockaddr *)&local, &len);
    watch(front.fd, &front);
    return ntohs(((struct sockaddr_in *)&local)->sin_port);
}

static void connect_upstream(struct flow *flow)
{
    /* Whatever the system chooses, but for the loopback's own range, all of which is ours to choose from. */
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(nat)};
    bool choose = scenario.rebind_addr && server.ss_family == AF_INET;
    flow->fd = open_socket(choose ? (struct sockaddr *)&local : NULL);
    if (connect(flow->fd, (struct sockaddr *)&server, address_len))
        die("connect: %s", strerror(errno));
    watch(flow->fd, flow);
}

static struct flow *flow_of(const struct sockaddr_storage *client)
{
    unsigned port = ntohs(((const struct sockaddr_in *)client)->sin_port);
    struct flow **bucket = &buckets[port % BUCKETS], *flow;
    for (flow = *bucket; flow; flow = flow->next_in_bucket)
        if (memcmp(&flow->client, client, address_len) == 0)
            return flow;
    flow = calloc(1, sizeof *flow);
    if (!flow)
        die("no memory");
    flow->index = flows ? flows->index + 1 : 1;
    flow->client = *client;
    flow->next = flows;
    flow->next_in_bucket = *bucket;
    flows = *bucket = flow;
    connect_upstream(flow);
    return flow;
}

static void read_socket(void *source)
{
    struct flow *flow = source;
    struct sockaddr_storage from;
    size_t ip = server.ss_family == AF_INET6 ? 40 : 20;
    for (int i = 0; i < BATCH; i++) {
        socklen_t len = sizeof from;
        memset(&from, 0, sizeof from);
        ssize_t n = recvfrom(flow->fd, buffer, sizeof buffer, MSG_DONTWAIT, (struct sockaddr *)&from, &len);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            continue; /* an ICMP message: what was sent is lost */
        if (flow == &front)
            link_offer(TO_SERVER, flow_of(&from), buffer, (size_t)n, 0, ip + UDP_HEADER);
        else
            link_offer(TO_CLIENT, flow, buffer, (size_t)n, 0, ip + UDP_HEADER);
    }
}

static void deliver(struct packet *packet)
{
    struct flow *flow = packet->flow;
    ssize_t n;
    if (packet->direction == TO_SERVER)
        n = send(flow->fd, packet->data, packet->len, MSG_DONTWAIT);
    else
        n = sendto(front.fd, packet->data, packet->len, MSG_DONTWAIT, (struct sockaddr *)&flow->client, address_len);
    if (n < 0 && errno != ECONNREFUSED)
        link_note("not sent: %s", strerror(errno));
}

/* The old sockets stay, unread: what the server still sends to them is lost without an ICMP message, as at a NAT. */
static void rebind(void)
{
    int smallest = 0;
    uint32_t old = nat;
    while (scenario.rebind_addr && (nat == old || nat == INADDR_LOOPBACK))
        nat = (old & 0xffffff00) | (1 + random_below(254));
    for (struct flow *flow = flows; flow; flow = flow->next) {
        unwatch(flow->fd);
        setsockopt(flow->fd, SOL_SOCKET, SO_RCVBUF, &smallest, sizeof smallest);
        connect_upstream(flow);
        link_note("rebind flow %u", flow->index);
    }
}

const struct wire udp_wire = {read_socket, deliver, rebind};
