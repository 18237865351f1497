"""Compare this server with one on aioquic: the same client, the same work, in turns, ratios at the end.

    python -m bench.compare [--repetitions 3] [--duration 2] [--json FILE] [--check]

Each run starts a server of its own on the first CPU; the client, quic-go's, has the second. What is
compared is the work done in one second of the server's CPU time, the figure that other load on the machine
disturbs least, as the median of the repetitions. A failed request, a wrong byte or a wrong length ends the
benchmark with exit 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from interop.certificates import Certificate, make_certificate  # noqa: E402  # after the path above was set
from interop.programs import Peer, Process, build_go, started  # noqa: E402  # as above

MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """Work that is the same for every server."""

    name: str
    method: str
    path: str
    connections: int
    streams: int
    size: int
    """Bytes of one body; 0 where requests are what counts."""
    goal: float
    """The ratio to aioquic to be reached."""


@dataclass(frozen=True)
class Run:
    """One measurement of one server."""

    case: str
    server: str
    requests: int
    seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    rss_start_mib: float
    rss_peak_mib: float
    per_cpu_second: float
    """Requests, or MiB of bodies, for one second of the server's CPU time."""
    per_second: float
    """The same for one second on the clock."""


def cases(size: int) -> list[Case]:
    return [
        Case("small responses, 1 connection x 100", "GET", "/hello", 1, 100, 0, 10),
        Case("small responses, 5 connections x 100", "GET", "/hello", 5, 100, 0, 10),
        Case(f"download of {size // MIB} MiB", "GET", f"/bytes/{size}", 1, 1, size, 20),
        Case(f"upload of {size // MIB} MiB", "POST", "/upload", 1, 1, size, 20),
    ]


def go_generator(ca: Path) -> Callable[[Case, str, float], dict[str, Any]]:
    """Return the client of quic-go, which checks every byte of every response."""
    peer = Peer([str(build_go())], ca)

    def run(case: Case, url: str, duration: float) -> dict[str, Any]:
        expect = "Hello, HTTP/3!" if not case.size else str(case.size) if case.method == "POST" else ""
        return peer.run(
            "load", url + case.path, method=case.method, size=case.size, expect=expect, duration=duration,
            connections=case.connections, streams=case.streams, timeout=duration + 60,
        )  # fmt: skip

    return run


@contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """Let what is started in the block inherit one CPU, where there are two and the system knows how."""
    if not hasattr(os, "sched_setaffinity") or len(allowed := sorted(os.sched_getaffinity(0))) < 2:
        yield
        return
    os.sched_setaffinity(0, {allowed[cpu]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def measure(
    name: str, case: Case, certificate: Certificate, duration: float,
    generate: Callable[[Case, str, float], dict[str, Any]],
) -> Run:  # fmt: skip
    """Start a server, warm it up, and measure one run of the generator against it."""
    command = [sys.executable, str(HERE / "servers" / f"{name}_server.py"), *map(str, certificate)]
    with on_cpu(0):
        context = started(command)
        server: Process = context.__enter__()
    try:
        start = server.rss()
        with on_cpu(1):
            generate(case, server.url, min(duration, 0.3))
            before = server.cpu_seconds()
            done = generate(case, server.url, duration)
        cpu = server.cpu_seconds() - before
        peak = server.peak_rss()
    finally:
        context.__exit__(None, None, None)
    work = done["ok"] * case.size / MIB if case.size else done["ok"]
    return Run(
        case.name, name, done["ok"], done["seconds"], cpu, done["cpu_seconds"], start / MIB, peak / MIB,
        work / cpu, work / done["seconds"],
    )  # fmt: skip


def summarize(runs: Sequence[Run], case: Case) -> dict[str, Any]:
    """Return medians of a case by server, and how many times the second server the first one is."""

    fields = ("per_cpu_second", "per_second", "rss_start_mib", "rss_peak_mib")
    medians: dict[str, dict[str, float]] = {}
    for server in dict.fromkeys(run.server for run in runs):
        mine = [asdict(run) for run in runs if (run.case, run.server) == (case.name, server)]
        medians[server] = {field: statistics.median(run[field] for run in mine) for field in fields}
    ours, theirs = (m["per_cpu_second"] for m in medians.values())
    unit = "MiB" if case.size else "requests"
    return {"case": case.name, "unit": unit, "medians": medians, "ratio": ours / theirs, "goal": case.goal}


def table(summaries: Sequence[dict[str, Any]]) -> str:
    first, second = summaries[0]["medians"]
    lines = [
        f"{'':38}{'in one CPU second of the server':^52}{'memory in MiB: start, peak':>28}",
        f"{'':38}{'unit':10}{first:>13}{second:>13}{'ratio':>9}{'goal':>7}{first:>14}{second:>14}",
    ]
    for s in summaries:
        ours, theirs = s["medians"].values()
        memory = (f"{m['rss_start_mib']:.0f}, {m['rss_peak_mib']:.0f}" for m in (ours, theirs))
        lines.append(
            f"{s['case']:38}{s['unit']:10}{ours['per_cpu_second']:13,.0f}{theirs['per_cpu_second']:13,.0f}"
            f"{s['ratio']:8.1f}x{s['goal']:6.0f}x" + "".join(f"{m:>14}" for m in memory)
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    from importlib.metadata import version

    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return {
        "cpu": models[0].partition(": ")[2] if models else platform.processor(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "aioquic": version("aioquic"),
        "load": os.getloadavg()[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--servers", nargs=2, default=["quiche_h3", "aioquic"], metavar="NAME", help="two of bench/servers"
    )
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each case and server (default 3)")
    parser.add_argument("--duration", type=float, default=2.0, help="seconds of one run (default 2)")
    parser.add_argument("--size", type=int, default=16, help="MiB of one bulk body (default 16)")
    parser.add_argument("--json", type=Path, help="also write every run and the medians to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 when a ratio is below its goal")
    options = parser.parse_args()
    about = machine()
    print("  ".join(f"{name}: {value}" for name, value in about.items()))
    todo, runs = cases(options.size * MIB), list[Run]()
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        try:
            generate = go_generator(certificate.certificate)
            for _ in range(options.repetitions):
                for case in todo:
                    runs += [
                        measure(name, case, certificate, options.duration, generate)
                        for name in options.servers
                    ]
        except (RuntimeError, FileNotFoundError) as failure:
            print(f"a run failed, so there is no result:\n{failure}", file=sys.stderr)
            return 1
    summaries = [summarize(runs, case) for case in todo]
    print(table(summaries))
    if options.json:
        result = {"machine": about, "runs": [asdict(run) for run in runs], "summary": summaries}
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    missed = [s["case"] for s in summaries if s["ratio"] < s["goal"]]
    if missed:
        print("below the goal: " + "; ".join(missed))
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
