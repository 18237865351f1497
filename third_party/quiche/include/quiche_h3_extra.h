// What quiche.h lacks: functions that the wrapper crate in third_party/quiche adds to the shared library.
// A plain quiche does not have them: `build_quiche.sh --system` puts a definition of QUICHE_H3_NO_EXTRA at the
// head of this file, and each of them does what can be done without it, or says "not supported".

#ifndef QUICHE_H3_EXTRA_H
#define QUICHE_H3_EXTRA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quiche.h"

#ifdef __cplusplus
extern "C" {
#endif

// Returned where QUICHE_H3_NO_EXTRA is defined. Outside the ranges of both of quiche's error enums.
#define QUICHE_H3_EXTRA_UNSUPPORTED (-10000)

// How a connection marks its packets: quiche_h3_conn_ecn().
enum quiche_h3_ecn {
    QUICHE_H3_ECN_OFF = 0,
    QUICHE_H3_ECN_MARKING = 1,  // what quiche_conn_send() gives has to be sent as ECT(0)
    QUICHE_H3_ECN_FAILED = 2,   // no more: the network or the peer does not bear it
};

#ifndef QUICHE_H3_NO_EXTRA

// Sets the round trip time that is assumed until one is measured (RFC 9002 section 6.2.2), in milliseconds.
void quiche_h3_config_set_initial_rtt(quiche_config *config, uint64_t ms);

// The most that a connection keeps of what was written to its streams and is not acknowledged, however large the
// congestion window grows.
void quiche_h3_config_set_max_send_window(quiche_config *config, size_t n);

// Doubts the path MTU that was discovered: back to 1,200 bytes, and the search begins anew (RFC 8899 section 4.3).
void quiche_h3_conn_revalidate_pmtu(quiche_conn *conn);

// Sets HTTP/3 settings that quiche does not know (RFC 9114 section 7.2.4.1), to be sent beside its own.
// `pairs` holds n identifier and value pairs: id0, value0, id1, value1, ... A later call replaces an earlier
// one. Returns 0, or QUICHE_H3_ERR_SETTINGS_ERROR when an identifier occurs twice or is one that quiche sets
// itself or that HTTP/3 reserves; then nothing is changed.
int quiche_h3_config_set_additional_settings(quiche_h3_config *config,
                                             const uint64_t *pairs, size_t n);

// Version 2 of QUIC (RFC 9369).
#define QUICHE_H3_PROTOCOL_VERSION_2 0x6b3343cf

// The versions that a connection may go on in after it was begun (RFC 9368), the best one first: the server chooses, and
// prefers its own. A client begins in the version that the configuration was made with, a server's connection in its
// client's. False, and nothing is changed, when there is one among them that is not known.
bool quiche_h3_config_set_versions(quiche_config *config, const uint32_t *versions, size_t n);

// The version that is spoken. It changes in the handshake at most.
uint32_t quiche_h3_conn_version(const quiche_conn *conn);

// Explicit Congestion Notification (RFC 9000 section 13.4). Off by default; what was received is told to the peer in any
// case. BBR2 heeds no marks of congestion: with it nothing is marked.
void quiche_h3_config_enable_ecn(quiche_config *config, bool enabled);

// The ECN codepoint of the datagrams that quiche_conn_recv() is given from now on: the lowest two bits of the IP header's
// TOS or traffic class.
void quiche_h3_conn_set_received_ecn(quiche_conn *conn, uint8_t codepoint);

// Whether packets are marked. It changes with what is received and with timeouts, not with what is sent. Tells in `ce`,
// unless that is NULL, how many packets the peer has received with the mark of congestion.
int quiche_h3_conn_ecn(const quiche_conn *conn, uint64_t *ce);

// Sends of n bytes of body what the stream takes now, without FIN, as quiche_h3_send_body() does; but `write` puts it
// where it is kept until it is acknowledged. It is called at most once, and returns how many bytes it has written from
// `room` on: when none, nothing is sent and 0 returned.
ssize_t quiche_h3_conn_send_body_with(quiche_h3_conn *h3, quiche_conn *conn, uint64_t stream_id, size_t n,
                                      size_t (*write)(uint8_t *room, size_t n, void *argp), void *argp);

// The error code of a QUICHE_H3_EVENT_RESET event, UINT64_MAX for an event of another type.
uint64_t quiche_h3_event_reset_code(const quiche_h3_event *event);

// Whether the peer sent disable_active_migration (RFC 9000 18.2). What quiche_conn_peer_transport_params() fills in
// has another layout than quiche.h declares.
bool quiche_h3_conn_peer_disables_migration(const quiche_conn *conn);

// Tells a client of a new server's connection, before its first packet, where it is to go (RFC 9000 section 9.6): `v4` is
// 4 bytes of address and 2 of port, `v6` 16 and 2, as on the wire; NULL where there is none. `cid` is the connection ID
// with sequence number 1, `token` its stateless reset token of 16 bytes. Returns false when it cannot be done.
bool quiche_h3_conn_set_preferred_address(quiche_conn *conn, const uint8_t *v4, const uint8_t *v6,
                                          const uint8_t *cid, size_t cid_len, const uint8_t *token);

// Begins to validate the path to the server's preferred address, of the family that is in use. Returns 1 when it has, 0
// when it is too early (the handshake is not confirmed, or there is no connection ID for it yet), -1 when there is no
// such address, or none that one should send to (section 21.5): loopback from another interface, multicast, port 0.
int quiche_h3_conn_probe_preferred_address(quiche_conn *conn);

// Frees the HTTP/3 state of a request stream on which nothing more will be sent, now or once it was read to its
// end. To be called after the send side was reset, or the receive side shut down: HTTP/3 sees neither by itself.
void quiche_h3_conn_stream_discard(quiche_h3_conn *h3, const quiche_conn *conn, uint64_t stream_id);

// Begins a key update (RFC 9001 section 6). Returns false where that is not allowed: before the handshake is confirmed,
// and until the previous update is over, three probe timeouts after the peer has answered it.
bool quiche_h3_conn_update_key(quiche_conn *conn);

// RESET_STREAM_AT (draft-ietf-quic-reliable-stream-reset): a reset before which the first bytes of the stream are
// delivered. Once announced, quiche_conn_stream_recv() gives those first, then QUICHE_ERR_STREAM_RESET. Returns 0.
int quiche_h3_config_enable_reset_stream_at(quiche_config *config, bool enabled);

// Whether both sides have announced it. Known when the handshake is done.
bool quiche_h3_conn_reset_stream_at_negotiated(const quiche_conn *conn);

// quiche_conn_stream_shutdown() of the sending side, but for the first `reliable_size` bytes, or for what has been
// written of those: they will arrive before the reset does. Returns false, and does nothing, when that was not
// negotiated, there is no such stream, or it was reset before. The error code is not changed by a later STOP_SENDING.
bool quiche_h3_conn_stream_reset_at(quiche_conn *conn, uint64_t stream_id,
                                    uint64_t error, uint64_t reliable_size);

// How many bytes of the stream were read, and how many have arrived: its largest offset, be it behind a gap, or the
// final size of a reset. One that was reset counts as read as soon as the reset can be told. Returns false when there
// is no such stream, or it is complete and all was read.
bool quiche_h3_conn_stream_offsets(const quiche_conn *conn, uint64_t stream_id,
                                   uint64_t *read, uint64_t *received);

// Claimed streams: what WebTransport needs (draft-ietf-webtrans-http3 sections 4.2 and 4.3). Off by default.
//
// When enabled, a unidirectional stream of the peer that begins with 0x54, and a bidirectional one that begins
// with 0x41, belong to the application: quiche_h3_conn_poll() reads that varint, no more, and does not touch the
// stream again. The rest (the session ID first) is read with quiche_conn_stream_recv(), answered with
// quiche_conn_stream_send(), and ended with quiche_conn_stream_shutdown(). There is nothing to release: quiche
// forgets a claimed stream when it is complete. 0x41 as a frame type in any other place closes the connection with
// H3_FRAME_ERROR. A stream that is reset before its type is known is told as QUICHE_H3_EVENT_RESET. Returns 0.
int quiche_h3_config_claim_streams(quiche_h3_config *config, bool enabled);

// The next stream of the peer that quiche_h3_conn_poll() has claimed, each once, in the order of their claim; -1
// when there is none. When quiche_conn_stream_finished() is true of it already, it ended right after its type.
int64_t quiche_h3_conn_next_claimed_stream(quiche_h3_conn *h3);

// Opens a stream that belongs to the application, with the next free ID, and returns that ID. The application
// writes all of it, the type included. QUICHE_H3_ERR_STREAM_BLOCKED when the peer gives no credit for another one.
int64_t quiche_h3_conn_open_claimed_stream(quiche_h3_conn *h3, quiche_conn *conn,
                                           bool bidi);

// The IDs of the peer's request streams whose field section has begun to arrive and is not complete: as many as there
// is room for in `ids`, in no order. Returns their number. It looks at every stream.
size_t quiche_h3_conn_incomplete_requests(const quiche_h3_conn *h3, uint64_t *ids, size_t n);

// The cipher suites of TLS 1.3 (RFC 8446 appendix B.4) that a client offers, or a server takes, best first. Returns 0, or
// -1 when one of them is unknown or listed twice.
int quiche_h3_config_set_cipher_suites(quiche_config *config, const uint16_t *ids, size_t n);

// How many frames that bring nothing the peer may send in a second, ten times as many at once: empty and unknown ones,
// GOAWAY and MAX_PUSH_ID, and streams of an unknown type. Each field section that is received allows two more. The
// connection is closed with H3_EXCESSIVE_LOAD when there are more. Without a call there is no limit.
void quiche_h3_config_set_idle_frame_rate(quiche_h3_config *config, uint64_t n);

// Whether the peer may send none of them now.
bool quiche_h3_conn_idle_frames_spent(const quiche_h3_conn *h3);

// As quiche_conn_set_qlog_path() and quiche_conn_set_keylog_fd(), but when a write fails *failed is set, and nothing
// more is written to that file. *failed must stay valid until the connection was freed, which may write and fail, too.
// The former returns false when the file is there already or cannot be made; the path may be of any bytes.
bool quiche_h3_conn_set_qlog(quiche_conn *conn, const char *path, const char *title, const char *description,
                             bool *failed);
void quiche_h3_conn_set_keylog(quiche_conn *conn, int fd, bool *failed);

// A server's TLS. One quiche_h3_tls serves several configurations: that of the connections, and those that hold
// further certificates. It must outlive the handshakes of all of them; once there are any, only its ticket keys change.
typedef struct quiche_h3_tls quiche_h3_tls;

quiche_h3_tls *quiche_h3_tls_new(void);
void quiche_h3_tls_free(quiche_h3_tls *tls);

// Session tickets are sealed with the first key that is added and opened with any; those of a later one are renewed.
// `key` has 48 bytes, the first four of which tell keys apart. A ticket brings early data once, and only to the process
// that gave it out: `capacity` uses are remembered twice over, for all servers of the process that have the key.
void quiche_h3_tls_add_ticket_key(quiche_h3_tls *tls, const uint8_t *key, size_t capacity);

// From now on tickets are sealed with `key`, and opened with it and the one that it relieves. To be called by the
// thread that the connections belong to.
void quiche_h3_tls_rotate_ticket_key(quiche_h3_tls *tls, const uint8_t *key, size_t capacity);

// Clients that ask for `name`, a host name or "*." before one, get the certificate of `config`. Returns 0, or -1 when
// the name is not UTF-8.
int quiche_h3_tls_add_name(quiche_h3_tls *tls, const char *name, quiche_config *config);

// Puts all that on a configuration. Sessions are resumed only where `context`, 32 bytes, is the same. With
// `demand_certificate` a client without a certificate fails the handshake. Returns 0, or -1 when memory is out.
int quiche_h3_tls_attach(quiche_h3_tls *tls, quiche_config *config, const uint8_t *context,
                         bool demand_certificate);

#else

static inline void quiche_h3_config_set_initial_rtt(quiche_config *config,
                                                    uint64_t ms) {
    (void)config;
    (void)ms;
}

static inline void quiche_h3_config_set_max_send_window(quiche_config *config, size_t n) {
    (void)config;
    (void)n;
}

static inline ssize_t quiche_h3_conn_send_body_with(quiche_h3_conn *h3, quiche_conn *conn, uint64_t stream_id, size_t n,
                                                    size_t (*write)(uint8_t *room, size_t n, void *argp), void *argp) {
    uint8_t room[16384];
    if (n > sizeof(room))
        n = sizeof(room);
    n = write(room, n, argp);
    return n == 0 ? 0 : quiche_h3_send_body(h3, conn, stream_id, room, n, false);
}

static inline void quiche_h3_conn_revalidate_pmtu(quiche_conn *conn) { (void)conn; }

static inline void quiche_h3_config_enable_ecn(quiche_config *config, bool enabled) {
    (void)config;
    (void)enabled;
}

static inline bool quiche_h3_config_set_versions(quiche_config *config, const uint32_t *versions, size_t n) {
    (void)config;
    return n == 1 && versions[0] == QUICHE_PROTOCOL_VERSION;
}

static inline uint32_t quiche_h3_conn_version(const quiche_conn *conn) {
    (void)conn;
    return QUICHE_PROTOCOL_VERSION;
}

static inline void quiche_h3_conn_set_received_ecn(quiche_conn *conn, uint8_t codepoint) {
    (void)conn;
    (void)codepoint;
}

static inline int quiche_h3_conn_ecn(const quiche_conn *conn, uint64_t *ce) {
    (void)conn;
    if (ce)
        *ce = 0;
    return QUICHE_H3_ECN_OFF;
}

static inline int quiche_h3_config_set_additional_settings(
    quiche_h3_config *config, const uint64_t *pairs, size_t n) {
    (void)config;
    (void)pairs;
    return n == 0 ? 0 : QUICHE_H3_EXTRA_UNSUPPORTED;
}

static inline void quiche_h3_conn_stream_discard(quiche_h3_conn *h3,
                                                 const quiche_conn *conn,
                                                 uint64_t stream_id) {
    (void)h3;
    (void)conn;
    (void)stream_id;
}

static inline bool quiche_h3_conn_set_preferred_address(quiche_conn *conn, const uint8_t *v4, const uint8_t *v6,
                                                        const uint8_t *cid, size_t cid_len,
                                                        const uint8_t *token) {
    (void)conn;
    (void)v4;
    (void)v6;
    (void)cid;
    (void)cid_len;
    (void)token;
    return false;
}

static inline int quiche_h3_conn_probe_preferred_address(quiche_conn *conn) {
    (void)conn;
    return -1;
}

static inline bool quiche_h3_conn_update_key(quiche_conn *conn) {
    (void)conn;
    return false;
}

static inline int quiche_h3_config_enable_reset_stream_at(quiche_config *config, bool enabled) {
    (void)config;
    return enabled ? QUICHE_H3_EXTRA_UNSUPPORTED : 0;
}

static inline bool quiche_h3_conn_reset_stream_at_negotiated(const quiche_conn *conn) {
    (void)conn;
    return false;
}

static inline bool quiche_h3_conn_stream_reset_at(quiche_conn *conn, uint64_t stream_id,
                                                  uint64_t error, uint64_t reliable_size) {
    (void)conn;
    (void)stream_id;
    (void)error;
    (void)reliable_size;
    return false;
}

static inline bool quiche_h3_conn_stream_offsets(const quiche_conn *conn, uint64_t stream_id,
                                                 uint64_t *read, uint64_t *received) {
    (void)conn;
    (void)stream_id;
    (void)read;
    (void)received;
    return false;
}

static inline int quiche_h3_config_claim_streams(quiche_h3_config *config,
                                                 bool enabled) {
    (void)config;
    return enabled ? QUICHE_H3_EXTRA_UNSUPPORTED : 0;
}

static inline int64_t quiche_h3_conn_next_claimed_stream(quiche_h3_conn *h3) {
    (void)h3;
    return -1;
}

static inline int64_t quiche_h3_conn_open_claimed_stream(quiche_h3_conn *h3,
                                                         quiche_conn *conn,
                                                         bool bidi) {
    (void)h3;
    (void)conn;
    (void)bidi;
    return QUICHE_H3_EXTRA_UNSUPPORTED;
}

static inline size_t quiche_h3_conn_incomplete_requests(const quiche_h3_conn *h3, uint64_t *ids, size_t n) {
    (void)h3;
    (void)ids;
    (void)n;
    return 0;
}

static inline int quiche_h3_config_set_cipher_suites(quiche_config *config, const uint16_t *ids, size_t n) {
    (void)config;
    (void)ids;
    (void)n;
    return QUICHE_H3_EXTRA_UNSUPPORTED;
}

// A plain quiche counts no frames.
static inline void quiche_h3_config_set_idle_frame_rate(quiche_h3_config *config, uint64_t n) {
    (void)config;
    (void)n;
}

static inline bool quiche_h3_conn_idle_frames_spent(const quiche_h3_conn *h3) {
    (void)h3;
    return false;
}

// A plain quiche keeps failed writes to itself.
static inline bool quiche_h3_conn_set_qlog(quiche_conn *conn, const char *path, const char *title,
                                           const char *description, bool *failed) {
    (void)failed;
    return quiche_conn_set_qlog_path(conn, path, title, description);
}

static inline void quiche_h3_conn_set_keylog(quiche_conn *conn, int fd, bool *failed) {
    (void)failed;
    quiche_conn_set_keylog_fd(conn, fd);
}

// Without them: one certificate, quiche's own ticket keys, and no early data (settings.pyx refuses it).
typedef struct quiche_h3_tls quiche_h3_tls;

static inline quiche_h3_tls *quiche_h3_tls_new(void) {
    return NULL;
}

static inline void quiche_h3_tls_free(quiche_h3_tls *tls) {
    (void)tls;
}

static inline void quiche_h3_tls_add_ticket_key(quiche_h3_tls *tls, const uint8_t *key, size_t capacity) {
    (void)tls;
    (void)key;
    (void)capacity;
}

static inline void quiche_h3_tls_rotate_ticket_key(quiche_h3_tls *tls, const uint8_t *key, size_t capacity) {
    (void)tls;
    (void)key;
    (void)capacity;
}

static inline int quiche_h3_tls_add_name(quiche_h3_tls *tls, const char *name, quiche_config *config) {
    (void)tls;
    (void)name;
    (void)config;
    return QUICHE_H3_EXTRA_UNSUPPORTED;
}

static inline int quiche_h3_tls_attach(quiche_h3_tls *tls, quiche_config *config, const uint8_t *context,
                                       bool demand_certificate) {
    (void)tls;
    (void)config;
    (void)context;
    return demand_certificate ? QUICHE_H3_EXTRA_UNSUPPORTED : 0;
}

// A plain quiche tells it in a layout of its own: the connection is taken for one that may migrate.
static inline bool quiche_h3_conn_peer_disables_migration(const quiche_conn *conn) {
    (void)conn;
    return false;
}

// A plain quiche keeps the code to itself: H3_REQUEST_CANCELLED stands for whatever it was.
static inline uint64_t quiche_h3_event_reset_code(const quiche_h3_event *event) {
    (void)event;
    return 0x10c;
}

#endif

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // QUICHE_H3_EXTRA_H
