"""Field sections (`_core/fields.pyx`): what is malformed reaches no handler, what is too large is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quiche_h3._core.fields import Http3Limits
from quiche_h3._core.http3_stream import Stream

from .pair import Pair, Pairs, get, listen

MakePair = Callable[..., Pair]

MESSAGE_ERROR = 0x10E

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


def test_limits_are_checked() -> None:
    """Http3Limits takes numbers that fit 32 bits."""
    with pytest.raises(OverflowError):
        Http3Limits(count=-1, name=1, value=1, total=1, path=1)
    with pytest.raises(OverflowError):
        Http3Limits(count=1 << 32, name=1, value=1, total=1, path=1)
