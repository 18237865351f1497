"""HTTP/0.9 over QUIC streams (`_core/hq.pyx`), which interoperability tests speak, between two endpoints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quiche_h3._core.connection import Connection
from quiche_h3._core.hq import HQ_ALPN, Hq
from quiche_h3.errors import ConnectionClosed, InvalidState, StreamClosed

from .pair import App, Handler, Pair, get


class HqApp(App):
    """As `App`, over HTTP/0.9."""

    def protocol(self, connection: Connection) -> Any:
        connection.context = Hq(connection, self, server=self.server)
        return connection.context


@pytest.fixture(params=[HQ_ALPN[0], HQ_ALPN[-1]])
def pair(certificate: SimpleNamespace, request: pytest.FixtureRequest) -> Pair:
    """Both sides speak HTTP/0.9, under its name of today and the oldest one."""
    pair = Pair(
        certificate,
        server={"alpn_protocols": ["h3", *HQ_ALPN], "initial_max_streams_bidi": 20},
        client={"alpn_protocols": [request.param]},
    )
    pair.server_app.__class__ = pair.client_app.__class__ = HqApp
    return pair


def test_a_file_is_all_there_is(pair: Pair) -> None:
    """A request line brings the bytes of the file and a FIN: no field section, nothing before or after it."""
    connection = pair.connect()
    assert connection.alpn in HQ_ALPN
    handler = pair.fetch(connection, get(b"/a"))
    assert handler.calls == ["sent", "headers", "readable", "finished"]
    assert (handler.status, bytes(handler.body)) == (200, b"Hello")
    assert handler.fields is not None
    assert handler.fields.pairs() == []
    stream = pair.server_app.requests[0]
    assert (stream.fields.method, stream.fields.path, stream.fields.authority) == (
        b"GET",
        b"/a",
        b"localhost",
    )
    pair.settle()
    assert pair.server_app.opened[0].context.streams == connection.context.streams == {}


def test_a_large_file_arrives_whole_over_a_lossy_link(pair: Pair) -> None:
    """More than every window, 5 % of the packets lost both ways: the bytes are the same (RFC 9000 2.2)."""
    connection = pair.connect()
    pair.up.loss = pair.down.loss = 0.05
    body = bytes(range(256)) * 8000
    pair.server_app.answer_with(body)
    assert bytes(pair.fetch(connection).body) == body


def test_requests_wait_for_stream_credit(pair: Pair) -> None:
    """Of 300 requests at once only as many are sent as the server grants; all are answered (RFC 9000 4.6)."""
    connection = pair.connect()
    handlers = [pair.request(connection) for _ in range(300)]
    assert len(connection.context.streams) == 20
    pair.run(lambda: all(handler.over for handler in handlers))
    assert {bytes(handler.body) for handler in handlers} == {b"Hello"}


def test_a_refusal_is_a_reset(pair: Pair) -> None:
    """There are no statuses: what is not 2xx must not be taken for the file, so its stream is reset."""
    connection = pair.connect()

    def refuse(stream: Any) -> None:
        stream.send_headers([(b":status", b"404")])
        stream.enqueue(b"not here", True)

    pair.server_app.on_request = refuse
    handler = pair.fetch(connection)
    assert handler.reset_codes == [404]
    assert handler.calls == ["sent", "reset"]
    pair.settle()
    assert pair.server_app.opened[0].context.streams == connection.context.streams == {}


def test_the_client_sends_only_what_it_can(pair: Pair) -> None:
    """A method but GET, a body, or a path that would break the line is an error of the caller's."""
    connection = pair.connect()
    for pairs, fin in (
        (get(method=b"POST"), True),
        (get(), False),
        (get(b"/a b"), True),
        (get(b"/\r\n"), True),
    ):
        with pytest.raises(InvalidState):
            connection.context.open_request(pairs, fin, Handler())


def test_a_slow_reader_holds_the_server_back(pair: Pair) -> None:
    """What the client does not read stays with the server: no more than the stream's window is under way."""
    connection = pair.connect()
    size = 3 << 20
    pair.server_app.on_request = lambda stream: pair.server_app.answer(stream, bytes(size))
    handler = pair.request(connection, read=False)
    pair.run(lambda: pair.server_app.requests)
    pair.settle()
    stream = pair.server_app.requests[0]
    assert 0 < stream.pending < size
    handler.read = True
    handler.drain()
    pair.run(lambda: handler.over)
    assert len(handler.body) == size


def test_a_reset_ends_both_sides(pair: Pair) -> None:
    """The client gives a download up: the server is told, and nothing of the stream stays on either side."""
    connection = pair.connect()

    def answer(stream: Any) -> None:
        pair.server_app.listen(stream)
        pair.server_app.answer(stream, bytes(3 << 20))

    pair.server_app.on_request = answer
    handler = pair.request(connection, read=False)
    pair.run(lambda: pair.server_app.handlers)
    pair.settle()
    assert handler.stream is not None
    handler.stream.reset(7)
    pair.run(lambda: pair.server_app.handlers[0].stop_codes)
    pair.settle()
    assert pair.server_app.handlers[0].stop_codes == [7]
    assert pair.server_app.opened[0].context.streams == connection.context.streams == {}
    with pytest.raises(StreamClosed):
        handler.stream.enqueue(b"more")


def test_a_drain_waits_for_what_is_in_flight(pair: Pair) -> None:
    """After `goaway()` what was asked for is sent and acknowledged; what is asked for later is reset."""
    connection = pair.connect()
    body = bytes(1 << 20)
    pair.server_app.answer_with(body)
    first = pair.request(connection, read=False)
    pair.run(lambda: pair.server_app.requests)
    hq = pair.server_app.opened[0].context
    hq.goaway()
    assert not hq.drained
    late = pair.request(connection)
    pair.run(lambda: late.over)
    assert late.reset_codes
    first.read = True
    first.drain()
    pair.run(lambda: first.over)
    pair.run(lambda: hq.drained)
    assert bytes(first.body) == body


def test_the_end_of_the_connection_is_told(pair: Pair) -> None:
    """Whoever waits for a file hears of the connection's end, and later calls raise."""
    connection = pair.connect()
    pair.server_app.on_request = lambda stream: None
    handler = pair.request(connection)
    pair.run(lambda: pair.server_app.requests)
    pair.server_app.opened[0].close(5, b"over")
    pair.run(lambda: handler.over)
    assert handler.error is not None
    assert handler.error.code == 5
    pair.run(lambda: pair.server_app.closed)
    with pytest.raises(ConnectionClosed):
        pair.server_app.requests[0].enqueue(b"late", True)
