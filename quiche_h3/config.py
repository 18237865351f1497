"""Configuration of servers and clients: the fields, their checks, and where their values come from.

Each field is declared once, with its default, unit, range and meaning. `validate()`, the environment, TOML
files, the command line and the table in docs/configuration.md are all made from that declaration.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from ._options import (
    KIB,
    MIB,
    Option,
    address_and_port,
    blob,
    choice,
    convert,
    declare,
    flag,
    integer,
    path,
    read_toml,
    text,
)
from .errors import ConfigError

_DAY_MS: Final = 86_400_000
# quiche aborts the process when a variable-length integer reaches 2^62, and it adds the window to the bytes
# consumed so far; 2^60 leaves room for every connection there will ever be.
_WINDOW: Final = 1 << 60
_UDP_MIN: Final = 1200  # RFC 9000 14.1
_UDP_MAX: Final = 65_527  # RFC 9000 18.2
_GRO_MAX: Final = 65_535  # what the kernel may put into one buffer

QUIC_VERSIONS: Final = {"1": 1, "2": 0x6B3343CF}  # as on the wire (RFC 9000 15, RFC 9369 3.1)
CIPHER_SUITES: Final = {
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
}
"""Those of TLS 1.3 that quiche has (RFC 8446 appendix B.4)."""

# Names of the environment that start as ours do but speak to the build.
_BUILD_ENV: Final = frozenset({"QUICHE_H3_CACHE", "QUICHE_H3_DEBUG_BUILD", "QUICHE_H3_SYSTEM"})
_ENV_PREFIX: Final = "QUICHE_H3_"
_CERTIFICATE_FIELDS: Final = ("cert_path", "key_path", "cert_pem", "key_pem", "dev_cert")


class EventBackend(str, Enum):
    """How the event loop waits: a backend of libev, `auto` for libev's own choice, or an asyncio loop."""

    AUTO = "auto"
    EPOLL = "epoll"
    KQUEUE = "kqueue"
    POLL = "poll"
    SELECT = "select"
    LINUXAIO = "linuxaio"
    IO_URING = "io_uring"
    ASYNCIO = "asyncio"


