"""Capsules (RFC 9297 section 3.2): what a tunnel's body is made of, read as it comes and written.

A capsule whose type nobody asked for is passed over without being kept, whatever its length. One that was
asked for is kept up to the size that the reader was told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from .errors import CapsuleError

MAX_VARINT: Final = (1 << 62) - 1
_HEAD: Final = 16  # a type and a length, each a variable-length integer of at most 8 bytes


def encode_varint(value: int) -> bytes:
    """A variable-length integer (RFC 9000 section 16). Raises ValueError beyond 0 to 2**62 - 1."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} is no variable-length integer")
    if value < 1 << 6:
        return bytes((value,))
    if value < 1 << 14:
        return (value | 1 << 14).to_bytes(2, "big")
    if value < 1 << 30:
        return (value | 2 << 30).to_bytes(4, "big")
    return (value | 3 << 62).to_bytes(8, "big")


def decode_varint(data: bytes | bytearray, at: int = 0) -> tuple[int, int] | None:
    """The variable-length integer at an offset and where it ends; None when more bytes are needed."""
    if at >= len(data):
        return None
    end = at + (1 << (data[at] >> 6))
    if end > len(data):
        return None
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * (end - at) - 2)) - 1), end


def encode_capsule(kind: int, value: bytes = b"") -> bytes:
    """A capsule as it goes into the body."""
    return encode_varint(kind) + encode_varint(len(value)) + value


class Capsule(NamedTuple):
    """A complete capsule: its type and its value."""

    kind: int
    value: bytes


class CapsuleReader:
    """Takes a body in pieces of any size and gives the capsules that somebody wants.

    `wanted` maps the type of each of these to the most bytes that its value may have. All others are skipped.
    """

    def __init__(self, wanted: Mapping[int, int]) -> None:
        self._wanted = wanted
        self._head = bytearray()
        self._kind = 0
        self._value: bytearray | None = None  # None: the capsule at hand is skipped
        self._left = 0

    @property
    def partial(self) -> bool:
        """A capsule has begun and is not complete: no body may end here (RFC 9297 section 3.3)."""
        return bool(self._head) or self._left > 0

    def feed(self, data: bytes) -> Iterator[Capsule]:
        """The wanted capsules that are complete with `data`; to be run to its end, or `data` is lost.

        Raises CapsuleError when a wanted one is larger than it may be. What came before it was given by then,
        and nothing can be read after it.
        """
        at, size = 0, len(data)
        while at < size:
            if not self._left:
                known = len(self._head)
                self._head += data[at : at + _HEAD - known]
                end = self._begin()
                at = size if end is None else at + end - known
                if end is None or self._left:
                    continue
            else:
                taken = min(self._left, size - at)
                if self._value is not None:
                    self._value += data[at : at + taken]
                self._left -= taken
                at += taken
            if not self._left and self._value is not None:
                yield Capsule(self._kind, bytes(self._value))
                self._value = None

    def _begin(self) -> int | None:
        """Reads type and length once both are there. Returns how many bytes of the head they took."""
        kind = decode_varint(self._head)
        length = None if kind is None else decode_varint(self._head, kind[1])
        if kind is None or length is None:
            return None
        self._head.clear()
        self._kind, self._left = kind[0], length[0]
        limit = self._wanted.get(self._kind)
        if limit is not None and self._left > limit:
            raise CapsuleError(
                f"a capsule of type {self._kind:#x} has {self._left} bytes, at most {limit} are taken"
            )
        self._value = None if limit is None else bytearray()
        return length[1]
