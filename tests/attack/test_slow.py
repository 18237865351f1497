"""Slow clients: headers and bodies that drip, responses that nobody reads, connections that stay."""

from __future__ import annotations

import time

import pytest
from conformance import wire
from conformance.peer import Closed, Peer

from quiche_h3.errors import H3ErrorCode

from .support import KIB, is_well, make_server, metrics, wait


def test_headers_that_never_end() -> None:
    """Attack row 21: not complete within `header_timeout_ms`: 408, and the handler never runs."""
    with make_server(header_timeout_ms=200) as server:
        peer = Peer(server).open()
        whole = wire.headers(wire.request())
        for stream_id in range(0, 40, 4):
            peer.send(stream_id, whole[:-3])
        peer.pump()
        wait(server, lambda: metrics(server, "http3")["slow_headers"] == 10)
        peer.pump()
        for stream_id in range(0, 40, 4):
            answer = peer.answer(stream_id)
            assert (answer.status, answer.fin, answer.stop) == (408, True, H3ErrorCode.H3_REQUEST_CANCELLED)
        assert server.calls == []
        assert peer.fetch(wire.get(), 40).body == b"Hello"
        is_well(server)


def test_headers_that_drip_in_time() -> None:
    """A client that is slow, but not too slow, is served."""
    with make_server(header_timeout_ms=2000) as server:
        peer = Peer(server).open()
        whole = wire.headers(wire.request())
        for i in range(len(whole)):
            peer.send(0, whole[i : i + 1], i + 1 == len(whole))
            peer.pump()
        assert peer.answer(0).body == b"Hello"


def test_a_body_that_drips() -> None:
    """Attack row 21: under `min_body_rate` it is 408, whether the handler reads already or not."""
    with make_server(body_grace_ms=200, min_body_rate=240) as server:
        peer = Peer(server).open()
        for stream_id, path in ((0, b"/echo"), (4, b"/upload")):
            peer.send(
                stream_id, wire.headers(wire.request(path, b"POST")) + wire.frame(wire.DATA, b"x", 1000)
            )
        peer.pump()
        end = time.monotonic() + 5
        while metrics(server, "http3")["slow_bodies"] < 2:
            assert time.monotonic() < end
            for stream_id in (0, 4):
                if peer.answer(stream_id).stop is None:
                    peer.send(stream_id, b"x")
            peer.pump()
            wait(server, lambda: True)
            time.sleep(0.02)
        peer.pump()
        for stream_id in (0, 4):
            assert peer.answer(stream_id).status == 408
            assert peer.answer(stream_id).fin
        assert server.calls == ["/upload"]
        is_well(server)


def test_a_conversation_may_pause() -> None:
    """A request that is being answered already may be silent: the response's own limits hold."""
    with make_server(body_grace_ms=50) as server:

        @server.post("/talk")
        def talk(req: object, res: object) -> object:
            yield "first"
            while not req.body.ended:  # type: ignore[attr-defined]
                yield req.body  # type: ignore[attr-defined]
            yield "last"

        peer = Peer(server).open()
        peer.send(0, wire.headers(wire.request(b"/talk", b"POST")))
        peer.pump()
        end = time.monotonic() + 0.4
        wait(server, lambda: time.monotonic() > end)
        assert metrics(server, "http3")["slow_bodies"] == 0
        peer.send(0, b"", True)
        peer.pump()
        assert peer.answer(0).body == b"firstlast"


def grant_no_more(peer: Peer) -> None:
    """aioquic grants credit as soon as data arrive, whether anybody reads them or not."""
    for limits in ("_write_connection_limits", "_write_stream_limits"):
        setattr(peer.quic, limits, lambda builder, space, stream=None: None)


def test_a_response_that_nobody_reads() -> None:
    """Attack row 22: no credit for `send_stall_timeout_ms`: reset 0x10c, at most a window was ever held."""
    with make_server(send_stall_timeout_ms=300) as server:
        peer = Peer(server, max_stream_data=20 * KIB, max_data=20 * KIB).open()
        grant_no_more(peer)
        peer.send(0, wire.get(b"/big"), True)
        peer.pump()
        wait(server, lambda: metrics(server, "http3")["stalled_responses"] == 1)
        peer.pump()
        assert peer.answer(0).reset == H3ErrorCode.H3_REQUEST_CANCELLED
        assert metrics(server, "handlers")["active"] == 0
        is_well(server)


def test_a_client_that_never_asks() -> None:
    """Attack row 23: PING keeps QUIC awake; after `max_idle_without_request_ms` it is GOAWAY and 0x100."""
    with make_server(max_idle_without_request_ms=200) as server:
        peer = Peer(server).open()
        end = time.monotonic() + 5
        while peer.closed is None:
            assert time.monotonic() < end
            peer.quic.send_ping(1)
            peer.pump()
            wait(server, lambda: True)
            time.sleep(0.02)
        assert (peer.closed.code, peer.closed.app) == (H3ErrorCode.H3_NO_ERROR, True)
        assert metrics(server, "http3")["left_by_idleness"] == 1
        assert metrics(server, "http3")["goaways_sent"] == 1


def test_a_connection_that_grows_old() -> None:
    """Attack row 23: after `max_connection_age_ms` GOAWAY; what is in flight is finished, then 0x100."""
    with make_server(max_connection_age_ms=200, body_grace_ms=0) as server:
        peer = Peer(server).open()
        peer.send(0, wire.headers(wire.request(b"/echo", b"POST")))
        peer.pump()
        wait(server, lambda: metrics(server, "http3")["goaways_sent"] == 1)
        peer.pump()
        assert peer.closed is None
        peer.send(0, wire.frame(wire.DATA, b"late"), True)
        peer.pump()
        assert peer.answer(0).body == b"late"

        def closed() -> bool:
            peer.pump()  # its acknowledgement is what a drained connection waits for
            return peer.closed is not None

        wait(server, closed)
        assert peer.closed == Closed(H3ErrorCode.H3_NO_ERROR, True)
        assert metrics(server, "http3")["left_by_age"] == 1


@pytest.mark.parametrize("field", ["header_timeout_ms", "min_body_rate", "send_stall_timeout_ms"])
def test_patience_without_an_end(field: str) -> None:
    """0 waits for ever."""
    others = {"header_timeout_ms": 50, "body_grace_ms": 50, "send_stall_timeout_ms": 50}
    with make_server(**{**others, field: 0}) as server:
        peer = Peer(server, max_stream_data=20 * KIB, max_data=40 * KIB).open()
        whole = {
            "header_timeout_ms": wire.headers(wire.request())[:-3],
            "min_body_rate": wire.headers(wire.request(b"/echo", b"POST")),
            "send_stall_timeout_ms": wire.get(b"/big"),
        }[field]
        grant_no_more(peer)
        peer.send(0, whole)
        peer.pump()
        end = time.monotonic() + 0.4
        wait(server, lambda: time.monotonic() > end)
        peer.pump()
        assert peer.answer(0).reset is peer.answer(0).stop is None
