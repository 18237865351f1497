# The C API of quiche, in the order of its header. Declarations only: what it means is in quiche.h.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from quiche_h3._core.libc_net cimport sockaddr, sockaddr_storage, socklen_t, ssize_t, timespec

cdef extern from "stdbool.h" nogil:
    ctypedef bint c_bool "bool"  # bint is an int in C: a pointer to a bool needs the true type

cdef extern from "quiche.h" nogil:
    enum:
        QUICHE_PROTOCOL_VERSION
        QUICHE_MAX_CONN_ID_LEN
        QUICHE_MIN_CLIENT_INITIAL_LEN

        QUICHE_ERR_DONE
        QUICHE_ERR_INVALID_STREAM_STATE
        QUICHE_ERR_STREAM_STOPPED
        QUICHE_ERR_STREAM_RESET

    const char *quiche_version()
    int quiche_enable_debug_logging(void (*cb)(const char *line, void *argp) noexcept, void *argp)

    ctypedef struct quiche_config:
        pass

    quiche_config *quiche_config_new(uint32_t version)
    int quiche_config_load_cert_chain_from_pem_file(quiche_config *config, const char *path)
    int quiche_config_load_priv_key_from_pem_file(quiche_config *config, const char *path)
    int quiche_config_load_verify_locations_from_file(quiche_config *config, const char *path)
    int quiche_config_load_verify_locations_from_directory(quiche_config *config, const char *path)
    void quiche_config_verify_peer(quiche_config *config, bint v)
    void quiche_config_grease(quiche_config *config, bint v)
    void quiche_config_discover_pmtu(quiche_config *config, bint v)
    void quiche_config_log_keys(quiche_config *config)
    void quiche_config_enable_early_data(quiche_config *config)
    int quiche_config_set_application_protos(quiche_config *config, const uint8_t *protos, size_t protos_len)
    void quiche_config_set_max_amplification_factor(quiche_config *config, size_t v)
    void quiche_config_set_max_idle_timeout(quiche_config *config, uint64_t v)
    void quiche_config_set_max_recv_udp_payload_size(quiche_config *config, size_t v)
    void quiche_config_set_max_send_udp_payload_size(quiche_config *config, size_t v)
    void quiche_config_set_initial_max_data(quiche_config *config, uint64_t v)
    void quiche_config_set_initial_max_stream_data_bidi_local(quiche_config *config, uint64_t v)
    void quiche_config_set_initial_max_stream_data_bidi_remote(quiche_config *config, uint64_t v)
    void quiche_config_set_initial_max_stream_data_uni(quiche_config *config, uint64_t v)
    void quiche_config_set_initial_max_streams_bidi(quiche_config *config, uint64_t v)
    void quiche_config_set_initial_max_streams_uni(quiche_config *config, uint64_t v)
    void quiche_config_set_disable_active_migration(quiche_config *config, bint v)
    int quiche_config_set_cc_algorithm_name(quiche_config *config, const char *algo)
    void quiche_config_set_initial_congestion_window_packets(quiche_config *config, size_t packets)
    void quiche_config_enable_pacing(quiche_config *config, bint v)
    void quiche_config_enable_dgram(quiche_config *config, bint enabled, size_t recv_queue_len,
                                    size_t send_queue_len)
    void quiche_config_set_max_connection_window(quiche_config *config, uint64_t v)
    void quiche_config_set_max_stream_window(quiche_config *config, uint64_t v)
    void quiche_config_set_active_connection_id_limit(quiche_config *config, uint64_t v)
    void quiche_config_set_stateless_reset_token(quiche_config *config, const uint8_t *v)
    int quiche_config_set_ticket_key(quiche_config *config, const uint8_t *key, size_t key_len)
    void quiche_config_free(quiche_config *config)

    ctypedef struct quiche_conn:
        pass

    quiche_conn *quiche_accept(const uint8_t *scid, size_t scid_len, const uint8_t *odcid, size_t odcid_len,
                               const sockaddr *local, socklen_t local_len,
                               const sockaddr *peer, socklen_t peer_len, quiche_config *config)
    quiche_conn *quiche_connect(const char *server_name, const uint8_t *scid, size_t scid_len,
                                const sockaddr *local, socklen_t local_len,
                                const sockaddr *peer, socklen_t peer_len, quiche_config *config)
    ssize_t quiche_retry(const uint8_t *scid, size_t scid_len, const uint8_t *dcid, size_t dcid_len,
                         const uint8_t *new_scid, size_t new_scid_len, const uint8_t *token, size_t token_len,
                         uint32_t version, uint8_t *out, size_t out_len)
    bint quiche_version_is_supported(uint32_t version)
    int quiche_conn_set_session(quiche_conn *conn, const uint8_t *buf, size_t buf_len)

    ctypedef struct quiche_recv_info:
        sockaddr *from_ "from"
        socklen_t from_len
        sockaddr *to
        socklen_t to_len

    ssize_t quiche_conn_recv(quiche_conn *conn, uint8_t *buf, size_t buf_len, const quiche_recv_info *info)

    ctypedef struct quiche_send_info:
        sockaddr_storage from_ "from"
        socklen_t from_len
        sockaddr_storage to
        socklen_t to_len
        timespec at

    ssize_t quiche_conn_send(quiche_conn *conn, uint8_t *out, size_t out_len, quiche_send_info *out_info)
    size_t quiche_conn_send_quantum(const quiche_conn *conn)

    ssize_t quiche_conn_stream_recv(quiche_conn *conn, uint64_t stream_id, uint8_t *out, size_t buf_len,
                                    c_bool *fin, uint64_t *out_error_code)

    ssize_t quiche_conn_stream_send(quiche_conn *conn, uint64_t stream_id, const uint8_t *buf, size_t buf_len,
                                    bint fin, uint64_t *out_error_code)

    enum quiche_shutdown:
        QUICHE_SHUTDOWN_READ
        QUICHE_SHUTDOWN_WRITE

    int quiche_conn_stream_priority(quiche_conn *conn, uint64_t stream_id, uint8_t urgency, bint incremental)
    int quiche_conn_stream_shutdown(quiche_conn *conn, uint64_t stream_id, quiche_shutdown direction,
                                    uint64_t err)
    ssize_t quiche_conn_stream_capacity(quiche_conn *conn, uint64_t stream_id)
    int64_t quiche_conn_stream_readable_next(quiche_conn *conn)
    int64_t quiche_conn_stream_writable_next(quiche_conn *conn)
    bint quiche_conn_stream_finished(const quiche_conn *conn, uint64_t stream_id)
    uint64_t quiche_conn_timeout_as_nanos(const quiche_conn *conn)
    void quiche_conn_on_timeout(quiche_conn *conn)
    int quiche_conn_close(quiche_conn *conn, bint app, uint64_t err, const uint8_t *reason, size_t reason_len)
    void quiche_conn_trace_id(const quiche_conn *conn, const uint8_t **out, size_t *out_len)

    ctypedef struct quiche_stream_iter:
        pass

    quiche_stream_iter *quiche_conn_readable(const quiche_conn *conn)
    bint quiche_stream_iter_next(quiche_stream_iter *iter, uint64_t *stream_id)
    void quiche_stream_iter_free(quiche_stream_iter *iter)
    uint64_t quiche_conn_peer_streams_left_uni(const quiche_conn *conn)

    ctypedef struct quiche_connection_id_iter:
        pass

    bint quiche_connection_id_iter_next(quiche_connection_id_iter *iter, const uint8_t **out, size_t *out_len)
    void quiche_connection_id_iter_free(quiche_connection_id_iter *iter)
    void quiche_conn_application_proto(const quiche_conn *conn, const uint8_t **out, size_t *out_len)
    void quiche_conn_peer_cert(const quiche_conn *conn, const uint8_t **out, size_t *out_len)
    void quiche_conn_session(const quiche_conn *conn, const uint8_t **out, size_t *out_len)
    void quiche_conn_server_name(const quiche_conn *conn, const uint8_t **out, size_t *out_len)
    bint quiche_conn_is_established(const quiche_conn *conn)
    bint quiche_conn_is_resumed(const quiche_conn *conn)
    bint quiche_conn_is_in_early_data(const quiche_conn *conn)
    bint quiche_conn_is_draining(const quiche_conn *conn)
    uint64_t quiche_conn_peer_streams_left_bidi(const quiche_conn *conn)
    bint quiche_conn_is_closed(const quiche_conn *conn)
    bint quiche_conn_is_timed_out(const quiche_conn *conn)
    bint quiche_conn_peer_error(const quiche_conn *conn, c_bool *is_app, uint64_t *error_code,
                                const uint8_t **reason, size_t *reason_len)
    bint quiche_conn_local_error(const quiche_conn *conn, c_bool *is_app, uint64_t *error_code,
                                 const uint8_t **reason, size_t *reason_len)

    ctypedef struct quiche_stats:
        size_t recv
        size_t sent
        size_t lost
        size_t spurious_lost
        size_t retrans
        uint64_t sent_bytes
        uint64_t recv_bytes
        uint64_t acked_bytes
        uint64_t lost_bytes
        uint64_t stream_retrans_bytes
        size_t dgram_recv
        size_t dgram_sent
        size_t paths_count
        uint64_t reset_stream_count_local
        uint64_t stopped_stream_count_local
        uint64_t reset_stream_count_remote
        uint64_t stopped_stream_count_remote

    void quiche_conn_stats(const quiche_conn *conn, quiche_stats *out)

    ctypedef struct quiche_path_stats:
        bint active
        size_t total_pto_count
        uint64_t rtt
        uint64_t min_rtt
        uint64_t max_rtt
        uint64_t rttvar
        size_t cwnd
        size_t pmtu
        uint64_t delivery_rate

    int quiche_conn_path_stats(const quiche_conn *conn, size_t idx, quiche_path_stats *out)

    ssize_t quiche_conn_dgram_max_writable_len(const quiche_conn *conn)
    ssize_t quiche_conn_dgram_recv(quiche_conn *conn, uint8_t *buf, size_t buf_len)
    ssize_t quiche_conn_dgram_send(quiche_conn *conn, const uint8_t *buf, size_t buf_len)
    ssize_t quiche_conn_dgram_recv_queue_len(const quiche_conn *conn)
    bint quiche_conn_is_dgram_send_queue_full(const quiche_conn *conn)
    ssize_t quiche_conn_send_ack_eliciting(quiche_conn *conn)
    quiche_connection_id_iter *quiche_conn_retired_scid_iter(quiche_conn *conn)
    size_t quiche_conn_retired_scids(const quiche_conn *conn)
    size_t quiche_conn_scids_left(quiche_conn *conn)
    int quiche_conn_new_scid(quiche_conn *conn, const uint8_t *scid, size_t scid_len,
                             const uint8_t *reset_token, bint retire_if_needed, uint64_t *scid_seq)

    enum quiche_path_event_type_t "quiche_path_event_type":
        QUICHE_PATH_EVENT_NEW
        QUICHE_PATH_EVENT_VALIDATED
        QUICHE_PATH_EVENT_FAILED_VALIDATION
        QUICHE_PATH_EVENT_CLOSED
        QUICHE_PATH_EVENT_REUSED_SOURCE_CONNECTION_ID
        QUICHE_PATH_EVENT_PEER_MIGRATED
        QUICHE_PATH_EVENT_PMTU_UPDATED

    ctypedef struct quiche_path_event:
        pass

    int quiche_conn_probe_path(quiche_conn *conn, const sockaddr *local, socklen_t local_len,
                               const sockaddr *peer, socklen_t peer_len, uint64_t *seq)
    int quiche_conn_migrate(quiche_conn *conn, const sockaddr *local, socklen_t local_len,
                            const sockaddr *peer, socklen_t peer_len, uint64_t *seq)
    int quiche_conn_migrate_source(quiche_conn *conn, const sockaddr *local, socklen_t local_len, uint64_t *seq)
    int quiche_conn_is_path_validated(const quiche_conn *conn, const sockaddr *from_, size_t from_len,
                                      const sockaddr *to, size_t to_len)
    quiche_path_event *quiche_conn_path_event_next(quiche_conn *conn)
    int quiche_path_event_type(const quiche_path_event *ev)
    void quiche_path_event_validated(const quiche_path_event *ev,
                                     sockaddr_storage *local, socklen_t *local_len,
                                     sockaddr_storage *peer, socklen_t *peer_len)
    void quiche_path_event_peer_migrated(const quiche_path_event *ev,
                                         sockaddr_storage *local, socklen_t *local_len,
                                         sockaddr_storage *peer, socklen_t *peer_len)
    void quiche_path_event_free(quiche_path_event *ev)
    void quiche_conn_free(quiche_conn *conn)

    enum:
        QUICHE_H3_ERR_DONE
        QUICHE_H3_ERR_STREAM_BLOCKED
        QUICHE_H3_TRANSPORT_ERR_DONE
        QUICHE_H3_TRANSPORT_ERR_INVALID_STREAM_STATE
        QUICHE_H3_TRANSPORT_ERR_STREAM_STOPPED
        QUICHE_H3_TRANSPORT_ERR_STREAM_RESET
        QUICHE_H3_TRANSPORT_ERR_STREAM_LIMIT

    ctypedef struct quiche_h3_config:
        pass

    quiche_h3_config *quiche_h3_config_new()
    void quiche_h3_config_set_max_field_section_size(quiche_h3_config *config, uint64_t v)
    void quiche_h3_config_set_qpack_max_table_capacity(quiche_h3_config *config, uint64_t v)
    void quiche_h3_config_set_qpack_blocked_streams(quiche_h3_config *config, uint64_t v)
    void quiche_h3_config_enable_extended_connect(quiche_h3_config *config, bint enabled)
    void quiche_h3_config_free(quiche_h3_config *config)

    ctypedef struct quiche_h3_conn:
        pass

    quiche_h3_conn *quiche_h3_conn_new_with_transport(quiche_conn *quic_conn, quiche_h3_config *config)

    int quiche_h3_for_each_setting(quiche_h3_conn *conn,
                                   int (*cb)(uint64_t identifier, uint64_t value, void *argp) noexcept nogil,
                                   void *argp)

    enum quiche_h3_event_type_t "quiche_h3_event_type":
        QUICHE_H3_EVENT_HEADERS
        QUICHE_H3_EVENT_DATA
        QUICHE_H3_EVENT_FINISHED
        QUICHE_H3_EVENT_GOAWAY
        QUICHE_H3_EVENT_RESET
        QUICHE_H3_EVENT_PRIORITY_UPDATE

    ctypedef struct quiche_h3_event:
        pass

    int64_t quiche_h3_conn_poll(quiche_h3_conn *conn, quiche_conn *quic_conn, quiche_h3_event **ev)
    int quiche_h3_event_type(quiche_h3_event *ev)
    int quiche_h3_event_for_each_header(
        quiche_h3_event *ev,
        int (*cb)(uint8_t *name, size_t name_len, uint8_t *value, size_t value_len, void *argp) noexcept,
        void *argp)
    bint quiche_h3_event_headers_has_more_frames(quiche_h3_event *ev)
    int quiche_h3_for_each_setting(quiche_h3_conn *conn,
                                   int (*cb)(uint64_t identifier, uint64_t value, void *argp) noexcept, void *argp)
    bint quiche_h3_extended_connect_enabled_by_peer(quiche_h3_conn *conn)
    void quiche_h3_event_free(quiche_h3_event *ev)

    ctypedef struct quiche_h3_header:
        const uint8_t *name
        size_t name_len
        const uint8_t *value
        size_t value_len

    ctypedef struct quiche_h3_priority:
        uint8_t urgency
        bint incremental

    int64_t quiche_h3_send_request(quiche_h3_conn *conn, quiche_conn *quic_conn,
                                   const quiche_h3_header *headers, size_t headers_len, bint fin)
    int quiche_h3_send_response(quiche_h3_conn *conn, quiche_conn *quic_conn, uint64_t stream_id,
                                const quiche_h3_header *headers, size_t headers_len, bint fin)
    int quiche_h3_send_additional_headers(quiche_h3_conn *conn, quiche_conn *quic_conn, uint64_t stream_id,
                                          quiche_h3_header *headers, size_t headers_len,
                                          bint is_trailer_section, bint fin)
    ssize_t quiche_h3_send_body(quiche_h3_conn *conn, quiche_conn *quic_conn, uint64_t stream_id,
                                const uint8_t *body, size_t body_len, bint fin)
    ssize_t quiche_h3_recv_body(quiche_h3_conn *conn, quiche_conn *quic_conn, uint64_t stream_id,
                                uint8_t *out, size_t out_len)
    int quiche_h3_send_priority_update_for_request(quiche_h3_conn *conn, quiche_conn *quic_conn,
                                                   uint64_t stream_id, quiche_h3_priority *priority)
    int quiche_h3_take_last_priority_update(
        quiche_h3_conn *conn, uint64_t prioritized_element_id,
        int (*cb)(uint8_t *priority_field_value, uint64_t priority_field_value_len, void *argp) noexcept,
        void *argp)
    int quiche_h3_send_goaway(quiche_h3_conn *conn, quiche_conn *quic_conn, uint64_t id)
    bint quiche_h3_dgram_enabled_by_peer(quiche_h3_conn *conn, quiche_conn *quic_conn)
    void quiche_h3_conn_free(quiche_h3_conn *conn)

