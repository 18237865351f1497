"""One run: a fresh server, the load client, and what the server used while the client worked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .cases import Case
from .processes import Program, cpu_seconds, peak_rss, rss
from .programs import load_client

MIB = 1 << 20
SERVER_CPU, LOAD_CPU = 0, 1


@dataclass(frozen=True)
class Run:
    """What one run measured. Times of the processor are those of the server's whole process tree."""

    case: str
    server: str
    units: float
    per_second: float
    """Units in a second on the clock."""
    cpu_us: float
    """Microseconds of the server's processor time for a unit."""
    server_cpu_seconds: float
    load_cpu_seconds: float
    p50_us: float
    """Latency of a request, a body, a handshake or a datagram; the next two likewise."""
    p99_us: float
    p999_us: float
    lost: float
    """Share of the datagrams that did not come back."""
    start_mib: float
    """Resident memory before the first connection."""
    peak_mib: float
    connection_kib: float
    """Memory that each open connection has added before the work began."""


def measure(
    case: Case, name: str, command: Sequence[str], certificate: Sequence[Path], duration: float, size: int
) -> Run:
    """Runs a case against a server. Raises RuntimeError when anything is not as it should be."""
    ca = str(certificate[0])
    with tempfile.TemporaryFile("w+") as errors:
        server = Program([*command, *map(str, certificate)], SERVER_CPU, errors)
        try:
            port = server.json()["port"]
            with tempfile.TemporaryFile("w+") as load_errors, link(case, port) as port:
                url = f"https://127.0.0.1:{port}"
                words = [str(load_client()), url, ca, *case.options(duration, size)]
                return _measure(case, name, server, Program(words, LOAD_CPU, load_errors))
        finally:
            server.end(2)


@contextmanager
def link(case: Case, port: int) -> Iterator[int]:
    """The port to connect to: the server's, or that of a relay before it, beside the load client."""
    if not case.link:
        yield port
        return
    from net.relay import Relay  # it needs a C compiler, and is only for these

    with Relay(case.link, upstream=("127.0.0.1", port)) as relay:
        yield relay.port


def _measure(case: Case, name: str, server: Program, load: Program) -> Run:
    try:
        start = rss(server.pid)
        if (word := load.line()) != "ready\n":
            raise RuntimeError(f"the load client says {word!r}")
        ready = rss(server.pid)
        cpu, load_cpu = cpu_seconds(server.pid), cpu_seconds(load.pid)
        load.tell()
        done = load.json()
        cpu, load_cpu = cpu_seconds(server.pid) - cpu, cpu_seconds(load.pid) - load_cpu
        peak = peak_rss(server.pid)
    except BaseException:
        load.end(0)
        raise
    status = load.end(60)
    if status != 0:
        load.errors.seek(0)
        raise RuntimeError(f"the load client ended with {status}: {load.errors.read().strip()}")
    if server.popen.poll() is not None:
        raise RuntimeError(f"the server has ended, with {server.popen.returncode}")
    units = case.units(done)
    connections = case.idle + (case.connections if case.kind != "handshakes" else 0)
    return Run(
        case=case.key,
        server=name,
        units=units,
        per_second=units / done["seconds"],
        cpu_us=cpu * 1e6 / units,
        server_cpu_seconds=cpu,
        load_cpu_seconds=load_cpu,
        p50_us=done["p50"],
        p99_us=done["p99"],
        p999_us=done["p99.9"],
        lost=done["lost"] / max(1, done["lost"] + done["datagrams"]),
        start_mib=start / MIB,
        peak_mib=peak / MIB,
        connection_kib=(ready - start) / 1024 / max(1, connections),
    )
