"""Sequences of frames and streams that HTTP/3 does not allow, each with the code that it must bring.

Errors of the connection close it with that very code (RFC 9114 8.1, RFC 9204 6); what has to be ignored is
ignored; and after each of them another client is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from quiche_h3 import H3ErrorCode

from . import wire
from .conftest import make_server
from .peer import Closed, MemoryServer, Peer, good_request

Attack = Callable[[Peer], object]
CLOSED_CRITICAL = H3ErrorCode.H3_CLOSED_CRITICAL_STREAM
CREATION = H3ErrorCode.H3_STREAM_CREATION_ERROR
EXCESSIVE = H3ErrorCode.H3_EXCESSIVE_LOAD
FRAME = H3ErrorCode.H3_FRAME_ERROR
ID = H3ErrorCode.H3_ID_ERROR
MISSING_SETTINGS = H3ErrorCode.H3_MISSING_SETTINGS
SETTINGS = H3ErrorCode.H3_SETTINGS_ERROR
UNEXPECTED = H3ErrorCode.H3_FRAME_UNEXPECTED
DECOMPRESSION = H3ErrorCode.QPACK_DECOMPRESSION_FAILED
ENCODER = H3ErrorCode.QPACK_ENCODER_STREAM_ERROR
DECODER = H3ErrorCode.QPACK_DECODER_STREAM_ERROR

V = wire.varint
POST = wire.headers(wire.request(b"/body", b"POST"))
BODY = wire.frame(wire.DATA, b"body")
TRAILERS = wire.headers([(b"x-sum", b"1")])
HTTP2 = {2: "PRIORITY", 6: "PING", 8: "WINDOW_UPDATE", 9: "CONTINUATION"}
MAX = (1 << 62) - 1


def on_control(*frames: bytes, fin: bool = False) -> Attack:
    """These bytes on the control stream, after SETTINGS."""

    def attack(peer: Peer) -> None:
        for frame in frames:
            peer.send(2, frame, fin)
            peer.pump()

    return attack


def first_on_control(data: bytes, fin: bool = False) -> Attack:
    """A control stream with nothing but this."""

    def attack(peer: Peer) -> None:
        peer.connect().send(2, V(wire.CONTROL) + data, fin)
        peer.pump()

    attack.bare = True  # type: ignore[attr-defined]
    return attack


def on_request(data: bytes, fin: bool = True) -> Attack:
    """These bytes on a request stream."""
    return lambda peer: peer.fetch(data, fin=fin)


def on_stream(stream_id: int, data: bytes, fin: bool = False) -> Attack:
    """These bytes on a stream, which may be there already."""

    def attack(peer: Peer) -> None:
        peer.send(stream_id, data, fin)
        peer.pump()

    return attack


def reset(stream_id: int) -> Attack:
    """RESET_STREAM."""

    def attack(peer: Peer) -> None:
        peer.quic.reset_stream(stream_id, 0)
        peer.pump()

    return attack


def stop(kind: int) -> Attack:
    """STOP_SENDING for the server's stream of a kind."""

    def attack(peer: Peer) -> None:
        found = [i for i, a in peer.answers.items() if i % 4 == 3 and a.data[:1] == bytes([kind])]
        peer.inject(b"\x05" + V(found[0]) + V(0))

    return attack


def section(payload: bytes) -> Attack:
    """A HEADERS frame with this payload, in a request."""
    return on_request(wire.frame(wire.HEADERS, payload))


# What must close the connection

