"""A request and its response from one end to the other, in memory: the server, the client, and QUIC."""

from __future__ import annotations

from instructions import REQUESTS
from pytest_benchmark.fixture import BenchmarkFixture

from .conftest import Captured


def test_sixteen_requests(benchmark: BenchmarkFixture, captured: Captured) -> None:
    before = captured.pair.receiver.finished
    benchmark(captured.pair.round, captured.connection)
    assert (captured.pair.receiver.finished - before) % REQUESTS == 0
