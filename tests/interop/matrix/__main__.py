"""`python -m interop.matrix`: the whole table, against each peer in both roles, as Markdown and JSON."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from net.relay import lacking

from .arena import Result, run
from .peers import ENDPOINTS, OURS, ROOT
from .report import markdown
from .table import CASES, Case, case_of

Run = tuple[Case, str, str, int]
"""Case, client, server, seed."""


def pairs(peers: Sequence[str], case: Case) -> Iterator[tuple[str, str]]:
    """(client, server): this library with itself, and with each peer of the suite both ways round."""
    for peer in peers:
        if case.suite in ENDPOINTS[peer].suites:
            yield OURS, peer
            if peer != OURS:
                yield peer, OURS


def everything(cases: Sequence[Case], peers: Sequence[str], runs: int, seed: int) -> list[Run]:
    """All runs: round by round, so that what is unfinished is a table of fewer rounds."""
    return [
        (case, client, server, seed + number)
        for number in range(max(case.runs or runs for case in cases))
        # The longest first: nothing waits for a straggler.
        for case in sorted(cases, key=lambda case: -case.timeout * sum(case.files))
        if number < (case.runs or runs)
        for client, server in pairs(peers, case)
    ]


def run_apart(case: Case, client: str, server: str, seed: int, keep: Path) -> dict[str, Any]:
    """One run in a process of its own: namespaces bear the name of their process."""
    command = [
        sys.executable,
        "-m",
        "interop.matrix",
        "--one",
        case.name,
        client,
        server,
        "--seed",
        str(seed),
    ]
    done = subprocess.run([*command, "--keep", str(keep)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        problem = f"the run itself failed with {done.returncode}"
        return Result(case.name, client, server, "failed", [problem]).as_dict()
    result: dict[str, Any] = json.loads(done.stdout)
    if result["outcome"] == "failed":
        print(f"FAILED {case.name} {client} -> {server} #{seed}: {result['problems']}", file=sys.stderr)
    return result


def run_here(names: tuple[str, str, str], seed: int, keep: Path) -> dict[str, Any]:
    """One run. What a failed one has left behind stays in `keep`."""
    name, client, server = names
    case = case_of(name)
    with tempfile.TemporaryDirectory(prefix="interop-") as folder:
        result = run(case, client, server, seed, Path(folder))
        if result.outcome == "failed":
            shutil.copytree(folder, keep / f"{name}-{client}-{server}-{seed}", dirs_exist_ok=True)
    return result.as_dict()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m interop.matrix", description=__doc__)
    parser.add_argument(
        "--peer", action="append", choices=list(ENDPOINTS), help="only this one (may be repeated)"
    )
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in CASES], help="only this one"
    )
    parser.add_argument(
        "--runs", type=int, default=3, help="how often each case is run (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=4, help="runs at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each has its own")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "interop", help="where matrix.md and matrix.json go"
    )
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "interop", help="logs of failed runs")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "CLIENT", "SERVER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.one:
        print(json.dumps(run_here(tuple(given.one), given.seed, given.keep)))
        return 0
    if problem := lacking():
        print(f"make interop: {problem}", file=sys.stderr)
        return 1
    peers = []
    for name in given.peer or ENDPOINTS:
        try:
            ENDPOINTS[name].prepare()
            peers.append(name)
        except FileNotFoundError as missing:
            print(f"without {name}: {missing}", file=sys.stderr)
    cases = [case for case in CASES if not given.case or case.name in given.case]
    todo = everything(cases, peers, given.runs, given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        running = [pool.submit(run_apart, *work, given.keep) for work in todo]
        for _ in as_completed(running):
            results = [run.result() for run in running if run.done()]
            (given.out / "matrix.json").write_text(json.dumps(results, indent=1) + "\n")
            (given.out / "matrix.md").write_text(markdown(results, cases))
    print((given.out / "matrix.md").read_text())
    return int(any(result["outcome"] == "failed" for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
