"""Header field sections: the mapping a handler reads, and the gate that its own headers pass."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiche_h3.errors import HandlerError, HeaderInvalid
from quiche_h3.headers import Headers, encode_header

SECTION = Headers(
    [
        (b"accept", b"text/html"),
        (b"Set-Cookie", b"a=1"),
        (b"accept", b"*/*;q=0.1"),
        (b"set-cookie", b"b=2"),
        (b"cookie", b"x=1"),
        (b"cookie", b"y=2"),
        (b"x-latin", b"caf\xe9"),
    ]
)

NAMES = st.text("abcXYZ019-_!~", min_size=1, max_size=12)
VALUES = st.binary(max_size=20)


class TestHeaders:
    def test_lookup_is_case_insensitive_for_str_and_bytes(self) -> None:
        """Field names are case-insensitive (RFC 9110 5.1)."""
        assert SECTION["ACCEPT"] == SECTION[b"Accept"] == SECTION.get("accept")
        with pytest.raises(KeyError):
            SECTION["absent"]

    @pytest.mark.parametrize(
        ("key", "found"), [("SET-cookie", True), (b"set-cookie", True), ("absent", False), (7, False)]
    )
    def test_membership(self, key: object, found: bool) -> None:
        """`in` asks for a name; anything that is no name is not in."""
        assert (key in SECTION) is found

    @pytest.mark.parametrize(
        ("name", "combined"),
        [("accept", "text/html, */*;q=0.1"), ("cookie", "x=1; y=2"), ("x-latin", "café")],
    )
    def test_lines_of_one_name_are_combined(self, name: str, combined: str) -> None:
        """Joined by a comma (RFC 9110 5.2), cookie crumbs by a semicolon (RFC 9114 4.2.1)."""
        assert SECTION[name] == combined

    def test_every_line_can_be_had(self) -> None:
        """getlist, items and raw lose no line and no order."""
        assert SECTION.getlist("Set-Cookie") == ["a=1", "b=2"]
        assert SECTION.getlist("absent") == []
        assert [value for name, value in SECTION.items() if name == "accept"] == ["text/html", "*/*;q=0.1"]
        assert len(SECTION.items()) == 7
        assert ("cookie", "y=2") in SECTION.items()
        assert SECTION.raw[1] == (b"Set-Cookie", b"a=1")

    def test_it_is_a_mapping_of_names(self) -> None:
        """Iteration and length are over the different names; dict() gives combined values."""
        assert list(SECTION) == ["accept", "set-cookie", "cookie", "x-latin"]
        assert len(SECTION) == 4
        assert dict(SECTION)["cookie"] == "x=1; y=2"
        assert len(Headers()) == 0
        assert not Headers()

    def test_getlist_gives_a_copy(self) -> None:
        """What a handler does to the list does not change the headers."""
        SECTION.getlist("accept").clear()
        assert len(SECTION.getlist("accept")) == 2

    def test_equality(self) -> None:
        """Case of names and order of different names do not count; that of equal ones does (RFC 9110 5.3)."""
        assert Headers([(b"a", b"1"), (b"b", b"2")]) == Headers([(b"B", b"2"), (b"A", b"1")])
        assert Headers([(b"a", b"1"), (b"a", b"2")]) != Headers([(b"a", b"2"), (b"a", b"1")])
        assert Headers([(b"a", b"1")]) != {"a": "1"}

    def test_repr_shows_the_lines(self) -> None:
        """repr() is the expression that makes an equal object."""
        assert repr(Headers([(b"a", b"1")])) == "Headers([(b'a', b'1')])"

    @given(st.lists(st.tuples(NAMES.map(str.encode), VALUES), max_size=8))
    def test_any_section_round_trips(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Latin-1 decoding keeps every octet of every line."""
        headers = Headers(pairs)
        assert headers.raw == tuple(pairs)
        assert [(n.encode(), v.encode("latin-1")) for n, v in headers.items()] == [
            (n.lower(), v) for n, v in pairs
        ]
        assert sum(len(headers.getlist(name)) for name in headers) == len(pairs)


class TestEncodeHeader:
    @pytest.mark.parametrize(
        ("name", "value", "line"),
        [
            ("Content-Type", "text/plain", (b"content-type", b"text/plain")),
            (b"X-A", b"\xff \t b", (b"x-a", b"\xff \t b")),
            ("content-length", 1 << 70, (b"content-length", b"1180591620717411303424")),
            ("x-latin", "café", (b"x-latin", b"caf\xe9")),
            ("x-empty", "", (b"x-empty", b"")),
            ("TE", "trailers", (b"te", b"trailers")),
            ("!#$%&'*+-.^_`|~9", "x", (b"!#$%&'*+-.^_`|~9", b"x")),
        ],
    )
    def test_good_lines(self, name: str | bytes, value: str | bytes | int, line: tuple[bytes, bytes]) -> None:
        """Names go out in lower case (RFC 9114 4.2), values octet by octet."""
        assert encode_header(name, value) == line

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "a b",
            "a\n",
            "a:",
            ":status",
            ":path",
            "ä",
            "a\x00",
            "a,b",
            "(x)",
            b"\xe4",
            "\u212a",  # KELVIN SIGN: lower() makes an ASCII k of it
            "Connection",
            "keep-alive",
            "proxy-connection",
            "Transfer-Encoding",
            "upgrade",
        ],
    )
    def test_bad_names(self, name: str | bytes) -> None:
        """No token, pseudo-header or connection-specific: refused (RFC 9110 5.6.2, RFC 9114 4.2 and 4.3)."""
        with pytest.raises(HeaderInvalid):
            encode_header(name, "x")

    @pytest.mark.parametrize(
        "value",
        [
            "a\r\nset-cookie: b",
            "a\n",
            "a\rb",
            "a\x00b",
            b"\x7f",
            "\x1b[2J",
            " a",
            "a ",
            "\ta",
            b"a\t",
            "€",
            "\ud800",
        ],
    )
    def test_bad_values(self, value: str | bytes) -> None:
        """Response splitting is refused before anything is sent (RFC 9110 5.5, RFC 9114 10.3)."""
        with pytest.raises(HeaderInvalid) as caught:
            encode_header("x-a", value)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, HandlerError)
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)

    def test_te_only_trailers(self) -> None:
        """te has one legal value in HTTP/3 (RFC 9114 4.2)."""
        with pytest.raises(HeaderInvalid, match="trailers"):
            encode_header("te", "gzip")

    @pytest.mark.parametrize("value", [None, 1.5, ["a"], bytearray(b"a")])
    def test_other_types_are_a_type_error(self, value: object) -> None:
        """A value of another type is a bug of the caller, not a header."""
        untyped: object = encode_header
        assert callable(untyped)
        with pytest.raises(TypeError):
            untyped("x-a", value)

    @given(st.one_of(st.text(max_size=10), st.binary(max_size=10)), st.one_of(st.text(), st.binary()))
    def test_what_passes_is_clean(self, name: str | bytes, value: str | bytes) -> None:
        """Whatever is asked for, what goes out is a lower-case token and a value no parser can split."""
        try:
            wire_name, wire_value = encode_header(name, value)
        except HeaderInvalid:
            return
        assert re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9a-z]+", wire_name)
        assert re.fullmatch(
            rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?", wire_value
        )
