"""What was opened and closed is gone: objects, connection IDs, deadlines, descriptors, memory."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from quiche_h3._core.http3_stream import Stream

from .pair import OK, Pair, get

KINDS = ("Connection", "Stream", "Http3", "FieldSection", "Handler")


def alive() -> Counter[str]:
    gc.collect()
    return Counter(kind for kind in (type(o).__name__ for o in gc.get_objects()) if kind in KINDS)


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - not for pathlib
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one_connection(pair: Pair, i: int) -> None:
    connection = pair.connect()
    pair.fetch(connection, get(b"/%d" % i, b"POST"), b"x" * (i % 3000))
    cancelled = pair.request(connection, get(b"/large"), read=False)
    pair.step()
    if i % 2 and cancelled.stream is not None:
        cancelled.stream.reset(0x10C)
    connection.close()
    pair.run(lambda: not pair.server.connections and not pair.client.connections)


def large_answers(pair: Pair) -> None:
    def answer(stream: Stream) -> None:
        pair.server_app.listen(stream)
        pair.server_app.handlers.clear()
        stream.send_headers(OK)
        stream.enqueue(bytes(100_000), True)

    pair.server_app.on_request = answer
    pair.server_app.keep = pair.client_app.keep = False


def test_a_thousand_connections_leave_nothing(pair: Pair) -> None:
    """Nothing of a connection outlives it, whether its last download was read, cancelled or left."""
    others = alive()  # what the tracebacks of other tests hold
    large_answers(pair)
    for i in range(100):
        one_connection(pair, i)
    before, fds, memory = alive(), len(os.listdir("/proc/self/fd")), resident()  # noqa: PTH208
    for i in range(900):
        one_connection(pair, i)
    assert alive() == before
    assert before == others
    assert len(os.listdir("/proc/self/fd")) == fds  # noqa: PTH208
    for endpoint in (pair.server, pair.client):
        assert endpoint.deadline() is None
        assert endpoint.counters()[0]["cids"] == 0
        assert endpoint.counters()[0]["half_open"] == 0
    assert resident() - memory < 4 << 20


def test_cancelled_downloads_leave_nothing(pair: Pair) -> None:
    """Ten thousand downloads cancelled on one connection cost no memory (cloudflare/quiche#2524)."""
    others = alive()
    large_answers(pair)
    connection = pair.connect()

    def cancel(count: int) -> None:
        for i in range(count):
            handler = pair.request(connection, read=False)
            pair.step()
            if handler.stream is not None:
                (handler.stream.reset if i % 2 else handler.stream.stop_receiving)(0x10C)
            if i % 10 == 9:
                pair.run(lambda: not connection.context.streams)

    memory = []
    for _ in range(5):
        cancel(2000)
        memory.append(resident())
    (accepted,) = pair.server.connections.values()
    pair.fetch(connection)  # behind those that were given up while they waited for a stream
    pair.run(lambda: not connection.context.streams and not accepted.context.streams)
    assert alive() == others + Counter(Connection=2, Http3=2)
    # A leak grows in every round; what has piled up once, in a stall, stays with the allocator.
    assert min(after - before for before, after in pairwise(memory)) < 128 << 10


def test_half_open_connections_leave_nothing(pair: Pair) -> None:
    """Handshakes that never go on are freed with everything when they are dropped."""
    before = alive()
    for _ in range(300):
        pair.client.connect(0, ("192.0.2.1", 443), "localhost")
    flights = []
    pair.client.turn()
    while flight := pair.client_socket.take():
        flights += flight
        pair.client.turn()
    for payload, source, _ in flights:
        pair.server.receive_udp_payload(0, payload, source)
        pair.server.turn()
        pair.server_socket.take()
    assert pair.counters()["half_open"] == pair.counters()["connections"] == 300
    pair.server_app.keep = pair.client_app.keep = False
    pair.server.drop_all()
    pair.client.drop_all()
    assert alive() == before
    assert pair.counters()["half_open"] == pair.counters()["cids"] == 0


def test_a_kept_stream_keeps_no_c_state(pair: Pair) -> None:
    """A program that keeps a Stream after the end keeps small objects, and its calls raise."""
    kept: list[Stream] = []

    def answer(stream: Stream) -> None:
        kept.append(stream)
        stream.send_headers(OK, True)

    pair.server_app.on_request = answer
    connection = pair.connect()
    pair.fetch(connection)
    connection.close()
    pair.run(lambda: not pair.server.connections)
    (stream,) = kept
    assert stream.fields.path == b"/"
    assert stream.connection.closed
    with pytest.raises(Exception, match="connection closed"):
        stream.enqueue(b"x")


def test_everything_may_go_at_once(make_pair: Callable[..., Pair]) -> None:
    """A cycle of endpoint, connections, streams and handlers is freed by the collector in any order."""
    before = alive()
    for keep in (None, "stream", "connection", "http3"):
        pair = make_pair()
        pair.server_app.on_request = pair.server_app.listen
        connection = pair.connect()
        handler = pair.request(connection, get(method=b"POST"), bytes(500_000), read=False)
        pair.settle()
        kept = {"stream": pair.server_app.requests[0], "connection": connection, "http3": connection.context}
        last = kept.get(keep or "")
        kept.clear()
        pair.__dict__.clear()
        del pair, connection, handler
        gc.collect()
        if isinstance(last, Stream):
            assert last.recv(0) == b""
        assert repr(last)
        del last
    assert alive() == before
