"""Datagrams, raw ones and those of a request, between two endpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from quiche_h3._core.http3_stream import Stream
from quiche_h3.errors import ConnectionClosed, DatagramNotEnabled, DatagramTooLarge, StreamClosed, WouldBlock

from .pair import OK, Handler, Pair, boom, get, listen

MakePair = Callable[..., Pair]


def test_datagrams_both_ways(pair: Pair) -> None:
    """RFC 9221: payloads arrive whole; what cannot be taken raises and is not sent."""
    connection = pair.connect()
    accepted = pair.server_app.opened[0]
    for i in range(20):
        connection.context.send_datagram(b"%d" % i)
        accepted.context.send_datagram(bytes(1000) + b"%d" % i)
    pair.run(lambda: len(pair.server_app.datagrams) == len(pair.client_app.datagrams) == 20)
    assert pair.server_app.datagrams == [b"%d" % i for i in range(20)]
    assert pair.client_app.datagrams == [bytes(1000) + b"%d" % i for i in range(20)]
    connection.context.send_datagram(b"")
    with pytest.raises(DatagramTooLarge):
        connection.context.send_datagram(bytes(65_000))
    full = False
    for _ in range(1000):
        try:
            connection.context.send_datagram(b"x")
        except WouldBlock:
            full = True
    assert full


def test_http_datagrams_carry_their_stream(pair: Pair) -> None:
    """RFC 9297 2.1: the quarter stream ID goes before the payload, as a varint."""
    listen(pair)
    connection = pair.connect()
    assert connection.context.datagrams_enabled_by_peer
    handlers = [pair.request(connection) for _ in range(70)]
    pair.settle()
    for i in (0, 63, 64):
        stream = handlers[i].stream
        assert stream is not None
        with pytest.raises(StreamClosed):  # its request has ended
            stream.send_datagram(b"x")
        pair.server_app.requests[i].send_datagram(b"%d" % i)
    pair.run(lambda: len(pair.client_app.datagrams) == 3)
    assert pair.client_app.datagrams == [b"\x000", b"\x3f63", b"\x40\x4064"]


def test_http_datagrams_reach_their_request(pair: Pair) -> None:
    """RFC 9297 2.1: a datagram with the quarter stream ID of a live request is its handler's."""
    taken: list[tuple[str, int, bytes]] = []

    def begin(stream: Stream) -> None:
        handler = pair.server_app.listen(stream)
        if stream.fields.path != b"/none":
            vars(handler)["on_datagram"] = lambda payload: taken.append(("server", stream.id, payload))
        stream.send_headers(OK)

    pair.server_app.on_request = begin
    connection = pair.connect()
    handlers = [pair.request(connection, get(path), b"x") for path in (b"/a", b"/b", b"/none")]
    handlers[0].stream = open_stream = connection.context.open_request(get(), False, handlers[0])
    vars(handlers[0])["on_datagram"] = lambda payload: taken.append(("client", open_stream.id, payload))
    pair.settle()
    open_stream.send_datagram(b"up")
    pair.server_app.requests[3].send_datagram(b"down")
    connection.context.send_datagram(b"\x01")  # /b, no payload
    connection.context.send_datagram(b"\x02of a handler that takes none")
    connection.context.send_datagram(b"\x40\x09of no request")
    pair.run(lambda: len(taken) == 3 and len(pair.server_app.datagrams) == 2)
    assert sorted(taken) == [("client", 12, b"down"), ("server", 4, b""), ("server", 12, b"up")]
    assert pair.server_app.datagrams == [b"\x02of a handler that takes none", b"\x40\x09of no request"]
    assert pair.server_app.counters.as_dict()["datagrams_dropped"] == 0


def test_a_datagram_handler_that_raises_loses_its_stream_only(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """As with every callback of a handler: logged, the request is reset, the connection goes on."""

    def begin(stream: Stream) -> None:
        vars(pair.server_app.listen(stream))["on_datagram"] = boom
        stream.send_headers(OK)

    pair.server_app.on_request = begin
    connection = pair.connect()
    handler = Handler()
    handler.stream = stream = connection.context.open_request(get(), False, handler)
    pair.settle()
    with caplog.at_level(logging.ERROR):
        stream.send_datagram(b"x")
        pair.run(lambda: handler.over)
    assert handler.reset_codes == [0x102]
    assert "ZeroDivisionError" in caplog.text
    pair.server_app.on_request = pair.server_app.answer
    assert pair.fetch(connection).body == b"Hello"


@pytest.mark.parametrize("payload", [b"", b"\x40", b"\xff" * 7, b"\xd0" + bytes(7)])
def test_a_datagram_without_a_quarter_stream_id(pair: Pair, payload: bytes) -> None:
    """RFC 9297 2.1: cut off, or above 2**60 - 1: H3_DATAGRAM_ERROR, unless a program takes raw datagrams."""
    connection = pair.connect()
    connection.context.send_datagram(payload)
    pair.run(lambda: pair.server_app.datagrams == [payload])
    pair.settle()
    assert not connection.draining
    pair.server_app.instead["datagram"] = lambda *_: False
    connection.context.send_datagram(b"\x09nobody wants it")
    connection.context.send_datagram(payload)
    pair.run(lambda: connection.draining)
    reason = connection.close_reason
    assert isinstance(reason, ConnectionClosed)
    assert (reason.app, reason.code, reason.remote) == (True, 0x33, True)
    assert pair.server_app.counters.as_dict()["datagrams_dropped"] == 2


def test_datagrams_not_negotiated(make_pair: MakePair) -> None:
    """RFC 9221 3: nothing is sent to a peer that has not announced them."""
    pair = make_pair(server={"enable_dgram": False})
    connection = pair.connect()
    assert not connection.context.datagrams_enabled_by_peer
    with pytest.raises(DatagramNotEnabled):
        connection.context.send_datagram(b"x")


def test_a_flood_of_datagrams_keeps_the_newest(make_pair: MakePair) -> None:
    """RFC 9221 5: datagrams may be dropped; the queue is bounded and the connection goes on."""
    pair = make_pair(server={"dgram_recv_queue_len": 16}, client={"dgram_send_queue_len": 1000})
    connection = pair.connect()
    for i in range(500):
        connection.context.send_datagram(b"%d" % i)
    pair.settle()
    assert 16 <= len(pair.server_app.datagrams) <= 500
    assert pair.fetch(connection).body == b"Hello"
