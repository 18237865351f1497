"""Ten thousand Initial packets from ten thousand addresses, while a client that was there before goes on."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from quiche_h3 import Server, ServerConfig, connect
from quiche_h3.client import ClientConnection

from .half_open import first_flights
from .support import count

_SPAWN = multiprocessing.get_context("spawn")


def serve(pipe: Any) -> None:
    """In a process of its own: a server that tells its address, and its counters when it is asked."""
    if hasattr(os, "sched_setaffinity"):  # all on one core, so that what else runs there is in the way of all
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    server = Server(ServerConfig(bind_addr="127.0.0.1", bind_port=0, dev_cert=True))
    server.get("/")(lambda: "Hello")
    with server.running() as address:
        pipe.send(tuple(address))
        while pipe.recv():
            pipe.send((server.export_metrics(), time.process_time()))


class Side:
    """A server in a process of its own, and a client that was there before the flood."""

    def __init__(self, address: tuple[str, int], pipe: Any, client: ClientConnection) -> None:
        self.address, self.pipe, self.client = address, pipe, client

    def counted(self) -> tuple[dict[str, Any], float]:
        """The server's counters, and the seconds of CPU time it has used."""
        self.pipe.send(True)
        counters, spent = self.pipe.recv()
        return counters, spent

    def request(self) -> float:
        """How long one takes."""
        began = time.perf_counter()
        assert self.client.get("/").text == "Hello"
        return time.perf_counter() - began


@contextmanager
def side() -> Iterator[Side]:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        address = ours.recv()
        with connect(f"https://{address[0]}:{address[1]}", verify=False) as client:
            yield Side(address, ours, client)
        ours.send(False)
    finally:
        process.join(10)
        process.kill()


def flood(flights: list[list[bytes]], address: tuple[str, int], per_second: float) -> None:
    """In a process of its own: each packet from another address of the loopback network."""
    began = time.monotonic()
    for i, flight in enumerate(flights):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((f"127.{1 + (i >> 16)}.{i >> 8 & 255}.{i & 255 or 1}", 0))
            for payload in flight:
                sock.sendto(payload, address)
        ahead = began + i / per_second - time.monotonic()
        if ahead > 0.002:
            time.sleep(ahead)


def percentile(times: list[float], share: int) -> float:
    return sorted(times)[len(times) * share // 100]


@dataclass
class Race:
    """Requests to two servers by turns, on one core: what else the machine does is in the way of both.

    Figures of the first server over those of the second.
    """

    tails: list[float]
    """For each window of half a second the 99th percentile of the time that a request takes, in order."""
    cpu: float
    """The CPU time of the servers."""
    requests: int
    """How many each has answered."""

    @classmethod
    def run(cls, sides: tuple[Side, Side], seconds: int) -> Race:
        before = [side.counted()[1] for side in sides]
        tails = []
        requests = 0
        for _ in range(2 * seconds):
            times: dict[Side, list[float]] = {side: [] for side in sides}
            end = time.monotonic() + 0.5
            order = sides
            while time.monotonic() < end:
                for one in order:
                    times[one].append(one.request())
                order = order[1], order[0]
                time.sleep(0.0005)
            first, second = (percentile(times[side], 99) for side in sides)
            tails.append(first / second)
            requests += len(times[sides[0]])
        spent = [side.counted()[1] - was for side, was in zip(sides, before, strict=True)]
        return cls(sorted(tails), spent[0] / spent[1], requests)


@pytest.mark.slow
def test_a_flood_of_initials_is_not_felt() -> None:
    """Attack row 4: 10,000 spoofed Initials: p99 of a client within twice its own, after 5 s within a tenth.

    Its own: what a client of another server has on the same core at the same time.
    """
    seconds = count(8, 4)
    flights = first_flights(count(10_000, 5000))
    with side() as attacked, side() as control:
        sides = attacked, control
        normal = Race.run(sides, seconds)
        sender = _SPAWN.Process(target=flood, args=(flights, attacked.address, len(flights) / seconds))
        sender.start()
        during = Race.run(sides, seconds)
        sender.join()
        counters, _ = attacked.counted()
        time.sleep(5)
        after = Race.run(sides, seconds)
        left, _ = attacked.counted()
    engine, connections = counters["engine"], counters["connections"]
    # A first flight is two packets, each of which may be answered.
    assert connections["accepted"] + engine["retries_sent"] + engine["rate_limited"] > len(flights)
    assert connections["accepted"] <= 1 + 2 * ServerConfig().half_open_retry_threshold
    assert left["connections"]["half_open"] == 0
    assert percentile(during.tails, 50) < 2, during.tails
    # What a handshake costs that nobody goes on with is held in instructions, whatever else the machine does:
    # test_instructions.py. How many one turn begins: core/test_endpoint.py.
    # Single windows are further apart than a tenth on a busy machine. Most of them must not be.
    assert percentile(after.tails, 25) < 1.1, after.tails
    assert after.cpu < 1.1 * max(1, normal.cpu), (normal.cpu, after.cpu)
