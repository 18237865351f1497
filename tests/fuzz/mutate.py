"""Mutations of inputs, all from one seeded generator: a run can be repeated."""

from __future__ import annotations

from random import Random

_ODD = [
    b"\0",
    b"\x01",
    b"\x3f",
    b"\x40\0",
    b"\x7f\xff",
    b"\x80\0\0\0",
    b"\xbf\xff\xff\xff",
    b"\xc0" + bytes(7),
    b"\xff" * 8,
]
MAX = 4096


def mutate(data: bytes, corpus: list[bytes], random: Random) -> bytes:
    """One to eight changes of a kind that parsers of lengths and numbers trip over."""
    out = bytearray(data)
    for _ in range(1 << random.randrange(4)):
        at = random.randrange(len(out) + 1)
        kind = random.randrange(8)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << random.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = random.randrange(256)
        elif kind == 2:
            odd = random.choice(_ODD)
            out[at : at + random.choice((0, len(odd)))] = odd
        elif kind == 3:
            del out[at : at + random.randrange(1, 9)]
        elif kind == 4:
            out[at:at] = random.randbytes(random.randrange(1, 9))
        elif kind == 5:
            start = random.randrange(len(out) + 1)
            out[at:at] = out[start : start + random.randrange(1, 65)]
        elif kind == 6:
            other = random.choice(corpus)
            out[at:] = other[random.randrange(len(other) + 1) :]
        else:
            del out[at:]
    return bytes(out[:MAX])
