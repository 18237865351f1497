"""Path validation, as the side that is asked (RFC 9000 8.2)."""

from __future__ import annotations

import time

from . import wire
from .conftest import make_server
from .peer import SERVER, MemoryServer, Peer

CHALLENGE = b"12345678"
PATH_CHALLENGE = b"\x1a" + CHALLENGE


def ask(peer: Peer) -> list[bytes]:
    """The server receives a challenge that aioquic knows of; what it sends then."""
    peer.quic._network_paths[0].local_challenges.append(CHALLENGE)
    peer.server.give(peer.packet(PATH_CHALLENGE), peer.address)
    peer.server.turn()
    return peer.server.take(peer.address)


def answered(peer: Peer) -> bool:
    return not peer.quic._network_paths[0].local_challenges


def test_the_response_fills_a_datagram(server: MemoryServer) -> None:
    """RFC 9000 8.2.2: the datagram with the PATH_RESPONSE is expanded to 1,200 bytes at least."""
    peer = Peer(server).open()
    (payload,) = ask(peer)
    assert len(payload) >= 1200
    peer.quic.receive_datagram(payload, SERVER, 0)
    assert answered(peer)


def test_the_response_waits_for_the_congestion_window() -> None:
    """RFC 9000 8.2.2: congestion control may delay the response to a challenge, but it comes."""
    server = make_server()
    server.get("/large")(lambda: bytes(1 << 20))
    with server:
        peer = Peer(server).open()
        request = wire.stream_frame(0, wire.get(b"/large"), fin=True)
        server.give(peer.packet(request), peer.address)
        server.turn()
        window = server.take(peer.address)
        (acknowledgement,) = ask(peer)
        assert len(acknowledgement) < 100
        for payload in window:
            peer.quic.receive_datagram(payload, SERVER, 0)
        assert not answered(peer)
        peer.pump(lambda: answered(peer))
        end = time.monotonic() + 5
        while not answered(peer):  # it comes with the server's next probe, at the latest
            assert time.monotonic() < end
            assert server._endpoint is not None
            at = server._endpoint.deadline()
            assert at is not None
            time.sleep(max(0, at / 1e9 - time.monotonic()))
            peer.pump(lambda: answered(peer))
