"""What no server should answer, as frames on the stream of the request: for a client to recognise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import FrameType, encode_frame

Pairs = list[tuple[bytes, bytes]]
Section = Callable[[Pairs], bytes]

OK: Pairs = [(b":status", b"200")]


def headers(section: Section, *fields: tuple[bytes, bytes]) -> bytes:
    return encode_frame(FrameType.HEADERS, section(list(fields)))


def data(body: bytes) -> bytes:
    return encode_frame(FrameType.DATA, body)


MALFORMED: Mapping[str, Callable[[Section], bytes]] = {
    "no-status": lambda s: headers(s, (b"a", b"b")),
    "two-statuses": lambda s: headers(s, *OK, *OK),
    "status-of-letters": lambda s: headers(s, (b":status", b"abc")),
    "status-of-two-digits": lambda s: headers(s, (b":status", b"20")),
    "pseudo-field-of-a-request": lambda s: headers(s, *OK, (b":path", b"/")),
    "pseudo-field-at-the-end": lambda s: headers(s, (b"a", b"b"), *OK),
    "upper-case": lambda s: headers(s, *OK, (b"X-Upper", b"1")),
    "name-with-a-space": lambda s: headers(s, *OK, (b"a b", b"1")),
    "value-with-a-line-end": lambda s: headers(s, *OK, (b"a", b"b\r\nc: d")),
    "connection": lambda s: headers(s, *OK, (b"connection", b"close")),
    "transfer-encoding": lambda s: headers(s, *OK, (b"transfer-encoding", b"chunked")),
    "two-lengths": lambda s: headers(s, *OK, (b"content-length", b"1"), (b"content-length", b"2")),
    "negative-length": lambda s: headers(s, *OK, (b"content-length", b"-1")),
    "short": lambda s: headers(s, *OK, (b"content-length", b"10")) + data(b"only 6"),
    "long": lambda s: headers(s, *OK, (b"content-length", b"3")) + data(b"only 6"),
    "no-body": lambda s: headers(s, *OK, (b"content-length", b"10")),
    "body-of-204": lambda s: headers(s, (b":status", b"204")) + data(b"a body"),
    "nothing": lambda s: b"",
    "interim-alone": lambda s: headers(s, (b":status", b"103")),
    "switching-protocols": lambda s: headers(s, (b":status", b"101")) + headers(s, *OK),
    "pseudo-field-in-trailers": lambda s: headers(s, *OK) + data(b"x") + headers(s, *OK),
    "length-in-trailers": lambda s: headers(s, *OK) + data(b"x") + headers(s, (b"content-length", b"1")),
}
"""Malformed messages (RFC 9114 4.1.2): the end of the request."""

FORBIDDEN: Mapping[str, tuple[int, Callable[[Section], bytes]]] = {
    "data-before-headers": (0x105, lambda s: data(b"x") + headers(s, *OK)),
    "data-before-final-headers": (0x105, lambda s: headers(s, (b":status", b"103")) + data(b"x")),
    "data-after-trailers": (0x105, lambda s: headers(s, *OK) + headers(s, (b"a", b"b")) + data(b"x")),
    "trailers-twice": (0x105, lambda s: headers(s, *OK) + data(b"x") + headers(s, (b"a", b"b")) * 2),
    "settings": (0x105, lambda s: headers(s, *OK) + encode_frame(FrameType.SETTINGS, b"")),
    "goaway": (0x105, lambda s: encode_frame(FrameType.GOAWAY, encode_uint_var(0))),
    "frame-of-http-2": (0x105, lambda s: encode_frame(0x02, b"")),
    "cut-frame": (0x106, lambda s: headers(s, *OK) + data(b"x" * 10)[:5]),
    "qpack": (0x200, lambda s: encode_frame(FrameType.HEADERS, b"\x00\x00\xff\xff\xff\xff")),
}
"""What ends the connection, and the code with which (RFC 9114 7, 8.1, RFC 9204 6)."""
