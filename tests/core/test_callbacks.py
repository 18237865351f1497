"""What a callback does that raises, closes, or calls what it must not: nobody else is harmed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from quiche_h3._core.http3_stream import Stream

from .pair import OK, Handler, Pair, boom, echo, get, listen

MakePair = Callable[..., Pair]

CANCELLED = 0x10C
INTERNAL_ERROR = 0x102


@pytest.mark.parametrize("name", ["readable", "trailers", "finished", "reset", "stopped", "drained", "sent"])
def test_a_handler_that_raises_loses_its_stream_only(
    make_pair: MakePair, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The exception is logged once; the connection and its other streams go on."""
    pair = make_pair(client={"initial_max_stream_data_bidi_local": 10_000})

    def begin(stream: Stream) -> None:
        handler = pair.server_app.listen(stream)
        if stream.fields.path == b"/bad":
            handler.on[name] = boom
        stream.send_headers(OK)
        handler.on["finished"] = (
            boom
            if name == "finished" and stream.fields.path == b"/bad"
            else lambda: stream.enqueue(bytes(50_000), name != "drained")
        )

    pair.server_app.on_request = begin
    connection = pair.connect()
    with caplog.at_level(logging.ERROR):
        bad = pair.request(
            connection, get(b"/bad", b"POST"), b"body", trailers=[(b"a", b"b")], read=name != "stopped"
        )
        if name == "reset":
            bad = Handler()
            bad.stream = connection.context.open_request(get(b"/bad", b"POST"), False, bad)
            pair.settle()
            assert bad.stream is not None
            bad.stream.reset(CANCELLED)
        pair.settle()
        if name == "stopped":
            assert bad.stream is not None
            bad.stream.stop_receiving(CANCELLED)
        pair.settle()
    assert sum("ZeroDivisionError" in str(record.exc_info) for record in caplog.records) == 1
    if name in ("readable", "trailers", "finished"):
        assert bad.reset_codes == [INTERNAL_ERROR]
    good = pair.request(connection, get(b"/good", b"POST"), b"body")
    if name != "drained":
        pair.run(lambda: good.finished)
    else:
        pair.run(lambda: len(good.body) == 50_000)
    assert len(pair.server.connections) == 1


def test_an_application_that_raises(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Every call of the application may raise: it is logged, and the server goes on."""
    app = pair.server_app
    for name in ("connection_opened", "connection_closed", "datagram"):
        app.instead[name] = boom
    connection = pair.connect()
    connection.context.send_datagram(b"x")
    app.on_request = boom
    assert pair.fetch(connection).reset_codes == [INTERNAL_ERROR]
    pair.server_app.instead["refused"] = boom
    assert pair.fetch(connection, get()[:-1]).reset_codes == [INTERNAL_ERROR]
    pair.client_app.instead["goaway"] = boom
    (accepted,) = pair.server.connections.values()
    accepted.context.goaway()
    pair.settle()
    connection.close()
    pair.run(lambda: not pair.server.connections and not pair.client.connections)
    assert sum("ZeroDivisionError" in str(record.exc_info) for record in caplog.records) == 6
    app.on_request = app.answer
    assert pair.fetch(pair.connect()).body == b"Hello"


def test_no_protocol_no_connection(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """A protocol that cannot be started closes its connection with H3_INTERNAL_ERROR."""
    pair.server_app.instead["protocol"] = boom
    connection = pair.client.connect(0, ("192.0.2.1", 443), "localhost")
    pair.run(lambda: connection.closed)
    assert connection.close_reason is not None
    assert connection.close_reason.code == INTERNAL_ERROR
    pair.run(lambda: not pair.server.connections)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_the_turn_in_order(pair: Pair, interrupt: type[BaseException]) -> None:
    """KeyboardInterrupt leaves `turn()`, after the turn has done its work for everybody else."""

    def raise_it(stream: Stream) -> None:
        raise interrupt

    pair.server_app.on_request = raise_it
    first, second = pair.connect(), pair.connect()
    pair.request(first)
    with pytest.raises(interrupt):
        pair.settle()
    assert not pair.server.turning
    pair.server_app.on_request = pair.server_app.answer
    assert pair.fetch(second).body == b"Hello"


@pytest.mark.parametrize(
    "name", ["request", "headers", "readable", "finished", "sent", "drained", "opened", "datagram", "reset"]
)
def test_a_callback_may_close_its_connection(pair: Pair, name: str) -> None:
    """Closing the connection inside any callback is safe, and the close is sent."""
    echo(pair)
    server, client = pair.server_app, pair.client_app
    if name == "opened":
        server.instead["connection_opened"] = lambda c: c.close(5)
        client.keep = False
    elif name == "datagram":
        server.instead["datagram"] = lambda c, payload: c.close(5)
    elif name == "request":
        server.on_request = lambda stream: stream.connection.close(5)
    connection = pair.client.connect(0, ("192.0.2.1", 443), "localhost")
    pair.run(lambda: connection.established or connection.closed)
    pair.settle()
    if name != "opened":
        connection.context.send_datagram(b"x")
        handler = pair.request(connection, get(method=b"POST"), bytes(100_000))
        handler.on[name] = lambda: connection.close(5)
        if name == "reset":
            server.on_request = lambda stream: stream.reset(1)
        if name == "drained":
            assert handler.stream is not None
        pair.run(lambda: connection.closed or (name == "drained" and handler.over))
    pair.run(lambda: name == "drained" or (connection.closed and not pair.server.connections))
    if name != "drained":
        assert connection.close_reason is not None
        assert connection.close_reason.code == 5


def test_drop_all_and_turn_refuse_to_nest(pair: Pair) -> None:
    """A handler that would pull the ground from under the turn gets an error instead."""
    raised: list[str] = []

    def nest(stream: Stream) -> None:
        for call in (pair.server.turn, pair.server.drop_all):
            with pytest.raises(RuntimeError) as info:
                call()
            raised.append(str(info.value))
        pair.server_app.answer(stream)

    pair.server_app.on_request = nest
    assert pair.fetch(pair.connect()).body == b"Hello"
    assert len(raised) == 2


def test_a_close_callback_may_touch_the_others(pair: Pair) -> None:
    """When one connection goes, its callback may close or use all others; none of that is lost."""
    listen(pair)
    connections = [pair.connect() for _ in range(5)]
    handlers = [pair.request(connection) for connection in connections]
    pair.settle()

    def tell_the_others(gone: object) -> None:
        for stream in pair.server_app.requests:
            if not stream.connection_closed and stream.sending:
                stream.send_headers(OK, True)

    pair.server_app.instead["connection_closed"] = tell_the_others
    connections[2].close()
    pair.run(lambda: all(handler.over for handler in handlers))
    assert sum(handler.finished for handler in handlers) == 4

    def close_the_others(gone: object) -> None:
        for connection in list(pair.server.connections.values()):
            connection.close(9)

    pair.server_app.instead["connection_closed"] = close_the_others
    connections[0].close(9)
    pair.run(lambda: not pair.server.connections and not pair.client.connections)
    assert {c.close_reason.code for c in connections if c.close_reason} == {9, 0x100}
    connections = [pair.connect() for _ in range(5)]
    pair.server.drop_all()
    pair.server.turn()
    assert not pair.server.connections
