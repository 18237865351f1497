"""What is measured: kinds of work that are the same for every server."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """One kind of work for the load client."""

    key: str
    title: str
    kind: str
    unit: str
    connections: int = 1
    streams: int = 1
    idle: int = 0
    link: str = ""
    """The scenario of the relay (tests/net) that the datagrams pass; none for the loopback as it is."""
    size: int = 0
    """MiB of one large body, where it is not the benchmark's."""
    goal: float = 0
    """So many times less processor time than aioquic: what `--check` holds quiche_h3 to."""

    @property
    def datagrams(self) -> bool:
        """Needs a server that has datagrams."""
        return self.kind in ("datagrams", "mixed")

    def options(self, duration: float, size: int) -> list[str]:
        """The load client's command line. `size` is that of one large body, in bytes."""
        return [
            f"kind={self.kind}",
            f"connections={self.connections}",
            f"streams={self.streams}",
            f"idle={self.idle}",
            f"duration={duration}",
            f"size={self.size * MIB or size}",
        ]

    def units(self, done: dict[str, float]) -> float:
        """How much of the unit was done, by the load client's report."""
        if self.kind in ("download", "upload"):
            return done["bytes"] / MIB
        if self.kind == "idle":
            return self.connections * done["seconds"]
        return done[{"handshakes": "handshakes", "datagrams": "datagrams"}.get(self.kind, "requests")]


_LINK = "--delay=25ms --bandwidth=100Mbps --queue=400"
_LOSSY = f"drop-rate {_LINK} --rate_to_server=1 --rate_to_client=1"
_LONG = "drop-rate --delay=75ms --bandwidth=100Mbps --queue=1200 --rate_to_server=0.2 --rate_to_client=0.2"
_JITTER = f"simple-p2p {_LINK} --jitter=10ms"
_REORDERED = f"simple-p2p {_LINK} --reorder=2 --reorder-delay=5ms"

CASES = [
    Case("1x1", "small responses, one at a time", "requests", "request"),
    Case("1x100", "small responses, 1 connection × 100 streams", "requests", "request", 1, 100, goal=10),
    Case("20x10", "small responses, 20 connections × 10 streams", "requests", "request", 20, 10, goal=10),
    Case("5x100", "small responses, 5 connections × 100 streams", "requests", "request", 5, 100),
    Case(
        "1000-idle",
        "small responses 1 × 100, beside 1000 idle connections",
        "requests",
        "request",
        1,
        100,
        1000,
    ),
    Case("download", "download, 1 connection", "download", "MiB", goal=20),
    Case("download-4", "download, 4 connections", "download", "MiB", 4),
    Case("upload", "upload, 1 connection", "upload", "MiB", goal=20),
    Case("upload-4", "upload, 4 connections", "upload", "MiB", 4),
    Case("handshakes", "handshake and one request, 4 at a time", "handshakes", "handshake", 4),
    Case("datagrams", "datagrams of 1000 bytes sent back, 64 in flight", "datagrams", "datagram", 1, 64),
    Case("mixed", "requests with 4 datagrams each, 32 at a time", "mixed", "request", 1, 32),
    Case("idle", "500 idle connections", "idle", "connection second", 500),
    Case("lossy", "download, 50 ms round trip, 1 % lost", "download", "MiB", link=_LOSSY, size=4),
    Case("long", "download, 150 ms round trip, 0.2 % lost", "download", "MiB", link=_LONG, size=4),
    Case("jitter", "download, 50 ms round trip, up to 10 ms more", "download", "MiB", link=_JITTER, size=4),
    Case(
        "reordered",
        "download, 50 ms round trip, 2 % late by 5 ms",
        "download",
        "MiB",
        link=_REORDERED,
        size=4,
    ),
]
