/* UDP in batches: recvmmsg with GRO in, sendmmsg with GSO out, and what they fall back to. */
#ifndef QUICHE_H3_UDP_IO_H
#define QUICHE_H3_UDP_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <netinet/in.h>

#define UDP_MAX_PAYLOAD 65507    /* of IPv4; IPv6 allows 20 bytes more */
#define UDP_MAX_SEGMENTS 64      /* what every kernel with UDP_SEGMENT takes in one message */
#define UDP_SEND_MESSAGES 64
#define UDP_SEND_ARENA (256 * 1024)
#define UDP_MAX_ERRNO 134

enum { UDP_NOT_ECT = 0, UDP_ECT0 = 2, UDP_CE = 3 }; /* ECN codepoints (RFC 3168 5) */

typedef struct {
    struct sockaddr_storage peer, local;
    socklen_t peer_len, local_len;
    uint8_t *data;
    size_t len, segment; /* `len` bytes, every `segment` of them one udp payload, the last may be shorter */
    uint8_t ecn;         /* the codepoint it came with, or is to be sent with */
    uint64_t at;         /* to send: when, in nanoseconds of the monotonic clock, where the socket has `txtime`; 0: now */
} udp_message;

typedef struct {
    int fd;        /* -1: a memory socket, what is sent stays in the arena until it is taken */
    bool wildcard; /* bound to no particular address: IP_PKTINFO tells and sets the local one */
    bool gso, gro;
    bool txtime; /* the kernel (its fq queue) keeps each message until its time */
    bool errors; /* ICMP errors are kept for udp_refused(), Linux only */
    bool errors_wait; /* some may be there: the last receive found no datagram */
    struct sockaddr_storage bound;
    socklen_t bound_len;

    unsigned batch;
    size_t slot;
    void *receive_state; /* owned: buffers and headers of recvmmsg, see udp_io.c */

    uint8_t *arena; /* owned */
    size_t used;
    unsigned first, count; /* messages [first, count) of `messages` wait to be sent */
    size_t first_offset;   /* bytes of messages[first] that already left */
    udp_message *messages; /* owned, UDP_SEND_MESSAGES of them */

    uint64_t udp_received, bytes_received, udp_sent, bytes_sent, send_blocked, gso_fallbacks, receive_errors, timed;
    uint64_t ect_received, ce_received; /* udp payloads */
    uint32_t receive_overflow;
    uint64_t send_errors[UDP_MAX_ERRNO];
} udp_socket;

enum { UDP_SEND_OK = 0, UDP_SEND_BLOCKED = 1, UDP_SEND_NO_BUFFERS = 2 };

/* Allocates the buffers and sets the options of a bound, non-blocking socket (or fd -1). One received message has
 * room for `slot` bytes. False: out of memory. */
bool udp_init(udp_socket *u, int fd, unsigned batch, size_t slot, bool gro, bool gso, bool txtime, bool errors);
void udp_free(udp_socket *u);

/* Receives one batch. Returns the number of messages (udp_received_message() reads them), 0 when there is none. */
int udp_receive(udp_socket *u);
bool udp_received_message(udp_socket *u, int i, udp_message *out);

/* Takes one of the errors that wait. 1: nobody listens at `to` (ICMP port unreachable); 0: another error; -1: none. */
int udp_refused(udp_socket *u, struct sockaddr_storage *to);

/* Room for one train of packets, or NULL while the socket is blocked. */
uint8_t *udp_reserve(udp_socket *u);
/* `len` bytes at the place udp_reserve() gave become one message of `segment` byte payloads, to leave at `at`, marked
 * with the codepoint `ecn`. */
void udp_commit(udp_socket *u, size_t len, size_t segment, const struct sockaddr_storage *from, socklen_t from_len,
                const struct sockaddr_storage *to, socklen_t to_len, uint64_t at, uint8_t ecn);
/* Sends what was committed: UDP_SEND_*. What cannot leave now is kept. */
int udp_flush(udp_socket *u);

#endif
