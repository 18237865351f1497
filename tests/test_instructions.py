"""What a request costs, in instructions: unlike time, these are the same on a machine that is busy.

tests/instructions.json has the figures. They hold for one minor version of Python, built in one way: the
interpreter does a good part of the work. A change that is worth its cost stores the new figure with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WORK = {
    "request": ("", "instructions.py", (20, 220), 16),
    "half-open": (", half-open handshake", "attack/half_open.py", (20, 100), 1),
}
"""What is added to the key of a figure, the program, its rounds in two runs, how much is done in a round."""
TOLERANCE = 0.04


def this_python() -> str:
    """What the count depends on besides our own code: the interpreter, and how it was built."""
    version = ".".join(platform.python_version_tuple()[:2])
    compiler = " ".join(platform.python_compiler().split()[:2]).partition(".")[0]
    options = re.sub(r"/[^ ']*", "", sysconfig.get_config_var("CONFIG_ARGS") or "")  # wherever it lies
    build = hashlib.sha256(options.encode()).hexdigest()[:8]
    return f"{platform.python_implementation()} {version}, {compiler}, {platform.machine()}, options {build}"


def count(work: str, rounds: int) -> int:
    """The instructions of a whole process that does so many rounds of a piece of work."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    done = subprocess.run(
        [*command, str(HERE / work), str(rounds)],
        env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    collected = re.search(r"Collected : (\d+)", done.stderr)
    assert done.returncode == 0, done.stderr
    assert collected, done.stderr
    return int(collected[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind: apt-get install valgrind")
@pytest.mark.skipif("QUICHE_H3_DEBUG_BUILD" in os.environ, reason="a debug build is slower by intent")
@pytest.mark.parametrize(("what", "work", "rounds", "each"), WORK.values(), ids=WORK)
def test_it_costs_no_more_instructions_than_it_did(
    what: str, work: str, rounds: tuple[int, int], each: int
) -> None:
    """One small request and its response; a handshake that nobody goes on with. Within 4 % of what is stored.

    The difference of two runs leaves out the start of Python and whatever the rounds have in common.
    """
    short, long = (count(work, number) for number in rounds)
    cost = (long - short) // (each * (rounds[1] - rounds[0]))
    stored: dict[str, int] = json.loads((HERE / "instructions.json").read_text())
    key = this_python() + what
    entry = f'"{key}": {cost}'
    print(entry)
    if key not in stored:
        pytest.skip(f"tests/instructions.json has no figure for this Python yet; here it is {entry}")
    assert cost <= stored[key] * (1 + TOLERANCE), f"{cost} instructions, {stored[key]} before"


if __name__ == "__main__":  # prints the figures of this Python, to be stored
    for case in WORK.values():
        test_it_costs_no_more_instructions_than_it_did(*case)
