"""Plots of the medians, for a person who has a moment: SVG to publish, PNG to look at."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .report import Summary, number

OURS = "#0b6e4f"
COLOURS = {
    "native": "#222222",
    "quiche_h3": OURS,
    "quiche_h3 async": "#6bbf9c",
    "quic-go": "#2f7fd0",
    "qh3": "#d9902f",
    "aioquic": "#c2473d",
    "hypercorn": "#8a5aa8",
}
MARKERS = {"native": "|", "quiche_h3": "o", "quiche_h3 async": "o"}
INK, GRID = "#333333", "#dddddd"


def draw(summaries: Sequence[Summary], folder: Path) -> None:
    """Draws what the summaries have into `folder`, each plot as SVG and PNG."""
    try:
        pyplot: Any = import_module("matplotlib.pyplot")
    except ImportError:
        raise SystemExit("the plots need matplotlib: pip install 'quiche-h3[bench]'") from None
    import_module("matplotlib").use("Agg")
    pyplot.rcParams.update(
        {
            "font.size": 9,
            "svg.fonttype": "none",  # text stays text, and the files small
            "svg.hashsalt": "quiche_h3",
            "text.color": INK,
            "axes.edgecolor": GRID,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    idle = [summary for summary in summaries if summary.case == "idle"]
    busy = [summary for summary in summaries if summary.case != "idle"]
    small = [summary for summary in busy if summary.unit == "request"]
    for name, figure in (
        ("cpu", cpu(pyplot, busy) if busy else None),
        ("latency", latency(pyplot, small) if small else None),
        ("memory", memory(pyplot, idle[0]) if idle else None),
    ):
        if figure is not None:
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=130)
            pyplot.close(figure)


def plain(axes: Any, title: str, pad: int = 28) -> None:
    """No frame, a quiet grid, the title on the left."""
    axes.set_title(title, loc="left", fontweight="bold", pad=pad)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def legend(axes: Any, count: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=count, frameon=False, fontsize=8.5,
        handletextpad=0.2, columnspacing=1.2, borderaxespad=0.1,
    )  # fmt: skip


def rows(axes: Any, titles: Sequence[str]) -> None:
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.5, -0.5)


def cpu(pyplot: Any, summaries: Sequence[Summary]) -> Any:
    """How much of the server's processor each unit of work costs, as a multiple of the reference."""
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(summaries) + 1.2))
    plain(axes, f"Processor time of the server for the same work, as a multiple of {summaries[0].reference}")
    names = dict.fromkeys(name for summary in summaries for name in summary.servers)
    for row, summary in enumerate(summaries):
        ratios = [medians["ratio"] for medians in summary.servers.values()]
        axes.plot([min(ratios), max(ratios)], [row, row], color=GRID, linewidth=1, zorder=1)
        ours = summary.servers.get("quiche_h3")
        if ours is not None:
            axes.annotate(
                f"{ours['ratio']:.2f}", (ours["ratio"], row), xytext=(0, 6), textcoords="offset points",
                ha="center", fontsize=7.5, color=OURS,
            )  # fmt: skip
    for name in names:
        points = [(s.servers[name]["ratio"], row) for row, s in enumerate(summaries) if name in s.servers]
        axes.scatter(
            *zip(*points, strict=True), label=name, color=COLOURS.get(name), marker=MARKERS.get(name, "D"),
            s=110 if name == "native" else 46 if name == "quiche_h3" else 26, zorder=3 if "h3" in name else 2,
        )  # fmt: skip
    axes.set_xscale("log")
    highest = max(medians["ratio"] for summary in summaries for medians in summary.servers.values())
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= highest * 1.3]
    axes.set_xticks(ticks, [f"{tick}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("less is better; logarithmic")
    rows(axes, [summary.title for summary in summaries])
    legend(axes, len(names))
    return figure


def latency(pyplot: Any, summaries: Sequence[Summary]) -> Any:
    """From the median to the 99th and the 99.9th percentile, a line for each server."""
    names = list(dict.fromkeys(name for summary in summaries for name in summary.servers))
    figure, axes = pyplot.subplots(figsize=(9, 0.17 * len(names) * len(summaries) + 1.2))
    plain(axes, "Latency of a request under that load: median, then 99 % (dot), then 99.9 % (thin)")
    for index, name in enumerate(names):
        for row, summary in enumerate(summaries):
            if name not in summary.servers:
                continue
            medians = summary.servers[name]
            y = row + (index - (len(names) - 1) / 2) * 0.8 / len(names)
            p50, p99, p999 = (medians[key] / 1000 for key in ("p50_us", "p99_us", "p999_us"))
            colour = COLOURS.get(name)
            axes.plot([p50, p99], [y, y], color=colour, linewidth=2.6, solid_capstyle="butt")
            axes.plot([p99, p999], [y, y], color=colour, linewidth=0.8)
            axes.scatter([p99], [y], color=colour, s=14, label=name if row == 0 else None, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(pyplot.FuncFormatter(lambda value, _: f"{value:g} ms"))
    axes.set_xlabel("less is better; logarithmic")
    rows(axes, [summary.title for summary in summaries])
    legend(axes, len(names))
    return figure


def memory(pyplot: Any, summary: Summary) -> Any:
    """What the process weighs at start, and what each idle connection adds."""
    names = list(summary.servers)
    figure, both = pyplot.subplots(1, 2, figsize=(9, 0.3 * len(names) + 1), sharey=True)
    for axes, key, title in (
        (both[0], "connection_kib", "KiB for each idle connection"),
        (both[1], "start_mib", "MiB at start"),
    ):
        plain(axes, title, pad=8)
        values = [summary.servers[name][key] for name in names]
        axes.barh(names, values, color=[COLOURS.get(name) for name in names], height=0.62)
        for row, value in enumerate(values):
            axes.annotate(number(value), (value, row), xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.margins(x=0.15)
    both[0].invert_yaxis()
    return figure
