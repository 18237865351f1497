"""The matrix as Markdown, from the results of all runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from .peers import OURS
from .table import Case, Suite

Results = Sequence[dict[str, Any]]


def markdown(results: Results, cases: Sequence[Case]) -> str:
    """Two tables for each suite, this library as the server and as the client, then why a run has failed."""
    parts = []
    for suite in Suite:
        names = [case.name for case in cases if case.suite is suite]
        for role, other in (("server", "client"), ("client", "server")):
            mine = [result for result in results if result["case"] in names and result[role] == OURS]
            if mine:
                peers = list(dict.fromkeys(result[other] for result in mine))
                title = f"## {suite.value}: {OURS} as the {role}"
                parts += [title, "", *_table(mine, other, peers, names), ""]
    reasons = dict.fromkeys(
        f"- {result['case']}, client {result['client']}, server {result['server']}: "
        + "; ".join(result["problems"])
        for result in results
        if result["outcome"] == "failed"
    )
    if reasons:
        parts += ["## Failed runs", "", *reasons, ""]
    return "\n".join(parts)


def _table(results: Results, other: str, peers: Sequence[str], cases: Sequence[str]) -> Iterable[str]:
    yield "| case | " + " | ".join(f"{other} {peer}" for peer in peers) + " |"
    yield "| --- |" + " --- |" * len(peers)
    for case in cases:
        cells = [_cell([r for r in results if r["case"] == case and r[other] == peer]) for peer in peers]
        yield f"| {case} | " + " | ".join(cells) + " |"


def _cell(results: Results) -> str:
    outcomes = [result["outcome"] for result in results]
    if not outcomes:
        return ""
    if set(outcomes) == {"unsupported"}:
        return "–"
    passed = f"{outcomes.count('passed')} of {len(outcomes)}"
    figures = [result["kbit_s"] for result in results if result["kbit_s"] is not None]
    if not figures:
        return passed
    return f"{passed}: {statistics.mean(figures):.0f} ± {statistics.pstdev(figures):.0f} kbit/s"
