"""What one client can make the server hold: fragments, unread bodies, half-open handshakes."""

from __future__ import annotations

import time

import pytest
from aioquic.tls import Epoch
from conformance import wire
from conformance.peer import SERVER, MemoryServer, Peer

from quiche_h3.config import ServerConfig
from quiche_h3.errors import H3ErrorCode

from .support import KIB, MIB, count, is_well, make_server, metrics, resident


def crypto(offset: int, data: bytes) -> bytes:
    """A CRYPTO frame (RFC 9000 19.6)."""
    return b"\x06" + wire.varint(offset) + wire.varint(len(data)) + data


def packed(frames: list[bytes], room: int = 1250) -> list[bytes]:
    """Frames, as many to a packet as fit."""
    packets = [b""]
    for frame in frames:
        if len(packets[-1]) + len(frame) > room:
            packets.append(b"")
        packets[-1] += frame
    return packets


def inject_all(peer: Peer, frames: list[bytes], epoch: Epoch = Epoch.ONE_RTT) -> None:
    """Until all is said, or the server closes."""
    for number, payload in enumerate(packed(frames)):
        if peer.closed is not None:
            return
        peer.server.give(peer.packet(payload, epoch=epoch), peer.address)
        if number % 16 == 15:
            peer.pump()
    peer.pump()


def upload_begun(server: MemoryServer, streams: int = 1) -> Peer:
    """A client with uploads whose handlers wait for more.

    The server is to take them as slowly as they come (`min_body_rate=0`): on a busy machine it would answer
    408 and STOP_SENDING, and aioquic, which knows nothing of injected bytes, would reset the stream at a
    final size of 0.
    """
    peer = Peer(server).open()
    head = wire.headers(wire.request(b"/echo", b"POST"))
    for i in range(streams):
        peer.inject(wire.stream_frame(4 * i, head + b"\0\x80\x10\0\0"))  # DATA, 1 MiB
    return peer


@pytest.mark.parametrize("stride", [1, 2])
def test_fragments_of_one_stream(stride: int) -> None:
    """Attack row 17, RUSTSEC-2026-0185: bytes one by one, or every other one, hold under 16 MiB."""
    with make_server(max_non_streaming_body_bytes=MIB, min_body_rate=0) as server:
        upload_begun(server)
        before = resident()
        peer = upload_begun(server)
        offsets = range(1000, 1000 + stride * count(1_000_000, 60_000), stride)
        inject_all(peer, [wire.stream_frame(0, b"x", offset=at) for at in offsets])
        assert resident() - before < 16 * MIB
        if stride == 2:
            assert peer.closed is not None
            assert (peer.closed.code, peer.closed.app) == (H3ErrorCode.H3_EXCESSIVE_LOAD, True)
        else:
            assert peer.closed is None
        is_well(server)


def test_fragments_of_all_streams() -> None:
    """Attack row 17: fewer gaps than close a stream, in each of a hundred streams, close the connection."""
    with make_server(min_body_rate=0) as server:
        upload_begun(server, 100)
        before = resident()
        peer = upload_begun(server, 100)
        for i in range(100):
            inject_all(peer, [wire.stream_frame(4 * i, b"x", offset=at) for at in range(1000, 2800, 2)])
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (H3ErrorCode.H3_EXCESSIVE_LOAD, True)
        assert resident() - before < 16 * MIB
        is_well(server)


