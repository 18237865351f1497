"""Configuration -> quiche_config and quiche_h3_config.

Everything was validated before: a value quiche cannot take would abort the process here.
"""

import hashlib
import os

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from quiche_h3._core.libquiche cimport *

from quiche_h3._core.tokens import TokenKeys
from quiche_h3.config import CIPHER_SUITES, QUIC_VERSIONS
from quiche_h3.errors import ConfigError, QuicheH3Error, check_quic


cdef enum:
    HTTP3_STREAMS_UNI = 8  # control, QPACK, and reserved ones
    SETTINGS_ENABLE_WEBTRANSPORT = 0x2B603742
    SETTINGS_WT_INITIAL_MAX_DATA = 0x2B61
    SETTINGS_WT_INITIAL_MAX_STREAMS_UNI = 0x2B64
    SETTINGS_WT_INITIAL_MAX_STREAMS_BIDI = 0x2B65
    SETTINGS_WT_MAX_SESSIONS = 0x14E9CD29
    SETTINGS_WT_ENABLED = 0x2C7CF000
cdef uint64_t SETTINGS_WEBTRANSPORT_MAX_SESSIONS = 0xC671706A


cdef int load(int rc, str field, path) except -1:
    try:
        check_quic(rc)
    except QuicheH3Error:
        raise ConfigError(field, f"{path} was refused by the TLS library", "give a PEM file") from None
    return 0


cdef bint takes(bytes cert_path, bytes key_path) except -1:
    """Whether the TLS library takes a certificate, a key, or both as a pair; None for what is left out."""
    cdef quiche_config *q = quiche_config_new(QUICHE_PROTOCOL_VERSION)
    if q == NULL:
        raise MemoryError("no memory for the certificate")
    taken = ((cert_path is None or quiche_config_load_cert_chain_from_pem_file(q, cert_path) == 0)
             and (key_path is None or quiche_config_load_priv_key_from_pem_file(q, key_path) == 0))
    quiche_config_free(q)
    return taken


def check_key(cert_path, key_path):
    """What the TLS library refuses: "certificate", "key", "pair" if they are strangers, None if it takes both."""
    cert, key = os.fsencode(cert_path), os.fsencode(key_path)
    if takes(cert, key):
        return None
    if not takes(cert, None):
        return "certificate"
    return "pair" if takes(None, key) else "key"


cdef int check_tls(int rc) except -1:
    if rc != 0:
        raise ConfigError("verify_peer", "the TLS library refused", "build without QUICHE_H3_SYSTEM")
    return 0


cdef int set_tls(quiche_config *q, config, certificate) except -1:
    """Certificate, trust, cipher suites and protocols of one TLS context."""
    cdef uint16_t suites[8]
    cdef size_t n = 0
    for name in config.tls_cipher_suites or ():
        suites[n] = CIPHER_SUITES[name]
        n += 1
    if n and quiche_h3_config_set_cipher_suites(q, suites, n) != 0:
        raise ConfigError("tls_cipher_suites", "the TLS library refused", "build without QUICHE_H3_SYSTEM")
    protos = b"".join(bytes([len(p)]) + p.encode("ascii") for p in config.alpn_protocols)
    check_quic(quiche_config_set_application_protos(q, protos, len(protos)))
    if certificate is not None:
        load(quiche_config_load_cert_chain_from_pem_file(q, os.fsencode(certificate.cert_path)),
             "cert_path", certificate.cert_path)
        load(quiche_config_load_priv_key_from_pem_file(q, os.fsencode(certificate.key_path)),
             "key_path", certificate.key_path)
        quiche_config_set_max_amplification_factor(q, config.max_amplification_factor)
        if config.enable_early_data:
            quiche_config_enable_early_data(q)
    else:
        if config.client_cert_path is not None:
            load(quiche_config_load_cert_chain_from_pem_file(q, os.fsencode(config.client_cert_path)),
                 "client_cert_path", config.client_cert_path)
            load(quiche_config_load_priv_key_from_pem_file(q, os.fsencode(config.client_key_path)),
                 "client_key_path", config.client_key_path)
        if config.early_data != "never":
            quiche_config_enable_early_data(q)
    if config.keylog_path is not None:
        quiche_config_log_keys(q)
    verify = config.verify if certificate is None else config.verify_peer
    quiche_config_verify_peer(q, verify)
    if verify and certificate is None:
        # The TLS library knows where authorities usually are; Python knows where they are here.
        import ssl  # 4 MiB that a server need not have

        paths = ssl.get_default_verify_paths()
        if paths.cafile is not None:
            quiche_config_load_verify_locations_from_file(q, os.fsencode(paths.cafile))
        if paths.capath is not None:
            quiche_config_load_verify_locations_from_directory(q, os.fsencode(paths.capath))
    if verify and config.cafile is not None:
        load(quiche_config_load_verify_locations_from_file(q, os.fsencode(config.cafile)),
             "cafile", config.cafile)
    if verify and config.ca_path is not None:
        load(quiche_config_load_verify_locations_from_directory(q, os.fsencode(config.ca_path)),
             "ca_path", config.ca_path)
    return 0


