"""What a path matches: patterns, and the tree that finds the best of them.

Patterns are paths whose segments are literal, a parameter (`:id` or `{id}`, one whole segment, never empty)
or, in the last place, a wildcard (`*` or `*rest`: all that is left, also nothing after a slash). Literals may
be percent-encoded, which is how a literal begins with `:` or `*`. `/a` and `/a/` are different.

Of several patterns that match, segment by segment from the left a literal beats a parameter beats a wildcard,
among those that have the method; the order of registration has no meaning. Matching is on decoded segments:
`%2F` never makes a boundary (a wildcard's value keeps it as `%2F`). Nothing is normalised: `//`, `.` and `..`
are segments like others, and what serves files must not trust them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from urllib.parse import quote, unquote_to_bytes

from .errors import BadRequest, RouteError

T = TypeVar("T")

NO_PATH: Final = ("", "*")  # the targets of CONNECT (RFC 9114 4.4) and of OPTIONS for the server itself

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NOT_IN_PATH: Final = re.compile(r"[\x00-\x20\x7f?#\\]")


@dataclass(slots=True)
class Pattern:
    """A parsed pattern."""

    parts: tuple[str | None, ...] = ()  # decoded literals, None for a parameter
    wildcard: bool = False
    params: tuple[str, ...] = ()  # the wildcard's name comes last, "*" if it has none
    shape: str = ""  # the same for all patterns that match the same paths
    raw: bytes | None = None  # the only spelling of the only path it matches, if that can be said


def parse_pattern(text: str) -> Pattern:
    """Raises RouteError when `text` is no pattern."""
    if text in NO_PATH:
        return Pattern(shape=text, raw=text.encode())
    if not text.startswith("/") or _NOT_IN_PATH.search(text):
        raise RouteError(
            f"{text!r}: a pattern is a path that begins with a slash, without query, space or backslash"
        )
    segments = text[1:].split("/")
    wildcard = segments[-1].startswith("*")
    rest = segments.pop()[1:] or "*" if wildcard else ""
    if "" in segments[: None if wildcard else -1]:
        raise RouteError(f"{text!r}: a segment is empty")
    parts: list[str | None] = []
    params: list[str] = []
    for segment in segments:
        if segment.startswith(":"):
            parts.append(None)
            params.append(segment[1:])
        elif segment.startswith("{") and segment.endswith("}"):
            parts.append(None)
            params.append(segment[1:-1])
        else:
            parts.append(_literal(text, segment))
    if wildcard:
        params.append(rest)
    for name in params:
        if params.count(name) > 1 or not (name.isidentifier() or name == rest == "*"):
            raise RouteError(f"{text!r}: the parameter name {name!r} is no identifier or comes twice")
    shape = [quote(part, safe="") if part is not None else "{}" for part in parts] + ["*"] * wildcard
    raw = text.encode() if not params and text.isascii() and "%" not in text else None
    return Pattern(tuple(parts), wildcard, tuple(params), "/" + "/".join(shape), raw)


def _literal(pattern: str, segment: str) -> str:
    if re.search(r"[{}*]", segment):
        raise RouteError(f"{pattern!r}: a parameter is a whole segment, and a wildcard is the last one")
    try:
        (literal,) = split_path(b"/" + segment.encode())
    except (BadRequest, UnicodeEncodeError):
        raise RouteError(f"{pattern!r}: {segment!r} cannot be decoded") from None
    return literal


def join(prefix: str, pattern: str) -> str:
    """A pattern as it is under a prefix; CONNECT and OPTIONS of the whole server are under none."""
    return pattern if pattern in NO_PATH else prefix + pattern


def split_path(path: bytes) -> list[str]:
    """The decoded segments of a raw path that begins with a slash. Raises BadRequest.

    Decoding comes after splitting, so that %2F is no boundary (RFC 3986 2.4).
    """
    try:
        if b"%" not in path:
            return path[1:].decode().split("/")
        if _BAD_ESCAPE.search(path):
            raise BadRequest("the path has a malformed percent-encoding")
        return [unquote_to_bytes(part).decode() for part in path[1:].split(b"/")]
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8") from None


class Node(Generic[T]):
    """The patterns that share a beginning: one node for each segment, a table by method where one ends."""

    __slots__ = ("ends", "literals", "param", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, Node[T]] = {}
        self.param: Node[T] | None = None
        self.ends: dict[bytes, T] = {}
        self.rest: dict[bytes, T] = {}  # of the wildcard for all that follows

    def table(self, pattern: Pattern) -> dict[bytes, T]:
        """The table of a pattern under this node; it is made when it is not there."""
        node = self
        for part in pattern.parts:
            if part is None:
                node.param = node.param or Node()
                node = node.param
            else:
                node = node.literals.setdefault(part, Node())
        return node.rest if pattern.wildcard else node.ends

    def find(
        self, segments: list[str], at: int, method: bytes, values: list[str], found: set[bytes]
    ) -> T | None:
        """The best match for `segments[at:]` that has the method.

        Appends the parameters to `values`, and to `found` the methods of all that match in case none has it.
        Visits every node once at most, so that no path costs more than there are patterns.
        """
        if at == len(segments):
            if (match := self.ends.get(method)) is None:
                found.update(self.ends)
            return match
        segment = segments[at]
        child = self.literals.get(segment)
        if child is not None and (match := child.find(segments, at + 1, method, values, found)) is not None:
            return match
        if self.param is not None and segment:
            values.append(segment)
            if (match := self.param.find(segments, at + 1, method, values, found)) is not None:
                return match
            values.pop()
        if self.rest:
            if (match := self.rest.get(method)) is not None:
                values.append("/".join([part.replace("/", "%2F") for part in segments[at:]]))
                return match
            found.update(self.rest)
        return None
