"""HTTP/3 over a connection: requests and responses, bodies, backpressure, resets, going away."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from quiche_h3._core.http3 import Http3
from quiche_h3._core.http3_state import Http3Counters
from quiche_h3._core.http3_stream import Stream
from quiche_h3.errors import ConnectionClosed, InvalidState, QuicheH3Error, StreamClosed

from .pair import OK, Handler, Pair, echo, get, listen

MakePair = Callable[..., Pair]

CANCELLED = 0x10C
INTERNAL_ERROR = 0x102
REJECTED = 0x10B


def only(pair: Pair) -> Stream:
    """The one request that the server has."""
    (stream,) = pair.server_app.requests
    return stream


# Messages


def test_a_request_and_its_response(pair: Pair) -> None:
    """RFC 9114 4.1: fields and body arrive as they were sent, in order, repeated names included."""
    fields = [(b"x-a", b"1"), (b"x-b", b""), (b"x-a", b"\xff2"), (b"cookie", b"a=b")]
    pair.server_app.on_request = lambda stream: stream.send_headers([*OK, *fields], True)
    handler = pair.fetch(pair.connect(), [*get(b"/a?b=c"), *fields])
    received = only(pair).fields
    assert (received.method, received.scheme) == (b"GET", b"https")
    assert (received.authority, received.path) == (b"localhost", b"/a?b=c")
    assert received.protocol is None
    assert received.status == 0
    assert received.pairs() == fields
    assert handler.status == 200
    assert handler.fields is not None
    assert handler.fields.pairs() == fields
    assert handler.calls == ["sent", "headers", "finished"]


def test_the_authority_may_be_in_host(pair: Pair) -> None:
    """RFC 9114 4.3.1: a request without :authority has a host field."""
    pairs = [pair_ for pair_ in get() if pair_[0] != b":authority"]
    pair.fetch(pair.connect(), [*pairs, (b"host", b"example.com:1")])
    assert only(pair).fields.authority == b"example.com:1"


@pytest.mark.parametrize("size", [0, 1, 1000, 70_000, 3_000_000])
def test_bodies_both_ways(pair: Pair, size: int) -> None:
    """RFC 9114 4.1: a body of any size comes back byte for byte."""
    body = random.Random(size).randbytes(size)
    echo(pair)
    connection = pair.connect()
    handler = pair.fetch(connection, get(method=b"POST"), body)
    assert handler.finished
    assert handler.body == body
    assert not connection.context.streams
    assert not pair.server_app.opened[0].context.streams


def test_trailers_both_ways(pair: Pair) -> None:
    """RFC 9114 4.1: trailers come after the body, in both directions."""
    echo(pair)
    trailers = [(b"x-checksum", b"1"), (b"x-b", b"2")]
    for body in (None, b"", b"body" * 50_000):
        handler = pair.request(pair.connect(), get(method=b"POST"), body, trailers=trailers)
        pair.run(lambda handler=handler: handler.over)  # type: ignore[misc]
        assert handler.finished
        assert handler.body == (body or b"")
        assert handler.trailers == trailers
        calls = [call for call in handler.calls if call in ("headers", "trailers", "finished")]
        assert calls == ["headers", "trailers", "finished"]


def test_a_fin_of_its_own(pair: Pair) -> None:
    """RFC 9114 4.1: an end that is written after everything else has been acknowledged still arrives."""
    listen(pair)
    connection = pair.connect()
    handler = pair.request(connection)
    pair.settle()
    stream = only(pair)
    stream.send_headers(OK)
    stream.enqueue(b"data")
    pair.run(lambda: handler.body == b"data")
    pair.settle()
    stream.finish()
    pair.run(lambda: handler.finished)


def test_head_has_no_body(pair: Pair) -> None:
    """RFC 9110 9.3.2: a response to HEAD may announce a length that does not come."""
    pair.server_app.on_request = lambda stream: stream.send_headers([*OK, (b"content-length", b"5")], True)
    handler = pair.fetch(pair.connect(), get(method=b"HEAD"))
    assert handler.finished
    assert handler.fields is not None
    assert handler.fields.content_length == 5
    assert handler.body == b""


def test_interim_responses(pair: Pair) -> None:
    """RFC 9114 4.1: any number of 1xx responses come before the final one."""

    def answer(stream: Stream) -> None:
        stream.send_headers([(b":status", b"103"), (b"link", b"</a>")])
        stream.send_headers([(b":status", b"103"), (b"link", b"</b>")])
        stream.send_headers(OK)
        stream.enqueue(b"x", True)

    pair.server_app.on_request = answer
    handler = pair.fetch(pair.connect())
    assert [fields.pairs() for fields in handler.interim] == [[(b"link", b"</a>")], [(b"link", b"</b>")]]
    assert (handler.status, bytes(handler.body)) == (200, b"x")


def test_many_requests_at_once_on_one_connection(pair: Pair) -> None:
    """RFC 9114 6.1: more requests than the peer grants streams wait in order for their turn."""
    echo(pair)
    connection = pair.connect()
    handlers = [pair.request(connection, get(b"/%d" % i), b"%d" % i) for i in range(450)]
    assert sum(1 for handler in handlers if handler.stream and handler.stream.id == 2**64 - 1) >= 350
    pair.run(lambda: all(handler.over for handler in handlers))
    assert [bytes(handler.body) for handler in handlers] == [b"%d" % i for i in range(450)]
    assert [stream.fields.path for stream in pair.server_app.requests] == [b"/%d" % i for i in range(450)]


def test_a_waiting_request_may_be_given_up(make_pair: MakePair) -> None:
    """A request that was reset before it got a stream is never sent."""
    pair = make_pair(server={"initial_max_streams_bidi": 1})
    listen(pair)
    connection = pair.connect()
    first, second, third = (pair.request(connection, get(b"/%d" % i)) for i in range(3))
    pair.settle()
    assert second.stream is not None
    second.stream.reset(CANCELLED)
    only(pair).send_headers(OK, True)
    pair.run(lambda: first.finished and len(pair.server_app.requests) == 2)
    assert pair.server_app.requests[1].fields.path == b"/2"
    assert third.stream is not None
    assert third.stream.id == 4


# Backpressure


def test_a_client_that_does_not_read_stops_the_server(make_pair: MakePair) -> None:
    """RFC 9000 4.1: what is sent beyond the window waits with us, and `on_drained` tells when it has gone."""
    pair = make_pair(
        client={
            "initial_max_stream_data_bidi_local": 20_000,
            "max_stream_window": 20_000,
            "initial_max_data": 100_000,
        }
    )
    listen(pair)
    connection = pair.connect()
    handler = pair.request(connection, read=False)
    pair.settle()
    stream = only(pair)
    stream.send_headers(OK)
    body = random.Random(1).randbytes(200_000)
    stream.enqueue(body)
    pair.settle()
    assert stream.pending >= 175_000
    assert "drained" not in pair.server_app.handlers[0].calls
    handler.read = True
    handler.drain()
    pair.run(lambda: "drained" in pair.server_app.handlers[0].calls)
    assert stream.pending == 0
    stream.finish()
    pair.run(lambda: handler.finished)
    assert handler.body == body


def test_write_takes_what_fits_and_tells_when_more_does(make_pair: MakePair) -> None:
    """`write` queues nothing; after a short one `on_drained` says when to go on."""
    pair = make_pair(client={"initial_max_stream_data_bidi_local": 10_000, "max_stream_window": 10_000})
    body = random.Random(2).randbytes(100_000)
    sent = 0

    def go_on() -> None:
        nonlocal sent
        stream = only(pair)
        sent += stream.write(memoryview(body)[sent:])
        assert stream.pending == 0
        assert stream.blocked == (sent < len(body))
        if sent == len(body):
            stream.finish()

    def answer(stream: Stream) -> None:
        pair.server_app.listen(stream).on["drained"] = go_on
        stream.send_headers(OK)
        go_on()

    pair.server_app.on_request = answer
    handler = pair.fetch(pair.connect())
    assert handler.body == body
    assert pair.server_app.handlers[0].calls.count("drained") > 3


def test_write_before_there_is_a_stream(make_pair: MakePair) -> None:
    """A request that waits for a stream takes nothing, and says when it does."""
    pair = make_pair(server={"initial_max_streams_bidi": 1})
    echo(pair)
    connection = pair.connect()
    first = Handler()
    first.stream = connection.context.open_request(get(method=b"POST"), False, first)
    second = Handler()
    second.stream = stream = connection.context.open_request(get(method=b"POST"), False, second)
    assert stream.write(b"data") == 0
    assert stream.blocked
    second.on["drained"] = lambda: (stream.write(b"data"), stream.finish())
    pair.settle()
    assert "drained" not in second.calls
    assert first.stream is not None
    first.stream.finish()
    pair.run(lambda: second.finished)
    assert second.body == b"data"


def test_an_upload_that_nobody_reads_stops_at_the_window(make_pair: MakePair) -> None:
    """RFC 9000 4.1: an unread body gets no more credit."""
    pair = make_pair(
        server={
            "initial_max_stream_data_bidi_remote": 30_000,
            "max_stream_window": 30_000,
            "initial_max_data": 50_000,
        }
    )
    listen(pair, read=False)
    connection = pair.connect()
    body = bytes(500_000)
    handler = pair.request(connection, get(method=b"POST"), body)
    pair.settle()
    assert handler.stream is not None
    assert handler.stream.bytes_sent <= 30_000
    reader = pair.server_app.handlers[0]
    reader.read = True
    reader.drain()
    pair.run(lambda: reader.finished)
    assert reader.body == body


def test_a_small_window_stops_fields_too(make_pair: MakePair) -> None:
    """A field section that finds no stream credit is kept, with what follows it, until there is some."""
    pair = make_pair(client={"initial_max_stream_data_bidi_local": 600, "max_stream_window": 1024})

    def answer(stream: Stream) -> None:
        stream.send_headers([*OK, (b"x", b"a" * 500)])
        stream.enqueue(b"body" * 1000)
        stream.finish([(b"t", b"b" * 400)])

    pair.server_app.on_request = answer
    handler = pair.fetch(pair.connect())
    assert handler.body == b"body" * 1000
    assert handler.trailers == [(b"t", b"b" * 400)]


# Giving up


def test_reset_by_the_client(pair: Pair) -> None:
    """RFC 9114 4.1.1: the server's handler learns the code, and its half goes too."""
    listen(pair)
    connection = pair.connect()
    handler = pair.request(connection, get(method=b"POST"), read=False)
    assert handler.stream is not None
    stream = connection.context.open_request(get(method=b"POST"), False, handler)
    pair.settle()
    stream.reset(0x1234)
    pair.settle()
    assert pair.server_app.handlers[1].reset_codes == [0x1234]
    other = pair.server_app.requests[1]
    assert not other.sending
    assert not other.receiving
    assert other.id not in pair.server_app.opened[0].context.streams
    with pytest.raises(StreamClosed):
        other.send_headers(OK)


