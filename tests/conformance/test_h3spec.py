"""The 49 checks of h3spec that are active, under their own names (github.com/kazu-yamamoto/h3spec).

h3spec takes PROTOCOL_VIOLATION, INTERNAL_ERROR and the general errors of TLS and HTTP/3 for any code. We do
not: each check wants the very code that its name says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from aioquic.tls import Epoch, ExtensionType

from quiche_h3 import H3ErrorCode

from . import wire
from .conftest import make_server
from .peer import Closed, MemoryServer, Peer, good_request

Attack = Callable[[Peer], object]
Check = tuple[str, Attack, Closed]

FLOW_CONTROL_ERROR, STREAM_LIMIT_ERROR, STREAM_STATE_ERROR = 0x3, 0x4, 0x5  # RFC 9000 20.1
FRAME_ENCODING_ERROR, TRANSPORT_PARAMETER_ERROR, PROTOCOL_VIOLATION = 0x7, 0x8, 0xA
UNEXPECTED_MESSAGE, MISSING_EXTENSION, NO_APPLICATION_PROTOCOL = 0x10A, 0x16D, 0x178  # RFC 9001 4.8
KEY_UPDATE = b"\x18\x00\x00\x01\x01"  # RFC 8446 4.6.3
END_OF_EARLY_DATA = b"\x05\x00\x00\x00"  # RFC 8446 4.5
TOO_MANY_STREAMS = (1 << 60) + 1


def transport(code: int) -> Closed:
    """Closed by QUIC."""
    return Closed(code, app=False)


def http(code: H3ErrorCode) -> Closed:
    """Closed by HTTP/3."""
    return Closed(int(code), app=True)


# Attacks


def frames(payload: bytes, reserved: int = 0) -> Attack:
    """A 1-RTT packet with these frames."""
    return lambda peer: peer.connect().inject(payload, reserved=reserved)


def in_handshake(payload: bytes, reserved: int = 0) -> Attack:
    """A Handshake packet with these frames, before ours with the Finished."""

    def attack(peer: Peer) -> None:
        peer.start().pump(until=lambda: peer.keys(Epoch.HANDSHAKE))
        peer.inject(payload, epoch=Epoch.HANDSHAKE, reserved=reserved)

    return attack


def parameters(change: Callable[[dict[int, bytes]], object]) -> Attack:
    """A handshake with other transport parameters."""

    def changed(encoded: bytes) -> bytes:
        found, at = {}, 0
        while at < len(encoded):
            name, at = wire.read_varint(encoded, at)
            length, at = wire.read_varint(encoded, at)
            found[name] = encoded[at : at + length]
            at += length
        change(found)
        return b"".join(wire.varint(n) + wire.varint(len(v)) + v for n, v in found.items())

    def attack(peer: Peer) -> None:
        peer.parameters = changed
        peer.connect()

    return attack


def parameter(name: int, value: bytes) -> Attack:
    """A handshake with one transport parameter set so."""
    return parameters(lambda found: found.update({name: value}))


def tls(change: Callable[[bytes], bytes]) -> Attack:
    """A handshake with the client's last flight of TLS messages changed."""

    def attack(peer: Peer) -> None:
        peer.crypto = lambda epoch, data: change(data) if data and epoch is Epoch.HANDSHAKE else data
        peer.connect()

    return attack


def extensions(change: Callable[[list[tuple[int, bytes]]], list[tuple[int, bytes]]]) -> Attack:
    """A handshake with quic_transport_parameters changed (RFC 9001 8.2)."""

    def attack(peer: Peer) -> None:
        peer.extensions = change
        peer.connect()

    return attack


def wrong_alpn(peer: Peer) -> None:
    """Offers a protocol that the server does not speak."""
    peer.configuration.alpn_protocols = ["dummy"]
    peer.connect()


