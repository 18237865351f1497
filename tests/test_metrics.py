"""The snapshot of counters."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path

import pytest

from quiche_h3 import metrics
from quiche_h3.metrics import Metrics, RttMetrics


def test_snapshot_of_counters() -> None:
    """Specification 8: engine, connections (bytes, loss, RTT, PTO, ...), HTTP/3 and handlers, as JSON."""
    snapshot = Metrics.collect(
        engine={"bytes_received": 1200, "send_errors": {"EPERM": 2}},
        connections={"accepted": 3, "packets_lost": 1, "pto_count": 4, "datagrams_sent": 5},
        http3={"requests": 6, "responses_2xx": 6},
        handlers={"started": 6, "rejected_503": 1},
        rtts_ns=[1_000_000, 2_000_000, 6_000_000],
    )
    values = json.loads(json.dumps(snapshot.as_dict()))
    assert list(values) == ["engine", "connections", "http3", "handlers"]
    assert (values["engine"]["bytes_received"], values["engine"]["send_errors"]) == (1200, {"EPERM": 2})
    assert values["connections"]["rtt"] == {"min_ms": 1.0, "mean_ms": 3.0, "max_ms": 6.0}
    assert (values["connections"]["pto_count"], values["http3"]["requests"]) == (4, 6)
    assert (values["handlers"]["started"], values["handlers"]["failed"]) == (6, 0)


def test_counters_start_at_zero() -> None:
    """A server that did nothing reports every counter, as 0, and no round-trip time."""
    values = Metrics().as_dict()
    assert values["connections"].pop("rtt") == {"min_ms": None, "mean_ms": None, "max_ms": None}
    assert values["engine"].pop("send_errors") == {}
    assert {number for group in values.values() for number in group.values()} == {0}
    assert Metrics.collect({}, {}, {}, {}) == Metrics()


@pytest.mark.parametrize("group", range(4))
def test_undeclared_counters_are_refused(group: int) -> None:
    """A counter that a layer keeps under another name would be lost in silence."""
    counters: list[dict[str, int]] = [{}, {}, {}, {}]
    counters[group]["no_such_counter"] = 1
    with pytest.raises(TypeError, match="no_such_counter"):
        Metrics.collect(counters[0], counters[1], counters[2], counters[3])


def test_rtt_of_one_connection() -> None:
    """With one connection all three are its own, in milliseconds."""
    assert RttMetrics.of([1_500_000]) == RttMetrics(min_ms=1.5, mean_ms=1.5, max_ms=1.5)


def test_a_snapshot_does_not_change() -> None:
    """A snapshot is a value: the counters go on, it stays."""
    errors = {"EPERM": 1}
    snapshot = Metrics.collect({"send_errors": errors}, {}, {}, {})
    errors["EPERM"] = 2
    assert snapshot.engine.send_errors == {"EPERM": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Metrics().engine.__setattr__("bytes_sent", 1)


def test_every_counter_says_what_it_counts() -> None:
    """Each counter has a docstring below it."""
    tree = ast.parse(Path(metrics.__file__).read_text("utf-8"))
    groups = ("EngineMetrics", "ConnectionMetrics", "Http3Metrics", "HandlerMetrics")
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in groups):
        for before, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(before, ast.AnnAssign):
                assert isinstance(after, ast.Expr), ast.unparse(before)
