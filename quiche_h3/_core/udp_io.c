#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* recvmmsg, sendmmsg, struct in6_pktinfo */
#endif
#ifdef __APPLE__
#define __APPLE_USE_RFC_3542
#endif

#include "udp_io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <netinet/udp.h>

#ifdef __linux__
#include <linux/errqueue.h>
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SO_TXTIME
#define SO_TXTIME 61
#define SCM_TXTIME SO_TXTIME
#endif
#define HAVE_MMSG 1
#else
struct mmsghdr {
    struct msghdr msg_hdr;
    unsigned msg_len;
};
#endif

#define CONTROL_BYTES 192

typedef struct {
    struct mmsghdr *headers;
    struct iovec *iov;
    struct sockaddr_storage *names;
    uint8_t *control, *data;
} receive_state;

static void set_int(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value);
}

/* Every option here has a fallback, so a refusal is no error: without don't-fragment a router may cut packets,
 * without the overflow counter it stays 0, without GRO each udp payload comes alone, without ECN there is none. */
static void set_options(udp_socket *u)
{
    int v6 = u->bound.ss_family == AF_INET6;
#ifdef IP_MTU_DISCOVER
    set_int(u->fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    if (v6)
        set_int(u->fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
#elif defined(IP_DONTFRAG)
    set_int(u->fd, IPPROTO_IP, IP_DONTFRAG, 1);
#endif
    if (u->wildcard) {
#ifdef IP_PKTINFO
        set_int(u->fd, IPPROTO_IP, IP_PKTINFO, 1);
#elif defined(IP_RECVDSTADDR)
        set_int(u->fd, IPPROTO_IP, IP_RECVDSTADDR, 1);
#endif
        if (v6)
            set_int(u->fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    }
#ifdef IP_RECVTOS
    set_int(u->fd, IPPROTO_IP, IP_RECVTOS, 1);
#endif
#ifdef IPV6_RECVTCLASS
    if (v6)
        set_int(u->fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
#endif
#ifdef SO_RXQ_OVFL
    set_int(u->fd, SOL_SOCKET, SO_RXQ_OVFL, 1);
#endif
#ifdef __linux__
    int one = 1;
    if (u->gro && setsockopt(u->fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one) != 0)
        u->gro = false;
    int zero = 0;
    if (u->gso && setsockopt(u->fd, IPPROTO_UDP, UDP_SEGMENT, &zero, sizeof zero) != 0)
        u->gso = false;
    struct {
        int clock; /* struct sock_txtime, which older headers lack */
        uint32_t flags;
    } txtime = {CLOCK_MONOTONIC, 0};
    if (u->txtime && setsockopt(u->fd, SOL_SOCKET, SO_TXTIME, &txtime, sizeof txtime) != 0)
        u->txtime = false;
    if (u->errors) {
        set_int(u->fd, IPPROTO_IP, IP_RECVERR, 1);
        if (v6)
            set_int(u->fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    }
#else
    u->gro = u->gso = u->txtime = u->errors = false;
#endif
}

static bool is_wildcard(const struct sockaddr_storage *a)
{
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr == INADDR_ANY;
    return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

bool udp_init(udp_socket *u, int fd, unsigned batch, size_t slot, bool gro, bool gso, bool txtime, bool errors)
{
    u->fd = fd;
    u->batch = batch;
    u->gro = gro;
    u->gso = gso;
    u->txtime = txtime;
    u->errors = errors;
    u->arena = (uint8_t *)malloc(UDP_SEND_ARENA);
    u->messages = (udp_message *)calloc(UDP_SEND_MESSAGES, sizeof(udp_message));
    if (!u->arena || !u->messages)
        return false;
    if (fd < 0)
        return true;
    u->bound_len = sizeof u->bound;
    if (getsockname(fd, (struct sockaddr *)&u->bound, &u->bound_len) != 0)
        return false;
    u->wildcard = is_wildcard(&u->bound);
    set_options(u);
    u->slot = slot;
    receive_state *r = (receive_state *)calloc(1, sizeof *r);
    u->receive_state = r;
    if (!r)
        return false;
    r->headers = (struct mmsghdr *)calloc(batch, sizeof *r->headers);
    r->iov = (struct iovec *)calloc(batch, sizeof *r->iov);
    r->names = (struct sockaddr_storage *)calloc(batch, sizeof *r->names);
    r->control = (uint8_t *)calloc(batch, CONTROL_BYTES);
    r->data = (uint8_t *)malloc(batch * u->slot);
    return r->headers && r->iov && r->names && r->control && r->data;
}

void udp_free(udp_socket *u)
{
    receive_state *r = (receive_state *)u->receive_state;
    if (r) {
        free(r->headers);
        free(r->iov);
        free(r->names);
        free(r->control);
        free(r->data);
        free(r);
    }
    free(u->arena);
    free(u->messages);
    u->receive_state = NULL;
    u->arena = NULL;
    u->messages = NULL;
}

static int receive_many(int fd, struct mmsghdr *headers, unsigned n)
{
#ifdef HAVE_MMSG
    return recvmmsg(fd, headers, n, MSG_DONTWAIT, NULL);
#else
    unsigned i = 0;
    for (; i < n; i++) {
        ssize_t r = recvmsg(fd, &headers[i].msg_hdr, MSG_DONTWAIT);
        if (r < 0)
            return i ? (int)i : -1;
        headers[i].msg_len = (unsigned)r;
    }
    return (int)i;
#endif
}

static int send_many(int fd, struct mmsghdr *headers, unsigned n)
{
#ifdef HAVE_MMSG
    if (n == 1) { /* the common case at one request at a time: sendmsg is the cheaper call */
        ssize_t r = sendmsg(fd, &headers[0].msg_hdr, MSG_DONTWAIT);
        return r < 0 ? -1 : 1;
    }
    return sendmmsg(fd, headers, n, MSG_DONTWAIT);
#else
    unsigned i = 0;
    for (; i < n; i++)
        if (sendmsg(fd, &headers[i].msg_hdr, MSG_DONTWAIT) < 0)
            return i ? (int)i : -1;
    return (int)i;
#endif
}

int udp_receive(udp_socket *u)
{
    receive_state *r = (receive_state *)u->receive_state;
    if (u->fd < 0)
        return 0;
    for (unsigned i = 0; i < u->batch; i++) {
        struct msghdr *m = &r->headers[i].msg_hdr;
        r->iov[i].iov_base = r->data + i * u->slot;
        r->iov[i].iov_len = u->slot;
        m->msg_name = &r->names[i];
        m->msg_namelen = sizeof r->names[i];
        m->msg_iov = &r->iov[i];
        m->msg_iovlen = 1;
        m->msg_control = r->control + i * CONTROL_BYTES;
        m->msg_controllen = CONTROL_BYTES;
    }
    int n;
    do
        n = receive_many(u->fd, r->headers, u->batch);
    while (n < 0 && errno == EINTR);
    u->errors_wait = u->errors && n < 0;
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            u->receive_errors++; /* e.g. ECONNREFUSED from an ICMP message: the socket itself is well */
        return 0;
    }
    return n;
}

int udp_refused(udp_socket *u, struct sockaddr_storage *to)
{
#ifdef __linux__
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(struct sock_extended_err) + sizeof(struct sockaddr_in6)) + 64];
    } control;
    struct msghdr m = {.msg_name = to,
                       .msg_namelen = sizeof *to,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    if (recvmsg(u->fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
        return -1;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        if (!(h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_RECVERR) &&
            !(h->cmsg_level == IPPROTO_IPV6 && h->cmsg_type == IPV6_RECVERR))
            continue;
        struct sock_extended_err error;
        memcpy(&error, CMSG_DATA(h), sizeof error);
        return error.ee_errno == ECONNREFUSED && error.ee_origin != SO_EE_ORIGIN_LOCAL;
    }
    return 0;
#else
    (void)u, (void)to;
    return -1;
#endif
}

static void set_local_v4(udp_socket *u, udp_message *m, const struct in_addr *a)
{
    struct sockaddr_in *s = (struct sockaddr_in *)&m->local;
    memset(s, 0, sizeof *s);
    s->sin_family = AF_INET;
    s->sin_port = ((struct sockaddr_in *)&u->bound)->sin_port;
    s->sin_addr = *a;
    m->local_len = sizeof *s;
}

bool udp_received_message(udp_socket *u, int i, udp_message *out)
{
    receive_state *r = (receive_state *)u->receive_state;
    struct msghdr *m = &r->headers[i].msg_hdr;
    sa_family_t family = r->names[i].ss_family;
    out->data = r->data + (size_t)i * u->slot;
    out->len = out->segment = r->headers[i].msg_len;
    out->peer_len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    memcpy(&out->peer, &r->names[i], out->peer_len);
    out->ecn = UDP_NOT_ECT;
    out->local_len = u->bound_len;
    memcpy(&out->local, &u->bound, u->bound_len);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
#ifdef __linux__
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            int segment;
            memcpy(&segment, CMSG_DATA(c), sizeof segment);
            if (segment > 0)
                out->segment = (size_t)segment;
        }
#endif
#ifdef SO_RXQ_OVFL
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_RXQ_OVFL)
            memcpy(&u->receive_overflow, CMSG_DATA(c), sizeof u->receive_overflow);
#endif
#ifdef IP_PKTINFO
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO && u->bound.ss_family == AF_INET) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            set_local_v4(u, out, &info.ipi_addr);
        }
#elif defined(IP_RECVDSTADDR)
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVDSTADDR)
            set_local_v4(u, out, (const struct in_addr *)CMSG_DATA(c));