def early_crypto(peer: Peer) -> None:
    """A CRYPTO frame in a 0-RTT packet, on a resumed connection."""
    first = Peer(peer.server).open()
    assert first.tickets, "the server gave no ticket"
    peer.configuration.session_ticket = first.tickets[-1]
    peer.start()
    assert peer.keys(Epoch.ZERO_RTT)
    for payload, _ in peer.quic.datagrams_to_send(0.0):
        peer.server.give(payload, peer.address)
    peer.inject(b"\x06" + wire.varint(0) + wire.varint(6) + b"\x08\0\0\x02\0\0", epoch=Epoch.ZERO_RTT)


def control(change: Callable[[bytes], bytes]) -> Attack:
    """A control stream whose frames are not what they should be."""

    def attack(peer: Peer) -> None:
        peer.connect().send(2, wire.varint(wire.CONTROL) + change(wire.settings()))
        peer.pump()

    return attack


def unidirectional(kind: int, payload: bytes, fin: bool = False) -> Attack:
    """A control stream as it should be, and then a stream of that type with this content."""

    def attack(peer: Peer) -> None:
        peer.connect().send(2, wire.varint(wire.CONTROL) + wire.settings(), fin and kind == wire.CONTROL)
        if kind != wire.CONTROL:
            peer.send(6, wire.varint(kind) + payload, fin)
        peer.pump()

    return attack


def on_request(data: bytes) -> Attack:
    """A request stream with this content."""
    return lambda peer: peer.open().fetch(data)


def new_connection_id(cid: bytes, retire_prior_to: int) -> bytes:
    """RFC 9000 19.15"""
    number = 90
    head = b"\x18" + wire.varint(number) + wire.varint(retire_prior_to)
    return head + bytes([len(cid)]) + cid + bytes(16)


ADDRESS = b"\x7f\0\0\x01\x01\xbb" + bytes(18) + b"\x08" + bytes(range(8)) + bytes(range(16))
V = wire.varint

