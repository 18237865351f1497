"""What a path matches: patterns and the tree."""

from __future__ import annotations

import itertools
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiche_h3.errors import BadRequest, RouteError
from quiche_h3.patterns import Node, join, parse_pattern, split_path

GET = b"GET"


def match(patterns: list[str], path: bytes) -> tuple[str, dict[str, str]] | None:
    """The pattern that wins for a path, and its parameters."""
    tree = Node[str]()
    for pattern in patterns:
        tree.table(parse_pattern(pattern))[GET] = pattern
    values: list[str] = []
    won = tree.find(split_path(path), 0, GET, values, set())
    return None if won is None else (won, dict(zip(parse_pattern(won).params, values, strict=True)))


class TestParse:
    @pytest.mark.parametrize(
        ("text", "parts", "params", "shape", "raw"),
        [
            ("/", ("",), (), "/", b"/"),
            ("/a/b", ("a", "b"), (), "/a/b", b"/a/b"),
            ("/a/", ("a", ""), (), "/a/", b"/a/"),
            ("/user/:id", ("user", None), ("id",), "/user/{}", None),
            ("/user/{id}/", ("user", None, ""), ("id",), "/user/{}/", None),
            ("/files/*", ("files",), ("*",), "/files/*", None),
            ("/files/*rest", ("files",), ("rest",), "/files/*", None),
            ("/*", (), ("*",), "/*", None),
            ("/:a/x/{b}/*c", (None, "x", None), ("a", "b", "c"), "/{}/x/{}/*", None),
            ("/v1/docs:batch", ("v1", "docs:batch"), (), "/v1/docs%3Abatch", b"/v1/docs:batch"),
            ("/%3Aid/%2A", (":id", "*"), (), "/%3Aid/%2A", None),
            ("/caf%C3%A9", ("café",), (), "/caf%C3%A9", None),
            ("/café", ("café",), (), "/caf%C3%A9", None),
            ("/a%2Fb", ("a/b",), (), "/a%2Fb", None),
            ("/../.", ("..", "."), (), "/../.", b"/../."),
            ("", (), (), "", b""),
            ("*", (), (), "*", b"*"),
        ],
    )
    def test_good(
        self, text: str, parts: tuple[str | None, ...], params: tuple[str, ...], shape: str, raw: bytes | None
    ) -> None:
        """Each form of segment; `raw` only where a path has one certain spelling."""
        pattern = parse_pattern(text)
        assert (pattern.parts, pattern.params, pattern.shape, pattern.raw) == (parts, params, shape, raw)
        assert pattern.wildcard is (shape.endswith("*") and text != "*")

    @pytest.mark.parametrize(
        "text",
        [
            "a",
            "a/b",
            "**",
            "//",
            "/a//b",
            "//a",
            "/a//",
            "/a//*",
            "/a?b",
            "/a#b",
            "/a b",
            "/a\\b",
            "/a\n",
            "/a\x00",
            "/:",
            "/{}",
            "/:1a",
            "/:a-b",
            "/{a:int}",
            "/:a/:a",
            "/:a/*a",
            "/{a",
            "/a}",
            "/x{a}",
            "/{a}.json",
            "/a*",
            "/*/a",
            "/*a/",
            "/*a-b",
            "/%",
            "/%4",
            "/%zz",
            "/%ff",
            "/\ud800",
        ],
    )
    def test_malformed(self, text: str) -> None:
        """Malformed patterns are refused (specification 9.1: params and wildcards)."""
        with pytest.raises(RouteError):
            parse_pattern(text)

    def test_join(self) -> None:
        """CONNECT and OPTIONS for the whole server do not belong under a prefix."""
        assert [join("/api", text) for text in ("/x", "", "*")] == ["/api/x", "", "*"]


class TestSplit:
    @pytest.mark.parametrize(
        ("path", "segments"),
        [
            (b"/", [""]),
            (b"//", ["", ""]),
            (b"/a/", ["a", ""]),
            (b"/a/../b/.", ["a", "..", "b", "."]),
            (b"/%2e%2E/x", ["..", "x"]),
            (b"/a%2Fb/c", ["a/b", "c"]),
            (b"/a%252Fb", ["a%2Fb"]),
            (b"/caf%C3%A9", ["café"]),
            ("/café".encode(), ["café"]),
            (b"/a+b;c=d@x", ["a+b;c=d@x"]),
            (b"/%00", ["\x00"]),
            (b"/a?b", ["a?b"]),
        ],
    )
    def test_good(self, path: bytes, segments: list[str]) -> None:
        """Split first, decode then, normalise nothing (RFC 3986 2.4)."""
        assert split_path(path) == segments

    @pytest.mark.parametrize(
        "path",
        [b"/%", b"/%4", b"/%4/1", b"/%g0", b"/a%", b"/%%41", b"/\xff", b"/%ff", b"/%c3/%a9", b"/%ed%a0%80"],
    )
    def test_bad(self, path: bytes) -> None:
        """A malformed escape or what is not UTF-8 is a bad request, also a surrogate or half a character."""
        with pytest.raises(BadRequest):
            split_path(path)

    @given(st.binary())
    def test_anything(self, path: bytes) -> None:
        """Whatever comes splits or is refused; no segment is gained or lost."""
        try:
            segments = split_path(b"/" + path)
        except BadRequest:
            return
        assert len(segments) == path.count(b"/") + 1

    @given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
    def test_encoded_segments_round_trip(self, segments: list[str]) -> None:
        """Any text, slashes included, is one segment when percent-encoded."""
        assert split_path(b"".join(b"/" + quote(text, safe="").encode() for text in segments)) == segments


