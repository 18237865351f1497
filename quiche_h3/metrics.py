"""The counters that `Server.export_metrics()` returns: what there is, and what each counts.

Counters only grow from the start of the server on; what a docstring calls "now" goes up and down. Names are
those of the RFCs: a packet is QUIC's, a UDP payload the socket's, a datagram that of RFC 9221.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """Sockets, and what is answered before there is a connection."""

    udp_payloads_received: int = 0
    """UDP payloads received, each one counted that GRO delivered in a run."""
    bytes_received: int = 0
    """Bytes in them."""
    udp_payloads_sent: int = 0
    """UDP payloads sent, each one counted that GSO sent in a run."""
    bytes_sent: int = 0
    """Bytes in them."""
    recv_calls: int = 0
    """System calls that received."""
    send_calls: int = 0
    """System calls that sent."""
    recv_overflow: int = 0
    """UDP payloads that the kernel dropped because the receive buffer was full (SO_RXQ_OVFL)."""
    send_blocked: int = 0
    """Times the send buffer was full; the packets are kept and sent later."""
    send_errors: Mapping[str, int] = field(default_factory=dict)
    """UDP payloads that could not be sent, by the name of the errno (`EMSGSIZE`, `EPERM`, ...)."""
    gso_fallbacks: int = 0
    """Times the kernel refused UDP GSO and packets were sent one by one."""
    packets_invalid: int = 0
    """UDP payloads that are no QUIC packet."""
    packets_dropped_short_initial: int = 0
    """Initial packets in UDP payloads under 1,200 bytes (RFC 9000 14.1)."""
    unknown_cid_dropped: int = 0
    """Packets of no connection that got no answer."""
    version_negotiations_sent: int = 0
    """Version Negotiation packets (RFC 9000 6)."""
    retries_sent: int = 0
    """Retry packets (RFC 9000 8.1.2)."""
    retry_tokens_rejected: int = 0
    """Tokens that were forged, expired or of another address."""
    stateless_resets_sent: int = 0
    """Stateless resets (RFC 9000 10.3)."""
    half_open: int = 0
    """Connections with an unfinished handshake, now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RttMetrics:
    """Smoothed round-trip times of the active connections, now, in milliseconds; None if there is none."""

    min_ms: float | None = None
    mean_ms: float | None = None
    max_ms: float | None = None

    @classmethod
    def of(cls, rtts_ns: Iterable[int]) -> RttMetrics:
        """Sums up round-trip times in nanoseconds, one per connection."""
        values = [rtt / 1e6 for rtt in rtts_ns]
        if not values:
            return cls()
        return cls(min_ms=min(values), mean_ms=sum(values) / len(values), max_ms=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionMetrics:
    """QUIC connections, those that are gone included."""

    accepted: int = 0
    """Connections accepted."""
    refused: int = 0
    """Connections refused because of `max_connections`."""
    active: int = 0
    """Connections, now."""
    established: int = 0
    """Handshakes completed."""
    resumed: int = 0
    """Handshakes that resumed a session."""
    closed: int = 0
    """Connections that are gone, whatever the reason."""
    closed_by_peer: int = 0
    """Of these, closed by the peer."""
    closed_by_us: int = 0
    """Of these, closed by us."""
    handshake_failed: int = 0
    """Of these, gone before the handshake was complete."""
    timed_out: int = 0
    """Of these, idle for too long (RFC 9000 10.1)."""
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
    stream_bytes_retransmitted: int = 0
    """Bytes of stream data sent again."""
    pto_count: int = 0
    """Probe timeouts (RFC 9002 6.2)."""
    datagrams_received: int = 0
    """DATAGRAM frames received (RFC 9221)."""
    datagrams_sent: int = 0
    """DATAGRAM frames sent."""
    datagrams_dropped: int = 0
    """Datagrams dropped: the queue was full, or they belonged to no stream."""
    paths_validated: int = 0
    """New paths that connections moved to (RFC 9000 9)."""
    rtt: RttMetrics = field(default_factory=RttMetrics)
    """Round-trip times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Http3Metrics:
    """HTTP/3 messages."""

    requests: int = 0
    """Requests whose headers arrived."""
    responses_1xx: int = 0
    """Interim responses sent."""
    responses_2xx: int = 0
    """Responses sent, by class of their status."""
    responses_3xx: int = 0
    """As above."""
    responses_4xx: int = 0
    """As above."""
    responses_5xx: int = 0
    """As above."""
    streams_active: int = 0
    """Requests at work, now."""
    resets_received: int = 0
    """Request streams that the peer reset or stopped."""
    resets_sent: int = 0
    """Request streams that we reset or stopped."""
    goaways_received: int = 0
    """GOAWAY frames received."""
    goaways_sent: int = 0
    """GOAWAY frames sent."""
    messages_malformed: int = 0
    """Requests refused with H3_MESSAGE_ERROR (RFC 9114 4.1.2)."""
    body_bytes_received: int = 0
    """Bytes of request bodies."""
    body_bytes_sent: int = 0
    """Bytes of response bodies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerMetrics:
    """Request handlers."""

    started: int = 0
    """Handlers called."""
    finished: int = 0
    """Handlers that returned."""
    failed: int = 0
    """Handlers that raised something that is not an answer."""
    cancelled: int = 0
    """Handlers whose stream or connection went first."""
    active: int = 0
    """Handlers at work, now."""
    blocking_active: int = 0
    """Threads of the pool at work, now."""
    blocking_queued: int = 0
    """Requests that wait for a thread, now."""
    rejected_503: int = 0
    """Requests that were over a limit and answered with 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A snapshot of everything that is counted."""

    engine: EngineMetrics = field(default_factory=EngineMetrics)
    connections: ConnectionMetrics = field(default_factory=ConnectionMetrics)
    http3: Http3Metrics = field(default_factory=Http3Metrics)
    handlers: HandlerMetrics = field(default_factory=HandlerMetrics)

    @classmethod
    def collect(
        cls,
        engine: Mapping[str, Any],
        connections: Mapping[str, Any],
        http3: Mapping[str, Any],
        handlers: Mapping[str, Any],
        rtts_ns: Iterable[int] = (),
    ) -> Metrics:
        """A snapshot of the counters that the layers keep, each under the names here; one not given is 0.

        `rtts_ns` are the smoothed round-trip times of the active connections. Raises TypeError for a counter
        that is not declared above.
        """
        return cls(
            engine=EngineMetrics(**{**engine, "send_errors": dict(engine.get("send_errors", {}))}),
            connections=ConnectionMetrics(**connections, rtt=RttMetrics.of(rtts_ns)),
            http3=Http3Metrics(**http3),
            handlers=HandlerMetrics(**handlers),
        )

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The snapshot as nested dictionaries of numbers, ready for JSON."""
        return asdict(self)