TRANSPORT: list[Check] = [
    (
        "MUST send FLOW_CONTROL_ERROR if a STREAM frame with a large offset is received [Transport 4.1]",
        frames(wire.stream_frame(0, b"GET /\r\n", offset=100_000_000, fin=True)),
        transport(FLOW_CONTROL_ERROR),
    ),
    (
        "MUST send STREAM_LIMIT_ERROR if a stream ID exceeding the limit",
        frames(wire.stream_frame(1_000_000_000, b"GET /\r\n", fin=True)),
        transport(STREAM_LIMIT_ERROR),
    ),
    (
        "MUST send TRANSPORT_PARAMETER_ERROR if initial_source_connection_id is missing [Transport 7.3]",
        parameters(lambda found: found.pop(0x0F)),
        transport(TRANSPORT_PARAMETER_ERROR),
    ),
    (
        (
            "MUST send TRANSPORT_PARAMETER_ERROR if original_destination_connection_id is received "
            "[Transport 18.2]"
        ),
        parameter(0x00, b"DUMMY"),
        transport(TRANSPORT_PARAMETER_ERROR),
    ),
    (
        "MUST send TRANSPORT_PARAMETER_ERROR if preferred_address, is received [Transport 18.2]",
        parameter(0x0D, ADDRESS),
        transport(TRANSPORT_PARAMETER_ERROR),
    ),
    (
        "MUST send TRANSPORT_PARAMETER_ERROR if retry_source_connection_id is received [Transport 18.2]",
        parameter(0x10, b"DUMMY"),
        transport(TRANSPORT_PARAMETER_ERROR),
    ),
    (
        "MUST send TRANSPORT_PARAMETER_ERROR if stateless_reset_token is received [Transport 18.2]",
        parameter(0x02, bytes(16)),
        transport(TRANSPORT_PARAMETER_ERROR),
    ),
    (
        "MUST send TRANSPORT_PARAMETER_ERROR if max_udp_payload_size < 1200 [Transport 7.4 and 18.2]",
        parameter(0x03, V(1090)),
        transport(TRANSPORT_PARAMETER_ERROR),
    ),
    (
        "MUST send TRANSPORT_PARAMETER_ERROR if ack_delay_exponen > 20 [Transport 7.4 and 18.2]",
        parameter(0x0A, V(30)),
        transport(TRANSPORT_PARAMETER_ERROR),
    ),
    (
        "MUST send TRANSPORT_PARAMETER_ERROR if max_ack_delay >= 2^14 [Transport 7.4 and 18.2]",
        parameter(0x0B, V(1 << 15)),
        transport(TRANSPORT_PARAMETER_ERROR),
    ),
    (
        "MUST send FRAME_ENCODING_ERROR if a frame of unknown type is received [Transport 12.4]",
        frames(V(0x20)),
        transport(FRAME_ENCODING_ERROR),
    ),
    (
        "MUST send PROTOCOL_VIOLATION on no frames [Transport 12.4]",
        frames(b""),
        transport(PROTOCOL_VIOLATION),
    ),
    (
        "MUST send PROTOCOL_VIOLATION if reserved bits in Handshake are non-zero [Transport 17.2]",
        in_handshake(b"\x01", reserved=2),
        transport(PROTOCOL_VIOLATION),
    ),
    (
        "MUST send PROTOCOL_VIOLATION if PATH_CHALLENGE in Handshake is received [Transport 17.2.4]",
        in_handshake(b"\x1a01234567"),
        transport(PROTOCOL_VIOLATION),
    ),
    (
        "MUST send PROTOCOL_VIOLATION if reserved bits in Short are non-zero [Transport 17.2]",
        frames(b"\x01", reserved=1),
        transport(PROTOCOL_VIOLATION),
    ),
    (
        "MUST send STREAM_STATE_ERROR if RESET_STREAM is received for a send-only stream [Transport 19.4]",
        frames(b"\x04" + V(3) + V(0) + V(0)),
        transport(STREAM_STATE_ERROR),
    ),
    (
        "MUST send STREAM_STATE_ERROR if STOP_SENDING is received for a non-existing stream [Transport 19.5]",
        frames(b"\x05" + V(101) + V(0)),
        transport(STREAM_STATE_ERROR),
    ),
    (
        "MUST send PROTOCOL_VIOLATION if NEW_TOKEN is received [Transport 19.7]",
        frames(b"\x07" + V(5) + b"DUMMY"),
        transport(PROTOCOL_VIOLATION),
    ),
    (
        (
            "MUST send STREAM_STATE_ERROR if it receives a STREAM frame for a locally-initiated stream "
            "that has "
            "not yet been created [Transport 19.8]"
        ),
        frames(wire.stream_frame(1)),
        transport(STREAM_STATE_ERROR),
    ),
    (
        "MUST send STREAM_STATE_ERROR if it receives a STREAM frame for a send-only stream [Transport 19.8]",
        frames(wire.stream_frame(3)),
        transport(STREAM_STATE_ERROR),
    ),
    (
        (
            "MUST send STREAM_STATE_ERROR if MAX_STREAM_DATA is received for a stream that has not yet been "
            "created [Transport 19.10]"
        ),
        frames(b"\x11" + V(101) + V(1_000_000)),
        transport(STREAM_STATE_ERROR),
    ),
    (
        (
            "MUST send STREAM_STATE_ERROR if MAX_STREAM_DATA is received for a receive-only stream "
            "[Transport 19.10]"
        ),
        frames(b"\x11" + V(2) + V(1_000_000)),
        transport(STREAM_STATE_ERROR),
    ),
    (
        "MUST send FRAME_ENCODING_ERROR if invalid MAX_STREAMS is received [Transport 19.11]",
        frames(b"\x12" + V(TOO_MANY_STREAMS)),
        transport(FRAME_ENCODING_ERROR),
    ),
    (
        (
            "MUST send STREAM_LIMIT_ERROR or FRAME_ENCODING_ERROR if invalid STREAMS_BLOCKED is received "
            "[Transport 19.14]"
        ),
        frames(b"\x16" + V(TOO_MANY_STREAMS)),
        transport(FRAME_ENCODING_ERROR),
    ),
    (
        (
            "MUST send FRAME_ENCODING_ERROR if NEW_CONNECTION_ID with invalid Retire_Prior_To is received "
            "[Transport 19.15]"
        ),
        frames(new_connection_id(bytes(8), 100)),
        transport(FRAME_ENCODING_ERROR),
    ),
    (
        "MUST send FRAME_ENCODING_ERROR if NEW_CONNECTION_ID with 0-byte CID is received [Transport 19.15]",
        frames(new_connection_id(b"", 0)),
        transport(FRAME_ENCODING_ERROR),
    ),
    (
        "MUST send PROTOCOL_VIOLATION if HANDSHAKE_DONE is received [Transport 19.20]",
        frames(b"\x1e"),
        transport(PROTOCOL_VIOLATION),
    ),
    (
        "MUST send unexpected_message TLS alert if KeyUpdate in Handshake is received [TLS 6]",
        tls(lambda finished: finished + KEY_UPDATE),
        transport(UNEXPECTED_MESSAGE),
    ),
    (
        "MUST send unexpected_message TLS alert if KeyUpdate in 1-RTT is received [TLS 6]",
        frames(b"\x06" + V(0) + V(len(KEY_UPDATE)) + KEY_UPDATE),
        transport(UNEXPECTED_MESSAGE),
    ),
    (
        "MUST send no_application_protocol TLS alert if no application protocols are supported [TLS 8.1]",
        wrong_alpn,
        transport(NO_APPLICATION_PROTOCOL),
    ),
    (
        (
            "MUST send missing_extension TLS alert if the quic_transport_parameters extension does not "
            "included "
            "[TLS 8.2]"
        ),
        extensions(lambda found: []),
        transport(MISSING_EXTENSION),
    ),
    (
        (
            "MUST send missing_extension TLS alert if the quic_transport_parameters extension has the "
            "type of a "
            "draft [TLS 8.2]"
        ),
        extensions(
            lambda found: [
                (0xFFA5 if kind == ExtensionType.QUIC_TRANSPORT_PARAMETERS else kind, data)
                for kind, data in found
            ]
        ),
        transport(MISSING_EXTENSION),
    ),
    (
        "MUST send unexpected_message TLS alert if EndOfEarlyData is received [TLS 8.3]",
        tls(lambda finished: END_OF_EARLY_DATA + finished),
        transport(UNEXPECTED_MESSAGE),
    ),
    (
        "MUST send PROTOCOL_VIOLATION if CRYPTO in 0-RTT is received [TLS 8.3]",
        early_crypto,
        transport(PROTOCOL_VIOLATION),
    ),
]

