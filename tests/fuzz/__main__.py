"""Fuzzes: ``python -m fuzz --inputs 1000000``. Says how many inputs went in and what came of them.

The last inputs are in the file given by --last, which outlives a crash of the process.
"""

from __future__ import annotations

import argparse
import gc
import mmap
import sys
import time
from pathlib import Path
from random import Random

from . import corpus_files
from .mutate import mutate
from .targets import TARGETS, Target

HANG = 1.0  # seconds of CPU time for one input
SHARES = {"datagrams": 0.6, "packets": 0.1, "fields": 0.15, "sessions": 0.05, "capsules": 0.1}
COLLECT_EVERY = 500
_SLOT, _SLOTS = 8192, 64


class Last:
    """The last inputs, in memory that is a file."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_SLOT * _SLOTS))
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), _SLOT * _SLOTS)
        self.count = 0

    def note(self, data: bytes) -> None:
        """Before it is tried."""
        head = self.count.to_bytes(8, "little") + len(data).to_bytes(8, "little")
        at = self.count % _SLOTS * _SLOT
        self.map[at : at + 16 + len(data)] = head + data
        self.count += 1


def fuzz(
    target: Target, corpus: list[bytes], inputs: int, seed: int, last: Last | None = None
) -> dict[str, bytes]:
    """Feeds a target. Returns, for each outcome, the shortest input that led to it."""
    random = Random(seed)
    found: dict[str, bytes] = {}
    pool = list(corpus)
    gc.disable()  # a collection looks at whatever all inputs have left, and takes longer than an input may
    try:
        for number in range(inputs):
            if number % COLLECT_EVERY == 0:
                gc.collect()
            data = pool[number] if number < len(corpus) else mutate(random.choice(pool), pool, random)
            if last is not None:
                last.note(data)
            began = time.thread_time()  # the server runs in this thread; other tests have left theirs
            try:
                outcome = target.run(data)
            except Exception:
                print(f"input {number} of {target.name}: {data.hex()}", file=sys.stderr)
                raise
            assert time.thread_time() - began < HANG, f"input {number} takes too long: {data.hex()}"
            if outcome not in found:
                pool.append(data)
            if outcome not in found or len(data) < len(found[outcome]):
                found[outcome] = data
    finally:
        gc.enable()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--target", choices=TARGETS, action="append", help="only this one; may be given again"
    )
    parser.add_argument("--keep", action="store_true", help="write inputs with new outcomes to the corpus")
    parser.add_argument("--last", type=Path, help="a file for the last inputs")
    args = parser.parse_args()
    names = args.target or list(TARGETS)
    last = Last(args.last) if args.last else None
    whole = sum(SHARES[name] for name in names)
    for name in names:
        inputs = round(args.inputs * SHARES[name] / whole)
        target = TARGETS[name]()
        corpus = [*target.seeds(), *corpus_files.load(name)]
        began = time.monotonic()
        found = fuzz(target, corpus, inputs, args.seed, last)
        target.close()
        took = time.monotonic() - began
        print(f"{name}: {inputs} inputs, {len(found)} outcomes, {inputs / took:.0f} a second", flush=True)
        if args.keep:
            corpus_files.save(name, [*found.values(), *corpus_files.load(name)])


if __name__ == "__main__":
    main()
