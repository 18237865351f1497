"""Going away (RFC 9114 5.2): what was begun is finished, the rest is refused and may be sent elsewhere."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from client_support import eventually
from conformance import wire
from conformance.peer import MemoryServer, Peer
from server_support import make_server

import quiche_h3
from quiche_h3 import Client, H3ErrorCode, Request


@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE"])
def test_later_requests_are_refused_unseen(method: bytes) -> None:
    """H3_REQUEST_REJECTED whatever the method, with or without its body: no handler runs, no 4xx is said."""
    calls: list[str] = []
    with MemoryServer() as server:

        @server.route(["GET", "POST", "DELETE"], "/")
        def handler(req: Request) -> str:
            calls.append(req.method)
            return "done"

        peer = Peer(server).open()
        post = wire.headers(wire.request(b"/", b"POST"))
        peer.fetch(post, fin=False)
        (connection,) = server.connections
        connection.context.goaway()
        peer.pump()
        late = wire.headers(wire.request(b"/", method))
        answers = [
            peer.fetch(late, stream_id=4),
            peer.fetch(late + wire.frame(wire.DATA, bytes(5000)), stream_id=8, fin=False),
            peer.fetch(wire.headers(wire.request(b"no path", method)), stream_id=12),
        ]
        assert [answer.reset for answer in answers] == [H3ErrorCode.H3_REQUEST_REJECTED] * 3
        assert [answer.sections for answer in answers] == [[]] * 3
        assert calls == []
        assert peer.fetch(wire.frame(wire.DATA, b"body")).body == b"done"
        assert calls == ["POST"]
        assert not connection.context.streams


def test_idle_connections_close_at_once() -> None:
    """A drain waits for those with requests in flight, and for nobody else; the close is no error."""
    server = make_server()
    begun, go = threading.Event(), threading.Event()

    @server.get("/hold", blocking=True)
    def hold(req: Request) -> str:
        begun.set()
        go.wait(10)
        return "held"

    address = server.start()
    with (
        quiche_h3.connect(address.url, verify=False) as busy,
        quiche_h3.connect(address.url, verify=False) as idle,
    ):
        assert idle.get("/").status == 404
        closed: list[int] = []
        server.on_close(lambda connection: closed.append(connection.close_reason.code))
        request = busy.send("GET", "/hold")
        assert begun.wait(10)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        eventually(lambda: idle.stats() == {})  # gone, not only told of the GOAWAY
        assert len(closed) <= 1  # the other one is still there
        go.set()
        assert request.response().text == "held"
        stopper.join()
    assert closed == [H3ErrorCode.H3_NO_ERROR] * 2


def test_nobody_notices_that_connections_are_sent_away() -> None:
    """The pool goes over to another connection with what GOAWAY leaves out, whatever the method."""
    server = make_server(max_connection_age_ms=100)
    numbers: set[int] = set()

    @server.route(["GET", "POST"], "/")
    def handler(req: Request) -> bytes:
        numbers.add(req.conn_id)
        return req.body.read_all() or b"-"

    with server.running() as address, Client(verify=False) as client, ThreadPoolExecutor(4) as threads:

        def ask(_: int) -> None:
            while len(numbers) < 6:
                assert client.get(address.url + "/").content == b"-"
                assert client.post(address.url + "/", data=b"body").content == b"body"

        list(threads.map(ask, range(4)))
    assert server.export_metrics()["http3"]["left_by_age"] >= 5
    assert server.export_metrics()["handlers"]["failed"] == 0