#endif
#ifdef IP_RECVTOS
        if (c->cmsg_level == IPPROTO_IP && (c->cmsg_type == IP_TOS || c->cmsg_type == IP_RECVTOS))
            out->ecn = *CMSG_DATA(c) & 3;
#endif
#ifdef IPV6_RECVTCLASS
        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            int tclass;
            memcpy(&tclass, CMSG_DATA(c), sizeof tclass);
            out->ecn = (uint8_t)(tclass & 3);
        }
#endif
        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            ((struct sockaddr_in6 *)&out->local)->sin6_addr = info.ipi6_addr;
        }
    }
    if (m->msg_flags & MSG_TRUNC) {
        u->receive_errors++; /* larger than what we announced that we take */
        return false;
    }
    size_t payloads = out->segment ? (out->len + out->segment - 1) / out->segment : 1;
    u->udp_received += payloads;
    u->ect_received += out->ecn ? payloads : 0;
    u->ce_received += out->ecn == UDP_CE ? payloads : 0;
    u->bytes_received += out->len;
    return out->len > 0 && (family == AF_INET || family == AF_INET6);
}

uint8_t *udp_reserve(udp_socket *u)
{
    if (u->first < u->count && (u->count == UDP_SEND_MESSAGES || u->used + 65536 > UDP_SEND_ARENA) &&
        udp_flush(u) != UDP_SEND_OK)
        return NULL;
    return u->arena + u->used;
}