def test_all_the_credit_there_is() -> None:
    """Whatever credit the client is given, filled to the last byte and never read: under 16 MiB."""
    with make_server(max_non_streaming_body_bytes=64 * MIB, min_body_rate=0) as server:
        before = resident()
        peer = upload_begun(server, 4)
        window = peer.quic._remote_max_data
        chunk = bytes(1100)
        frames = [
            wire.stream_frame(4 * i, chunk, offset=at)
            for i in range(4)
            for at in range(2000, window // 4 - 2000, len(chunk))
        ]
        inject_all(peer, frames)
        assert peer.closed is None
        assert resident() - before < 16 * MIB


@pytest.mark.parametrize("size", [16, 520, 1100])
def test_a_grown_window_filled_with_fragments(size: int) -> None:
    """Attack row 17: the largest window there is, full of fragments that nobody reads: under 16 MiB.

    Fragments of 520 bytes are the smallest that are not merged: each is kept by itself. There are as many
    gaps between them as a connection may have.
    """
    window = ServerConfig().max_connection_window
    with make_server(
        initial_max_data=window, max_non_streaming_body_bytes=64 * MIB, min_body_rate=0
    ) as server:
        heads = wire.headers(wire.request(b"/echo", b"POST")) + b"\0\x80\x10\0\0"
        streams = range(0, 4 * 100, 4)
        room = window // len(streams) - 2 * len(heads)
        peer = Peer(server).open()
        before = resident()
        inject_all(peer, [wire.stream_frame(i, heads) for i in streams])
        for i in streams:
            offsets = range(len(heads) + 1, len(heads) + room - size - 39, size)
            gaps = [number * 39 // len(offsets) for number in range(len(offsets))]
            places = [at + gap for at, gap in zip(offsets, gaps, strict=True)]
            inject_all(peer, [wire.stream_frame(i, bytes(size), offset=at) for at in places])
        held = resident() - before
        assert peer.closed is None
        assert 0.8 * window < held < 16 * MIB, f"{held / MIB:.1f} MiB"


def hold_back(peer: Peer, seconds: float) -> None:
    """One round trip that takes so long: the server's turn, a pause, our acknowledgements."""
    for payload, _ in peer.quic.datagrams_to_send(time.monotonic()):
        peer.server.give(payload, peer.address)
    peer.server.turn()
    time.sleep(seconds)
    for payload in peer.server.take(peer.address):
        peer.quic.receive_datagram(payload, SERVER, time.monotonic())
    while peer.quic.next_event() is not None:
        pass


@pytest.mark.parametrize("control", ["cubic", "bbr2_gcongestion"])
def test_pings_while_the_server_may_not_send(control: str) -> None:
    """Attack row 22: a burst is over, a client sends PINGs: what waits to be sent does not grow with each."""
    with make_server(cc_algorithm=control) as server:
        peer = Peer(server, max_data=1 << 40, max_stream_data=1 << 40).open()
        peer.send(0, wire.get(b"/big"), True)
        for _ in range(12):
            hold_back(peer, 0.02)
        before = resident()
        for _ in range(count(5000, 1000)):
            server.give(peer.packet(b"\x01"), peer.address)
            server.turn()
        assert resident() - before < 16 * MIB, f"{(resident() - before) / MIB:.1f} MiB"
        is_well(server)


@pytest.mark.slow
def test_a_window_that_was_made_large() -> None:
    """Attack row 22: however large the congestion window was made, less than 16 MiB wait for acknowledgement.

    The client takes an endless response until the window is large, and then falls silent.
    """
    with make_server() as server:
        peer = Peer(server, max_data=1 << 40, max_stream_data=1 << 40).open()
        before = resident()
        peer.send(0, wire.get(b"/big"), True)
        silent_after = time.monotonic() + count(120, 20)
        while time.monotonic() < silent_after:
            hold_back(peer, 0.0)
        for _ in range(2000):
            if not server.turn():
                break
            server.take(peer.address)
        held = resident() - before
        print(f"{held / MIB:.1f} MiB")
        assert held < 16 * MIB, f"{held / MIB:.1f} MiB"


def partial_headers(size: int) -> bytes:
    """HEADERS of so many bytes, all but the last."""
    frame = wire.frame(wire.HEADERS, bytes(size))
    return frame[:-1]


def test_field_sections_that_never_end() -> None:
    """Attack rows 21 and 24: the largest there may be, on all streams, cut off before their last byte.

    What has come of a HEADERS frame has left the receive window: it is bounded by itself.
    """
    with make_server() as server:
        Peer(server).open()
        before = resident()
        peer = Peer(server).open()
        head = partial_headers(96 * KIB)
        for number in range(100):
            if peer.closed is not None:
                break
            assert resident() - before < 4 * MIB, number
            peer.send(4 * number, head)
            peer.pump()
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (H3ErrorCode.H3_EXCESSIVE_LOAD, True)
        is_well(server)


def test_large_field_sections_over_full_windows() -> None:
    """Attack rows 17 and 24: on all streams fields up to the limit, then bodies that fill the largest window.

    Nobody reads them, and no limit is passed but that of memory.
    """
    window = ServerConfig().max_connection_window
    fields = [(b"x-%02d" % number, bytes([65 + number]) * 7900) for number in range(4)]
    head = wire.headers([*wire.request(b"/echo", b"POST"), *fields]) + b"\0\x80\x10\0\0"
    with make_server(
        initial_max_data=window, max_non_streaming_body_bytes=64 * MIB, min_body_rate=0
    ) as server:
        Peer(server).open()
        peer = Peer(server).open()
        before = resident()
        streams = range(0, 4 * 100, 4)
        for i in streams:
            for at in range(0, len(head), 1100):
                inject_all(peer, [wire.stream_frame(i, head[at : at + 1100], offset=at)])
        room = window // len(streams) - 1200
        for i in streams:
            offsets = range(len(head), len(head) + room, 1100)
            inject_all(peer, [wire.stream_frame(i, bytes(1100), offset=at) for at in offsets])
        held = resident() - before
        assert peer.closed is None
        assert metrics(server, "http3")["requests"] == 100
        assert held < 16 * MIB, f"{held / MIB:.1f} MiB"


@pytest.mark.parametrize("stride", [1, 2])
def test_crypto_fragments_after_the_handshake(stride: int) -> None:
    """Attack row 14: CRYPTO frames in 1-RTT packets, all but the first byte, hold less than 0.5 MiB."""
    with make_server() as server:
        peer = Peer(server).open()
        before = resident()
        offsets = range(1, 1 + stride * count(20_000, 20_000), stride)
        inject_all(peer, [crypto(at, b"x") for at in offsets])
        assert resident() - before < MIB / 2
        is_well(server)


def test_crypto_far_ahead() -> None:
    """Attack row 14, CVE-2024-1765: past what is buffered it is CRYPTO_BUFFER_EXCEEDED (RFC 9000 7.5)."""
    with make_server() as server:
        peer = Peer(server).open()
        peer.inject(crypto(1 << 20, b"x"))
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (0x0D, False)
        is_well(server)


@pytest.mark.parametrize("stride", [1, 2])
def test_crypto_fragments_before_the_handshake(stride: int) -> None:
    """Attack rows 4 and 14: a half-open connection holds less than 0.5 MiB."""
    with make_server(max_half_open_per_address=0, half_open_retry_threshold=10_000) as server:
        peers = count(200, 40)

        def attack() -> None:
            peer = Peer(server).start()
            for payload, _ in peer.quic.datagrams_to_send(time.monotonic()):
                server.give(payload, peer.address)
            peer.turn()
            if not peer.keys(Epoch.HANDSHAKE):
                return
            frames = [crypto(at, b"x") for at in range(5, 5 + stride * 3600, stride)]
            for payload in packed(frames, 1100)[:17]:
                server.give(peer.packet(payload, epoch=Epoch.HANDSHAKE), peer.address)
            server.turn()

        attack()
        before = resident()
        for _ in range(peers):
            attack()
        each = (resident() - before) / peers
        assert each < MIB / 2, f"{each / KIB:.0f} KiB"
        is_well(server)


def test_a_handshake_that_grows_is_given_up() -> None:
    """Attack row 14: after 24 KiB of Initial and Handshake packets the half-open connection is dropped."""
    with make_server() as server:
        peer = Peer(server).start()
        for payload, _ in peer.quic.datagrams_to_send(time.monotonic()):
            server.give(payload, peer.address)
        peer.turn()
        for at in range(40):
            server.give(peer.packet(crypto(5 + 2 * at, b"x"), epoch=Epoch.INITIAL), peer.address)
            server.turn()
        assert metrics(server, "connections")["handshake_overruns"] == 1
        assert not server.connections
        is_well(server)


def test_frames_that_do_nothing() -> None:
    """Attack rows 12 and 30: challenges, pings and unknown frames in masses hold nothing."""
    with make_server(idle_frames_per_second=0) as server:
        peer = Peer(server).open()
        unknown = wire.headers(wire.request(b"/echo", b"POST"))
        peer.inject(wire.stream_frame(0, unknown))
        offset = len(unknown)
        memory = 0
        rounds = count(5000, 400)
        for number in range(rounds):
            if number == rounds // 4:
                memory = resident()
            grease = wire.frame(0x21 + 31 * (number % 7)) * 200 + wire.frame(0) * 100
            peer.inject(b"\x1a" + bytes(7) + bytes([number % 251]) + b"\x01" * 300)
            peer.inject(wire.stream_frame(0, grease, offset=offset))
            offset += len(grease)
            peer.datagrams.clear()
        assert peer.closed is None
        assert resident() - memory < MIB
        is_well(server)


def test_encoder_instructions_in_masses() -> None:
    """Attack row 25: more than 4 KiB of QPACK encoder instructions close the connection with 0x201."""
    with make_server(header_timeout_ms=100) as server:
        peer = Peer(server).open()
        end = time.monotonic() + 10
        while peer.closed is None:
            assert time.monotonic() < end
            peer.send(6, b"\x20" * 500)  # Set Dynamic Table Capacity: 0
            peer.pump()
        assert (peer.closed.code, peer.closed.app) == (H3ErrorCode.QPACK_ENCODER_STREAM_ERROR, True)
        is_well(server)
