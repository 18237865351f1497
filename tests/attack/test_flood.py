"""Ten thousand Initial packets from ten thousand addresses, while a client that was there before goes on."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from quiche_h3 import Server, ServerConfig, connect
from quiche_h3._core.endpoint import Endpoint
from quiche_h3._core.settings import EngineSettings
from quiche_h3._core.udp import UdpSocket
from quiche_h3.client import ClientConnection
from quiche_h3.config import ClientConfig

from .support import count

_SPAWN = multiprocessing.get_context("spawn")
_CLIENT = ("192.0.2.2", 5000)


class _Nobody:
    """The application of connections that nothing ever answers."""

    def protocol(self, connection: Any) -> None:
        return None

    connection_opened = connection_closed = protocol


def first_flights(number: int) -> list[list[bytes]]:
    """So many true ClientHellos, each of another connection."""
    client = Endpoint(EngineSettings(ClientConfig(verify=False)), _Nobody(), server=False)
    sock = UdpSocket(memory=_CLIENT)
    client.add_socket(sock)
    flights: list[list[bytes]] = []
    while len(flights) < number:
        client.connect(0, ("192.0.2.1", 443), "localhost")
        client.turn()
        flights.append([payload for payload, _, _ in sock.take()])
        client.drop_all()
    return flights


def serve(pipe: Any, fields: dict[str, Any]) -> None:
    """In a process of its own: a server that tells its address, and its counters whenever it is asked."""
    server = Server(ServerConfig(bind_addr="127.0.0.1", bind_port=0, dev_cert=True, **fields))
    server.get("/")(lambda: "Hello")
    with server.running() as address:
        pipe.send(tuple(address))
        while pipe.recv():
            pipe.send(server.export_metrics())


@contextmanager
def serving(**fields: Any) -> Iterator[tuple[tuple[str, int], Any]]:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=serve, args=(theirs, fields), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
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


def p99(client: ClientConnection, seconds: float) -> float:
    """The 99th percentile of the time that a request takes."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        assert client.get("/").text == "Hello"
        times.append(time.perf_counter() - began)
        time.sleep(0.001)
    return sorted(times)[len(times) * 99 // 100]


@pytest.mark.slow
def test_a_flood_of_initials_is_not_felt() -> None:
    """Attack row 4: 10,000 spoofed Initials: p99 of a client within twice its own, after 5 s within a tenth.

    What else the machine does is part of every measure, and only adds to it: the flood is repeated, twice
    at most, and a millisecond is allowed for it.
    """
    seconds = count(8, 2)
    flights = first_flights(count(10_000, 2500))
    told = []
    with serving() as (address, pipe), connect(f"https://{address[0]}:{address[1]}", verify=False) as client:
        p99(client, 0.5)
        for _ in range(3):
            normal = p99(client, seconds)
            sender = _SPAWN.Process(target=flood, args=(flights, tuple(address), len(flights) / seconds))
            sender.start()
            during = p99(client, seconds + 0.5)
            sender.join()
            pipe.send(True)
            counters = pipe.recv()
            time.sleep(5)
            after = p99(client, seconds)
            told.append(f"normal {normal * 1e3:.2f} ms, during {during * 1e3:.2f}, after {after * 1e3:.2f}")
            if during < 2 * normal + 1e-3 and after < 1.1 * normal + 1e-3:
                break
        else:
            pytest.fail("; ".join(told))
        pipe.send(True)
        left = pipe.recv()["connections"]["half_open"]
    print(told)
    answers = counters["engine"]["retries_sent"] + counters["engine"]["rate_limited"]
    assert counters["connections"]["half_open"] + answers >= len(flights) * 9 // 10, counters
    assert left == 0
