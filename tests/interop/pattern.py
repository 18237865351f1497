"""The content of every large body in these tests; tests/interop/go/pattern.go makes the same bytes.

One block of SHAKE-256 repeated. Its length is prime: no swap or repetition of aligned blocks goes unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

BLOCK = hashlib.shake_256(b"quiche_h3").digest(65_521)


def chunks(size: int) -> Iterator[bytes]:
    """Yield the first ``size`` bytes of the pattern in pieces of at most one block."""
    whole, rest = divmod(size, len(BLOCK))
    for _ in range(whole):
        yield BLOCK
    if rest:
        yield BLOCK[:rest]


def sha256(size: int) -> str:
    """Return the SHA-256 of the first ``size`` bytes of the pattern in hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks(size):
        digest.update(chunk)
    return digest.hexdigest()
