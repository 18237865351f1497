"""HTTP/3 over a connection: requests and responses, bodies, resets, limits, what is malformed."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import pytest

from quiche_h3._core.fields import Http3Limits
from quiche_h3._core.http3 import Http3
from quiche_h3._core.http3_state import Http3Counters
from quiche_h3._core.http3_stream import Stream
from quiche_h3.errors import (
    ConnectionClosed,
    DatagramNotEnabled,
    DatagramTooLarge,
    InvalidState,
    QuicheH3Error,
    StreamClosed,
    WouldBlock,
)

from .pair import OK, Handler, Pair, Pairs, get

MakePair = Callable[..., Pair]

CANCELLED = 0x10C
MESSAGE_ERROR = 0x10E
INTERNAL_ERROR = 0x102
REJECTED = 0x10B


def echo(pair: Pair) -> None:
    """The server answers with the request's body, and its trailers, as they come."""

    def begin(stream: Stream) -> None:
        handler = pair.server_app.listen(stream)
        stream.send_headers(OK)

        def pass_on() -> None:
            if handler.body:
                stream.enqueue(bytes(handler.body))
                handler.body.clear()

        handler.on["readable"] = pass_on
        handler.on["finished"] = lambda: stream.finish(handler.trailers)
        if not stream.receiving:
            stream.finish()

    pair.server_app.on_request = begin


def listen(pair: Pair, *, read: bool = True) -> None:
    """The server takes requests and answers nothing."""
    pair.server_app.on_request = lambda stream: pair.server_app.listen(stream, read=read)


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


# What is malformed


REQUEST = dict(get())


def changed(**values: bytes | None) -> Pairs:
    """A good request with pseudo-header fields replaced, or left out where the value is None."""
    fields = {**REQUEST, **{b":" + key.encode(): value for key, value in values.items()}}
    return [(key, value) for key, value in fields.items() if value is not None]


CONNECT = [(b":method", b"CONNECT"), (b":authority", b"a:1")]

MALFORMED: list[Pairs] = [
    [*get(), (b"", b"a")],
    [*get(), (b"a b", b"a")],
    [*get(), (b"a:", b"a")],
    [*get(), (b"a\0", b"a")],
    [*get(), (b"a\r", b"a")],
    [*get(), (b"\xe4", b"a")],
    [*get(), (b"(a)", b"a")],
    [*get(), (b"a\x7f", b"a")],
    [*get(), (b"a", b"b\rc")],
    [*get(), (b"a", b"b\nc")],
    [*get(), (b"a", b"b\0c")],
    [*get(), (b"a", b"\x01")],
    [*get(), (b"a", b"\x7f")],
    [*get(), (b"a", b" b")],
    [*get(), (b"a", b"b ")],
    [*get(), (b"a", b"\tb")],
    [*get(), (b"a", b"b\t")],
    [*get(), (b"connection", b"close")],
    [*get(), (b"keep-alive", b"timeout=5")],
    [*get(), (b"proxy-connection", b"close")],
    [*get(), (b"transfer-encoding", b"chunked")],
    [*get(), (b"upgrade", b"h2c")],
    [*get(), (b"te", b"gzip")],
    [*get(), (b"te", b"trailers, gzip")],
    [*get(), (b"te", b"")],
    [*get(), (b":unknown", b"a")],
    [*get(), (b":", b"a")],
    [*get(), (b":status", b"200")],
    [*get(), (b":method", b"GET")],
    [*get(), (b":path", b"/")],
    [*get(), (b":scheme", b"https")],
    [*get(), (b":authority", b"localhost")],
    [(b"a", b"b"), *get()],
    [*get()[:3], (b"a", b"b"), get()[3]],
    changed(method=None),
    changed(scheme=None),
    changed(path=None),
    changed(authority=None),
    changed(method=b""),
    changed(method=b"G T"),
    changed(method=b"GET\0"),
    changed(scheme=b""),
    changed(scheme=b"ht tp"),
    changed(scheme=b"1https"),
    changed(path=b""),
    changed(path=b"a"),
    changed(path=b"*"),
    changed(path=b"/a b"),
    changed(path=b"/a#b"),
    changed(path=b"/\x7f"),
    changed(path=b"http://localhost/"),
    changed(authority=b""),
    changed(authority=b"user@localhost"),
    changed(authority=b"a b"),
    changed(authority=b"a/b"),
    changed(authority=b"a?b"),
    changed(authority=b"\xe4"),
    [*get(), (b"host", b"other")],
    [*get(), (b"host", b"localhos")],
    [*get(), (b"host", b"localhost"), (b"host", b"localhost")],
    [*changed(authority=None), (b"host", b"")],
    [*get(), (b"content-length", b"")],
    [*get(), (b"content-length", b"+1")],
    [*get(), (b"content-length", b"-1")],
    [*get(), (b"content-length", b"1 ")],
    [*get(), (b"content-length", b"1,1")],
    [*get(), (b"content-length", b"0x1")],
    [*get(), (b"content-length", b"9" * 30)],
    [*get(), (b"content-length", b"0"), (b"content-length", b"1")],
    [*get(), (b"content-length", b"5")],  # and no body comes
    [*CONNECT, (b":path", b"/")],
    [*CONNECT, (b":scheme", b"https")],
    [CONNECT[0]],
    [CONNECT[0], (b":authority", b"")],
    changed(protocol=b"websocket"),
    [(b":protocol", b"websocket"), *changed(method=b"CONNECT")],  # extended CONNECT was not announced
]
# Not here: upper case names and empty sections, which quiche's encoder does not write.

