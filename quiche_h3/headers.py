"""Header field sections: a read-only view of received ones, and the gate for those we send."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from .errors import HeaderInvalid

Pair = tuple[bytes, bytes]

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 5.5: only HTAB, SP, VCHAR and obs-text
_CONNECTION_SPECIFIC: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}  # RFC 9114 4.2
)


class Headers(Mapping[str, str]):
    """The fields of one section, in the order in which they came; names are case-insensitive.

    As a mapping it has one entry per name, whose value is the combined field value: the values of all its
    lines joined by ", " (RFC 9110 5.2), or "; " for cookie (RFC 9114 4.2.1). Use `getlist()` for the separate
    lines, as set-cookie needs it; `items()` and `raw` have every line. Values are decoded as Latin-1, which
    loses nothing.
    """

    __slots__ = ("_by_name", "_raw")

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self._raw = tuple(pairs)
        # Made when first asked for: many handlers never do.
        self._by_name: dict[str, list[bytes]] | None = None

    @property
    def raw(self) -> tuple[Pair, ...]:
        """Every line as it came."""
        return self._raw

    def getlist(self, name: str | bytes) -> list[str]:
        """The value of each line of this name, in order; an empty list when there is none."""
        return [value.decode("latin-1") for value in self._index().get(_lower(name), ())]

    def items(self) -> ItemsView[str, str]:
        """Every line as (lower-case name, value), in order: a name may come more than once."""
        return _Lines(self)

    def __getitem__(self, name: str | bytes) -> str:
        key = _lower(name)
        values = self._index()[key]
        value = values[0] if len(values) == 1 else (b"; " if key == "cookie" else b", ").join(values)
        return value.decode("latin-1")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, (str, bytes)) and _lower(name) in self._index()

    def __iter__(self) -> Iterator[str]:
        return iter(self._index())

    def __len__(self) -> int:
        """The number of different names."""
        return len(self._index())

    def __eq__(self, other: object) -> bool:
        """Same names with the same lines; the order of different names has no meaning (RFC 9110 5.3)."""
        return self._index() == other._index() if isinstance(other, Headers) else NotImplemented

    def __repr__(self) -> str:
        return f"Headers({list(self._raw)!r})"

    def _index(self) -> dict[str, list[bytes]]:
        """The values of each name, not decoded: most are never asked for, and would be kept twice."""
        index = self._by_name
        if index is None:
            index = {}
            for name, value in self._raw:
                index.setdefault(_lower(name), []).append(value)
            self._by_name = index
        return index


class _Lines(ItemsView[str, str]):
    """`Headers.items()`: the lines, where the mapping itself has the combined values."""

    def __init__(self, headers: Headers) -> None:
        super().__init__(headers)
        self._lines = [(_lower(name), value.decode("latin-1")) for name, value in headers.raw]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._lines)

    def __contains__(self, item: object) -> bool:
        return item in self._lines

    def __len__(self) -> int:
        return len(self._lines)


def encode_header(name: str | bytes, value: str | bytes | int) -> Pair:
    """A field line of our own as it goes on the wire, its name in lower case (RFC 9114 4.2).

    Raises HeaderInvalid for a name that is no token, is a pseudo-header or belongs to a connection (RFC 9114
    4.2), and for a value with control characters, with white space around it, or beyond Latin-1: nothing that
    could split a message passes. Raises TypeError for a value that is not str, bytes or int.
    """
    wire_name = _encode_name(name if isinstance(name, str) else name.decode("latin-1"))
    if isinstance(value, bytes):
        wire_value = value
    elif isinstance(value, str):
        try:
            wire_value = value.encode("latin-1")
        except UnicodeEncodeError:
            raise HeaderInvalid(f"{name!r}: value {value!r} has characters beyond Latin-1") from None
    elif isinstance(value, int):
        wire_value = b"%d" % value
    else:
        raise TypeError(f"{name!r}: a header value is str, bytes or int, not {type(value).__name__}")
    if _CONTROL.search(wire_value):
        raise HeaderInvalid(f"{name!r}: value {value!r} has control characters")
    if wire_value != wire_value.strip(b" \t"):
        raise HeaderInvalid(f"{name!r}: value {value!r} has white space around it")
    if wire_name == b"te" and wire_value.lower() != b"trailers":
        raise HeaderInvalid("'te': only the value 'trailers' is allowed in HTTP/3 (RFC 9114 4.2)")
    return wire_name, wire_value


@lru_cache(maxsize=1024)  # a program sends the same few names for ever
def _encode_name(name: str) -> bytes:
    if name.startswith(":"):
        raise HeaderInvalid(f"{name!r}: pseudo-headers are not set as headers (RFC 9114 4.3)")
    if not _TOKEN.fullmatch(name):
        raise HeaderInvalid(f"{name!r} is not a header name: it must be a token (RFC 9110 5.6.2)")
    lower = name.lower()
    if lower in _CONNECTION_SPECIFIC:
        raise HeaderInvalid(f"{name!r}: connection-specific fields do not exist in HTTP/3 (RFC 9114 4.2)")
    return lower.encode("ascii")


def _lower(name: str | bytes) -> str:
    return (name if isinstance(name, str) else name.decode("latin-1")).lower()