class TestFind:
    PATTERNS = (
        "/",
        "/user/me",
        "/user/:id",
        "/user/:id/posts",
        "/user/*",
        "/:any/fixed",
        "/files/*",
        "/files/",
        "/files/:name/raw",
    )

    @pytest.mark.parametrize(
        ("path", "won", "params"),
        [
            (b"/", "/", {}),
            (b"/user/me", "/user/me", {}),
            (b"/user/%6De", "/user/me", {}),
            (b"/user/7", "/user/:id", {"id": "7"}),
            (b"/user/7/posts", "/user/:id/posts", {"id": "7"}),
            (b"/user/me/posts", "/user/:id/posts", {"id": "me"}),
            (b"/user/7/", "/user/*", {"*": "7/"}),
            (b"/user/", "/user/*", {"*": ""}),
            (b"/user/7/other", "/user/*", {"*": "7/other"}),
            (b"/user/fixed", "/user/:id", {"id": "fixed"}),
            (b"/x/fixed", "/:any/fixed", {"any": "x"}),
            (b"/files/", "/files/", {}),
            (b"/files/a", "/files/*", {"*": "a"}),
            (b"/files/fixed", "/files/*", {"*": "fixed"}),
            (b"/files/a/raw", "/files/:name/raw", {"name": "a"}),
            (b"/files//raw", "/files/*", {"*": "/raw"}),
            (b"/files/../etc", "/files/*", {"*": "../etc"}),
            (b"/files/a%2Fb", "/files/*", {"*": "a%2Fb"}),
            (b"/files/%2e%2e%2fetc", "/files/*", {"*": "..%2Fetc"}),
            (b"/user/a%2Fb", "/user/:id", {"id": "a/b"}),
            (b"/user/%E2%82%AC", "/user/:id", {"id": "€"}),
        ],
    )
    def test_the_most_specific_wins(self, path: bytes, won: str, params: dict[str, str]) -> None:
        """Literal before parameter before wildcard, segment by segment, in whatever order they came."""
        assert match(list(self.PATTERNS), path) == (won, params)
        assert match(list(reversed(self.PATTERNS)), path) == (won, params)

    @pytest.mark.parametrize(
        "path", [b"//", b"/files", b"/user", b"/x", b"//fixed", b"/USER/me/x/"[:5], b"/."]
    )
    def test_no_match(self, path: bytes) -> None:
        """Trailing slash, empty segments and case all count; a parameter is never empty."""
        assert match([p for p in self.PATTERNS if p != "/"], path) is None

    def test_parameters_of_a_dead_end_are_forgotten(self) -> None:
        """Going back in the tree takes the parameters back."""
        assert match(["/:a/:b/x", "/*rest"], b"/1/2/y") == ("/*rest", {"rest": "1/2/y"})

    def test_work_is_bounded_by_the_tree(self) -> None:
        """Patterns made to branch everywhere are walked once per node, not once per choice."""
        patterns = ["/" + "/".join(choice) for choice in itertools.product(("a", ":p"), repeat=8)]
        tree = Node[str]()
        for pattern in patterns:
            names = [
                f"{part}{at}" if part == ":p" else part for at, part in enumerate(pattern[1:].split("/"))
            ]
            tree.table(parse_pattern("/" + "/".join(names)))[b"POST"] = pattern
        found: set[bytes] = set()
        assert tree.find(["a"] * 8, 0, GET, [], found) is None
        assert found == {b"POST"}

    def test_very_long_paths(self) -> None:
        """Depth and length of a path cost no stack: only the wildcard takes what is beyond the patterns."""
        path = b"/files" + b"/a" * 200_000
        assert match(["/files/*"], path) == ("/files/*", {"*": path[7:].decode()})
        assert match(["/files/:x"], path) is None
        assert match(["/:x"], b"/" + b"%41" * 100_000) == ("/:x", {"x": "A" * 100_000})

    @given(
        st.sets(
            st.sampled_from(
                ["/", "/a", "/a/", "/:p", "/a/:p", "/:p/b", "/a/b", "/*", "/a/*", "/:p/*", "/:p/:q"]
            )
        ),
        st.lists(st.sampled_from(["a", "b", "", "c"]), min_size=1, max_size=3),
    )
    def test_against_a_plain_model(self, patterns: set[str], segments: list[str]) -> None:
        """The tree finds what a search through all patterns, ranked by specificity, finds."""

        def rank(pattern: str) -> tuple[int, ...] | None:
            parsed = parse_pattern(pattern)
            if not (
                len(segments) == len(parsed.parts) or (parsed.wildcard and len(segments) > len(parsed.parts))
            ):
                return None
            if parsed.wildcard and len(segments) == len(parsed.parts):
                return None
            for part, segment in zip(parsed.parts, segments, strict=False):
                if segment != part and not (part is None and segment):
                    return None
            return (*(0 if part is not None else 1 for part in parsed.parts), 2)

        ranked = sorted((r, pattern) for pattern in patterns if (r := rank(pattern)) is not None)
        won = match(sorted(patterns), b"/" + "/".join(segments).encode())
        assert (won and won[0]) == (ranked[0][1] if ranked else None)
