"""deadlines.h: one next deadline for all connections, in order, and none left behind."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from .pair import Pair, initial


def test_no_deadline_without_connections(pair: Pair) -> None:
    """An endpoint at rest asks for no wake-up; stateless answers need none."""
    assert pair.server.deadline() is None
    pair.give_server(initial(version=0x57414954))
    pair.give_server(initial())
    assert pair.server.deadline() is None
    connection = pair.connect()
    assert pair.server.deadline() is not None
    connection.close()
    pair.run(lambda: not pair.server.connections and not pair.client.connections)
    assert pair.server.deadline() is None
    assert pair.client.deadline() is None


def test_connections_expire_in_their_order(make_pair: Callable[..., Pair]) -> None:
    """A turn looks at all connections whose deadline has come, in order, whichever was touched last."""
    pair = make_pair(client={"idle_timeout_ms": 400})
    rng = random.Random(2)
    connections = [pair.connect() for _ in range(60)]
    for connection in rng.sample(connections, len(connections)):
        if not connection.closed:  # a slow machine may take 400 ms to come here
            connection.send_ping()
            pair.settle()
    client, closed = pair.client, pair.client_app.closed
    while client.connections:
        due = {connection: client.deadline(connection) for connection in client.connections.values()}
        assert client.deadline() == min(at for at in due.values() if at is not None)
        told, begin = len(closed), time.monotonic_ns()
        if not pair.step():
            pair.wait(time.monotonic() + 3)
        gone = [due[connection] or 0 for connection in closed[told:]]
        assert gone == sorted(gone)
        assert all(at <= time.monotonic_ns() for at in gone)
        for connection, at in due.items():
            if not connection.closed and at is not None and at <= begin:
                assert (client.deadline(connection) or begin) > begin  # it had something else to do
    assert len(closed) == 60


def test_the_deadline_is_kept(make_pair: Callable[..., Pair]) -> None:
    """Nothing is due before `deadline()`, and what is due then is done in a turn or two."""
    pair = make_pair(client={"idle_timeout_ms": 150})
    connection = pair.connect()
    pair.turns = 0
    stats = connection.stats()
    # Three probe timeouts are more after a handshake on a busy machine (RFC 9000 10.1).
    idle = max(0.15, 3 * (stats["rtt"] + 4 * stats["rttvar"]))
    begin = time.monotonic()
    pair.run(lambda: connection.closed, timeout=idle + 3)
    assert idle - 0.05 < time.monotonic() - begin < idle + 0.85
    assert pair.turns < 15