HTTP3: list[Check] = [
    (
        "MUST send H3_FRAME_UNEXPECTED if DATA is received before HEADERS [HTTP/3 4.1]",
        on_request(wire.frame(wire.DATA) + wire.get()),
        http(H3ErrorCode.H3_FRAME_UNEXPECTED),
    ),
    (
        "MUST send H3_MISSING_SETTINGS if the first control frame is not SETTINGS [HTTP/3 6.2.1]",
        control(lambda settings: wire.frame(wire.MAX_PUSH_ID, b"\x01") + settings),
        http(H3ErrorCode.H3_MISSING_SETTINGS),
    ),
    (
        "MUST send H3_FRAME_UNEXPECTED if a DATA frame is received on a control stream [HTTP/3 7.2.1]",
        control(lambda settings: settings + wire.frame(wire.DATA)),
        http(H3ErrorCode.H3_FRAME_UNEXPECTED),
    ),
    (
        "MUST send H3_FRAME_UNEXPECTED if a HEADERS frame is received on a control stream [HTTP/3 7.2.2]",
        control(lambda settings: settings + wire.frame(wire.HEADERS)),
        http(H3ErrorCode.H3_FRAME_UNEXPECTED),
    ),
    (
        "MUST send H3_FRAME_UNEXPECTED if a second SETTINGS frame is received [HTTP/3 7.2.4]",
        control(lambda settings: settings + wire.settings()),
        http(H3ErrorCode.H3_FRAME_UNEXPECTED),
    ),
    (
        "MUST send H3_SETTINGS_ERROR if HTTP/2 settings are included [HTTP/3 7.2.4.1]",
        control(lambda settings: wire.settings((0x7, 100), (0x2, 200), (0x1, 4096), (0x6, 32_768))),
        http(H3ErrorCode.H3_SETTINGS_ERROR),
    ),
    (
        "MUST send H3_FRAME_UNEXPECTED if CANCEL_PUSH is received in a request stream [HTTP/3 7.2.5]",
        on_request(wire.frame(wire.CANCEL_PUSH) + wire.get()),
        http(H3ErrorCode.H3_FRAME_UNEXPECTED),
    ),
    (
        (
            "MUST send QPACK_DECOMPRESSION_FAILED if an invalid static table index exits in a field line "
            "representation [QPACK 3.1]"
        ),
        on_request(wire.frame(wire.HEADERS, wire.fields(wire.request()) + wire.prefixed(99, 6, 0xC0))),
        http(H3ErrorCode.QPACK_DECOMPRESSION_FAILED),
    ),
    (
        (
            "MUST send QPACK_ENCODER_STREAM_ERROR if a new dynamic table capacity value exceeds the limit "
            "[QPACK 4.1.3]"
        ),
        unidirectional(wire.ENCODER, wire.prefixed(10_000_000_000, 5, 0x20)),
        http(H3ErrorCode.QPACK_ENCODER_STREAM_ERROR),
    ),
    (
        "MUST send H3_CLOSED_CRITICAL_STREAM if a control stream is closed [QPACK 4.2]",
        unidirectional(wire.CONTROL, b"", fin=True),
        http(H3ErrorCode.H3_CLOSED_CRITICAL_STREAM),
    ),
    (
        "MUST send QPACK_DECODER_STREAM_ERROR if Insert Count Increment is 0 [QPACK 4.4.3]",
        unidirectional(wire.DECODER, b"\0"),
        http(H3ErrorCode.QPACK_DECODER_STREAM_ERROR),
    ),
]

