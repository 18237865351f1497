"""What every server of the benchmark sends; bench/load compares each byte."""

from __future__ import annotations

from collections.abc import Iterator

HELLO = "Hello, HTTP/3!"
LENGTH = 65_521  # prime: no exchange of aligned pieces goes unnoticed
BLOCK = bytes((i * 2_654_435_761 >> 24) & 0xFF for i in range(LENGTH))


def chunks(size: int) -> Iterator[bytes]:
    """The first `size` bytes of the block repeated, in pieces of at most a block."""
    whole, rest = divmod(size, LENGTH)
    for _ in range(whole):
        yield BLOCK
    if rest:
        yield BLOCK[:rest]