REQUEST_STREAMS: dict[str, tuple[Attack, H3ErrorCode]] = {
    "DATA before HEADERS": (on_request(BODY), UNEXPECTED),
    "DATA after trailers": (on_request(POST + BODY + TRAILERS + BODY), UNEXPECTED),
    "HEADERS three times": (on_request(POST + TRAILERS + TRAILERS), UNEXPECTED),
    "HEADERS after trailers, with a body": (on_request(POST + BODY + TRAILERS + TRAILERS), UNEXPECTED),
    "SETTINGS": (on_request(wire.settings() + wire.get()), UNEXPECTED),
    "SETTINGS after HEADERS": (on_request(POST + wire.settings()), UNEXPECTED),
    "GOAWAY": (on_request(wire.frame(wire.GOAWAY, V(0))), UNEXPECTED),
    "MAX_PUSH_ID": (on_request(wire.frame(wire.MAX_PUSH_ID, V(0))), UNEXPECTED),
    "CANCEL_PUSH": (on_request(wire.frame(wire.CANCEL_PUSH, V(0))), UNEXPECTED),
    "PUSH_PROMISE": (
        on_request(wire.frame(wire.PUSH_PROMISE, V(0) + wire.fields(wire.request()))),
        UNEXPECTED,
    ),
    "PUSH_PROMISE after HEADERS": (
        on_request(POST + wire.frame(wire.PUSH_PROMISE, V(0) + b"\0\0")),
        UNEXPECTED,
    ),
    "PRIORITY_UPDATE": (on_request(wire.frame(wire.PRIORITY_UPDATE, V(0) + b"u=1")), UNEXPECTED),
    **{
        f"the reserved type of HTTP/2's {name}": (on_request(wire.frame(kind)), UNEXPECTED)
        for kind, name in HTTP2.items()
    },
    **{
        f"the reserved type of HTTP/2's {name} after HEADERS": (
            on_request(POST + wire.frame(kind, b"x")),
            UNEXPECTED,
        )
        for kind, name in HTTP2.items()
    },
    "HEADERS cut off by the FIN": (on_request(wire.get()[:-3]), FRAME),
    "HEADERS cut off in its length": (on_request(b"\x01"), FRAME),
    "a type cut off by the FIN": (on_request(b"\x40"), FRAME),
    "DATA cut off by the FIN": (on_request(POST + wire.frame(wire.DATA, b"abc", length=5)), FRAME),
    "DATA without its payload": (on_request(POST + wire.frame(wire.DATA, length=5)), FRAME),
    "trailers cut off by the FIN": (on_request(POST + BODY + TRAILERS[:-1]), FRAME),
    "an unknown frame cut off by the FIN": (on_request(POST + wire.frame(0x21, b"abc", length=5)), FRAME),
    "HEADERS of 16 MiB": (on_request(V(wire.HEADERS) + V(1 << 24), fin=False), EXCESSIVE),
    "HEADERS past all limits": (on_request(V(wire.HEADERS) + V(MAX), fin=False), EXCESSIVE),
}

CONTROL_STREAM: dict[str, tuple[Attack, H3ErrorCode]] = {
    "closed before SETTINGS": (first_on_control(b"", fin=True), CLOSED_CRITICAL),
    "HEADERS before SETTINGS": (first_on_control(wire.get() + wire.settings()), MISSING_SETTINGS),
    "GOAWAY before SETTINGS": (
        first_on_control(wire.frame(wire.GOAWAY, V(0)) + wire.settings()),
        MISSING_SETTINGS,
    ),
    "an unknown frame before SETTINGS": (
        first_on_control(wire.frame(0x21) + wire.settings()),
        MISSING_SETTINGS,
    ),
    "PRIORITY_UPDATE before SETTINGS": (
        first_on_control(wire.frame(wire.PRIORITY_UPDATE, V(0)) + wire.settings()),
        MISSING_SETTINGS,
    ),
    "SETTINGS twice": (on_control(wire.settings()), UNEXPECTED),
    "DATA": (on_control(BODY), UNEXPECTED),
    "HEADERS": (on_control(wire.get()), UNEXPECTED),
    "PUSH_PROMISE": (on_control(wire.frame(wire.PUSH_PROMISE, V(0) + b"\0\0")), UNEXPECTED),
    **{
        f"the reserved type of HTTP/2's {name}": (on_control(wire.frame(kind)), UNEXPECTED)
        for kind, name in HTTP2.items()
    },
    **{
        f"HTTP/2's setting {name:#x}": (first_on_control(wire.settings((name, 1))), SETTINGS)
        for name in (0x2, 0x3, 0x4, 0x5)
    },
    "a setting twice": (first_on_control(wire.settings((0x6, 100), (0x6, 100))), SETTINGS),
    "an unknown setting twice": (first_on_control(wire.settings((0x21, 1), (0x21, 2))), SETTINGS),
    "H3_DATAGRAM = 2": (first_on_control(wire.settings((0x33, 2))), SETTINGS),
    "ENABLE_CONNECT_PROTOCOL = 2": (first_on_control(wire.settings((0x8, 2))), SETTINGS),
    "a setting without its value": (first_on_control(wire.frame(wire.SETTINGS, V(0x6))), FRAME),
    "a setting cut off": (first_on_control(wire.frame(wire.SETTINGS, V(0x6) + b"\x80")), FRAME),
    "SETTINGS of 16 MiB": (first_on_control(V(wire.SETTINGS) + V(1 << 24)), FRAME),
    "bytes left over in GOAWAY": (on_control(wire.frame(wire.GOAWAY, V(0) + b"x")), FRAME),
    "bytes left over in MAX_PUSH_ID": (on_control(wire.frame(wire.MAX_PUSH_ID, V(0) + b"x")), FRAME),
    "bytes left over in CANCEL_PUSH": (
        on_control(wire.frame(wire.MAX_PUSH_ID, V(5)), wire.frame(wire.CANCEL_PUSH, V(0) + b"x")),
        FRAME,
    ),
    "an empty GOAWAY": (on_control(wire.frame(wire.GOAWAY)), FRAME),
    "an empty MAX_PUSH_ID": (on_control(wire.frame(wire.MAX_PUSH_ID)), FRAME),
    "an empty CANCEL_PUSH": (on_control(wire.frame(wire.CANCEL_PUSH)), FRAME),
    "an empty PRIORITY_UPDATE": (on_control(wire.frame(wire.PRIORITY_UPDATE)), FRAME),
    "GOAWAY cut off in its ID": (on_control(wire.frame(wire.GOAWAY, b"\x40")), FRAME),
    "MAX_PUSH_ID lowered": (
        on_control(wire.frame(wire.MAX_PUSH_ID, V(5)), wire.frame(wire.MAX_PUSH_ID, V(4))),
        ID,
    ),
    "GOAWAY raised": (on_control(wire.frame(wire.GOAWAY, V(0)), wire.frame(wire.GOAWAY, V(4))), ID),
    "CANCEL_PUSH of a push that never was": (on_control(wire.frame(wire.CANCEL_PUSH, V(0))), ID),
    "PRIORITY_UPDATE of a push that never was": (on_control(wire.frame(wire.PRIORITY_UPDATE_PUSH, V(0))), ID),
    "PRIORITY_UPDATE of a unidirectional stream": (
        on_control(wire.frame(wire.PRIORITY_UPDATE, V(2) + b"u=1")),
        ID,
    ),
    "PRIORITY_UPDATE of a stream of the server's": (
        on_control(wire.frame(wire.PRIORITY_UPDATE, V(1) + b"u=1")),
        ID,
    ),
    "PRIORITY_UPDATE of a stream past the limit": (
        on_control(wire.frame(wire.PRIORITY_UPDATE, V(4_000_000) + b"u=1")),
        ID,
    ),
    "closed": (on_stream(2, b"", fin=True), CLOSED_CRITICAL),
    "closed within a frame": (on_stream(2, b"\x07", fin=True), CLOSED_CRITICAL),
    "reset": (reset(2), CLOSED_CRITICAL),
    "doubled": (on_stream(14, V(wire.CONTROL) + wire.settings()), CREATION),
    "the server's stopped": (stop(wire.CONTROL), CLOSED_CRITICAL),
}