MALFORMED: list[tuple[str, wire.Pairs]] = [
    (
        "MUST send H3_MESSAGE_ERROR if a pseudo-header is duplicated [HTTP/3 4.1.1]",
        [*wire.request(), (b":method", b"GET")],
    ),
    (
        "MUST send H3_MESSAGE_ERROR if mandatory pseudo-header fields are absent [HTTP/3 4.1.3]",
        [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")],
    ),
    (
        "MUST send H3_MESSAGE_ERROR if prohibited pseudo-header fields are present[HTTP/3 4.1.3]",
        [*wire.request(), (b":foo", b"bar")],
    ),
    (
        "MUST send H3_MESSAGE_ERROR if pseudo-header fields exist after fields [HTTP/3 4.1.3]",
        [*wire.request()[:3], (b"foo", b"bar"), (b":path", b"/")],
    ),
]


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    """With 0-RTT, as one check asks for it."""
    with make_server(enable_early_data=True) as server:
        yield server


def test_their_number() -> None:
    """None is left out."""
    assert len(TRANSPORT) == 34
    assert len(HTTP3) + len(MALFORMED) == 15
    assert len({name for name, *_ in [*TRANSPORT, *HTTP3, *MALFORMED]}) == 49


@pytest.mark.parametrize(
    ("attack", "expected"), [pytest.param(*rest, id=name) for name, *rest in TRANSPORT + HTTP3]
)
def test_connection_errors(attack: Attack, expected: Closed, server: MemoryServer) -> None:
    """The connection is closed with the code of the check's name, and other clients notice nothing."""
    peer = Peer(server)
    attack(peer)
    assert peer.closed == expected
    assert server.calls == []
    good_request(server)


@pytest.mark.parametrize("pairs", [pytest.param(pairs, id=name) for name, pairs in MALFORMED])
def test_malformed_requests(pairs: wire.Pairs, server: MemoryServer) -> None:
    """The stream is reset with H3_MESSAGE_ERROR (RFC 9114 4.1.2), the connection goes on."""
    peer = Peer(server).open()
    answer = peer.fetch(wire.headers(pairs))
    assert answer.reset == H3ErrorCode.H3_MESSAGE_ERROR
    assert server.calls == []
    assert peer.fetch(wire.get(), stream_id=4).status == 200
    good_request(server)