class LogLevel(str, Enum):
    """The least severe level that is logged."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"
    DEBUG = "debug"
    TRACE = "trace"


_IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_T = TypeVar("_T", bound="TransportConfig")


@dataclass(slots=True, kw_only=True)
class TransportConfig:
    """The fields that servers and clients share: QUIC transport, sockets, HTTP/3 limits, diagnostics."""

    # QUIC transport (RFC 9000 18.2)
    alpn_protocols: list[str] = field(
        default_factory=lambda: ["h3"],
        metadata=declare(Option("list", "Application protocols, best first (RFC 7301).")),
    )
    idle_timeout_ms: int = integer(
        30_000, "ms", 1, 7 * _DAY_MS, "A connection without packets from the peer for this long is dropped."
    )
    initial_max_data: int = integer(
        2 * MIB, "bytes", 4 * KIB, _WINDOW, "First receive window of a connection."
    )
    initial_max_stream_data_bidi_local: int = integer(
        1 * MIB, "bytes", 0, _WINDOW, "First receive window of a bidirectional stream that we open."
    )
    initial_max_stream_data_bidi_remote: int = integer(
        1 * MIB, "bytes", 0, _WINDOW, "First receive window of a bidirectional stream that the peer opens."
    )
    initial_max_stream_data_uni: int = integer(
        1 * MIB, "bytes", KIB, _WINDOW, "First receive window of a unidirectional stream (RFC 9114 6.2)."
    )
    initial_max_streams_bidi: int = integer(
        100, "streams", 0, MIB, "Bidirectional streams that the peer may have open at once (RFC 9114 6.1)."
    )
    initial_max_streams_uni: int = integer(
        16, "streams", 3, MIB, "Unidirectional streams that the peer may have open at once (RFC 9114 6.2)."
    )
    max_connection_window: int = integer(
        8 * MIB, "bytes", 4 * KIB, _WINDOW, "The most that a connection's receive window grows to."
    )
    max_stream_window: int = integer(
        4 * MIB, "bytes", KIB, _WINDOW, "The most that a stream's receive window grows to."
    )
    max_send_window: int = integer(
        8 * MIB,
        "bytes",
        16 * KIB,
        1 << 40,
        "The most that a connection keeps of what it has sent until that is acknowledged.",
    )
    max_packets_per_key: int = integer(
        8_000_000,
        "packets",
        1000,
        1 << 23,
        "Packets sent with one key, which is updated at half of them; a peer that does not follow loses the "
        "connection (RFC 9001 6.6).",
    )
    max_recv_udp_payload_size: int = integer(
        _UDP_MAX, "bytes", _UDP_MIN, _UDP_MAX, "The largest UDP payload we take, told to the peer."
    )
    max_send_udp_payload_size: int = integer(
        1350, "bytes", _UDP_MIN, _UDP_MAX, "The largest UDP payload we send."
    )
    discover_pmtu: bool = flag(
        True, "Begin with packets of 1,200 bytes, and find out whether the path takes larger ones (RFC 8899)."
    )
    connection_id_length: int = integer(16, "bytes", 16, 20, "Length of the connection IDs that we issue.")
    active_connection_id_limit: int = integer(
        8, "IDs", 2, 64, "Connection IDs of the peer that we store; each path in use takes one."
    )
    disable_active_migration: bool = flag(False, "Ask the peer not to migrate (RFC 9000 9).")
    cc_algorithm: str = text("cubic", "Congestion control.", ("reno", "cubic", "bbr2_gcongestion"))
    initial_congestion_window_packets: int = integer(
        10, "packets", 2, 1000, "Congestion window of a new connection (RFC 9002 7.2)."
    )
    initial_rtt_ms: int = integer(
        100, "ms", 1, 10_000, "Round trip assumed until one is measured: the first probe comes after three."
    )
    enable_pacing: bool = flag(True, "Space packets out in time where the congestion control says how.")
    ecn: bool = flag(
        True,
        "Mark packets as ECN-capable: routers may mark them instead of dropping them (RFC 9000 13.4). "
        "Not with BBR2, and only on Linux.",
    )
    max_burst_packets: int = integer(
        64, "packets", 1, 1024, "Packets sent in one go where nothing paces them (RFC 9002 7.7)."
    )
    enable_dgram: bool = flag(True, "Negotiate datagrams (RFC 9221) and HTTP/3 datagrams (RFC 9297).")
    dgram_recv_queue_len: int = integer(
        1024, "datagrams", 1, 65_536, "Received datagrams a connection holds; drained every turn of the loop."
    )
    dgram_send_queue_len: int = integer(
        128, "datagrams", 1, 65_536, "Datagrams a connection holds for sending; then WouldBlock is raised."
    )
    h3_datagram_queue_len: int = integer(
        64, "datagrams", 1, 65_536, "Received datagrams that a request holds; then the oldest is dropped."
    )
    grease: bool = flag(True, "Send reserved values, which peers must ignore (RFC 9000 18.1).")

    # HTTP/3
    max_field_section_size: int = integer(
        64 * KIB, "bytes", KIB, 16 * MIB, "A larger field section closes the connection: H3_EXCESSIVE_LOAD."
    )
    max_header_count: int = integer(100, "fields", 1, 10_000, "Fields in one field section.")
    max_header_name_length: int = integer(256, "bytes", 16, MIB, "Length of one field name.")
    max_header_value_length: int = integer(8192, "bytes", 16, MIB, "Length of one field value.")

    # WebTransport
    wt_max_sessions: int = integer(
        16, "sessions", 1, MIB, "Sessions at once on one connection; more are refused (H3_REQUEST_REJECTED)."
    )
    wt_max_streams_uni: int = integer(
        100, "streams", 0, MIB, "Unidirectional streams of the peer at once in a session; more are refused."
    )
    wt_max_streams_bidi: int = integer(
        100, "streams", 0, MIB, "Bidirectional streams of the peer at once in a session; more are refused."
    )
    wt_max_stream_rate: int = integer(
        0,
        "streams/s",
        0,
        MIB,
        "Streams a peer may open per second in a session, else refused; 0 is no limit.",
    )
    wt_max_datagram_rate: int = integer(
        0,
        "datagrams/s",
        0,
        100 * MIB,
        "Datagrams taken per second in a session; more are dropped; 0: no limit.",
    )
    wt_max_queued_datagrams: int = integer(
        1024, "datagrams", 1, MIB, "Received datagrams a session holds; then the oldest is dropped."
    )
    wt_write_quota_per_tick: int = integer(
        64 * KIB, "bytes", KIB, 1 << 30, "What a stream may write in one turn of the event loop."
    )
    wt_session_idle_ms: int = integer(
        60_000, "ms", 1, 7 * _DAY_MS, "A session without traffic for this long is closed."
    )
    wt_early_timeout_ms: int = integer(
        10_000, "ms", 1, _DAY_MS, "How long a stream is kept that comes before its session."
    )
    wt_session_window: int = integer(
        16 * MIB,
        "bytes",
        0,
        _WINDOW,
        "Receive window of a session's streams together; 0: no flow control of it.",
    )
    wt_stream_pending_max: int = integer(
        256 * KIB, "bytes", KIB, 1 << 30, "What a stream holds before its producer must wait."
    )
    wt_app_err_stream_limit: int = integer(
        0x1000, "", 0, 0xFFFFFFFF, "Code that refuses a stream over the limit."
    )
    wt_app_err_invalid_stream: int = integer(
        0x1001, "", 0, 0xFFFFFFFF, "Code that refuses a stream of no session."
    )

    tls_cipher_suites: list[str] | None = field(
        default=None,
        metadata=declare(
            Option(
                "list",
                "Cipher suites of TLS 1.3 that are offered or taken, best first, of TLS_AES_128_GCM_SHA256, "
                "TLS_AES_256_GCM_SHA384 and TLS_CHACHA20_POLY1305_SHA256; none is the TLS library's choice.",
                optional=True,
            )
        ),
    )

    # Trust in the peer
    cafile: str | None = path("PEM file of the authorities that may have signed the peer's certificate.")
    ca_path: str | None = path(
        "Directory of such authorities' certificates, named by subject hash as OpenSSL does."
    )

    # Event loop and sockets
    event_backend: EventBackend = field(
        default=EventBackend.AUTO, metadata=choice(EventBackend, "How the event loop waits.")
    )
    gso: bool = flag(True, "Send runs of packets in one message where the kernel can (UDP GSO).")
    send_txtime: bool = flag(
        False,
        "Let the kernel hold paced packets until their time (SO_TXTIME), where it can. Only for devices "
        "with the fq queueing discipline: any other sends them at once.",
    )
    gro: bool = flag(True, "Receive runs of packets in one message where the kernel can (UDP GRO).")
    so_rcvbuf: int = integer(4 * MIB, "bytes", 0, 1 << 30, "Kernel's receive buffer; 0 keeps its default.")
    so_sndbuf: int = integer(4 * MIB, "bytes", 0, 1 << 30, "Kernel's send buffer; 0 keeps its default.")
    recv_batch: int = integer(16, "messages", 1, 64, "Messages received by one system call.")
    recv_buffer_size: int = integer(
        64 * KIB, "bytes", _UDP_MIN, 64 * KIB, "Room for one received message; with `gro` a run of packets."
    )
    send_buffer_size: int = integer(
        64 * KIB, "bytes", _UDP_MIN, 64 * KIB, "Room for one message to send; with `gso` a run of packets."
    )

    # Logging and diagnostics
    qlog_dir: str | None = path("Directory for a qlog file per connection, made when missing. Slow.")
    keylog_path: str | None = path("File that TLS secrets are appended to. Whoever has it can read all.")
    log_level: LogLevel = field(
        default=LogLevel.WARN, metadata=choice(LogLevel, "The least severe level that is logged.")
    )
    enable_debug_logging: bool = flag(False, "Pass quiche's own debug log on to the logger quiche_h3.quic.")
    debug_log_throttle: int = integer(
        10, "lines", 1, 1_000_000, "One in so many of quiche's log lines is logged."
    )

    def __post_init__(self) -> None:
        for name, option in self.options().items():
            value = getattr(self, name)
            if option.kind == "path" and isinstance(value, os.PathLike):
                setattr(self, name, os.fspath(value))
            elif option.enum is not None and value in option.choices:
                setattr(self, name, option.enum(value))

    @classmethod
    def options(cls) -> dict[str, Option]:
        """The declaration of each field, by name, in order."""
        return {f.name: f.metadata["option"] for f in fields(cls)}

    def as_dict(self, *, secrets: bool = False) -> dict[str, Any]:
        """All values by field name, as plain types. Keys and other secrets are left out unless asked for."""
        values = {
            name: getattr(self, name)
            for name, option in self.options().items()
            if secrets or not option.secret
        }
        return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}

    def validate(self) -> None:
        """Checks every value, and values against each other. Raises `ConfigError` for the first wrong one."""
        self.__post_init__()  # values may have been set since
        for name, option in self.options().items():
            problem = option.problem(getattr(self, name))
            if problem is not None:
                raise ConfigError(name, problem, f"use {option.range_text()}")
        self._check_alpn()
        self._check_list("tls_cipher_suites", CIPHER_SUITES)
        self._check_sizes()
        self._check_files()

    @classmethod
    def load(
        cls: type[_T],
        file: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> _T:
        """A checked configuration: defaults < TOML file < environment < `overrides` (the command line).

        The file has the fields at its top level. `env` is `os.environ` if None; `environment()` has the
        names. Texts are converted to the type of their field wherever they come from. Raises `ConfigError`
        for a value that cannot be used and for a name that is no field, in all three places.
        """
        config = cls.gather(file, env, overrides)
        config.validate()
        return config

    @classmethod
    def gather(
        cls: type[_T],
        file: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
        base: _T | None = None,
    ) -> _T:
        """As `load()`, not yet checked as a whole, and over the values of `base` in place of the defaults.

        A certificate given in one place replaces whatever certificate a weaker place has given.
        """
        values: dict[str, Any] = {}
        sources = [
            convert(cls.options(), {} if file is None else read_toml(file), os.fspath(file or "")),
            cls.environment(os.environ if env is None else env),
            convert(cls.options(), overrides or {}, "the command line"),
        ]
        for given in sources:
            if any(given.get(name) for name in _CERTIFICATE_FIELDS):
                defaults = {f.name: f.default for f in fields(cls)}
                values.update({name: defaults[name] for name in _CERTIFICATE_FIELDS})
            values.update(given)
        return cls(**values) if base is None else replace(base, **values)

    @classmethod
    def environment(cls, env: Mapping[str, str]) -> dict[str, Any]:
        """The values that environment variables give to fields.

        `QUICHE_H3_<FIELD>` gives any field. H3_MAX_BODY_MB (MiB a non-streaming body may have), H3_LOG_LEVEL,
        H3_DEBUG (1: quiche's debug log, at level debug) and H3_WEBTRANSPORT are short forms, and weaker.
        """
        values: dict[str, Any] = {}
        for name, (apply, remedy) in _SHORT_FORMS.items():
            if name in env:
                try:
                    given = apply(env[name])
                except ValueError:
                    raise ConfigError(name, f"{env[name]!r} cannot be used", remedy) from None
                values.update({key: value for key, value in given.items() if key in cls.options()})
        exact: dict[str, Any] = {}
        for name, value in env.items():
            if name.startswith(_ENV_PREFIX) and name not in _BUILD_ENV:
                key = name[len(_ENV_PREFIX) :].lower()
                if key in cls.options() or key not in _every_field():
                    exact[key] = value
        return {**values, **convert(cls.options(), exact, "the environment")}

    def _check_alpn(self) -> None:
        for protocol in self.alpn_protocols:
            if not (protocol.isascii() and protocol.isprintable() and 1 <= len(protocol) <= 255):
                raise ConfigError(
                    "alpn_protocols", f"{protocol!r} is no protocol name", "use 1 to 255 ASCII characters"
                )
        if len(set(self.alpn_protocols)) != len(self.alpn_protocols):
            raise ConfigError("alpn_protocols", "a protocol is listed twice", "list each once")

    def _check_list(self, field_name: str, known: Collection[str]) -> None:
        values = getattr(self, field_name) or []
        for value in values:
            if value not in known:
                raise ConfigError(field_name, f"{value!r} is not known", "use some of " + ", ".join(known))
        if len(set(values)) != len(values):
            raise ConfigError(field_name, "one is listed twice", "list each once")

    def _check_sizes(self) -> None:
        largest_stream = max(
            self.initial_max_stream_data_bidi_local,
            self.initial_max_stream_data_bidi_remote,
            self.initial_max_stream_data_uni,
        )
        needed_slot = max(self.max_recv_udp_payload_size, _GRO_MAX if self.gro else 0)
        for name, least, why in (
            ("max_connection_window", self.initial_max_data, "initial_max_data"),
            ("max_stream_window", largest_stream, "the largest initial_max_stream_data_*"),
            ("recv_buffer_size", needed_slot, "one message of max_recv_udp_payload_size, or of gro"),
            ("send_buffer_size", self.max_send_udp_payload_size, "max_send_udp_payload_size"),
        ):
            if (value := getattr(self, name)) < least:
                raise ConfigError(
                    name, f"{value} is too small for {why}", f"use at least {least}, or lower the latter"
                )

    def _check_files(self) -> None:
        for name, is_kind, kind in (("cafile", Path.is_file, "file"), ("ca_path", Path.is_dir, "directory")):
            value = getattr(self, name)
            if value is not None and not (is_kind(Path(value)) and os.access(value, os.R_OK)):
                raise ConfigError(
                    name, f"{value!r} is not a readable {kind}", f"give a {kind} of certificates in PEM"
                )
        for name, is_kind, kind in (
            ("qlog_dir", Path.is_dir, "directory"),
            ("keylog_path", Path.is_file, "file"),
        ):
            if (value := getattr(self, name)) is None:
                continue
            place = Path(value)
            there = is_kind(place) if place.exists() else place.absolute().parent.is_dir()
            if not there or not os.access(place if place.exists() else place.absolute().parent, os.W_OK):
                raise ConfigError(name, f"{value!r} is not a {kind} one may write to", f"give another {kind}")


@dataclass(slots=True, kw_only=True)
class ServerConfig(TransportConfig):
    """Everything a server can be told. See docs/configuration.md for units, defaults and ranges."""

    # Network
    bind_addr: str | list[str] = field(
        default=str(ipaddress.IPv6Address(0)),
        metadata=declare(Option("list", "Literal IPv4 or IPv6 address to bind, or a list of them.")),
    )
    bind_port: int = integer(4433, "", 0, 65_535, "UDP port, the same on every address; 0 takes a free one.")
    dual_stack: bool = flag(True, "An IPv6 wildcard socket serves IPv4 as well.")
    preferred_address_v4: str | None = text(
        None,
        "Address and port that clients are to go to after the handshake, as 192.0.2.1:4433 (RFC 9000 9.6). "
        "Bound as well, unless a bound address covers it.",
    )
    preferred_address_v6: str | None = text(None, "The same for IPv6, as [2001:db8::1]:4433.")
    quic_versions: list[str] = field(
        default_factory=lambda: ["1", "2"],
        metadata=declare(
            Option(
                "list",
                "Versions of QUIC, of 1 and 2 (RFC 9369), best first. "
                "A connection goes on in the best one that the client has, too (RFC 9368).",
            )
        ),
    )
    tcp_pages: bool = flag(False, "Answer HTTPS over TCP on the same port too: a browser's first visit.")

    # TLS: one of the two pairs, or dev_cert
    cert_path: str | None = path("PEM file of the certificate chain, the server's own first.")
    key_path: str | None = path("PEM file of its private key, not encrypted.")
    cert_pem: bytes | None = blob("The certificate chain itself, in PEM.")
    key_pem: bytes | None = blob("The private key itself, in PEM, not encrypted.", secret=True)
    more_certificates: list[str] | None = field(
        default=None,
        metadata=declare(
            Option(
                "list",
                "Further certificates, chosen by the name asked for (SNI), each as chain.pem:key.pem.",
                optional=True,
            )
        ),
    )
    dev_cert: bool = flag(False, "Make a self-signed certificate at start: P-256, 14 days, for development.")
    verify_peer: bool = flag(False, "Demand a certificate of the client, from cafile or ca_path.")
    server_name_required: bool = flag(False, "Refuse clients that send no server name (SNI).")
    enable_early_data: bool = flag(
        False,
        "Accept 0-RTT, once for each ticket: GET, HEAD and OPTIONS run early, others get 425 (RFC 8470).",
    )
    early_data_register_size: int = integer(
        65_536, "tickets", 1, 10_000_000, "Used tickets that are remembered; older ones bring no 0-RTT."
    )

    # Admission
    max_connections: int = integer(
        10_000, "connections", 1, 10_000_000, "Connections at once; more are refused."
    )
    handshake_timeout_ms: int = integer(5_000, "ms", 100, 600_000, "A slower handshake is dropped.")
    drain_timeout_ms: int = integer(
        30_000, "ms", 0, _DAY_MS, "How long requests in flight may take to finish when stopping."
    )
    enable_retry: bool = flag(False, "Have every client prove its address first (RFC 9000 8.1.2).")
    half_open_retry_threshold: int = integer(
        1000,
        "connections",
        0,
        10_000_000,
        "Unfinished handshakes from which on Retry is demanded; at twice as many nobody is let in.",
    )
    max_unproven_per_turn: int = integer(
        8,
        "connections",
        0,
        MIB,
        "Handshakes begun in a turn without proof of the address, else Retry; 0 is no limit.",
    )
    max_handshake_bytes: int = integer(
        24 * KIB,
        "bytes",
        4 * KIB,
        MIB,
        "Bytes a client may send before its handshake is complete, padding aside.",
    )
    max_connections_per_address: int = integer(
        100, "connections", 0, 10_000_000, "Connections of one IPv4 address or IPv6 /64; 0 is no limit."
    )
    max_half_open_per_address: int = integer(
        50, "connections", 0, 10_000_000, "Of these with an unfinished handshake, else Retry; 0 is no limit."
    )
    new_connections_per_address: int = integer(
        50, "per second", 0, MIB, "New connections of one address, twice as many at once; 0 is no limit."
    )
    limit_loopback: bool = flag(False, "The limits per address hold for 127.0.0.0/8 and ::1 as well.")
    retries_per_second: int = integer(
        1000, "per second", 0, MIB, "Retry packets, twice as many at once; 0 is no limit."
    )
    version_negotiations_per_second: int = integer(
        100, "per second", 0, MIB, "Version Negotiation packets, twice as many at once; 0 is no limit."
    )
    stateless_resets_per_second: int = integer(
        100, "per second", 0, MIB, "Stateless resets, twice as many at once; 0 is no limit."
    )
    refusals_per_second: int = integer(
        100, "per second", 0, MIB, "Refused clients that are told so, twice as many at once; 0 is no limit."
    )
    retry_token_lifetime_ms: int = integer(15_000, "ms", 1000, 600_000, "How long a Retry token is good for.")
    max_amplification_factor: int = integer(
        3, "", 1, 3, "Bytes sent per byte received before the address is proven (RFC 9000 8)."
    )
    stateless_reset: bool = flag(True, "Tell peers that a connection is no longer known (RFC 9000 10.3).")
    secret_key: bytes | None = blob(
        "Seed of tokens and session tickets, shared by the servers of one address; random if none.",
        32,
        True,
    )
    previous_secret_key: bytes | None = blob(
        "The `secret_key` before: its Retry tokens and session tickets are still taken.", 32, True
    )

    ticket_key_period_ms: int = integer(
        _DAY_MS,
        "ms",
        0,
        365 * _DAY_MS,
        "Without `secret_key`: how long a key seals session tickets, and again opens them; 0 is for ever.",
    )

    # HTTP
    max_request_headers_size: int = integer(
        32 * KIB, "bytes", KIB, 16 * MIB, "Size of a request's header section (RFC 9114 4.2.2), else 431."
    )
    max_request_body_size: int = integer(
        100 * MIB, "bytes", 0, _WINDOW, "Size of any request body, else 413."
    )
    max_non_streaming_body_bytes: int = integer(
        1 * MIB, "bytes", 0, _WINDOW, "Size of a request body that is read as a whole, else 413."
    )
    max_path_length: int = integer(2048, "bytes", 1, MIB, "Length of path and query, else 414.")
    max_active_requests_per_conn: int = integer(
        0, "requests", 0, MIB, "Requests at work on one connection, else 503; 0 is no limit."
    )
    max_active_downloads_per_conn: int = integer(
        0, "responses", 0, MIB, "Files being sent on one connection, else 503; 0 is no limit."
    )
    header_timeout_ms: int = integer(
        10_000, "ms", 0, _DAY_MS, "A slower header section gets 408 or is reset; 0 waits for ever."
    )
    min_body_rate: int = integer(
        240, "bytes per second", 0, 1 << 30, "A slower request body gets 408 or is reset; 0 takes any."
    )
    body_grace_ms: int = integer(
        5_000, "ms", 0, _DAY_MS, "The time over which the rate of a body is measured; 0 takes any."
    )
    send_stall_timeout_ms: int = integer(
        30_000, "ms", 0, _DAY_MS, "A response is reset whose client takes nothing for this long; 0 waits."
    )
    max_connection_age_ms: int = integer(
        _DAY_MS, "ms", 0, 365 * _DAY_MS, "An older connection gets GOAWAY and drains; 0 is no limit."
    )
    max_idle_without_request_ms: int = integer(
        300_000,
        "ms",
        0,
        365 * _DAY_MS,
        "The same without a request or datagram for this long; 0 is no limit.",
    )
    stream_resets_burst: int = integer(
        1000, "streams", 0, MIB, "Streams of a connection that end by a reset or stop at once; 0 is no limit."
    )
    stream_resets_per_second: int = integer(
        33, "per second", 0, MIB, "The same in the long run; more close it with H3_EXCESSIVE_LOAD."
    )
    priority_updates_per_second: int = integer(
        200,
        "per second",
        0,
        MIB,
        "PRIORITY_UPDATE frames, ten times as many at once; more close the connection; 0 is no limit.",
    )
    idle_frames_per_second: int = integer(
        1000,
        "per second",
        0,
        MIB,
        "Frames and streams that bring nothing (empty, unknown), beside two for each request; ten times as "
        "many at once; more close the connection; 0 is no limit.",
    )
    max_encoder_stream_bytes: int = integer(
        4 * KIB, "bytes", 0, MIB, "QPACK encoder instructions of a connection; 0 is no limit."
    )
    max_response_queue_bytes: int = integer(
        256 * KIB, "bytes", 4 * KIB, 1 << 30, "What a response holds before its producer must wait."
    )
    date_header: bool = flag(True, "Send a date field with every response (RFC 9110 6.6.1).")
    server_header: str | None = text(None, "Value of the Server field of responses.")

    # Handlers
    handler_threads: int = integer(32, "threads", 1, 1024, "Threads for blocking handlers.")
    wt_session_threads: int = integer(
        64, "threads", 1, 4096, "Sessions at once with blocking handlers, each with a thread; then 503."
    )
    handler_timeout_ms: int = integer(
        120_000, "ms", 0, _DAY_MS, "A handler that has not begun its response by then: 503; 0 waits for ever."
    )
    watchdog_ms: int = integer(
        100, "ms", 0, 600_000, "A loop blocked for longer is logged, with the stack; 0 looks at nothing."
    )
    blocking_queue_limit: int = integer(1024, "requests", 0, MIB, "Requests waiting for a thread, else 503.")
    access_log: bool = flag(False, "One line per request to the logger quiche_h3.access.")

    enable_webtransport: bool = flag(
        True, "Negotiate WebTransport where the program has routes for it; false refuses it all."
    )

    enable_extended_connect: bool = flag(
        False,
        "Announce extended CONNECT (RFC 9220) for CONNECT routes of protocols other than WebTransport; "
        "`req.protocol` says which.",
    )

    @property
    def bind_addrs(self) -> list[str]:
        """`bind_addr` as a list."""
        return [self.bind_addr] if isinstance(self.bind_addr, str) else list(self.bind_addr)

    def preferred_addresses(self) -> dict[str, tuple[_IpAddress, int]]:
        """The preferred addresses that are given, by the names of their fields. Raises `ConfigError`."""
        found = {}
        for version in (4, 6):
            name = f"preferred_address_v{version}"
            if (value := getattr(self, name)) is None:
                continue
            try:
                found[name] = address_and_port(value)
                if found[name][0].version != version or found[name][0].is_unspecified:
                    raise ValueError(value)
            except ValueError:
                example = "192.0.2.1:4433" if version == 4 else "[2001:db8::1]:4433"
                problem = f"{value!r} is not an IPv{version} address with a port"
                raise ConfigError(name, problem, f"use one like {example}") from None
        return found

    def validate(self) -> None:
        """Checks every value, and values against each other. Raises `ConfigError` for the first wrong one.

        The files named are looked at, certificates are not yet read: `load_certificate()` does that.
        """
        TransportConfig.validate(self)  # super() fails in a class that dataclass(slots=True) has remade
        self._check_list("quic_versions", QUIC_VERSIONS)
        self._check_addresses()
        self._check_certificate_source()
        if self.initial_max_streams_bidi == 0:
            raise ConfigError(
                "initial_max_streams_bidi", "0 lets no request in", "use 100 (RFC 9114 6.1) or more"
            )
        if self.max_request_headers_size > self.max_field_section_size:
            problem = f"{self.max_request_headers_size} is more than max_field_section_size"
            raise ConfigError(
                "max_request_headers_size", problem, f"use at most {self.max_field_section_size}"
            )
        if self.verify_peer and self.cafile is None and self.ca_path is None:
            raise ConfigError(
                "verify_peer", "there is nothing to verify clients by", "give cafile or ca_path"
            )
        if self.tcp_pages and self.verify_peer:
            raise ConfigError("tcp_pages", "has no certificate to show to verify_peer", "use one of the two")
        if self.server_header is not None and not (
            self.server_header.isascii() and self.server_header.isprintable()
        ):
            raise ConfigError(
                "server_header", f"{self.server_header!r} is no field value", "use printable ASCII"
            )

    def _check_addresses(self) -> None:
        addresses = []
        for address in self.bind_addrs:
            try:
                addresses.append(ipaddress.ip_address(address))
            except ValueError:
                remedy = "use one like 127.0.0.1 or ::1, or 0.0.0.0 or :: for all"
                raise ConfigError(
                    "bind_addr", f"{address!r} is not an IPv4 or IPv6 address", remedy
                ) from None
        if len(set(addresses)) != len(addresses):
            raise ConfigError("bind_addr", "an address is listed twice", "list each once")
        self.preferred_addresses()
        if (
            self.dual_stack
            and ipaddress.ip_address("::") in addresses
            and any(a.version == 4 for a in addresses)
        ):
            problem = ":: with dual_stack holds the IPv4 port already"
            raise ConfigError("bind_addr", problem, "drop the IPv4 addresses, or set dual_stack to false")

    def _check_certificate_source(self) -> None:
        for cert, key in (("cert_path", "key_path"), ("cert_pem", "key_pem")):
            given = [name for name in (cert, key) if getattr(self, name) is not None]
            if len(given) == 1:
                missing = key if given == [cert] else cert
                raise ConfigError(missing, f"is missing while {given[0]} is given", "give both")
        for pair in self.more_certificates or ():
            if pair.count(":") != 1 or not all(pair.split(":")):
                raise ConfigError(
                    "more_certificates",
                    f"{pair!r} is no pair of files",
                    "use chain.pem:key.pem, separated by commas",
                )
        sources = [self.cert_path is not None, self.cert_pem is not None, self.dev_cert]
        if sum(sources) != 1:
            problem = "more than one certificate is given" if any(sources) else "no certificate is given"
            remedy = "give one of cert_path with key_path, cert_pem with key_pem, or dev_cert"
            raise ConfigError("cert_path", problem, remedy)


@dataclass(slots=True, kw_only=True)
class ClientConfig(TransportConfig):
    """Everything a client can be told. See docs/configuration.md for units, defaults and ranges."""

    server_name: str | None = text(None, "Name to ask for (SNI) and verify; none is the URL's host.")
    verify: bool = flag(
        True, "Verify the server's certificate, by the system's authorities and those given here."
    )
    connect_timeout_ms: int = integer(10_000, "ms", 1, 600_000, "A slower handshake is given up.")
    quic_versions: list[str] = field(
        default_factory=lambda: ["1"],
        metadata=declare(
            Option(
                "list",
                "Versions of QUIC, of 1 and 2 (RFC 9369), best first. A connection begins in version 1 if "
                "that is among them, and goes on in the one that the server chooses (RFC 9368).",
            )
        ),
    )
    client_cert_path: str | None = path("PEM file of our certificate chain, for servers that demand one.")
    client_key_path: str | None = path("PEM file of its private key, not encrypted.")
    ticket_path: str | None = path("File that session tickets are kept in, mode 0600; none is memory alone.")
    use_preferred_address: bool = flag(
        True, "Go to the address that the server prefers, once it has answered there (RFC 9000 9.6)."
    )
    early_data: str = text(
        "never", "Requests that may go in 0-RTT, which can be replayed (RFC 8470).", ("never", "safe", "all")
    )
    max_connections: int = integer(
        64, "connections", 1, 100_000, "Connections of one client at once, one per origin; more wait."
    )
    max_retries: int = integer(
        2, "", 0, 100, "How often a request that the server left unprocessed is sent again."
    )
    max_redirects: int = integer(10, "", 0, 100, "Redirects followed on request, one after the other.")

    def validate(self) -> None:
        """Checks every value, and values against each other. Raises `ConfigError` for the first wrong one."""
        TransportConfig.validate(self)
        self._check_list("quic_versions", QUIC_VERSIONS)
        name = self.server_name
        if name is not None and not (
            name.isascii() and name.isprintable() and " " not in name and len(name) <= 253
        ):
            raise ConfigError(
                "server_name", f"{name!r} is not a host name", "use its ASCII form, as xn--bcher-kva.example"
            )
        for given, missing in (
            ("client_cert_path", "client_key_path"),
            ("client_key_path", "client_cert_path"),
        ):
            if getattr(self, given) is not None and getattr(self, missing) is None:
                raise ConfigError(missing, f"is missing while {given} is given", "give both")


def _every_field() -> set[str]:
    return {*ServerConfig.options(), *ClientConfig.options()}


def _boolean(field_name: str, value: str) -> bool:
    return bool(ServerConfig.options()[field_name].parse(value))


def _debug(value: str) -> dict[str, Any]:
    if not _boolean("enable_debug_logging", value):
        return {}
    return {"enable_debug_logging": True, "log_level": LogLevel.DEBUG}


_SHORT_FORMS: Final[dict[str, tuple[Callable[[str], dict[str, Any]], str]]] = {
    "H3_MAX_BODY_MB": (lambda v: {"max_non_streaming_body_bytes": int(v) * MIB}, "use a number of MiB"),
    "H3_DEBUG": (_debug, "use 1 or 0"),
    "H3_LOG_LEVEL": (
        lambda v: {"log_level": LogLevel(v.strip().lower())},
        "use one of " + ", ".join(level.value for level in LogLevel),
    ),
    "H3_WEBTRANSPORT": (lambda v: {"enable_webtransport": _boolean("enable_webtransport", v)}, "use 1 or 0"),
}
