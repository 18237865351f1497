"""Programs that run on a processor of their own, and what they use: time and memory of process trees."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .programs import ROOT

PAGE = os.sysconf("SC_PAGE_SIZE")
PATIENCE = 120.0
"""Seconds after which a program that says nothing has failed."""


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    pids = [pid]
    for parent in pids:  # it grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                pids += map(int, children.read_text().split())
    return pids


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree, in seconds. What descendants used that are gone is left out."""
    total = 0.0
    for process in tree(pid):
        with suppress(OSError):
            total += time.clock_gettime(~process << 3 | 2)  # as clock_getcpuclockid(3) makes it on Linux
    return total


def rss(pid: int) -> int:
    """Resident memory of a process tree, in bytes."""
    return sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) * PAGE for p in tree(pid))


def peak_rss(pid: int) -> int:
    """The highest resident memory that each process of the tree had, added up, in bytes."""
    statuses = (Path(f"/proc/{p}/status").read_text() for p in tree(pid))
    return sum(int(status.partition("VmHWM:")[2].split()[0]) * 1024 for status in statuses)


@contextmanager
def on_cpu(number: int) -> Iterator[None]:
    """What is started in the block has one processor, the last one where there are not so many."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[min(number, len(allowed) - 1)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Program:
    """A program that talks in lines and ends with its standard input."""

    def __init__(self, command: Sequence[str], cpu: int, errors: IO[str]) -> None:
        self.command = command
        self.errors = errors
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with on_cpu(cpu):
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def line(self) -> str:
        """The next line. Raises RuntimeError with what the program had to say when there is none."""
        assert self.popen.stdout is not None
        ready, _, _ = select.select([self.popen.stdout], [], [], PATIENCE)
        line = self.popen.stdout.readline() if ready else ""
        if not line:
            self.errors.seek(0)
            problem = self.errors.read()[-2000:].strip() or "nothing was said"
            raise RuntimeError(f"{Path(self.command[0]).name}: {problem}")
        return line

    def json(self) -> dict[str, Any]:
        """The next line as JSON."""
        result: dict[str, Any] = json.loads(self.line())
        return result

    def tell(self) -> None:
        """Sends an empty line."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def end(self, patience: float) -> int | None:
        """Closes standard input and waits. Returns the exit status, None if the program had to be killed."""
        assert self.popen.stdin is not None
        with suppress(BrokenPipeError):
            self.popen.stdin.close()
        try:
            return self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            return None
        finally:
            for process in tree(self.pid)[::-1]:
                with suppress(ProcessLookupError):
                    os.kill(process, 9)
            self.popen.wait()
            assert self.popen.stdout is not None
            self.popen.stdout.close()
