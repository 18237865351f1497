"""Field sections of requests (RFC 9114 4.1 to 4.4, RFC 9110 5, RFC 8441 4): the malformed reach no handler.

A malformed request is a stream error H3_MESSAGE_ERROR, after a 400 where it can be sent, never an error of
the connection: the next request on it is answered. One over a limit of ours gets the status of that limit.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiche_h3 import H3ErrorCode

from . import wire
from .conftest import make_server
from .peer import Answer, MemoryServer, Peer, good_request

Pairs = list[tuple[bytes, bytes]]

GET = wire.request()
METHOD, SCHEME, AUTHORITY, PATH = GET


def without(name: bytes) -> Pairs:
    return [pair for pair in GET if pair[0] != name]


def changed(name: bytes, value: bytes) -> Pairs:
    return [(n, value if n == name else v) for n, v in GET]


def plus(*pairs: tuple[bytes, bytes]) -> Pairs:
    return [*GET, *pairs]


MALFORMED: dict[str, Pairs] = {
    # pseudo-header fields (RFC 9114 4.3)
    "no :method": without(b":method"),
    "no :scheme": without(b":scheme"),
    "no :path": without(b":path"),
    "no :authority and no host": without(b":authority"),
    "no fields at all": [],
    "two :method": plus(METHOD),
    "two :scheme": plus(SCHEME),
    "two :path": plus(PATH),
    "two :authority": plus(AUTHORITY),
    "two :path that differ": [*GET[:3], (b":path", b"/a"), (b":path", b"/b")],
    "an unknown pseudo-header": plus((b":foo", b"bar")),
    "a pseudo-header that is only a colon": plus((b":", b"x")),
    ":status in a request": plus((b":status", b"200")),
    ":path after a field": [*GET[:3], (b"x-a", b"b"), PATH],
    ":method after a field": [(b"x-a", b"b"), *GET],
    "a pseudo-header in upper case": [(b":Method", b"GET"), *GET[1:]],
    "an empty :method": changed(b":method", b""),
    ":method with a space": changed(b":method", b"GET /"),
    ":method with a line feed": changed(b":method", b"GET\n"),
    ":method that is no token": changed(b":method", b"G(E)T"),
    "an empty :scheme": changed(b":scheme", b""),
    ":scheme with a space": changed(b":scheme", b"ht tps"),
    ":scheme that begins with a digit": changed(b":scheme", b"1https"),
    ":scheme with a colon": changed(b":scheme", b"https:"),
    "an empty :path": changed(b":path", b""),
    ":path without its slash": changed(b":path", b"index.html"),
    ":path that is a whole URL": changed(b":path", b"https://localhost/"),
    ":path * for GET": changed(b":path", b"*"),
    ":path with a space": changed(b":path", b"/a b"),
    ":path with a tab": changed(b":path", b"/a\tb"),
    ":path with NUL": changed(b":path", b"/a\0b"),
    ":path with CR LF": changed(b":path", b"/ HTTP/1.1\r\nx: y"),
    ":path with a fragment": changed(b":path", b"/a#b"),
    ":path with DEL": changed(b":path", b"/a\x7f"),
    "an empty :authority": changed(b":authority", b""),
    ":authority with userinfo": changed(b":authority", b"user@localhost"),
    ":authority with a password": changed(b":authority", b"user:secret@localhost"),
    ":authority with a path": changed(b":authority", b"localhost/a"),
    ":authority with a query": changed(b":authority", b"localhost?a"),
    ":authority with a space": changed(b":authority", b"local host"),
    ":authority with NUL": changed(b":authority", b"localhost\0"),
    ":authority and another host": plus((b"host", b"example.com")),
    "an empty host alone": [*without(b":authority"), (b"host", b"")],
    "two host fields": plus((b"host", b"localhost"), (b"host", b"localhost")),
    ":protocol without CONNECT": plus((b":protocol", b"webtransport")),
    # names (RFC 9114 4.2, RFC 9110 5.1)
    "an empty name": plus((b"", b"x")),
    "a name in upper case": plus((b"X-Custom", b"x")),
    "one upper case letter at its end": plus((b"x-customA", b"x")),
    "a name with a space": plus((b"x custom", b"x")),
    "a name with a space before": plus((b" x", b"x")),
    "a name with a space after": plus((b"x ", b"x")),
    "a name with a colon": plus((b"x:y", b"x")),
    "a name with NUL": plus((b"x\0", b"x")),
    "a name with CR LF": plus((b"x\r\ny", b"x")),
    "a name with DEL": plus((b"x\x7f", b"x")),
    "a name with obs-text": plus((b"x\xe4", b"x")),
    "a name with parentheses": plus((b"x(y)", b"x")),
    "a name with a comma": plus((b"x,y", b"x")),
    "a name with a slash": plus((b"x/y", b"x")),
    "a name in quotes": plus((b'"x"', b"x")),
    # values (RFC 9110 5.5)
    "a value with NUL": plus((b"x", b"a\0b")),
    "a value with CR": plus((b"x", b"a\rb")),
    "a value with LF": plus((b"x", b"a\nb")),
    "a value with CR LF": plus((b"x", b"a\r\nset-cookie: b")),
    "a value with a space before": plus((b"x", b" a")),
    "a value with a space after": plus((b"x", b"a ")),
    "a value with a tab before": plus((b"x", b"\ta")),
    "a value with a tab after": plus((b"x", b"a\t")),
    "a value that is one space": plus((b"x", b" ")),
    "a value with a bell": plus((b"x", b"a\x07b")),
    "a value with escape": plus((b"x", b"\x1b[2J")),
    "a value with DEL": plus((b"x", b"a\x7fb")),
    # fields of a connection (RFC 9114 4.2)
    "connection": plus((b"connection", b"close")),
    "keep-alive": plus((b"keep-alive", b"timeout=5")),
    "proxy-connection": plus((b"proxy-connection", b"keep-alive")),
    "transfer-encoding": plus((b"transfer-encoding", b"chunked")),
    "transfer-encoding: identity": plus((b"transfer-encoding", b"identity")),
    "upgrade": plus((b"upgrade", b"websocket")),
    "te: gzip": plus((b"te", b"gzip")),
    "te: trailers, gzip": plus((b"te", b"trailers, gzip")),
    "an empty te": plus((b"te", b"")),
    # content-length (RFC 9110 8.6, RFC 9114 4.1.2)
    "content-length twice, not equal": plus((b"content-length", b"1"), (b"content-length", b"2")),
    "content-length as a list": plus((b"content-length", b"1, 2")),
    "content-length with a plus": plus((b"content-length", b"+0")),
    "content-length with a minus": plus((b"content-length", b"-1")),
    "an empty content-length": plus((b"content-length", b"")),
    "content-length in hex": plus((b"content-length", b"0x0")),
    "content-length with a fraction": plus((b"content-length", b"0.0")),
    "content-length with a space inside": plus((b"content-length", b"0 0")),
    "content-length past 64 bits": plus((b"content-length", b"18446744073709551616")),
    "content-length without a body": plus((b"content-length", b"5")),
    # CONNECT (RFC 9114 4.4, RFC 8441 4)
    "CONNECT with :scheme": [(b":method", b"CONNECT"), SCHEME, AUTHORITY],
    "CONNECT with :path": [(b":method", b"CONNECT"), AUTHORITY, PATH],
    "CONNECT with :scheme and :path": [(b":method", b"CONNECT"), *GET[1:]],
    "CONNECT without :authority": [(b":method", b"CONNECT")],
    "CONNECT with an empty :authority": [(b":method", b"CONNECT"), (b":authority", b"")],
    "extended CONNECT that was not offered": [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        *GET[1:],
    ],
}

WELL_FORMED: dict[str, Pairs] = {
    "nothing but the pseudo-header fields": GET,
    "in any order": [PATH, AUTHORITY, SCHEME, METHOD],
    "host instead of :authority": [*without(b":authority"), (b"host", b"localhost")],
    "host as :authority": plus((b"host", b"localhost")),
    "another scheme": changed(b":scheme", b"http"),
    "a port": changed(b":authority", b"localhost:4433"),
    "an IPv6 authority": changed(b":authority", b"[::1]:4433"),
    "a query": changed(b":path", b"/?a=b&c=%20"),
    "te: trailers": plus((b"te", b"trailers")),
    "an empty value": plus((b"x-empty", b"")),
    "obs-text in a value": plus((b"x", b"gr\xfc\xdf dich")),
    "a tab inside a value": plus((b"x", b"a\tb")),
    "every token character in a name": plus((b"!#$%&'*+-.^_`|~0a", b"x")),
    "content-length: 0": plus((b"content-length", b"0")),
    "content-length twice, equal": plus((b"content-length", b"0"), (b"content-length", b"0")),
    "a field twice": plus((b"x", b"1"), (b"x", b"2")),
    "cookie crumbs": plus((b"cookie", b"a=b"), (b"cookie", b"c=d")),
}


@pytest.fixture(scope="module")
def one_server() -> Iterator[MemoryServer]:
    """One for all: none of them may harm the next."""
    with make_server(max_header_count=50) as server:
        yield server


def refused(answer: Answer) -> bool:
    """It ended as a stream error, after a 400 or with nothing."""
    return answer.reset == H3ErrorCode.H3_MESSAGE_ERROR and answer.status in (400, None) and not answer.body


def assert_refused(server: MemoryServer, data: bytes, fin: bool = True) -> None:
    """The stream is refused without a handler, the connection serves on, and so do new ones."""
    before = len(server.calls)
    peer = Peer(server).open()
    answer = peer.fetch(data, fin=fin)
    assert refused(answer), answer
    assert server.calls[before:] == []
    assert peer.closed is None
    assert peer.fetch(wire.get(), stream_id=4).status == 200
    good_request(server)


def test_their_number() -> None:
    """At least 60, each another."""
    assert len({tuple(pairs) for pairs in MALFORMED.values()}) == len(MALFORMED) >= 60


@pytest.mark.parametrize("pairs", MALFORMED.values(), ids=MALFORMED)
def test_malformed(pairs: Pairs, one_server: MemoryServer) -> None:
    """Whole requests, with their FIN."""
    assert_refused(one_server, wire.headers(pairs))


@pytest.mark.parametrize(
    "pairs",
    [pytest.param(pairs, id=name) for name, pairs in MALFORMED.items() if "without a body" not in name],
)
def test_malformed_before_a_body(pairs: Pairs, one_server: MemoryServer) -> None:
    """The same before a body that is still to come: it is stopped, with the same code."""
    peer = Peer(one_server).open()
    before = len(one_server.calls)
    answer = peer.fetch(wire.headers(pairs), fin=False)
    assert refused(answer)
    assert answer.stop == H3ErrorCode.H3_MESSAGE_ERROR
    assert one_server.calls[before:] == []
    assert peer.closed is None
    assert peer.fetch(wire.get(), stream_id=4).status == 200


@pytest.mark.parametrize("pairs", WELL_FORMED.values(), ids=WELL_FORMED)
def test_well_formed(pairs: Pairs, one_server: MemoryServer) -> None:
    """What looks odd and is allowed."""
    answer = Peer(one_server).open().fetch(wire.headers(pairs))
    assert (answer.status, answer.body, answer.reset) == (200, b"Hello", None)


POST = wire.request(b"/body", b"POST")
BODIES = [
    ("shorter", b"5", [b"abc"], True),
    ("shorter, in parts", b"5", [b"ab", b"cd"], True),
    ("longer", b"2", [b"abc"], True),
    ("longer, the end not there yet", b"2", [b"abc"], False),
    ("longer, in parts", b"3", [b"ab", b"cd"], True),
    ("any where none is announced", b"0", [b"a"], True),
]


@pytest.mark.parametrize(
    ("length", "parts", "fin"), [case[1:] for case in BODIES], ids=[c[0] for c in BODIES]
)
def test_content_length_and_body(
    length: bytes, parts: list[bytes], fin: bool, one_server: MemoryServer
) -> None:
    """RFC 9114 4.1.2: a body that is not as long as content-length says makes the message malformed."""
    data = wire.headers([*POST, (b"content-length", length)])
    assert_refused(one_server, data + b"".join(wire.frame(wire.DATA, part) for part in parts), fin)


def test_content_length_that_is_right(one_server: MemoryServer) -> None:
    """However the body is cut, and with trailers behind it."""
    data = wire.headers([*POST, (b"content-length", b"4")])
    data += wire.frame(wire.DATA, b"ab") + wire.frame(wire.DATA) + wire.frame(wire.DATA, b"cd")
    assert Peer(one_server).open().fetch(data).body == b"4"
    assert Peer(one_server).open().fetch(data + wire.headers([(b"x-sum", b"1")])).body == b"4"


TRAILERS: dict[str, Pairs] = {
    "a pseudo-header": [(b":path", b"/")],
    ":status": [(b":status", b"200")],
    "an upper case name": [(b"X-Sum", b"1")],
    "an empty name": [(b"", b"1")],
    "a line feed": [(b"x-sum", b"1\n")],
    "connection": [(b"connection", b"close")],
    "content-length": [(b"content-length", b"3")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
}


@pytest.mark.parametrize("pairs", TRAILERS.values(), ids=TRAILERS)
def test_malformed_trailers(pairs: Pairs, one_server: MemoryServer) -> None:
    """RFC 9114 4.3: no pseudo-header fields in trailers; all other rules hold as well."""
    data = wire.headers(POST) + wire.frame(wire.DATA, b"abc") + wire.headers(pairs)
    assert_refused(one_server, data)


LIMITS: dict[str, tuple[Pairs, int]] = {
    "too many fields": (plus(*[(b"x", b"y")] * 60), 431),
    "a name too long": (plus((b"x" * 300, b"y")), 431),
    "a value too long": (plus((b"x", b"y" * 9000)), 431),
    "a section too large": (plus(*[(b"x", b"y" * 4000)] * 9), 431),
    "a path too long": (changed(b":path", b"/" + b"a" * 3000), 414),
}


@pytest.mark.parametrize(("pairs", "status"), LIMITS.values(), ids=LIMITS)
def test_limits(pairs: Pairs, status: int, one_server: MemoryServer) -> None:
    """Over a limit of ours: its status, no handler, and the connection goes on (RFC 9114 4.2.2)."""
    before = len(one_server.calls)
    peer = Peer(one_server).open()
    assert peer.fetch(wire.headers(pairs)).status == status
    assert one_server.calls[before:] == []
    assert peer.closed is None
    assert peer.fetch(wire.get(), stream_id=4).status == 200


# Properties

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=20).map(
    str.encode
)
SPECIAL = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te"}
NAME = TOKEN.filter(lambda name: name not in SPECIAL | {b"content-length", b"host", b"expect"})
VISIBLE = st.binary(max_size=30).map(
    lambda v: bytes(b for b in v if b == 9 or (b >= 32 and b != 127)).strip(b" \t")
)
FIELDS = st.lists(st.tuples(NAME, VISIBLE), max_size=20)
FORBIDDEN = st.sampled_from([b"\0", b"\r", b"\n", b"\x0b", b"\x1f", b"\x7f"])
MUTATION = st.one_of(
    st.builds(lambda n, b, v: (n + b, v), NAME, FORBIDDEN, VISIBLE),
    st.builds(lambda n, v, b, w: (n, b"x" + v + b + w + b"x"), NAME, VISIBLE, FORBIDDEN, VISIBLE),
    st.builds(
        lambda n, c, v: (n + c, v),
        NAME,
        st.sampled_from([bytes([c]) for c in b'ABCXYZ ()[]{},;:<=>?@/\\"']),
        VISIBLE,
    ),
    st.builds(lambda n, v: (b":" + n, v), NAME, VISIBLE),
    st.builds(lambda n, v: (n, b" " + v), NAME, VISIBLE),
    st.builds(lambda n, v: (n, v + b"\t"), NAME, VISIBLE),
    st.sampled_from(sorted(SPECIAL)).map(lambda name: (name, b"x")),
    st.sampled_from(GET),
)


@given(FIELDS)
@settings(max_examples=150, deadline=None)
def test_every_well_formed_list_is_accepted(one_server: MemoryServer, pairs: Pairs) -> None:
    """Tokens as names, visible characters as values: the handler runs."""
    answer = Peer(one_server).open().fetch(wire.headers([*GET, *pairs]))
    assert answer.status == 200
    assert answer.reset is None


@given(FIELDS, MUTATION, st.data())
@settings(max_examples=300, deadline=None)
def test_every_mutated_list_is_refused(
    one_server: MemoryServer, pairs: Pairs, bad: tuple[bytes, bytes], data: st.DataObject
) -> None:
    """One bad field at any place: no handler, a stream error, a living connection."""
    at = data.draw(st.integers(0, len(pairs)))
    before = len(one_server.calls)
    peer = Peer(one_server).open()
    assert refused(peer.fetch(wire.headers([*GET, *pairs[:at], bad, *pairs[at:]])))
    assert one_server.calls[before:] == []
    assert peer.closed is None
    assert peer.fetch(wire.get(), stream_id=4).status == 200