void udp_commit(udp_socket *u, size_t len, size_t segment, const struct sockaddr_storage *from, socklen_t from_len,
                const struct sockaddr_storage *to, socklen_t to_len, uint64_t at, uint8_t ecn)
{
    udp_message *m = &u->messages[u->count++];
    m->data = u->arena + u->used;
    m->len = len;
    m->segment = segment;
    memcpy(&m->local, from, from_len);
    m->local_len = from_len;
    memcpy(&m->peer, to, to_len);
    m->peer_len = to_len;
    m->ecn = ecn;
    m->at = u->txtime ? at : 0;
    if (m->at)
        u->timed++;
    u->used += len;
}

typedef union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(uint16_t)) +
                  CMSG_SPACE(sizeof(uint64_t)) + CMSG_SPACE(sizeof(int))];
} send_control;

static size_t put_cmsg(struct msghdr *m, size_t used, int level, int type, const void *data, size_t len)
{
    struct cmsghdr *c = (struct cmsghdr *)((uint8_t *)m->msg_control + used);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    memcpy(CMSG_DATA(c), data, len);
    return used + CMSG_SPACE(len);
}

#ifdef __linux__
/* On an IPv6 socket too, IPv4 has a TOS. */
static size_t put_ecn(const udp_message *m, struct msghdr *msg, size_t used)
{
    int codepoint = m->ecn;
    bool v4 = m->peer.ss_family == AF_INET ||
              IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)&m->peer)->sin6_addr);
    return v4 ? put_cmsg(msg, used, IPPROTO_IP, IP_TOS, &codepoint, sizeof codepoint)
              : put_cmsg(msg, used, IPPROTO_IPV6, IPV6_TCLASS, &codepoint, sizeof codepoint);
}
#endif

