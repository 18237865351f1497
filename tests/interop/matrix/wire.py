"""What a relay's log tells of a QUIC exchange: long headers are clear text (RFC 9000 17.2), sizes are known.

The log holds the first packet of each datagram, and 96 bytes of its header: enough for connection IDs, the
version and the beginning of a token. What is coalesced behind the first packet is not seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from net.relay import Datagram

INITIAL, ZERO_RTT, HANDSHAKE, RETRY, NEGOTIATION = 0, 1, 2, 3, 4
VERSION_2 = 0x6B3343CF
_INTEGRITY_TAG = 16


class LongHeader(NamedTuple):
    """The first packet of a datagram (RFC 9000 17.2), versions 1 and 2 or Version Negotiation."""

    kind: int
    version: int
    dcid: bytes
    scid: bytes
    token: bytes
    """Of an Initial or a Retry, as far as the log holds it."""


def varint(data: bytes) -> tuple[int, bytes]:
    """A variable-length integer (RFC 9000 16), and what follows."""
    size = 1 << (data[0] >> 6)
    return int.from_bytes(data[:size], "big") & (1 << 8 * size - 2) - 1, data[size:]


def parse(data: bytes) -> LongHeader | None:
    """None for a short header, and for what is too short to be one."""
    if len(data) < 7 or not data[0] & 0x80:
        return None
    version, dcid_len = int.from_bytes(data[1:5], "big"), data[5]
    rest = data[6:]
    if len(rest) < dcid_len + 1:
        return None
    dcid, scid_len, rest = rest[:dcid_len], rest[dcid_len], rest[dcid_len + 1 :]
    if len(rest) < scid_len:
        return None
    scid, rest = rest[:scid_len], rest[scid_len:]
    kind = NEGOTIATION if version == 0 else (data[0] >> 4) - (version == VERSION_2) & 3  # RFC 9369 3.2
    token = b""
    if kind == RETRY:
        token = rest
    elif kind == INITIAL and rest:
        length, rest = varint(rest)
        token = rest[:length]
    return LongHeader(kind, version, dcid, scid, token)


@dataclass
class Facts:
    """What was seen of all connections of a run."""

    versions: set[int] = field(default_factory=set)
    """In the server's Initials."""
    client_versions: set[int] = field(default_factory=set)
    """In the client's Initials."""
    handshake_versions: set[int] = field(default_factory=set)
    """In the Handshake packets of both."""
    server_cids: list[bytes] = field(default_factory=list)
    """The source connection IDs of the server's Initials, one for each handshake, in order."""
    first_flight: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    """Bytes of the server's datagrams that begin with a long header, by its connection ID."""
    negotiations: int = 0
    retry_tokens: list[bytes] = field(default_factory=list)
    used_tokens: set[bytes] = field(default_factory=set)
    client_initials: int = 0
    early_bytes: int = 0
    client_short_bytes: int = 0
    amplification: float = 0.0
    """The most bytes that the server sent for each it had received, before a client's address was proven."""
    flows: int = 0


def facts(log: Iterable[Datagram]) -> Facts:
    """Reads a relay's log."""
    seen = Facts()
    received: dict[int, int] = defaultdict(int)
    sent: dict[int, int] = defaultdict(int)
    proven: set[int] = set()
    for datagram in log:
        header = parse(datagram.header)
        flow = datagram.flow
        seen.flows = max(seen.flows, flow)
        if datagram.direction == "toserver":
            _from_client(seen, datagram, header)
            if datagram.passed:
                received[flow] += datagram.size
                if header is None or header.kind == HANDSHAKE or (header.kind == INITIAL and header.token):
                    proven.add(flow)  # RFC 9000 8.1
        else:
            if header is not None:
                _from_server(seen, datagram, header)
            sent[flow] += datagram.size
            if flow not in proven and received[flow]:
                seen.amplification = max(seen.amplification, sent[flow] / received[flow])
    return seen


def goodput(log: Iterable[Datagram], size: int) -> float:
    """kbit/s of a file of so many bytes, by the time in which the server's 1-RTT packets reach the client."""
    times = [
        datagram.goes_on
        for datagram in log
        if datagram.direction == "toclient"
        and datagram.goes_on is not None
        and datagram.size
        and parse(datagram.header) is None
    ]
    return size * 8 / 1000 / (max(times) - min(times))


def _from_client(seen: Facts, datagram: Datagram, header: LongHeader | None) -> None:
    if header is None:
        seen.client_short_bytes += datagram.size
    elif header.kind == ZERO_RTT:
        seen.early_bytes += datagram.size
    elif header.kind == HANDSHAKE:
        seen.handshake_versions.add(header.version)
    elif header.kind == INITIAL:
        seen.client_initials += 1
        seen.client_versions.add(header.version)
        if header.token:
            seen.used_tokens.add(header.token)


def _from_server(seen: Facts, datagram: Datagram, header: LongHeader) -> None:
    if header.kind == NEGOTIATION:
        seen.negotiations += 1
    elif header.kind == RETRY:
        # The tag ends the packet, whose end the log may not hold.
        tail = _INTEGRITY_TAG if datagram.size == len(datagram.header) else 0
        seen.retry_tokens.append(header.token[: len(header.token) - tail])
    else:
        if header.kind == HANDSHAKE:
            seen.handshake_versions.add(header.version)
        seen.first_flight[header.scid] += datagram.size
        if header.kind == INITIAL:
            seen.versions.add(header.version)
            if header.scid not in seen.server_cids:
                seen.server_cids.append(header.scid)
