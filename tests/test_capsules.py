"""Capsules: RFC 9297 section 3.2, and variable-length integers of RFC 9000 section 16."""

from __future__ import annotations

import random

import pytest

from quiche_h3.capsules import Capsule, CapsuleReader, decode_varint, encode_capsule, encode_varint
from quiche_h3.errors import CapsuleError


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (37, "25"),
        (63, "3f"),
        (64, "4040"),
        (15_293, "7bbd"),
        (16_383, "7fff"),
        (494_878_333, "9d7f3e7d"),
        ((1 << 30) - 1, "bfffffff"),
        (1 << 30, "c000000040000000"),
        (151_288_809_941_952_652, "c2197c5eff14e88c"),
        ((1 << 62) - 1, "ffffffffffffffff"),
    ],
)
def test_varints(value: int, encoded: str) -> None:
    """RFC 9000 A.1: the samples, and both sides of each border; a cut one asks for more."""
    data = bytes.fromhex(encoded)
    assert encode_varint(value) == data
    assert decode_varint(b"\x00" + data, 1) == (value, 1 + len(data))
    assert all(decode_varint(data[:n]) is None for n in range(len(data)))


@pytest.mark.parametrize("value", [-1, 1 << 62])
def test_no_varint(value: int) -> None:
    """RFC 9000 16: 62 bits."""
    with pytest.raises(ValueError, match="variable-length"):
        encode_varint(value)


def read(reader: CapsuleReader, data: bytes, sizes: list[int]) -> list[Capsule]:
    """Feeds data in pieces of the given sizes, round and round."""
    found: list[Capsule] = []
    at = turn = 0
    while at < len(data):
        n = sizes[turn % len(sizes)]
        found += reader.feed(data[at : at + n])
        at, turn = at + n, turn + 1
    return found


@pytest.mark.parametrize("sizes", [[1], [2], [3, 1], [7], [1000], [5, 16, 17]])
def test_capsules_in_pieces_of_any_size(sizes: list[int]) -> None:
    """RFC 9297 3.2: the borders of DATA frames mean nothing; unknown types are skipped, wanted ones come."""
    chosen = random.Random(5)
    wanted = [Capsule(0x2843, chosen.randbytes(n)) for n in (0, 1, 63, 64, 300)] + [Capsule(0, b"")]
    data = b"".join(
        encode_capsule(*capsule) + encode_capsule(0x17, chosen.randbytes(n))
        for capsule, n in zip(wanted, (0, 1, 500, 0, 70, 3), strict=True)
    )
    reader = CapsuleReader({0x2843: 1028, 0: 0})
    assert read(reader, data, sizes) == wanted
    assert not reader.partial


def test_a_large_unknown_capsule_is_not_kept() -> None:
    """RFC 9297 3.2: unknown capsules are skipped, whatever length they claim; attack row 42."""
    reader = CapsuleReader({1: 10})
    assert not list(reader.feed(encode_varint(0x29) + encode_varint(1 << 40)))
    for _ in range(16):
        assert not list(reader.feed(bytes(65_536)))
    assert reader.partial
    assert sum(len(part) for part in vars(reader).values() if isinstance(part, bytearray)) == 0


def test_a_wanted_capsule_has_a_limit() -> None:
    """RFC 9297 3.3: too large a value is an error, told before it is kept, after what came before."""
    feed = CapsuleReader({1: 10}).feed(
        encode_capsule(1, b"0123456789") + encode_varint(1) + encode_varint(11)
    )
    assert next(feed) == (1, b"0123456789")
    with pytest.raises(CapsuleError, match="11 bytes, at most 10"):
        next(feed)


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_cut_capsule(cut: int) -> None:
    """RFC 9297 3.3: a body may not end inside of a capsule, be it one that is skipped."""
    reader = CapsuleReader({})
    assert not list(reader.feed(encode_capsule(0x40, b"xy")[:cut]))
    assert reader.partial
