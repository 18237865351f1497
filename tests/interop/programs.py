"""Peers and servers as processes of their own: started, asked, measured, ended."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODULES = {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])}


class Process:
    """A running program whose first line of output, in JSON, said what there is to know about it."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        assert popen.stdout is not None
        line = popen.stdout.readline()
        if not line:
            raise RuntimeError(f"{popen.args!r} ended with {popen.wait()} and said nothing")
        self.said: dict[str, Any] = json.loads(line)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.said['port']}"

    def rss(self) -> int:
        """Return the resident memory in bytes."""
        statm = Path(f"/proc/{self.popen.pid}/statm").read_text().split()
        return int(statm[1]) * os.sysconf("SC_PAGE_SIZE")

    def peak_rss(self) -> int:
        """Return the highest resident memory since the start, or since :meth:`forget_peak`, in bytes."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def forget_peak(self) -> None:
        """Let :meth:`peak_rss` begin anew: 5 resets VmHWM (Linux, proc(5))."""
        Path(f"/proc/{self.popen.pid}/clear_refs").write_text("5")

    def cpu_seconds(self) -> float:
        """Return user and system time of all threads, past ones too, in seconds."""
        return time.clock_gettime(
            ~self.popen.pid << 3 | 2
        )  # what clock_getcpuclockid(3) makes of a pid on Linux

    def descriptors(self) -> int:
        """Return the number of open descriptors."""
        return len(list(Path(f"/proc/{self.popen.pid}/fd").iterdir()))


@contextmanager
def started(command: Sequence[str], *, code: int | None = 0) -> Iterator[Process]:
    """Run a program for the length of the block. It ends when its stdin does, with ``code`` (None: any)."""
    popen = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | MODULES
    )
    try:
        yield Process(popen)
        popen.communicate(timeout=30)
    finally:
        popen.kill()
        popen.wait()
    if code is not None and popen.returncode != code:
        raise RuntimeError(f"{popen.args!r} ended with {popen.returncode}")


class Peer:
    """An HTTP/3 peer program: ``run`` its client commands, or keep ``slow`` and ``serve`` running."""

    unverified: Sequence[str] = ()
    """The option with which a client command takes any certificate."""

    def __init__(self, program: Sequence[str], ca: Path | None = None) -> None:
        self.program = program
        self.ca = ca

    def trusting(self, ca: Path | None) -> Peer:
        """Return the same peer, trusting another authority, or any certificate when there is none."""
        other = copy.copy(self)
        other.ca = ca
        return other

    def command(self, name: str, url: str, **options: str | float) -> list[str]:
        """Return a client command with its options; ``n=3`` is ``--n=3``, which both peers understand."""
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
        trust = [f"--ca={self.ca}"] if self.ca else self.unverified
        return [*self.program, name, *trust, *flags, url]

    def run(self, name: str, url: str, *, timeout: float = 60.0, **options: str | float) -> dict[str, Any]:
        """Run one command to its end and return what it printed; raise RuntimeError when it failed."""
        command = self.command(name, url, timeout=timeout, **options)
        environment = os.environ | MODULES
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout + 10, env=environment, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        if name == "get":
            return {**json.loads(done.stderr), "body": done.stdout}
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def serve(self, certificate: Path, key: Path, *flags: str) -> list[str]:
        """Return the command that serves the routes of the tests."""
        return [*self.program, "serve", f"--cert={certificate}", f"--key={key}", *flags]


class GoPeer(Peer):
    """quic-go."""

    unverified = ("--insecure",)

    def __init__(self, program: Path, ca: Path | None = None) -> None:
        super().__init__([str(program)], ca)


class AioquicPeer(Peer):
    """aioquic as a program; tests that need more import :mod:`interop.aioquic_peer`."""

    def __init__(self, ca: Path | None = None) -> None:
        super().__init__([sys.executable, "-m", "interop"], ca)


def build_go(directory: str = "go", modfile: str = "go.mod") -> Path:
    """Return a Go program, quic-go's or another, built when need be.

    Raises FileNotFoundError where Go cannot be had.
    """
    command = [str(HERE / "go" / "build.sh"), directory, modfile]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 127:
        raise FileNotFoundError(done.stderr.strip())
    if done.returncode != 0:
        raise RuntimeError(f"the Go peer does not build:\n{done.stderr}")
    return Path(done.stdout.strip())