def test_reset_by_the_server(pair: Pair) -> None:
    """RFC 9114 4.1.1: the client's handler learns the code, also in mid-body."""
    listen(pair)
    connection = pair.connect()
    handler = pair.request(connection)
    pair.settle()
    stream = only(pair)
    stream.send_headers(OK)
    stream.enqueue(b"part")
    pair.run(lambda: handler.body == b"part")
    stream.reset(INTERNAL_ERROR)
    pair.run(lambda: handler.over)
    assert handler.reset_codes == [INTERNAL_ERROR]
    assert not connection.context.streams


def test_stop_sending_reaches_the_handler(pair: Pair) -> None:
    """RFC 9000 3.5: a client that wants no more of a download tells the handler, even one that is idle."""
    listen(pair)
    connection = pair.connect()
    handler = pair.request(connection)
    pair.settle()
    stream = only(pair)
    stream.send_headers(OK)
    stream.enqueue(b"part")
    pair.run(lambda: handler.body == b"part")
    assert handler.stream is not None
    handler.stream.stop_receiving(0x4321)
    pair.settle()
    assert pair.server_app.handlers[0].stop_codes == [0x4321]
    assert not stream.sending
    assert not pair.server_app.opened[0].context.streams
    with pytest.raises(StreamClosed):
        stream.enqueue(b"more")


