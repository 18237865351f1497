"""packet.h: what a server reads from a packet before any connection is known (RFC 8999, RFC 9000 17)."""

from __future__ import annotations

import pytest

from .pair import Pair, initial

ANSWERS = ("version_negotiations_sent", "retries_sent", "stateless_resets_sent")


def outcome(pair: Pair, payload: bytes) -> str:
    """The counter that one packet moved, or several joined by a comma."""
    before = pair.counters()
    pair.give_server(payload)
    after = pair.counters()
    moved = [name for name in after if after[name] != before[name]]
    ignored = {"accepted", "closed", "closed_by_us", "bytes_received", "packets_received", "bytes_sent"}
    return ",".join(name for name in moved if name not in ignored)


V1, V2 = b"\xc3\0\0\0\1", b"\xd3\x6b\x33\x43\xcf"


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"\xc3", "malformed_dropped"),
        (V1, "malformed_dropped"),
        (V1 + b"\x08", "malformed_dropped"),
        (V1 + b"\x08" + bytes(7), "malformed_dropped"),
        (V1 + b"\x08" + bytes(8), "malformed_dropped"),
        (V1 + b"\x08" + bytes(8) + b"\x04" + bytes(3), "malformed_dropped"),
        (V1 + b"\xff" + bytes(255), "malformed_dropped"),
        (V1 + b"\x08" + bytes(8) + b"\x00", "malformed_dropped"),  # no token length
        (V1 + b"\x08" + bytes(8) + b"\x00" + b"\x40", "malformed_dropped"),  # half a token length
        (V1 + b"\x08" + bytes(8) + b"\x00" + b"\x7f\xff", "malformed_dropped"),  # a token beyond the end
        (V1 + b"\x08" + bytes(8) + b"\x00" + b"\xff" * 8, "malformed_dropped"),
        (b"\x40", "malformed_dropped"),
        (b"\x40" + bytes(15), "malformed_dropped"),
        (b"\x40" + bytes(16), "unknown_dropped"),
        (b"\x40" + bytes(40), "unknown_dropped,stateless_resets_sent"),
        (initial(size=1199), "short_initials_dropped"),
        (initial(size=1199, version=0x1A2A3A4A), "short_initials_dropped"),
        (initial(version=0x1A2A3A4A), "version_negotiations_sent"),
        (initial(b"", b"", version=0x57414954), "version_negotiations_sent"),
        (initial(bytes(255), bytes(255), version=0x1A2A3A4A), "version_negotiations_sent"),
        (initial(version=0), ""),
        (initial(b""), "unknown_dropped"),
        (initial(bytes(7)), "unknown_dropped"),
        (initial(bytes(21)), "unknown_dropped"),
        (initial(bytes(255), bytes(255)), "unknown_dropped"),
        (b"\xd3" + initial()[1:], "unknown_dropped"),  # 0-RTT before any Initial
        (b"\xe3" + initial()[1:], "unknown_dropped"),  # Handshake
        (b"\xf3" + initial()[1:], "unknown_dropped"),  # Retry
        (V2 + b"\x08" + bytes(8) + b"\x00" + b"\x7f\xff", "malformed_dropped"),
        (b"\xc3" + initial(version=0x6B3343CF)[1:], "unknown_dropped"),  # Retry in version 2 (RFC 9369 3.2)
        (b"\xe3" + initial(version=0x6B3343CF)[1:], "unknown_dropped"),  # 0-RTT
        (b"\xf3" + initial(version=0x6B3343CF)[1:], "unknown_dropped"),  # Handshake
        (b"\xd3" + initial(version=0x6B3343CF, token=bytes(9))[1:], "retry_tokens_rejected,handshake_failed"),
        (initial(), "handshake_failed"),
        (initial(bytes(20), bytes(20)), "handshake_failed"),
        (initial(token=bytes(1000)), "retry_tokens_rejected,handshake_failed"),
    ],
)
def test_each_packet_moves_its_counter(pair: Pair, payload: bytes, expected: str) -> None:
    """RFC 9000 5.2.2 and 14.1: a packet of no connection is dropped or answered, and counted."""
    assert sorted(outcome(pair, payload).split(",")) == sorted(expected.split(","))
    assert not pair.server.connections


def test_an_empty_payload_is_nothing(pair: Pair) -> None:
    """A UDP datagram without payload holds no packet."""
    assert outcome(pair, b"") == ""
