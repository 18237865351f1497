"""The matrix as Markdown, from the results of all runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .peers import OURS

Results = Sequence[dict[str, Any]]


def markdown(results: Results, cases: Sequence[str]) -> str:
    """Two tables, this library as the server and as the client, then why a run has failed."""
    parts = []
    for role, other in (("server", "client"), ("client", "server")):
        mine = [result for result in results if result[role] == OURS]
        peers = list(dict.fromkeys(result[other] for result in mine))
        parts += [f"## {OURS} as the {role}", "", *_table(mine, other, peers, cases), ""]
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
        cells = []
        for peer in peers:
            outcomes = [r["outcome"] for r in results if r["case"] == case and r[other] == peer]
            cells.append(_cell(outcomes))
        yield f"| {case} | " + " | ".join(cells) + " |"


def _cell(outcomes: Sequence[str]) -> str:
    if not outcomes:
        return ""
    if set(outcomes) == {"unsupported"}:
        return "–"
    return f"{outcomes.count('passed')} of {len(outcomes)}"
