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
    """Idle timeouts of many connections come when they are due, whichever was touched last."""
    pair = make_pair(client={"idle_timeout_ms": 400})
    rng = random.Random(2)
    connections = [pair.connect() for _ in range(60)]
    order = rng.sample(connections, len(connections))
    gaps = 0.3 / len(order)
    begin = time.monotonic()
    for i, connection in enumerate(order):
        connection.send_ping()
        pair.settle()
        pair.wait(begin + i * gaps)
    pair.run(lambda: not pair.client.connections, timeout=3)
    closed = pair.client_app.closed
    positions = {connection.id: i for i, connection in enumerate(order)}
    assert len(closed) == 60
    displaced = [abs(positions[connection.id] - i) for i, connection in enumerate(closed)]
    assert max(displaced) <= 15  # neighbours may expire in one turn


def test_the_deadline_is_kept(make_pair: Callable[..., Pair]) -> None:
    """Nothing is due before `deadline()`, and what is due then is done in a turn or two."""
    pair = make_pair(client={"idle_timeout_ms": 150})
    connection = pair.connect()
    pair.turns = 0
    begin = time.monotonic()
    pair.run(lambda: connection.closed, timeout=3)
    assert 0.1 < time.monotonic() - begin < 1
    assert pair.turns < 15