def test_an_early_answer_ends_the_upload(pair: Pair) -> None:
    """RFC 9114 4.1: a server may answer before the body has come, and stop it; nothing of it is a request."""

    def answer(stream: Stream) -> None:
        stream.send_headers(OK, True)
        stream.stop_receiving(0x100)

    pair.server_app.on_request = answer
    connection = pair.connect()
    handler = pair.request(connection, get(method=b"POST"), bytes(3_000_000), trailers=[(b"a", b"b")])
    pair.run(lambda: handler.over and bool(handler.stop_codes))
    assert handler.status == 200
    assert handler.stop_codes == [0x100]
    assert len(pair.server_app.requests) == 1
    assert not pair.server_app.refusals
    assert not connection.context.streams


def test_cancelled_streams_give_their_credit_back(pair: Pair) -> None:
    """RFC 9000 4.6: a thousand downloads cancelled in any way leave nothing and stop nothing."""
    body = bytes(100_000)

    def answer(stream: Stream) -> None:
        pair.server_app.listen(stream)
        pair.server_app.answer(stream, body)

    pair.server_app.on_request = answer
    connection = pair.connect()
    for i in range(1000):
        handler = pair.request(connection, get(method=b"POST"), b"" if i % 2 else None, read=False)
        if i % 5:
            pair.step()
        assert handler.stream is not None
        if i % 3 == 0:
            handler.stream.reset(CANCELLED)
        elif i % 3 == 1:
            handler.stream.stop_receiving(CANCELLED)
        else:
            handler.stream.reset(CANCELLED)
            handler.stream.stop_receiving(CANCELLED)
        if i % 7 == 0:
            pair.settle()
    pair.settle()
    assert not pair.server_app.opened[0].context.streams
    assert not connection.context.streams
    assert pair.fetch(connection).body == body