QPACK_STREAMS: dict[str, tuple[Attack, H3ErrorCode]] = {
    "the encoder stream closed": (on_stream(6, b"", fin=True), CLOSED_CRITICAL),
    "the decoder stream closed": (on_stream(10, b"", fin=True), CLOSED_CRITICAL),
    "the encoder stream reset": (reset(6), CLOSED_CRITICAL),
    "the decoder stream reset": (reset(10), CLOSED_CRITICAL),
    "the encoder stream doubled": (on_stream(14, V(wire.ENCODER)), CREATION),
    "the decoder stream doubled": (on_stream(14, V(wire.DECODER)), CREATION),
    "the server's encoder stream stopped": (stop(wire.ENCODER), CLOSED_CRITICAL),
    "the server's decoder stream stopped": (stop(wire.DECODER), CLOSED_CRITICAL),
    "a push stream": (on_stream(14, V(wire.PUSH) + V(0)), CREATION),
    "a capacity over the limit": (on_stream(6, wire.prefixed(1, 5, 0x20)), ENCODER),
    "an insert with a static name": (
        on_stream(6, wire.prefixed(0, 6, 0xC0) + wire.prefixed(1, 7, 0) + b"a"),
        ENCODER,
    ),
    "an insert with a dynamic name": (
        on_stream(6, wire.prefixed(0, 6, 0x80) + wire.prefixed(1, 7, 0) + b"a"),
        ENCODER,
    ),
    "an insert with a literal name": (
        on_stream(6, wire.prefixed(1, 5, 0x40) + b"a" + wire.prefixed(1, 7, 0) + b"b"),
        ENCODER,
    ),
    "a duplicate": (on_stream(6, wire.prefixed(0, 5, 0)), ENCODER),
    "an integer past 62 bits to the encoder": (on_stream(6, b"\x3f" + b"\xff" * 12), ENCODER),
    "an increment of 0": (on_stream(10, wire.prefixed(0, 6, 0)), DECODER),
    "an increment past what was inserted": (on_stream(10, wire.prefixed(1, 6, 0)), DECODER),
    "an acknowledgement of a section without inserts": (on_stream(10, wire.prefixed(0, 7, 0x80)), DECODER),
    "an integer past 62 bits to the decoder": (on_stream(10, b"\x3f" + b"\xff" * 12), DECODER),
}

