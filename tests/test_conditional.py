"""Preconditions, ranges and content codings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiche_h3.conditional import (
    Validators,
    acceptable_codings,
    parse_range,
    precondition_status,
    range_applies,
)
from quiche_h3.errors import HandlerError, InvalidRange, Malformed, MultiRange, NonBytesUnit, Unsatisfiable
from quiche_h3.headers import Headers

ETAG = '"abc"'
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
NOW = Validators(ETAG, 784111777)
EARLIER, LATER = "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"


def headers(**fields: str) -> Headers:
    """A section from keyword arguments."""
    return Headers(
        [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()]
    )


class TestPreconditions:
    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({}, None),
            ({"if_match": "*"}, None),
            ({"if_match": ETAG}, None),
            ({"if_match": f'"x", {ETAG}'}, None),
            ({"if_match": f"W/{ETAG}"}, 412),
            ({"if_match": '"x"'}, 412),
            ({"if_match": "garbage"}, 412),
            ({"if_match": ETAG, "if_unmodified_since": EARLIER}, None),
            ({"if_unmodified_since": DATE}, None),
            ({"if_unmodified_since": LATER}, None),
            ({"if_unmodified_since": EARLIER}, 412),
            ({"if_unmodified_since": "garbage"}, None),
            ({"if_none_match": ETAG}, 304),
            ({"if_none_match": f"W/{ETAG}"}, 304),
            ({"if_none_match": f'"x",{ETAG}'}, 304),
            ({"if_none_match": " * "}, 304),
            ({"if_none_match": '"x"'}, None),
            ({"if_none_match": '"*"'}, None),
            ({"if_none_match": "abc"}, None),
            ({"if_none_match": '"x"', "if_modified_since": DATE}, None),
            ({"if_modified_since": DATE}, 304),
            ({"if_modified_since": LATER}, 304),
            ({"if_modified_since": EARLIER}, None),
            ({"if_modified_since": "Sunday, 06-Nov-94 08:49:37 GMT"}, 304),
            ({"if_modified_since": "Sun Nov  6 08:49:37 1994"}, 304),
            ({"if_modified_since": "0"}, None),
            ({"if_modified_since": ""}, None),
            ({"if_modified_since": "Sun, 06 Nov 99999 08:49:37 GMT"}, None),
            ({"if_match": ETAG, "if_none_match": ETAG}, 304),
            ({"if_match": '"x"', "if_none_match": ETAG}, 412),
        ],
    )
    def test_precedence(self, fields: dict[str, str], status: int | None) -> None:
        """RFC 9110 13.2.2: tags before dates, If-Match strongly and If-None-Match weakly compared."""
        assert precondition_status(headers(**fields), NOW) == status

    def test_lines_are_one_list(self) -> None:
        """A list may come in several lines (RFC 9110 5.3)."""
        section = Headers([(b"if-none-match", b'"x"'), (b"if-none-match", ETAG.encode())])
        assert precondition_status(section, NOW) == 304

    def test_last_modified(self) -> None:
        """The date is an IMF-fixdate (RFC 9110 5.6.7)."""
        assert NOW.last_modified == DATE

    @pytest.mark.parametrize(
        ("value", "applies"),
        [(ETAG, True), (f"W/{ETAG}", False), ('"x"', False), (DATE, True), (EARLIER, False), (LATER, False)],
    )
    def test_if_range(self, value: str, applies: bool) -> None:
        """Only what is certain to be the same lets the range count (RFC 9110 13.1.5)."""
        assert range_applies(headers(if_range=value), NOW) is applies
        assert range_applies(headers(), NOW)

    @given(st.text(st.characters(max_codepoint=255), max_size=40))
    def test_any_value(self, value: str) -> None:
        """No field value makes anything but a status."""
        for name in ("if_match", "if_unmodified_since", "if_none_match", "if_modified_since"):
            assert precondition_status(headers(**{name: value}), NOW) in (None, 304, 412)
        range_applies(headers(if_range=value), NOW)


class TestParseRange:
    @pytest.mark.parametrize(
        ("value", "ranges"),
        [
            ("bytes=0-0", [(0, 1)]),
            ("bytes=0-99", [(0, 100)]),
            ("bytes=0-1000", [(0, 100)]),
            ("bytes=99-", [(99, 1)]),
            ("bytes=-1", [(99, 1)]),
            ("bytes=-1000", [(0, 100)]),
            ("BYTES=5-6", [(5, 2)]),
            (" bytes=5-6 ", [(5, 2)]),
            ("bytes=0-1, 4-5 ,\t-2", [(0, 2), (4, 2), (98, 2)]),
            ("bytes=,0-1,,", [(0, 2)]),
            ("bytes=4-5,0-1", [(4, 2), (0, 2)]),
            ("bytes=0-1,200-300", [(0, 2)]),
            ("bytes=0-99999999999999999999", [(0, 100)]),
            ("bytes=0-1,1-2", [(0, 2), (1, 2)]),
        ],
    )
    def test_good(self, value: str, ranges: list[tuple[int, int]]) -> None:
        """The forms of RFC 9110 14.1.2, cut at the end of 100 bytes."""
        assert parse_range(value, 100) == ranges

    @pytest.mark.parametrize(
        ("value", "error"),
        [
            ("", Malformed),
            ("bytes", Malformed),
            ("bytes=", Malformed),
            ("bytes=,", Malformed),
            ("bytes=-", Malformed),
            ("bytes=a-b", Malformed),
            ("bytes=1", Malformed),
            ("bytes=1-2-3", Malformed),
            ("bytes=--1", Malformed),
            ("bytes=+1-2", Malformed),
            ("bytes=1 - 2", Malformed),
            ("bytes=0x1-2", Malformed),
            ("bytes=²-3", Malformed),
            ("bytes=1_0-20", Malformed),
            ("bytes=0-1;2-3", Malformed),
            ("bytes=0-1, bytes=2-3", Malformed),
            ("bytes=" + "9" * 5000 + "-", Malformed),
            ("lines=1-2", NonBytesUnit),
            ("=1-2", NonBytesUnit),
            ("bytes =1-2", NonBytesUnit),
            ("bytes=5-4", InvalidRange),
            ("bytes=0-1,5-4", InvalidRange),
            ("bytes=100-", Unsatisfiable),
            ("bytes=100-200,300-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=" + "0-0," * 17, MultiRange),
            ("bytes=0-,0-", MultiRange),
            ("bytes=0-60,40-", MultiRange),
        ],
    )
    def test_typed_errors(self, value: str, error: type[HandlerError]) -> None:
        """Each mistake has its own error of specification 4.1; many or overlapping ranges are an attack."""
        with pytest.raises(error) as caught:
            parse_range(value, 100)
        assert type(caught.value) is error

    def test_limit_of_one(self) -> None:
        """A caller that wants one range says so."""
        assert parse_range("bytes=0-1", 100, limit=1) == [(0, 2)]
        with pytest.raises(MultiRange):
            parse_range("bytes=0-1,2-3", 100, limit=1)

    @pytest.mark.parametrize("value", ["bytes=0-", "bytes=-5", "bytes=0-0"])
    def test_nothing_of_nothing(self, value: str) -> None:
        """An empty file has no range."""
        with pytest.raises(Unsatisfiable):
            parse_range(value, 0)

    @given(st.text("0123456789-, =bytesx", max_size=30), st.integers(0, 50))
    def test_any_value(self, value: str, size: int) -> None:
        """What is found lies inside, is not empty, and is never more than the whole."""
        try:
            ranges = parse_range("bytes=" + value, size)
        except (Malformed, InvalidRange, MultiRange, Unsatisfiable):
            return
        assert ranges
        assert sum(length for _, length in ranges) <= size
        assert all(start >= 0 and length > 0 and start + length <= size for start, length in ranges)


class TestCodings:
    @pytest.mark.parametrize(
        ("value", "codings"),
        [
            (None, []),
            ("", []),
            ("gzip", ["gzip"]),
            ("gzip, deflate, br, zstd", ["br", "zstd", "gzip"]),
            ("GZIP;Q=1, Br", ["br", "gzip"]),
            ("x-gzip", ["gzip"]),
            ("gzip;q=1.0, br;q=0.5", ["gzip", "br"]),
            ("gzip ; q=0.001", ["gzip"]),
            ("br;q=0, gzip", ["gzip"]),
            ("*", ["br", "zstd", "gzip"]),
            ("*;q=0", []),
            ("*;q=0.5, gzip;q=0", ["br", "zstd"]),
            ("identity, gzip;q=0.5", []),
            ("identity;q=0.5, gzip", ["gzip"]),
            ("gzip;q=2", []),
            ("gzip;q=", []),
            ("gzip;q=nan, br;q=-1, zstd;q=1e0", []),
            ("gzip;x=y", []),
            ("gzipped", []),
        ],
    )
    def test_choice(self, value: str | None, codings: list[str]) -> None:
        """Weights order and exclude; what is no weight excludes (RFC 9110 12.4.2 and 12.5.3)."""
        assert acceptable_codings(value, ("br", "zstd", "gzip")) == codings

    @given(st.text(st.characters(max_codepoint=255), max_size=40))
    def test_any_value(self, value: str) -> None:
        """Only what is offered is chosen, once."""
        chosen = acceptable_codings(value, ("br", "gzip"))
        assert set(chosen) <= {"br", "gzip"}
        assert len(set(chosen)) == len(chosen)