cdef extern from "quiche_h3_extra.h" nogil:
    void quiche_h3_conn_set_keylog(quiche_conn *conn, int fd, c_bool *failed)
    bint quiche_h3_conn_set_qlog(quiche_conn *conn, const char *path, const char *title, const char *description,
                                 c_bool *failed)
    bint quiche_h3_conn_peer_disables_migration(const quiche_conn *conn)
    bint quiche_h3_conn_set_preferred_address(quiche_conn *conn, const uint8_t *v4, const uint8_t *v6,
                                              const uint8_t *cid, size_t cid_len, const uint8_t *token)
    int quiche_h3_conn_probe_preferred_address(quiche_conn *conn)
    int quiche_h3_config_set_cipher_suites(quiche_config *config, const uint16_t *ids, size_t n)
    void quiche_h3_config_set_initial_rtt(quiche_config *config, uint64_t ms)
    void quiche_h3_config_set_max_send_window(quiche_config *config, size_t n)
    void quiche_h3_conn_revalidate_pmtu(quiche_conn *conn)
    ssize_t quiche_h3_conn_send_body_with(quiche_h3_conn *h3, quiche_conn *conn, uint64_t stream_id, size_t n,
                                          size_t (*write)(uint8_t *room, size_t n, void *argp) noexcept nogil, void *argp)

    enum:
        QUICHE_H3_ECN_MARKING
        QUICHE_H3_ECN_FAILED

    enum:
        QUICHE_H3_PROTOCOL_VERSION_2

    bint quiche_h3_config_set_versions(quiche_config *config, const uint32_t *versions, size_t n)
    uint32_t quiche_h3_conn_version(const quiche_conn *conn)
    void quiche_h3_config_enable_ecn(quiche_config *config, bint enabled)
    void quiche_h3_conn_set_received_ecn(quiche_conn *conn, uint8_t codepoint)
    int quiche_h3_conn_ecn(const quiche_conn *conn, uint64_t *ce)
    uint64_t quiche_h3_event_reset_code(const quiche_h3_event *event)
    bint quiche_h3_conn_update_key(quiche_conn *conn)
    void quiche_h3_conn_stream_discard(quiche_h3_conn *h3, const quiche_conn *conn, uint64_t stream_id)
    int quiche_h3_config_set_additional_settings(quiche_h3_config *config, const uint64_t *pairs, size_t n)
    int quiche_h3_config_enable_reset_stream_at(quiche_config *config, c_bool enabled)
    bint quiche_h3_conn_reset_stream_at_negotiated(const quiche_conn *conn)
    bint quiche_h3_conn_stream_reset_at(quiche_conn *conn, uint64_t stream_id, uint64_t error, uint64_t reliable_size)
    bint quiche_h3_conn_stream_offsets(const quiche_conn *conn, uint64_t stream_id, uint64_t *read, uint64_t *received)
    void quiche_h3_config_set_idle_frame_rate(quiche_h3_config *config, uint64_t n)
    bint quiche_h3_conn_idle_frames_spent(const quiche_h3_conn *h3)
    int quiche_h3_config_claim_streams(quiche_h3_config *config, c_bool enabled)
    int64_t quiche_h3_conn_next_claimed_stream(quiche_h3_conn *h3)
    int64_t quiche_h3_conn_open_claimed_stream(quiche_h3_conn *h3, quiche_conn *conn, c_bool bidi)
