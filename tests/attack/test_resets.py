"""Streams that are given up as fast as they are opened: by the client, or by us, whom it makes to."""

from __future__ import annotations

import time

import pytest
from conformance import wire
from conformance.peer import Peer

from quiche_h3.errors import H3ErrorCode

from .support import MIB, count, is_well, make_server, metrics, resident, wait

CANCELLED = wire.varint(H3ErrorCode.H3_REQUEST_CANCELLED)


def reset(stream_id: int, size: int) -> bytes:
    """RESET_STREAM (RFC 9000 19.4)."""
    return b"\x04" + wire.varint(stream_id) + CANCELLED + wire.varint(size)


def stop(stream_id: int) -> bytes:
    """STOP_SENDING (RFC 9000 19.5)."""
    return b"\x05" + wire.varint(stream_id) + CANCELLED


def batches(total: int, size: int = 20) -> range:
    """The first stream of each round; streams are opened in order, no more than are granted."""
    return range(0, 4 * total, 4 * size)


def granted(peer: Peer, ids: range) -> bool:
    """Waits for the credit for these streams, acknowledging what came. False for a closed connection."""
    end = time.monotonic() + 10
    while peer.closed is None and peer.quic._remote_max_streams_bidi <= ids[-1] // 4:
        assert time.monotonic() < end, "the server grants no more streams"
        peer.quic.send_ping(1)
        peer.pump()
    return peer.closed is None


def give_up(peer: Peer, total: int, request: bytes, *, size: int = 20, answered: bool = False) -> None:
    """Requests that are given up, so many to a packet: at once, or when their answers have begun."""
    for first in batches(total, size):
        ids = range(first, first + 4 * size, 4)
        if not granted(peer, ids):
            return
        begun = b"".join(wire.stream_frame(i, request) for i in ids)
        over = b"".join(reset(i, len(request)) + (stop(i) if answered else b"") for i in ids)
        if answered:
            peer.server.give(peer.packet(begun), peer.address)
            peer.turn()
            begun = b""
        peer.inject(begun + over)
        for table in (peer.answers, peer.quic._streams):  # what the client itself keeps of them
            for i in [i for i in table if i % 4 == 0]:
                del table[i]
        peer.quic._streams_queue[:] = [s for s in peer.quic._streams_queue if (s.stream_id or 0) % 4]


def test_rapid_reset_ends_the_connection() -> None:
    """Attack row 19, CVE-2023-44487: after 1000 at once GOAWAY and H3_EXCESSIVE_LOAD; no handler runs."""
    with make_server() as server:
        peer = Peer(server).open()
        give_up(peer, 3000, wire.get())
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (H3ErrorCode.H3_EXCESSIVE_LOAD, True)
        assert wire.GOAWAY in [kind for kind, _ in wire.read_frames(bytes(peer.answer(3).data[1:]))]
        assert 1000 <= metrics(server, "http3")["resets_received"] <= 1100
        assert metrics(server, "http3")["reset_floods"] == 1
        assert server.calls == []  # what was reset before it was read reaches nobody
        is_well(server)


@pytest.mark.parametrize(
    "provoke",
    [
        pytest.param(wire.headers([*wire.request(), (b"Upper", b"x")]), id="malformed fields"),
        pytest.param(
            wire.headers(wire.request(b"/echo", b"POST", (b"content-length", b"1"))) + wire.frame(0, b"22"),
            id="longer than announced",
        ),
        pytest.param(
            wire.headers(wire.request(b"/echo", b"POST"))
            + wire.frame(0, b"2")
            + wire.headers([(b":path", b"/")]),
            id="malformed trailers",
        ),
        pytest.param(None, id="no request"),
    ],
)
def test_made_you_reset(provoke: bytes | None) -> None:
    """Attack row 20, CVE-2025-8671: resets that the client makes us send are in the same bucket."""
    with make_server() as server:
        peer = Peer(server).open()
        for first in batches(3000):
            ids = range(first, first + 80, 4)
            if not granted(peer, ids):
                break
            for i in ids:
                peer.send(i, provoke or b"", provoke is None)
            peer.pump()
        assert peer.closed is not None
        assert peer.closed.code == H3ErrorCode.H3_EXCESSIVE_LOAD
        is_well(server)


def test_stop_sending_in_mid_response() -> None:
    """Attack row 20: a client that stops every response once it has begun is closed as well."""
    with make_server() as server:
        peer = Peer(server).open()
        give_up(peer, 3000, wire.get(b"/big"), size=5, answered=True)
        assert peer.closed is not None
        assert peer.closed.code == H3ErrorCode.H3_EXCESSIVE_LOAD
        assert metrics(server, "handlers")["active"] == 0
        is_well(server)


def test_a_browser_that_cancels_now_and_then_is_served() -> None:
    """The bucket is for floods: hundreds of cancelled requests, between good ones, cost nothing."""
    with make_server() as server:
        peer = Peer(server).open()
        give_up(peer, 400, wire.get())
        assert peer.closed is None
        assert peer.fetch(wire.get(), 1600).body == b"Hello"


@pytest.mark.slow
@pytest.mark.parametrize("answered", [False, True], ids=["rapid resets", "cancelled downloads"])
def test_resets_leave_nothing(answered: bool) -> None:
    """A million resets, a hundred thousand cancelled part-sent downloads: less than 1 MiB is left.

    With the bucket off, so that one connection may go on and on.
    """
    total = count(100_000, 5_000) if answered else count(1_000_000, 30_000)
    request, size = wire.get(b"/big" if answered else b"/"), 5 if answered else 20
    with make_server(stream_resets_burst=0) as server:

        def attack(resets: int) -> None:
            """One connection after the other: our packet numbers have two bytes."""
            for _ in range(0, resets, 20_000):
                peer = Peer(server).open()
                give_up(peer, min(resets, 20_000), request, size=size, answered=answered)
                assert peer.closed is None
                assert not any(connection.context.streams for connection in server.connections)
                peer.quic.close()
                peer.pump()
                wait(server, lambda: not server.connections)

        attack(total // 5)  # everything comes to its size
        before = resident()
        attack(total)
        grown = resident() - before
        assert metrics(server, "http3")["resets_received"] >= total
        print(f"{total} resets: {grown / MIB:.2f} MiB")
        assert grown < MIB
        is_well(server)
