"""The client of these tests does what it is told, so that a refusal is the server's doing."""

from __future__ import annotations

from . import wire
from .peer import MemoryServer, Peer, good_request


def test_a_good_request(server: MemoryServer) -> None:
    """The encoders of `wire`, the handshake and the three streams are those of a well-behaved client."""
    good_request(server)


def test_injected_frames(peer: Peer) -> None:
    """A packet made by hand is decrypted and its frames are read: here the whole request."""
    peer.inject(wire.stream_frame(0, wire.get(), fin=True))
    assert peer.answer(0).status == 200
    assert peer.closed is None


def test_bodies(peer: Peer, server: MemoryServer) -> None:
    """A body in several DATA frames."""
    post = wire.headers(wire.request(b"/body", b"POST"))
    answer = peer.fetch(post + wire.frame(wire.DATA, b"abc") + wire.frame(wire.DATA, b"de"))
    assert answer.body == b"5"
    assert server.calls == ["/body"]
