"""The counters that `Server.export_metrics()` returns: what there is, and what each counts.

Each layer keeps its counters under the names that are declared here. They only grow from the start of the
server on, but for those whose docstring says "now".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """Sockets, and what is answered where there is no connection yet."""

    datagrams_received: int = 0
    """UDP datagrams received, each one counted that GRO delivered in a run."""
    bytes_received: int = 0
    """Bytes in them."""
    datagrams_sent: int = 0
    """UDP datagrams sent, each one counted that GSO sent in a run."""
    bytes_sent: int = 0
    """Bytes in them."""
    recv_overflow: int = 0
    """UDP datagrams that the kernel dropped because the receive buffer was full (SO_RXQ_OVFL)."""
    recv_errors: int = 0
    """System calls that failed to receive."""
    send_blocked: int = 0
    """Times the send buffer was full; the packets are kept and sent later."""
    send_errors: Mapping[str, int] = field(default_factory=dict)
    """UDP datagrams that could not be sent, by the name of the errno (`EMSGSIZE`, `EPERM`, ...)."""
    gso_fallbacks: int = 0
    """Times the kernel refused UDP GSO and packets were sent one by one."""
    txtime_messages: int = 0
    """Messages that were given to the kernel with the time at which to send them (`send_txtime`)."""
    ecn_received: int = 0
    """UDP payloads that came with an ECN mark."""
    ecn_ce_received: int = 0
    """Of these, marked for congestion (CE)."""
    malformed_dropped: int = 0
    """UDP datagrams that do not begin with a QUIC packet."""
    short_initials_dropped: int = 0
    """Initial packets in UDP datagrams under 1,200 bytes (RFC 9000 14.1)."""
    unknown_dropped: int = 0
    """Packets that belong to no connection and begin none."""
    rate_limited: int = 0
    """Packets without a connection that got no answer because too many had one."""
    version_negotiations_sent: int = 0
    """Version Negotiation packets (RFC 9000 6)."""
    retries_sent: int = 0
    """Retry packets (RFC 9000 8.1.2)."""
    retry_tokens_rejected: int = 0
    """Tokens that were forged, expired or of another address."""
    stateless_resets_sent: int = 0
    """Stateless resets (RFC 9000 10.3)."""
    log_failures: int = 0
    """Connections that go without their key log or qlog, or the rest of it: no descriptor, no room."""
    refusals_sent: int = 0
    """CONNECTION_CLOSE packets with CONNECTION_REFUSED that clients without a connection got."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RttMetrics:
    """Smoothed round-trip times of the connections, now, in milliseconds; None if there are none."""

    min_ms: float | None = None
    mean_ms: float | None = None
    max_ms: float | None = None

    @classmethod
    def of(cls, seconds: Iterable[float]) -> RttMetrics:
        """Sums up round-trip times in seconds, one per connection."""
        values = [rtt * 1000 for rtt in seconds]
        if not values:
            return cls()
        return cls(min_ms=min(values), mean_ms=sum(values) / len(values), max_ms=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionMetrics:
    """QUIC connections, those that are gone included."""

    accepted: int = 0
    """Connections accepted."""
    refused: int = 0
    """Connections refused: there were `max_connections`, or the server is stopping."""
    refused_by_address: int = 0
    """Connections refused: their address had too many, or made them too fast."""
    half_open_dropped: int = 0
    """Connections that were not begun, without an answer: too many handshakes were unfinished."""
    handshake_overruns: int = 0
    """Connections given up: the client had sent `max_handshake_bytes`, and its handshake was not complete."""
    key_updates: int = 0
    """Key updates that we began, at half of `max_packets_per_key`."""
    runaways: int = 0
    """Connections given up: they sent more than congestion control can have allowed. A defect: report it."""
    packet_limit_closes: int = 0
    """Connections closed at `max_packets_per_key`: the peer did not follow the key update."""
    connections: int = 0
    """Connections, now."""
    half_open: int = 0
    """Of these, with an unfinished handshake."""
    cids: int = 0
    """Connection IDs that lead to them, now."""
    closed: int = 0
    """Connections that are gone, whatever the reason."""
    closed_by_peer: int = 0
    """Of these, closed by the peer."""
    closed_by_us: int = 0
    """Of these, closed by us."""
    timed_out: int = 0
    """Of these, idle for too long (RFC 9000 10.1)."""
    handshake_failed: int = 0
    """Of those that are gone, the ones whose handshake was never complete."""
    packets_received: int = 0
    """QUIC packets received."""
    packets_sent: int = 0
    """QUIC packets sent."""
    packets_lost: int = 0
    """QUIC packets declared lost (RFC 9002 6)."""
    packets_retransmitted: int = 0
    """QUIC packets sent with data of a lost one."""
    bytes_received: int = 0
    """Bytes of QUIC packets received."""
    bytes_sent: int = 0
    """Bytes of QUIC packets sent."""
    bytes_lost: int = 0
    """Bytes of QUIC packets declared lost."""
    pto_count: int = 0
    """Probe timeouts (RFC 9002 6.2)."""
    datagrams_received: int = 0
    """DATAGRAM frames received (RFC 9221)."""
    datagrams_sent: int = 0
    """DATAGRAM frames sent."""
    migrations: int = 0
    """New paths that peers moved to (RFC 9000 9)."""
    preferred_moves: int = 0
    """Of these connections, the ones that went over to the server's preferred address (RFC 9000 9.6)."""
    ecn_congestion: int = 0
    """QUIC packets of ours that reached their peer with the mark of congestion (ECN-CE)."""
    ecn_failed: int = 0
    """Connections that gave up to mark their packets: the marks, or the packets, did not get through."""
    rtt: RttMetrics = field(default_factory=RttMetrics)
    """Round-trip times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Http3Metrics:
    """HTTP/3 messages."""

    requests: int = 0
    """Requests whose headers arrived."""
    responses: Mapping[str, int] = field(default_factory=dict)
    """Responses sent, by class of their status: `1xx` to `5xx`."""
    malformed: int = 0
    """Requests refused with H3_MESSAGE_ERROR (RFC 9114 4.1.2)."""
    resets_received: int = 0
    """Request streams that the peer reset or stopped, or ended without a request."""
    resets_sent: int = 0
    """Request streams that we reset or stopped."""
    goaways_received: int = 0
    """GOAWAY frames received."""
    goaways_sent: int = 0
    """GOAWAY frames sent."""
    reset_floods: int = 0
    """Connections closed with H3_EXCESSIVE_LOAD: too many of their streams were given up, by whomever."""
    update_floods: int = 0
    """Connections closed for too many PRIORITY_UPDATE frames."""
    idle_frame_floods: int = 0
    """Connections closed for too many frames that bring nothing (`idle_frames_per_second`)."""
    encoder_floods: int = 0
    """Connections closed because of more than `max_encoder_stream_bytes` on the QPACK encoder stream."""
    slow_headers: int = 0
    """Requests ended because their field section was not complete within `header_timeout_ms`."""
    slow_bodies: int = 0
    """Requests ended because their body came slower than `min_body_rate`."""
    overdue_handlers: int = 0
    """Requests answered with 503 because their handler took longer than `handler_timeout_ms`."""
    stalled_responses: int = 0
    """Responses reset because the client took nothing for `send_stall_timeout_ms`."""
    left_by_age: int = 0
    """Connections that were sent away after `max_connection_age_ms`."""
    left_by_idleness: int = 0
    """Connections that were sent away after `max_idle_without_request_ms`."""
    left_by_packets: int = 0
    """Connections that were sent away as `max_packets_per_key` came near."""
    body_bytes_received: int = 0
    """Bytes of request bodies."""
    body_bytes_sent: int = 0
    """Bytes of response bodies."""
    datagrams_received: int = 0
    """Datagrams that reached HTTP/3, those of requests (RFC 9297) and raw ones."""
    datagrams_sent: int = 0
    """Datagrams queued for sending, those of requests and raw ones."""
    datagrams_dropped: int = 0
    """Datagrams dropped: nobody took them, or a queue was full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerMetrics:
    """Request handlers."""

    started: int = 0
    """Handlers called."""
    finished: int = 0
    """Handlers that ended as they should, or raised an error that is an answer (a status below 500)."""
    failed: int = 0
    """Handlers that raised anything else."""
    cancelled: int = 0
    """Handlers whose stream or connection went first."""
    active: int = 0
    """Handlers at work, now."""
    blocking_active: int = 0
    """Threads of the pool at work, now."""
    blocking_queued: int = 0
    """Requests that wait for a thread, now."""
    loop_blocked: int = 0
    """Times that the event loop stood still for longer than `watchdog_ms`."""
    rejected_503: int = 0
    """Requests that were over a limit and answered with 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebTransportMetrics:
    """WebTransport sessions, their streams and datagrams."""

    sessions: int = 0
    """Sessions that were established."""
    sessions_active: int = 0
    """Of these, open now."""
    sessions_rejected: int = 0
    """CONNECT requests that became no session: by their handler, their origin, or a limit."""
    sessions_idle: int = 0
    """Sessions closed because nothing had moved for `wt_session_idle_ms`."""
    streams_opened: int = 0
    """Streams that we have opened."""
    streams_accepted: int = 0
    """Streams of the peers that were taken."""
    streams_refused: int = 0
    """Streams of the peers that were not: over a limit, or of no session."""
    streams_active: int = 0
    """Streams of both, now."""
    streams_peak: int = 0
    """The most streams that one session had at once."""
    bytes_received: int = 0
    """Bytes read from streams."""
    bytes_sent: int = 0
    """Bytes written to streams."""
    datagrams_received: int = 0
    """Datagrams of sessions received."""
    datagrams_sent: int = 0
    """Datagrams sent."""
    datagrams_dropped: int = 0
    """Datagrams dropped: too many waited, came too fast or without a session, or the send queue was full."""
    resets_received: int = 0
    """Streams that peers reset or stopped."""
    resets_sent: int = 0
    """Streams that our handlers reset or stopped."""
    reset_codes: Mapping[str, int] = field(default_factory=dict)
    """The received ones by code: the application's as a number, others in hexadecimal, at most 64 codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A snapshot of everything that is counted."""

    engine: EngineMetrics = field(default_factory=EngineMetrics)
    connections: ConnectionMetrics = field(default_factory=ConnectionMetrics)
    http3: Http3Metrics = field(default_factory=Http3Metrics)
    handlers: HandlerMetrics = field(default_factory=HandlerMetrics)
    webtransport: WebTransportMetrics = field(default_factory=WebTransportMetrics)

    @classmethod
    def collect(
        cls,
        endpoint: Mapping[str, int],
        sockets: Iterable[Mapping[str, Any]] = (),
        active: Iterable[Mapping[str, Any]] = (),
        http3: Mapping[str, Any] | None = None,
        handlers: Mapping[str, int] | None = None,
        webtransport: Mapping[str, Any] | None = None,
    ) -> Metrics:
        """A snapshot of the counters that the layers keep; a counter that is not given is 0.

        `endpoint` are the endpoint's own, with the sums over the connections that are gone; `sockets` those
        of each socket; `active` the statistics of each living connection, which are added to the endpoint's
        (what is not counted here is skipped; `rtt` is in seconds). Raises TypeError for an undeclared counter
        of the endpoint, a socket, HTTP/3 or the handlers, which would else be lost in silence.
        """
        of_engine = {f.name for f in fields(EngineMetrics)}
        of_connections = {f.name for f in fields(ConnectionMetrics)} - {"rtt"}
        # Bytes and datagrams are in both groups: the endpoint's are its connections'.
        engine: dict[str, Any] = {n: v for n, v in endpoint.items() if n in of_engine - of_connections}
        connections: dict[str, Any] = {n: v for n, v in endpoint.items() if n not in engine}
        for counters in sockets:
            _add(engine, counters)
        rtts = []
        for statistics in active:
            _add(connections, {name: n for name, n in statistics.items() if name in of_connections})
            if "rtt" in statistics:
                rtts.append(statistics["rtt"])
        return cls(
            engine=EngineMetrics(**engine),
            connections=ConnectionMetrics(**connections, rtt=RttMetrics.of(rtts)),
            http3=Http3Metrics(**(http3 or {})),
            handlers=HandlerMetrics(**(handlers or {})),
            webtransport=WebTransportMetrics(**(webtransport or {})),
        )

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The snapshot as nested dictionaries of numbers, ready for JSON."""
        return asdict(self)


def _add(total: dict[str, Any], counters: Mapping[str, Any]) -> None:
    """Adds counters, and tables of counters, to `total`."""
    for name, value in counters.items():
        if isinstance(value, Mapping):
            total[name] = dict(total.get(name, {}))
            _add(total[name], value)
        else:
            total[name] = total.get(name, 0) + value