def _private(path, int flags):
    """Opens a file that, when it is new, its user alone may read."""
    return os.open(path, flags, 0o600)


cdef class EngineSettings:
    """The C configuration of one endpoint. `certificate` has `cert_path` and `key_path` (None on a client).

    With `webtransport` it is negotiated, and its streams are claimed from HTTP/3.
    `others` are certificates like it for clients that ask for one of their `names`. `keys` are the TokenKeys of a
    configuration that this one replaces.
    """

    def __cinit__(self, config, *args, **kwargs):
        # A client begins in version 1 if it may: that is what every server speaks.
        self.versions = tuple([QUIC_VERSIONS[version] for version in config.quic_versions])
        self.quic = quiche_config_new(min(self.versions))
        self.h3 = quiche_h3_config_new()
        if self.quic == NULL or self.h3 == NULL:
            raise MemoryError("no memory for the QUIC configuration")

    def __dealloc__(self):
        cdef int i
        if self.h3 != NULL:
            quiche_h3_config_free(self.h3)
        if self.quic != NULL:
            quiche_config_free(self.quic)
        for i in range(self.other_count):
            quiche_config_free(self.others[i])
        free(self.others)
        if self.tls != NULL:
            quiche_h3_tls_free(self.tls)

    def __init__(self, config, certificate=None, webtransport=False, others=(), keys=None):
        self.config = config
        self._set_versions()
        self.webtransport = webtransport
        self.connection_id_length = config.connection_id_length
        deadline_ms = config.connect_timeout_ms if certificate is None else config.handshake_timeout_ms
        self.handshake_timeout_ns = deadline_ms * 1_000_000
        paced = config.enable_pacing and config.cc_algorithm.startswith("bbr2")
        self.max_burst = 0 if paced else config.max_burst_packets * config.max_send_udp_payload_size
        self.max_train = config.send_buffer_size
        self.max_packet = config.max_send_udp_payload_size
        self.discovers_pmtu = config.discover_pmtu
        self._set_transport(config)
        self._set_tls(config, certificate)
        if certificate is None:
            self.keys = TokenKeys()
            self.use_preferred = config.use_preferred_address
        else:
            secrets = (config.secret_key, config.retry_token_lifetime_ms, config.previous_secret_key)
            self.keys = TokenKeys(*secrets) if keys is None else keys.renewed(*secrets)
            self._set_tickets_and_names(config, others)
            self.tickets_until = self.keys.tickets_until(config.ticket_key_period_ms)
            self._set_preferred(config)
        self._set_http3(config, certificate is not None)

    def _set_transport(self, config):
        cdef quiche_config *q = self.quic
        quiche_config_set_max_idle_timeout(q, config.idle_timeout_ms)
        quiche_config_set_max_recv_udp_payload_size(q, config.max_recv_udp_payload_size)
        quiche_config_set_max_send_udp_payload_size(q, config.max_send_udp_payload_size)
        quiche_config_set_initial_max_data(q, config.initial_max_data)
        quiche_config_set_initial_max_stream_data_bidi_local(q, config.initial_max_stream_data_bidi_local)
        quiche_config_set_initial_max_stream_data_bidi_remote(q, config.initial_max_stream_data_bidi_remote)
        quiche_config_set_initial_max_stream_data_uni(q, config.initial_max_stream_data_uni)
        quiche_config_set_initial_max_streams_bidi(q, config.initial_max_streams_bidi)
        streams_uni = config.initial_max_streams_uni
        if self.webtransport:
            streams_uni = max(streams_uni, HTTP3_STREAMS_UNI + config.wt_max_streams_uni)
        quiche_config_set_initial_max_streams_uni(q, streams_uni)
        quiche_config_set_max_connection_window(q, config.max_connection_window)
        quiche_config_set_max_stream_window(q, config.max_stream_window)
        quiche_config_set_active_connection_id_limit(q, config.active_connection_id_limit)
        quiche_config_set_disable_active_migration(q, config.disable_active_migration)
        quiche_config_set_initial_congestion_window_packets(q, config.initial_congestion_window_packets)
        quiche_config_discover_pmtu(q, config.discover_pmtu)
        quiche_h3_config_set_initial_rtt(q, config.initial_rtt_ms)
        quiche_h3_config_set_max_send_window(q, config.max_send_window)
        quiche_config_enable_pacing(q, config.enable_pacing)
        quiche_h3_config_enable_ecn(q, config.ecn)
        quiche_config_grease(q, config.grease)
        check_quic(quiche_config_set_cc_algorithm_name(q, config.cc_algorithm.encode("ascii")))
        quiche_config_enable_dgram(q, config.enable_dgram, config.dgram_recv_queue_len,
                                   config.dgram_send_queue_len)

    def _set_versions(self):
        cdef uint32_t versions[2]
        cdef size_t i
        for i, version in enumerate(self.versions):
            versions[i] = version
        if not quiche_h3_config_set_versions(self.quic, versions, len(self.versions)):
            if QUICHE_PROTOCOL_VERSION not in self.versions:
                raise ConfigError("quic_versions", "the QUIC library has version 1 alone", "build without QUICHE_H3_SYSTEM")
            self.versions = (QUICHE_PROTOCOL_VERSION,)

    def _set_tls(self, config, certificate):
        if config.keylog_path is not None:
            self.keylog = open(config.keylog_path, "ab", buffering=0, opener=_private)
        self.qlog_dir = config.qlog_dir
        set_tls(self.quic, config, certificate)

    def _set_tickets_and_names(self, config, others):
        """What quiche's own interface lacks: see quiche_h3_extra.h."""
        cdef int i
        cdef bytes context, key, name
        self.tls = quiche_h3_tls_new()
        preferred = config.preferred_addresses()
        if self.tls == NULL and (others or preferred or config.enable_early_data):
            field = "more_certificates" if others else next(iter(preferred), "enable_early_data")
            raise ConfigError(field, "this build's quiche cannot do that", "build without QUICHE_H3_SYSTEM")
        for key in self.keys.ticket_keys():
            quiche_h3_tls_add_ticket_key(self.tls, key, config.early_data_register_size)
        self.others = <quiche_config **>calloc(max(1, len(others)), sizeof(quiche_config *))
        if self.others == NULL:
            raise MemoryError("no memory for the certificates")
        for i, certificate in enumerate(others):
            self.others[i] = quiche_config_new(QUICHE_PROTOCOL_VERSION)
            if self.others[i] == NULL:
                raise MemoryError("no memory for the certificates")
            self.other_count = i + 1
            set_tls(self.others[i], config, certificate)
            for text in certificate.names:
                name = text.encode("ascii")
                quiche_h3_tls_add_name(self.tls, name, self.others[i])
        # A session that another trust has let in must not be resumed here.
        trust = repr((config.verify_peer, config.cafile, config.ca_path))
        context = hashlib.sha256(trust.encode("utf-8", "surrogateescape")).digest()
        check_tls(quiche_h3_tls_attach(self.tls, self.quic, context, config.verify_peer))
        for i in range(self.other_count):
            check_tls(quiche_h3_tls_attach(self.tls, self.others[i], context, config.verify_peer))

    def _set_preferred(self, config):
        for address, port in config.preferred_addresses().values():
            wire = address.packed + port.to_bytes(2, "big")
            if address.version == 4:
                self.preferred_v4 = wire
            else:
                self.preferred_v6 = wire
            self.preferred = True

    cdef int rotate_tickets(self, uint64_t now) except -1:
        """Takes a new ticket key, since the time of the last has come; the one before goes on for as long again."""
        cdef bytes key
        for key in self.keys.rotate_tickets(self.config.ticket_key_period_ms, now):
            quiche_h3_tls_rotate_ticket_key(self.tls, key, self.config.early_data_register_size)
        self.tickets_until = self.keys.tickets_until(self.config.ticket_key_period_ms)
        return 0

    def _set_http3(self, config, server):
        quiche_h3_config_set_max_field_section_size(self.h3, config.max_field_section_size)
        # quiche reads no dynamic table: with a capacity above zero browsers would use one at once.
        quiche_h3_config_set_qpack_max_table_capacity(self.h3, 0)
        quiche_h3_config_set_qpack_blocked_streams(self.h3, 0)
        self.extended_connect = server and (self.webtransport or config.enable_extended_connect)
        quiche_h3_config_enable_extended_connect(self.h3, self.extended_connect)
        if server and config.idle_frames_per_second:
            quiche_h3_config_set_idle_frame_rate(self.h3, config.idle_frames_per_second)
        if self.webtransport:
            self._set_webtransport(config, server)

    def _set_webtransport(self, config, server):
        """What announces WebTransport to the peers of each draft."""
        cdef uint64_t pairs[14]
        if not config.enable_dgram:
            raise ConfigError("enable_dgram", "WebTransport cannot do without datagrams",
                              "set it to true, or enable_webtransport to false")
        cdef size_t n = 0
        cdef bint reliable_resets = quiche_h3_config_enable_reset_stream_at(self.quic, True) == 0
        values = {SETTINGS_ENABLE_WEBTRANSPORT: 1}
        if server:  # what it can bear
            values[SETTINGS_WEBTRANSPORT_MAX_SESSIONS] = config.wt_max_sessions
        if config.wt_session_window:  # flow control of sessions, where the peer announces it too
            values[SETTINGS_WT_INITIAL_MAX_DATA] = config.wt_session_window
            values[SETTINGS_WT_INITIAL_MAX_STREAMS_UNI] = config.wt_max_streams_uni
            values[SETTINGS_WT_INITIAL_MAX_STREAMS_BIDI] = config.wt_max_streams_bidi
            if reliable_resets:  # all that drafts 13 to 16 promise
                values[SETTINGS_WT_ENABLED] = 1
                if server:
                    values[SETTINGS_WT_MAX_SESSIONS] = config.wt_max_sessions
        for identifier, value in values.items():
            pairs[2 * n] = identifier
            pairs[2 * n + 1] = value
            n += 1
        if (quiche_h3_config_set_additional_settings(self.h3, pairs, n) != 0
                or quiche_h3_config_claim_streams(self.h3, True) != 0):
            raise ConfigError("enable_webtransport", "this build of quiche cannot do it",
                              "build with the patches, or set it to false")

    def close(self):
        """Closes the key log. Connections keep their own duplicates of the descriptor."""
        if self.keylog is not None:
            self.keylog.close()
            self.keylog = None