WELL_FORMED: list[Pairs] = [
    changed(method=b"OPTIONS", path=b"*"),
    changed(method=b"PROPFIND"),
    changed(method=b"x!"),
    changed(path=b"//a/../%00?a=b?c"),
    changed(path=b"/\xc3\xa4"),
    changed(authority=b"[::1]:443"),
    changed(scheme=b"coap+tcp"),
    [*get(), (b"te", b"trailers")],
    [*get(), (b"host", b"localhost")],
    [*get(), (b"content-length", b"0")],
    [*get(), (b"content-length", b"0"), (b"content-length", b"0")],
    [*get(), (b"a", b"b\tc d\xff")],
    [*get(), (b"a", b"")],
    [*get(), (b"!#$%&'*+-.^_`|~09az", b"a")],
    CONNECT,
]


def test_malformed_requests_never_reach_a_handler(pair: Pair) -> None:
    """RFC 9114 4.1.2, 4.2, 4.3, 10.3: each is refused for itself, the connection lives on."""
    assert len(MALFORMED) >= 60
    connection = pair.connect()
    for i, pairs in enumerate(MALFORMED):
        handler = pair.fetch(connection, pairs)
        assert not pair.server_app.requests, pairs
        assert pair.server_app.refusals == [400] * (i + 1), pairs
        assert handler.status == 400, pairs
    assert pair.server_app.counters.as_dict()["malformed"] == len(MALFORMED)
    assert pair.fetch(connection).body == b"Hello"


@pytest.mark.parametrize("pairs", WELL_FORMED)
def test_unusual_requests_are_served(pair: Pair, pairs: Pairs) -> None:
    """RFC 9110, 9114: what is allowed is not refused."""
    assert pair.fetch(pair.connect(), pairs).status == 200
    assert not pair.server_app.refusals


def test_a_refused_request_has_no_fields(pair: Pair) -> None:
    """Nothing of a section that was not accepted can be seen."""
    seen: list[tuple[object, ...]] = []

    def refused(stream: Stream, status: int) -> None:
        f = stream.fields
        seen.append((f.method, f.path, f.scheme, f.authority, f.protocol, f.status, f.pairs()))
        stream.send_headers([(b":status", b"400")], True)

    pair.server_app.instead["refused"] = refused
    pair.fetch(pair.connect(), [*get(), (b"host", b"x"), (b"a b", b"b")])
    assert seen == [(None, None, None, None, None, 0, [])]