# Going away


def test_goaway(pair: Pair) -> None:
    """RFC 9114 5.2: requests seen before are finished, later ones are rejected as safe to try again."""
    listen(pair)
    connection = pair.connect()
    handler = pair.request(connection)
    pair.settle()
    pair.server_app.opened[0].context.goaway()
    pair.server_app.opened[0].context.goaway()
    late = pair.request(connection)  # crosses the GOAWAY
    pair.run(lambda: late.over)
    assert late.reset_codes == [REJECTED]
    assert pair.client_app.goaways == [4]
    only(pair).send_headers(OK, True)
    pair.run(lambda: handler.finished)
    with pytest.raises(QuicheH3Error):
        pair.request(connection)
    assert len(pair.server_app.requests) == 1


def test_goaway_ends_requests_that_wait(make_pair: MakePair) -> None:
    """RFC 9114 5.2: what never got a stream before the GOAWAY is told so."""
    pair = make_pair(server={"initial_max_streams_bidi": 1})
    listen(pair)
    connection = pair.connect()
    first = pair.request(connection)
    waiting = [pair.request(connection) for _ in range(3)]
    pair.settle()
    pair.server_app.opened[0].context.goaway()
    pair.settle()
    only(pair).send_headers(OK, True)
    pair.run(lambda: first.finished and all(handler.over for handler in waiting))
    assert [handler.reset_codes for handler in waiting] == [[REJECTED]] * 3
    assert not connection.context.streams


def test_the_end_of_the_connection_reaches_every_handler(pair: Pair) -> None:
    """A connection that goes tells each handler why, once; late calls raise and do not crash."""
    listen(pair)
    connection = pair.connect()
    handlers = [pair.request(connection) for _ in range(150)]
    pair.settle()
    accepted = pair.server_app.opened[0]
    http3, stream = accepted.context, pair.server_app.requests[0]
    connection.close(0x777, "gone")
    pair.run(lambda: accepted.closed and connection.closed)
    for handler in (*handlers, *pair.server_app.handlers):
        assert handler.calls.count("closed") == 1
        assert handler.error is not None
        assert handler.error.code == 0x777
    calls: list[Callable[[], object]] = [
        lambda: stream.send_headers(OK),
        lambda: stream.write(b"x"),
        lambda: stream.enqueue(b"x"),
        lambda: stream.finish(),
        lambda: stream.finish([(b"a", b"b")]),
        lambda: stream.send_datagram(b"x"),
        lambda: http3.send_datagram(b"x"),
        lambda: http3.open_request(get(), True, Handler()),
        lambda: connection.context.open_request(get(), True, Handler()),
    ]
    for call in calls:
        with pytest.raises(ConnectionClosed):
            call()
    assert stream.recv() == b""
    stream.stop_receiving()
    stream.reset(1)
    http3.goaway()
    assert stream.connection_closed
    assert not http3.datagrams_enabled_by_peer
    with pytest.raises(QuicheH3Error):
        Http3(accepted, pair.server_app, pair.server_app.limits, Http3Counters(), server=True)


def test_writes_out_of_order_raise(pair: Pair) -> None:
    """Each call after the end, and what no message can be, raises its typed error and sends nothing."""
    listen(pair)
    connection = pair.connect()
    handler = pair.request(connection)
    pair.settle()
    stream = only(pair)
    with pytest.raises(InvalidState):
        stream.send_headers([*OK, *[(b"a", b"b")] * 300])
    with pytest.raises(TypeError):
        stream.send_headers([[b":status", b"200"]])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        stream.send_headers([(":status", b"200")])  # type: ignore[list-item]
    stream.send_headers(OK)
    with pytest.raises(InvalidState):
        stream.finish([(b"a", b"b")] * 300)
    with pytest.raises(TypeError):
        stream.finish([("a", b"b")])  # type: ignore[list-item]
    stream.finish()
    for call in (
        lambda: stream.send_headers(OK),
        lambda: stream.write(b"x"),
        lambda: stream.enqueue(b"x"),
        stream.finish,
        lambda: stream.send_datagram(b"x"),
    ):
        with pytest.raises(StreamClosed):
            call()
    pair.run(lambda: handler.finished)
    assert handler.body == b""
    with pytest.raises(TypeError):
        Stream()


def test_what_a_request_cannot_be(pair: Pair) -> None:
    """A request that cannot be encoded raises and leaves nothing that waits for ever."""
    connection = pair.connect()
    http3 = connection.context
    with pytest.raises(InvalidState):
        http3.open_request([(b"a", b"b")] * 300, True, Handler())
    with pytest.raises(TypeError):
        http3.open_request([("a", "b")], True, Handler())
    assert pair.fetch(connection).body == b"Hello"