FIELD_SECTIONS: dict[str, tuple[Attack, H3ErrorCode]] = {
    "an empty payload": (section(b""), DECOMPRESSION),
    "a prefix cut off": (section(b"\0"), DECOMPRESSION),
    "a required insert count": (section(b"\x02\0" + wire.fields(wire.request())[2:]), DECOMPRESSION),
    "a static index past the table": (section(b"\0\0" + wire.prefixed(99, 6, 0xC0)), DECOMPRESSION),
    "a dynamic index": (section(b"\0\0" + wire.prefixed(0, 6, 0x80)), DECOMPRESSION),
    "a dynamic name": (
        section(b"\0\0" + wire.prefixed(0, 4, 0x40) + wire.prefixed(1, 7, 0) + b"a"),
        DECOMPRESSION,
    ),
    "an index past the base": (section(b"\0\0" + wire.prefixed(0, 4, 0x10)), DECOMPRESSION),
    "a name past the base": (
        section(b"\0\0" + wire.prefixed(0, 3, 0) + wire.prefixed(1, 7, 0) + b"a"),
        DECOMPRESSION,
    ),
    "a name longer than the section": (section(b"\0\0" + wire.prefixed(100, 3, 0x20) + b"a"), DECOMPRESSION),
    "a value longer than the section": (section(wire.fields([(b"a", b"b")])[:-1]), DECOMPRESSION),
    "a bad Huffman code": (section(b"\0\0" + wire.prefixed(4, 3, 0x28) + b"\xff" * 4 + b"\0"), DECOMPRESSION),
    "an integer without end": (section(b"\0\0" + b"\xff" * 20), DECOMPRESSION),
}

CASES = {
    f"{where}: {name}": case
    for where, cases in (
        ("request", REQUEST_STREAMS),
        ("control", CONTROL_STREAM),
        ("qpack", QPACK_STREAMS),
        ("section", FIELD_SECTIONS),
    )
    for name, case in cases.items()
}


@pytest.fixture(scope="module")
def one_server() -> Iterator[MemoryServer]:
    """One for all: none of them may harm the next."""
    with make_server() as server:
        yield server


@pytest.mark.parametrize(("attack", "code"), CASES.values(), ids=CASES)
def test_connection_errors(attack: Attack, code: H3ErrorCode, one_server: MemoryServer) -> None:
    """The connection is closed with that code, no handler gets to see it, and new clients are served."""
    peer = Peer(one_server)
    if not hasattr(attack, "bare"):
        peer.open()
    before = len(one_server.calls)
    attack(peer)
    assert peer.closed == Closed(int(code), app=True)
    assert one_server.calls[before:] == []
    good_request(one_server)


# What must be ignored

GREASE = b"".join(wire.frame(0x21 + 0x1F * n, bytes(n % 7)) for n in range(200))


def unknown_streams(peer: Peer) -> None:
    """Some of them ended, some not (RFC 9114 6.2.3)."""
    for n in range(8):
        peer.send(14 + 4 * n, V(0x21 + 0x1F * n) + bytes(100), n % 2 == 0)


def unknown_stream_reset(peer: Peer) -> None:
    """After its type was read."""
    on_stream(14, V(0x21) + bytes(100))(peer)
    reset(14)(peer)


