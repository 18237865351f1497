"""What goes over the wire, byte by byte: nothing here checks what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Pairs = Iterable[tuple[bytes, bytes]]

# RFC 9114 7.2, 11.2.1
DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0x0, 0x1, 0x3, 0x4, 0x5, 0x7, 0xD
PRIORITY_UPDATE, PRIORITY_UPDATE_PUSH = 0xF0700, 0xF0701  # RFC 9218 7.2
HTTP2_FRAMES = (0x02, 0x06, 0x08, 0x09)  # RFC 9114 7.2.8
CONTROL, PUSH, ENCODER, DECODER = 0x0, 0x1, 0x2, 0x3  # stream types: RFC 9114 6.2, RFC 9204 4.2


def varint(value: int) -> bytes:
    """RFC 9000 16"""
    for power, size in ((6, 1), (14, 2), (30, 4)):
        if value < 1 << power:
            return (value | (power == 14) << 14 | (power == 30) << 31).to_bytes(size, "big")
    return (value | 3 << 62).to_bytes(8, "big")


def frame(kind: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """An HTTP/3 frame (RFC 9114 7.1); `length` when it is to announce another than its own."""
    return varint(kind) + varint(len(payload) if length is None else length) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame (RFC 9114 7.2.4)."""
    return frame(SETTINGS, b"".join(varint(name) + varint(value) for name, value in pairs))


def prefixed(value: int, bits: int, first: int) -> bytes:
    """An integer with a prefix of so many bits (RFC 9204 4.1.1), the other bits from `first`."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    out = [first | limit]
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def fields(pairs: Pairs) -> bytes:
    """An encoded field section (RFC 9204 4.5): literal names and values, whatever they hold."""
    lines = (prefixed(len(n), 3, 0x20) + n + prefixed(len(v), 7, 0) + v for n, v in pairs)
    return b"\0\0" + b"".join(lines)


def headers(pairs: Pairs) -> bytes:
    """A HEADERS frame."""
    return frame(HEADERS, fields(pairs))


def request(
    path: bytes = b"/", method: bytes = b"GET", *more: tuple[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    """The field section of a good request."""
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path),
        *more,
    ]


def get(path: bytes = b"/") -> bytes:
    """The HEADERS frame of a good GET."""
    return headers(request(path))


def stream_frame(stream_id: int, data: bytes = b"", *, offset: int = 0, fin: bool = False) -> bytes:
    """A STREAM frame (RFC 9000 19.8) with offset and length."""
    head = bytes([0x0E | fin]) + varint(stream_id) + varint(offset)
    return head + varint(len(data)) + data


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The value and where it ends. Raises IndexError when it is not all there."""
    size = 1 << (data[at] >> 6)
    if at + size > len(data):
        raise IndexError("cut off")
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size


def read_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The HTTP/3 frames that are complete in `data`."""
    at = 0
    while at < len(data):
        try:
            kind, at = read_varint(data, at)
            length, at = read_varint(data, at)
        except IndexError:
            return
        if at + length > len(data):
            return
        yield kind, data[at : at + length]
        at += length
