"""cid_table.h: thousands of connection IDs come and go, and each packet finds its connection."""

from __future__ import annotations

import random

from .pair import Pair


def test_thousands_of_connections(pair: Pair) -> None:
    """RFC 9000 5.2: while others come and go, and the table grows and shrinks, connections keep their IDs."""
    rng = random.Random(8)
    alive = []
    for _ in range(400):
        alive.append(pair.connect())
        if len(alive) > 40 and rng.random() < 0.5:
            alive.pop(rng.randrange(len(alive))).close()
    pair.run(lambda: len(pair.server.connections) == len(alive))
    pair.run(lambda: pair.counters()["cids"] == 9 * len(alive))
    for connection in alive:
        connection.send_ping()
    pair.run(lambda: all(c.stats()["packets_received"] > 0 for c in alive))
    for connection in rng.sample(alive, 50):
        assert pair.fetch(connection).body == b"Hello"
    for connection in alive:
        connection.close()
    pair.run(lambda: not pair.server.connections and not pair.client.connections)
    assert pair.counters()["cids"] == pair.client.counters()[0]["cids"] == 0
    assert pair.counters()["unknown_dropped"] < 50


def test_a_connection_answers_to_each_of_its_ids(pair: Pair) -> None:
    """RFC 9000 5.1.1: a client may use any ID it was given, and gets new ones for those that it retires."""
    pair.connect()
    seen: set[bytes] = set()

    def note(payload: bytes, *_: object) -> bool:
        if not payload[0] & 0x80:
            seen.add(payload[1:17])
        return True

    pair.up.hook = note
    connection = next(iter(pair.client.connections.values()))
    accepted = pair.server_app.opened[0]
    for i in range(12):
        pair.nat = ("192.0.2.50", 7000 + i)
        connection.send_ping()
        pair.run(lambda: accepted.peer_address == pair.nat)
    assert pair.fetch(connection).body == b"Hello"
    pair.run(lambda: pair.counters()["cids"] == 9)
    assert pair.counters()["unknown_dropped"] == 0
