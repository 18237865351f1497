"""Medians of the runs, ratios to the first server, and the table that a person reads."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cases import Case
from .measure import Run


@dataclass(frozen=True)
class Summary:
    """A case: the medians of each server's runs, by the names of the fields of `Run`."""

    case: str
    title: str
    unit: str
    servers: dict[str, dict[str, float]]
    reference: str
    """The server that the ratios are to: the first that was run."""


def summarize(case: Case, runs: Sequence[Run]) -> Summary:
    """The medians of a case, and each server's ratio of processor time and of memory to the reference."""
    servers: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(run.server for run in runs if run.case == case.key):
        mine = [asdict(run) for run in runs if (run.case, run.server) == (case.key, name)]
        numbers = [field for field, value in mine[0].items() if not isinstance(value, str)]
        servers[name] = {field: statistics.median(run[field] for run in mine) for field in numbers}
    reference = next(iter(servers))
    for medians in servers.values():
        medians["ratio"] = medians["cpu_us"] / servers[reference]["cpu_us"]
        medians["memory_ratio"] = medians["connection_kib"] / max(1e-9, servers[reference]["connection_kib"])
    return Summary(case.key, case.title, case.unit, servers, reference)


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(summaries: Sequence[Summary]) -> str:
    """All summaries, one block each."""
    return "\n".join(block for summary in summaries for block in _block(summary))


def _block(summary: Summary) -> list[str]:
    idle = summary.unit == "connection second"
    columns = [f"CPU µs/{summary.unit}", f"× {summary.reference}"]
    columns += ["KiB a connection", f"× {summary.reference}"] if idle else []
    columns += [] if idle else ["a second", "p50 µs", "p99 µs", "p99.9 µs"]
    columns += ["MiB start", "MiB peak"]
    lost = any(medians["lost"] for medians in summary.servers.values())
    columns += ["lost"] if lost else []
    widths = [max(9, len(column)) for column in columns]
    lines = ["", f"{summary.title}  [{summary.case}]"]
    lines.append(f"  {'':16}" + "  ".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True)))
    for name, m in summary.servers.items():
        cells = [number(m["cpu_us"]), f"{m['ratio']:.2f}"]
        cells += [number(m["connection_kib"]), f"{m['memory_ratio']:.2f}"] if idle else []
        cells += [] if idle else [number(m[key]) for key in ("per_second", "p50_us", "p99_us", "p999_us")]
        cells += [number(m["start_mib"]), number(m["peak_mib"])]
        cells += [f"{m['lost']:.2%}"] if lost else []
        lines.append(f"  {name:16}" + "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)))
    return lines


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "processors": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
    }


def markdown(summaries: Sequence[Summary]) -> str:
    """The tables of docs/performance.md."""
    busy = [summary for summary in summaries if summary.case != "idle"]
    names = list(dict.fromkeys(name for summary in summaries for name in summary.servers))
    reference = names[0]

    def rows(chosen: Sequence[Summary], cell: Callable[[dict[str, float]], str]) -> Iterator[list[str]]:
        for s in chosen:
            yield [s.title, *(cell(s.servers[name]) if name in s.servers else "–" for name in names)]

    ratios = [
        [f"{row[0]}: {number(s.servers[reference]['cpu_us'])} µs/{s.unit}", *row[1:]]
        for s, row in zip(busy, rows(busy, lambda m: f"{m['ratio']:.2f}"), strict=True)
    ]
    small = [summary for summary in busy if summary.unit == "request"]
    latency = rows(small, lambda m: " / ".join(number(m[k] / 1000) for k in ("p50_us", "p99_us", "p999_us")))
    idle = {s.case: s for s in summaries}.get("idle")
    memory: list[list[str]] = []
    for key, title in (("connection_kib", "KiB an idle connection"), ("start_mib", "MiB at start")):
        memory += [[title, *(number(m[key]) for m in idle.servers.values())]] if idle else []
    return "\n\n".join(
        "\n".join(f"| {' | '.join(row)} |" for row in [[head, *names], ["---"] * (len(names) + 1), *body])
        for head, body in (
            (f"CPU time, × {reference}", ratios),
            ("p50 / p99 / p99.9 in ms", list(latency)),
            ("memory", memory),
        )
    )


if __name__ == "__main__":  # the tables of a result that was written with --json
    result = json.loads(Path(sys.argv[1]).read_text())
    print(markdown([Summary(**summary) for summary in result["summary"]]))