IGNORED: dict[str, Attack] = {
    "unknown frames before HEADERS": lambda peer: peer.send(0, GREASE),
    "unknown frames on the control stream": on_control(GREASE),
    "an unknown frame of 1 MiB, in part": lambda peer: peer.send(0, wire.frame(0x21, bytes(1 << 16))),
    "unknown settings": lambda peer: None,
    "unknown unidirectional streams": unknown_streams,
    "an unknown unidirectional stream that is reset": unknown_stream_reset,
    "a unidirectional stream that ends before its type": lambda peer: peer.send(14, b"", True),
    "a unidirectional stream that ends within its type": lambda peer: peer.send(14, b"\x40", True),
    "PRIORITY_UPDATE with junk": on_control(wire.frame(wire.PRIORITY_UPDATE, V(0) + b"\xff" * 20)),
    "PRIORITY_UPDATE again and again": on_control(
        b"".join(wire.frame(wire.PRIORITY_UPDATE, V(0) + b"u=%d" % (n % 8)) for n in range(50))
    ),
    "PRIORITY_UPDATE with a long value": on_control(wire.frame(wire.PRIORITY_UPDATE, V(0) + b"a" * 100)),
    "MAX_PUSH_ID raised": on_control(wire.frame(wire.MAX_PUSH_ID, V(1)), wire.frame(wire.MAX_PUSH_ID, V(9))),
    "GOAWAY": on_control(wire.frame(wire.GOAWAY, V(8))),
    "GOAWAY twice, lowered": on_control(wire.frame(wire.GOAWAY, V(8)), wire.frame(wire.GOAWAY, V(4))),
    "a stream cancellation on the decoder stream": on_stream(10, wire.prefixed(0, 6, 0x40)),
    "a capacity of 0": on_stream(6, wire.prefixed(0, 5, 0x20)),
    "datagrams of nobody": lambda peer: peer.quic.send_datagram_frame(V(1000) + b"x"),
}


@pytest.mark.parametrize("attack", IGNORED.values(), ids=IGNORED)
def test_ignored(attack: Attack, one_server: MemoryServer) -> None:
    """RFC 9114 9: what is not known is skipped; the same connection serves a request after it."""
    peer = Peer(one_server).open((0x21, 7), (0x33, 1))
    attack(peer)
    peer.pump()
    answer = peer.fetch(wire.get(), stream_id=0)
    assert peer.closed is None
    assert (answer.status, answer.body) == (200, b"Hello")


def test_unknown_frames_between_the_known(one_server: MemoryServer) -> None:
    """Between HEADERS, DATA and trailers, and behind them (RFC 9114 4.1)."""
    odd = wire.frame(0x21, b"abc")
    peer = Peer(one_server).open()
    answer = peer.fetch(odd + POST + odd + BODY + odd + BODY + odd + TRAILERS + odd)
    assert answer.body == b"8"
    assert peer.closed is None


@pytest.mark.parametrize(
    "sent", [b"", wire.get()[:5], POST, POST + BODY], ids=["nothing", "some", "head", "body"]
)
def test_a_request_that_is_reset(sent: bytes, one_server: MemoryServer) -> None:
    """A reset at any place ends that request and no other (RFC 9114 4.1.1)."""
    before = len(one_server.calls)
    peer = Peer(one_server).open()
    peer.send(0, sent)
    peer.pump()
    peer.quic.reset_stream(0, H3ErrorCode.H3_REQUEST_CANCELLED)
    peer.pump()
    assert one_server.calls[before:] == []
    assert peer.fetch(wire.get(), stream_id=4).status == 200
    assert peer.closed is None


@pytest.mark.parametrize("reset_instead", [False, True], ids=["fin", "reset"])
@pytest.mark.parametrize("sent", [b"", GREASE], ids=["nothing", "unknown frames"])
def test_a_stream_without_a_request(sent: bytes, reset_instead: bool, one_server: MemoryServer) -> None:
    """RFC 9114 4.1: the response is reset with H3_REQUEST_INCOMPLETE, also when the end comes later."""
    peer = Peer(one_server).open()
    for stream_id, later in ((0, False), (4, True)):
        peer.send(stream_id, sent)
        if later:
            peer.pump()
        if reset_instead:
            peer.quic.reset_stream(stream_id, H3ErrorCode.H3_REQUEST_CANCELLED)
        else:
            peer.send(stream_id, b"", True)
        peer.pump()
        assert peer.answer(stream_id).reset == H3ErrorCode.H3_REQUEST_INCOMPLETE
        assert peer.answer(stream_id).data == b""
    assert peer.fetch(wire.get(), stream_id=8).status == 200
    assert peer.closed is None


def test_a_request_before_settings(one_server: MemoryServer) -> None:
    """RFC 9114 7.2.4.2: a server does not wait for the client's SETTINGS."""
    peer = Peer(one_server).connect()
    assert peer.fetch(wire.get()).status == 200


def test_requests_byte_by_byte(one_server: MemoryServer) -> None:
    """Frames may be cut anywhere, the first bytes of a stream too."""
    peer = Peer(one_server).connect()
    for stream_id, data in (
        (2, V(wire.CONTROL) + wire.settings((0x6, 1 << 16))),
        (0, POST + BODY + TRAILERS),
    ):
        for at in range(len(data)):
            peer.send(stream_id, data[at : at + 1], stream_id == 0 and at == len(data) - 1)
            peer.pump()
    assert peer.answer(0).body == b"4"
