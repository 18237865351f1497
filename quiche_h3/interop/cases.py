"""The interop runner's test cases, as an endpoint sees them: what it has to do for each name in TESTCASE."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from .._core.hq import HQ_ALPN

UNSUPPORTED: Final = 127
"""The exit status that says so."""


class Plan(Enum):
    """How a client spreads its URLs over connections."""

    ONE = "all over one connection"
    EACH = "one connection after the other, a URL each"
    RESUMED = "the first URL, then the others over a resumed connection"
    EARLY = "as RESUMED, and what can go in 0-RTT goes there"


@dataclass(frozen=True)
class Case:
    """What a test case asks for. Fields of the configuration by role; None where a role cannot do it."""

    server: dict[str, Any] | None = field(default_factory=dict)
    client: dict[str, Any] | None = field(default_factory=dict)
    plan: Plan = Plan.ONE
    alpn: tuple[str, ...] = HQ_ALPN
    update_key: bool = False
    """The client updates its keys once, as soon as it may."""
    prefer_address: bool = False
    """The server tells its clients to go to its next port (RFC 9000 9.6)."""


# Handshakes over a link that loses or changes a third of the packets take many probe timeouts.
_PATIENT: Final = {"idle_timeout_ms": 180_000}

CASES: Final = {
    "handshake": Case(),
    "transfer": Case(),
    "multiconnect": Case({**_PATIENT, "handshake_timeout_ms": 180_000}, _PATIENT, Plan.EACH),
    "retry": Case({"enable_retry": True}),
    "resumption": Case(plan=Plan.RESUMED),
    # RFC 9002 7.2: 14,720 bytes, which are 12 packets of the size that a handshake begins with.
    "zerortt": Case(
        {"enable_early_data": True},
        {"early_data": "safe", "initial_congestion_window_packets": 12},
        Plan.EARLY,
    ),
    "http3": Case(alpn=("h3",)),
    "chacha20": Case(client={"tls_cipher_suites": ["TLS_CHACHA20_POLY1305_SHA256"]}),
    "keyupdate": Case(update_key=True),  # the client begins it; a server sees "transfer"
    "ecn": Case(),
    "v2": Case({"quic_versions": ["2", "1"]}, {"quic_versions": ["2", "1"]}),  # begun in version 1
    "versionnegotiation": Case(None, None),
    "connectionmigration": Case(client=None, prefer_address=True),  # a client sees "transfer"
}
