"""Many sessions and many streams: what they cost the server's memory, by the program that measures it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def bench(*arguments: str) -> str:
    """The output of the measuring program."""
    command = [sys.executable, "-m", "bench.webtransport", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_thousand_sessions() -> None:
    """1,000 sessions over 100 connections, each with a datagram and a stream there and back."""
    found = re.search(r"1000 sessions over 100 connections: .* ([\d.]+) KiB each", bench("sessions"))
    assert found is not None
    assert float(found[1]) < 100


@pytest.mark.slow
def test_many_short_streams_leave_nothing_behind() -> None:
    """Attack row 43: memory does not grow with the streams a session has had."""
    found = re.search(r"memory (\d+) -> (\d+) KiB", bench("streams", "120000"))
    assert found is not None
    first, last = int(found[1]), int(found[2])
    assert last - first < 2048
