"""The corpus and a few thousand fresh mutations of it: nothing breaks, hangs, or harms another client.

The long runs are `python -m fuzz` and `make fuzz-asan`.
"""

from __future__ import annotations

import pytest

from . import corpus_files
from .__main__ import fuzz
from .targets import TARGETS

FRESH = {"datagrams": 3000, "packets": 500, "fields": 500, "sessions": 500, "capsules": 3000}


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    """Every input that once led to an outcome of its own, then mutations from a fixed seed."""
    target = TARGETS[name]()
    corpus = [*target.seeds(), *corpus_files.load(name)]
    found = fuzz(target, corpus, len(corpus) + FRESH[name], seed=20)
    target.close()
    assert len(found) > 1
