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
        endpoint={"accepted": 3, "retries_sent": 1, "packets_lost": 1, "datagrams_sent": 5, "connections": 2},
        sockets=[
            {"datagrams_sent": 100, "bytes_received": 1200, "send_errors": {"EPERM": 2}},
            {"datagrams_sent": 10, "bytes_received": 30, "send_errors": {"EPERM": 1, "EMSGSIZE": 4}},
        ],
        active=[
            {"packets_lost": 10, "datagrams_sent": 50, "rtt": 0.001, "cwnd": 13_500},
            {"packets_lost": 100, "datagrams_sent": 500, "rtt": 0.005, "cwnd": 13_500},
            {},
        ],
        http3={"requests": 6, "responses": {"2xx": 6}},
        handlers={"started": 6, "rejected_503": 1},
    )
    values = json.loads(json.dumps(snapshot.as_dict()))
    assert list(values) == ["engine", "connections", "http3", "handlers", "webtransport"]
    engine, connections = values["engine"], values["connections"]
    assert (engine["datagrams_sent"], engine["bytes_received"], engine["retries_sent"]) == (110, 1230, 1)
    assert engine["send_errors"] == {"EPERM": 3, "EMSGSIZE": 4}
    assert (connections["packets_lost"], connections["datagrams_sent"]) == (111, 555)
    assert (connections["accepted"], connections["connections"]) == (3, 2)
    assert connections["rtt"] == {"min_ms": 1.0, "mean_ms": 3.0, "max_ms": 5.0}
    assert (values["http3"]["requests"], values["http3"]["responses"]) == (6, {"2xx": 6})
    assert (values["handlers"]["started"], values["handlers"]["failed"]) == (6, 0)


def test_counters_start_at_zero() -> None:
    """A server that did nothing reports every counter, as 0, and no round-trip time."""
    values = Metrics().as_dict()
    assert values["connections"].pop("rtt") == {"min_ms": None, "mean_ms": None, "max_ms": None}
    assert values["engine"].pop("send_errors") == values["http3"].pop("responses") == {}
    assert values["webtransport"].pop("reset_codes") == {}
    assert {number for group in values.values() for number in group.values()} == {0}
    assert Metrics.collect({}) == Metrics()


def test_undeclared_counters_are_refused() -> None:
    """A counter that a layer keeps under another name would be lost in silence."""
    counter = {"no_such_counter": 1}
    with pytest.raises(TypeError, match="no_such_counter"):
        Metrics.collect(counter)
    with pytest.raises(TypeError, match="no_such_counter"):
        Metrics.collect({}, sockets=[counter])
    with pytest.raises(TypeError, match="no_such_counter"):
        Metrics.collect({}, http3=counter)
    with pytest.raises(TypeError, match="no_such_counter"):
        Metrics.collect({}, handlers=counter)
    with pytest.raises(TypeError, match="no_such_counter"):
        Metrics.collect({}, webtransport=counter)


def test_rtt_of_one_connection() -> None:
    """With one connection all three are its own, in milliseconds."""
    assert RttMetrics.of([0.0015]) == RttMetrics(min_ms=1.5, mean_ms=1.5, max_ms=1.5)


def test_a_snapshot_does_not_change() -> None:
    """A snapshot is a value: the counters go on, it stays, and taking it leaves them alone."""
    errors, endpoint = {"EPERM": 1}, {"packets_lost": 1}
    sockets, active = [{"send_errors": errors}, {"send_errors": errors}], [{"packets_lost": 1}]
    snapshot = Metrics.collect(endpoint, sockets, active)
    assert (errors, endpoint, active) == ({"EPERM": 1}, {"packets_lost": 1}, [{"packets_lost": 1}])
    errors["EPERM"] = 7
    assert (snapshot.engine.send_errors, snapshot.connections.packets_lost) == ({"EPERM": 2}, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.engine.__setattr__("bytes_sent", 1)


def test_every_counter_says_what_it_counts() -> None:
    """Each counter has a docstring below it."""
    tree = ast.parse(Path(metrics.__file__).read_text("utf-8"))
    groups = ("EngineMetrics", "ConnectionMetrics", "Http3Metrics", "HandlerMetrics", "WebTransportMetrics")
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in groups):
        for before, after in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(before, ast.AnnAssign):
                assert isinstance(after, ast.Expr), ast.unparse(before)