@pytest.mark.parametrize(
    "trailers", [[(b":path", b"/")], [(b"a ", b"b")], [(b"content-length", b"1")], [(b"a", b"b\n")]]
)
def test_malformed_trailers(pair: Pair, trailers: Pairs) -> None:
    """RFC 9114 4.3: no pseudo-header fields in trailers; the stream ends with H3_MESSAGE_ERROR."""
    listen(pair)
    handler = pair.request(pair.connect(), get(method=b"POST"), b"body", trailers=trailers)
    pair.run(lambda: bool(handler.reset_codes))
    assert handler.reset_codes == [MESSAGE_ERROR]
    assert pair.server_app.handlers[0].reset_codes == [MESSAGE_ERROR]
    assert pair.server_app.handlers[0].trailers is None


@pytest.mark.parametrize(
    "pairs",
    [
        [(b"a", b"b")],
        [(b":status", b"20")],
        [(b":status", b"2000")],
        [(b":status", b"abc")],
        [(b":status", b"000")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"200"), (b"not a token", b"a")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b"a", b"b"), (b":status", b"200")],
    ],
)
def test_malformed_responses(pair: Pair, pairs: Pairs) -> None:
    """RFC 9114 4.1.2, 4.3.2: a client treats them as H3_MESSAGE_ERROR."""
    pair.server_app.on_request = lambda stream: stream.send_headers(pairs)
    handler = pair.fetch(pair.connect())
    assert handler.reset_codes == [MESSAGE_ERROR]
    assert handler.fields is None


def test_limits_of_a_field_section(make_pair: MakePair) -> None:
    """RFC 9110 15.5.15, RFC 6585 5: 414 for a path that is too long, 431 for too many or too large fields."""
    pair = make_pair(limits={"count": 10, "name": 20, "value": 100, "total": 600, "path": 50})
    connection = pair.connect()
    for pairs, status in (
        (get(b"/" * 50), 200),
        (get(b"/" * 51), 414),
        (get(b"/" * 101), 414),
        ([*get(), (b"a" * 20, b"b")], 200),
        ([*get(), (b"a" * 21, b"b")], 431),
        ([*get(), (b"a", b"b" * 100)], 200),
        ([*get(), (b"a", b"b" * 101)], 431),
        ([*get(), *[(b"a", b"b")] * 6], 200),
        ([*get(), *[(b"a", b"b")] * 7], 431),
        ([*get(), *[(b"a", b"b" * 90)] * 4], 431),
    ):
        assert pair.fetch(connection, pairs).status == status, pairs


def test_quiches_own_limit_closes_the_connection(make_pair: MakePair) -> None:
    """RFC 9114 4.2.2, 8.1: beyond `max_field_section_size` the peer is attacking: H3_EXCESSIVE_LOAD."""
    pair = make_pair(server={"max_field_section_size": 2000})
    connection = pair.connect()
    handler = pair.request(connection, [*get(), *[(b"a", b"b" * 500)] * 10])
    pair.run(lambda: connection.closed)
    assert handler.error is not None
    assert (handler.error.app, handler.error.code, handler.error.remote) == (True, 0x107, True)


# Datagrams


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


# Callbacks that raise


def boom(*_: object) -> None:
    raise ZeroDivisionError("from a callback")


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
    assert pair.fetch(connection, changed(path=None)).reset_codes == [INTERNAL_ERROR]
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


def test_limits_are_checked() -> None:
    """Http3Limits takes numbers that fit 32 bits."""
    with pytest.raises(OverflowError):
        Http3Limits(count=-1, name=1, value=1, total=1, path=1)
    with pytest.raises(OverflowError):
        Http3Limits(count=1 << 32, name=1, value=1, total=1, path=1)
