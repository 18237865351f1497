"""Measure HTTP/3 servers side by side: the same client, the same work, in turns, ratios to a native server.

    make bench                                   everything, a quarter of an hour
    python -m bench --quick --only 1x100,download --servers quiche_h3,native

Each run starts a server of its own on the first processor; the load client has the second. What is compared
is the server's processor time, user and system, for one unit of work: the figure that other load on the
machine disturbs least. Each figure is the median of the repetitions, which take the servers in turn.
A failed request, a wrong byte or a lost connection makes the run fail, and the benchmark with it: exit 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from .cases import CASES, MIB, Case
from .measure import Run, measure
from .programs import ROOT, SERVERS, Server, Unavailable, load_client, versions
from .report import Summary, machine, summarize, table

sys.path.insert(0, str(ROOT / "tests"))

from interop.certificates import make_certificate

T = TypeVar("T", Case, Server)


def chosen(words: str | None, items: Sequence[T], what: str) -> list[T]:
    """The items that a comma-separated list names; all when there is none."""
    names = {(item.key if isinstance(item, Case) else item.name.replace(" ", "-")): item for item in items}
    if words is None:
        return list(items)
    wanted = words.split(",")
    if unknown := sorted(set(wanted) - set(names)):
        raise SystemExit(f"no such {what}: {', '.join(unknown)}; there are {', '.join(names)}")
    return [item for name, item in names.items() if name in wanted]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short repetition: does it work, roughly how well"
    )
    parser.add_argument("--only", metavar="CASES", help="cases: " + ",".join(case.key for case in CASES))
    names = ",".join(server.name.replace(" ", "-") for server in SERVERS)
    parser.add_argument("--servers", metavar="NAMES", help="servers: " + names)
    parser.add_argument("--repetitions", type=int, help="runs of each case and server (default 5)")
    parser.add_argument("--duration", type=float, help="seconds of one run (default 1)")
    parser.add_argument("--size", type=int, help="MiB of one large body (default 16)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write machine, runs and medians to this file"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw SVG and PNG plots (needs matplotlib)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 where quiche_h3 misses its goal: a tenth of aioquic's processor time for small "
        "responses, a twentieth for large bodies",
    )
    options = parser.parse_args()
    quick = (1, 0.4, 4) if options.quick else (5, 1.0, 16)
    for name, default in zip(("repetitions", "duration", "size"), quick, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options


def available(servers: Sequence[Server]) -> list[tuple[Server, list[str]]]:
    """The servers with their commands, built when need be; says which this machine cannot make."""
    commands = []
    for server in servers:
        try:
            commands.append((server, server.command()))
        except Unavailable as missing:
            print(f"without {server.name}: {missing}", file=sys.stderr)
    return commands


def run_all(
    cases: Sequence[Case], servers: Sequence[tuple[Server, list[str]]], options: argparse.Namespace
) -> tuple[list[Run], list[str]]:
    """All runs, and what went wrong."""
    runs, failures = list[Run](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        for repetition in range(options.repetitions):
            for case in cases:
                if sys.stderr.isatty():
                    print(f"\r{repetition + 1}/{options.repetitions} {case.key:12}", end="", file=sys.stderr)
                for server, command in servers:
                    if case.datagrams and not server.datagrams:
                        continue
                    try:
                        runs.append(
                            measure(
                                case, server.name, command, certificate, options.duration, options.size * MIB
                            )
                        )
                    except RuntimeError as failure:
                        failures.append(f"{server.name}, {case.key}: {failure}")
                        print(f"FAILED: {failures[-1]}", file=sys.stderr)
    if sys.stderr.isatty():
        print(end="\r\x1b[K", file=sys.stderr)
    return runs, failures


def below(case: Case, summary: Summary) -> list[str]:
    """What a case's goal says of its figures: nothing when it is reached, or one of the two was not run."""
    ours, theirs = (summary.servers.get(name) for name in ("quiche_h3", "aioquic"))
    if not case.goal or ours is None or theirs is None:
        return []
    times = theirs["cpu_us"] / ours["cpu_us"]
    return [f"{case.key}: {times:.1f} times less processor time than aioquic, not {case.goal:g}"] * (
        times < case.goal
    )


def write(path: Path, runs: Sequence[Run], summaries: Sequence[Summary], about: dict[str, object]) -> None:
    """Everything, for other programs."""
    result = {
        "about": about,
        "summary": [asdict(s) for s in summaries],
        "runs": [asdict(run) for run in runs],
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def main() -> int:
    options = parse()
    cases = chosen(options.only, CASES, "case")
    try:
        load_client()
        servers = available(chosen(options.servers, SERVERS, "server"))
    except Unavailable as missing:
        print(missing, file=sys.stderr)
        return 1
    about = {**machine(), **versions(), "load before": os.getloadavg()[0]}
    print("  ".join(f"{name}: {value}" for name, value in about.items()))
    runs, failures = run_all(cases, servers, options)
    summaries = [summarize(case, runs) for case in cases if any(run.case == case.key for run in runs)]
    print(table(summaries))
    if options.json:
        write(options.json, runs, summaries, about)
    if options.plots:
        from .plots import draw

        draw(summaries, options.plots)
    by_key = {case.key: case for case in cases}
    missed = [goal for summary in summaries for goal in below(by_key[summary.case], summary)]
    if options.check and missed:
        print("below the goal:", *missed, sep="\n", file=sys.stderr)
    if failures:
        print(f"{len(failures)} runs failed:", *failures, sep="\n", file=sys.stderr)
    return 1 if failures or (options.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
