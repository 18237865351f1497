"""The error codes of WebTransport's applications, carried by those of HTTP/3."""

from __future__ import annotations

from typing import Final

# Section 4.4: application codes lie in this range of the codes of HTTP/3, around those that are reserved.
_FIRST: Final = 0x52E4A40FA8DB
_LAST: Final = 0x52E5AC983162


def to_wire(code: int) -> int:
    """The HTTP/3 error code that carries an application's, which has 32 bits."""
    if not 0 <= code < 1 << 32:
        raise ValueError("an error code of a WebTransport application is at least 0 and below 2**32")
    return _FIRST + code + code // 0x1E


def from_wire(code: int) -> int | None:
    """The application's error code in one of HTTP/3; None when that carries none."""
    if not _FIRST <= code <= _LAST or (code - 0x21) % 0x1F == 0:
        return None
    shifted = code - _FIRST
    return shifted - shifted // 0x1F