/* One message to the kernel: `len` bytes at `data`, cut into `segment` byte payloads when it is longer. */
static void fill(udp_socket *u, udp_message *m, uint8_t *data, size_t len, struct mmsghdr *h, struct iovec *iov,
                 send_control *control)
{
    struct msghdr *msg = &h->msg_hdr;
    size_t used = 0;
    memset(h, 0, sizeof *h);
    iov->iov_base = data;
    iov->iov_len = len;
    msg->msg_name = &m->peer;
    msg->msg_namelen = m->peer_len;
    msg->msg_iov = iov;
    msg->msg_iovlen = 1;
    msg->msg_control = control;
    if (u->wildcard) {
        memset(control, 0, sizeof *control);
        if (m->local.ss_family == AF_INET) {
#ifdef IP_PKTINFO
            struct in_pktinfo info = {0};
            info.ipi_spec_dst = ((struct sockaddr_in *)&m->local)->sin_addr;
            used = put_cmsg(msg, used, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
#elif defined(IP_SENDSRCADDR)
            used = put_cmsg(msg, used, IPPROTO_IP, IP_SENDSRCADDR, &((struct sockaddr_in *)&m->local)->sin_addr,
                            sizeof(struct in_addr));
#endif
        } else {
            struct in6_pktinfo info = {0};
            info.ipi6_addr = ((struct sockaddr_in6 *)&m->local)->sin6_addr;
            info.ipi6_ifindex = ((struct sockaddr_in6 *)&m->local)->sin6_scope_id;
            used = put_cmsg(msg, used, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
        }
    }
#ifdef __linux__
    if (len > m->segment) {
        uint16_t segment = (uint16_t)m->segment;
        used = put_cmsg(msg, used, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
    }
    if (m->ecn)
        used = put_ecn(m, msg, used);
    if (m->at)
        used = put_cmsg(msg, used, SOL_SOCKET, SCM_TXTIME, &m->at, sizeof m->at);
#endif
    msg->msg_controllen = used;
    if (used == 0)
        msg->msg_control = NULL;
}

/* Moves past `len` sent (or lost) bytes of the first message. */
static void advance(udp_socket *u, size_t len)
{
    u->first_offset += len;
    if (u->first_offset >= u->messages[u->first].len) {
        u->first++;
        u->first_offset = 0;
    }
}

static int send_failed(udp_socket *u, int error, size_t unit)
{
    udp_message *m = &u->messages[u->first];
    if (error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS || error == ENOMEM) {
        u->send_blocked++;
        /* A full device queue does not make the socket unwritable: only a timer can wait for it. */
        return error == EAGAIN || error == EWOULDBLOCK ? UDP_SEND_BLOCKED : UDP_SEND_NO_BUFFERS;
    }
    if (u->gso && unit > m->segment && (error == EIO || error == EINVAL || error == EOPNOTSUPP)) {
        u->gso = false; /* a device without checksum offload, or a path that refuses segmentation */
        u->gso_fallbacks++;
        return UDP_SEND_OK;
    }
    if (u->errors && error == ECONNREFUSED)
        return UDP_SEND_OK; /* ICMP about an earlier message, told once: this one has not been tried */
    /* EMSGSIZE, EPERM, ENETUNREACH, ...: to QUIC these bytes are packets lost on the way. */
    u->send_errors[error > 0 && error < UDP_MAX_ERRNO ? error : 0]++;
    advance(u, unit);
    return UDP_SEND_OK;
}

int udp_flush(udp_socket *u)
{
    struct mmsghdr headers[UDP_SEND_MESSAGES];
    struct iovec iov[UDP_SEND_MESSAGES];
    send_control control[UDP_SEND_MESSAGES];
    size_t units[UDP_SEND_MESSAGES];

    if (u->fd < 0)
        return u->first < u->count ? UDP_SEND_BLOCKED : UDP_SEND_OK;
    while (u->first < u->count) {
        unsigned n = 0;
        size_t offset = u->first_offset;
        for (unsigned i = u->first; i < u->count && n < UDP_SEND_MESSAGES; i++, offset = 0) {
            udp_message *m = &u->messages[i];
            while (offset < m->len && n < UDP_SEND_MESSAGES) {
                size_t left = m->len - offset;
                units[n] = u->gso || left < m->segment ? left : m->segment;
                fill(u, m, m->data + offset, units[n], &headers[n], &iov[n], &control[n]);
                offset += units[n++];
            }
        }
        int sent = send_many(u->fd, headers, n);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            int result = send_failed(u, errno, units[0]);
            if (result != UDP_SEND_OK)
                return result;
            continue;
        }
        for (int i = 0; i < sent; i++) {
            size_t segment = u->messages[u->first].segment;
            u->udp_sent += (units[i] + segment - 1) / segment;
            u->bytes_sent += units[i];
            advance(u, units[i]);
        }
    }
    u->first = u->count = 0;
    u->first_offset = 0;
    u->used = 0;
    return UDP_SEND_OK;
}
