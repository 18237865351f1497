"""The server's preferred address (RFC 9000 9.6), both sides, in memory."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from .pair import CLIENT, SERVER, Address, Link, Pair

MakePair = Callable[..., Pair]

PREFERRED: Address = ("198.51.100.7", 4443)
SETTINGS = {"preferred_address_v4": "198.51.100.7:4443", "preferred_address_v6": "[2001:db8::7]:4443"}


def packets(link: Link, address: Address, lost: float = 0) -> list[bytes]:
    """From now on, what comes from the address or goes there; the first `lost` of it get no further."""
    seen: list[bytes] = []

    def note(payload: bytes, source: Address, to: Address) -> bool:
        if address not in (source, to):
            return True
        seen.append(payload)
        return len(seen) > lost

    link.hook = note
    return seen


def test_client_goes_there(make_pair: MakePair) -> None:
    """In a transfer: probed once the handshake is confirmed, then everything goes that way."""
    pair = make_pair(server=SETTINGS)
    body = random.Random(1).randbytes(4 << 20)
    pair.server_app.answer_with(body)
    there = packets(pair.up, PREFERRED)
    sources: list[Address] = []

    def note(payload: bytes, source: Address, to: Address) -> bool:
        sources.append(source)
        return True

    pair.down.hook = note
    connection = pair.connect()
    handler = pair.request(connection)
    pair.run(lambda: handler.finished)
    assert handler.body == body
    assert connection.peer_address == PREFERRED
    (accepted,) = pair.server_app.opened
    assert accepted.local_address == PREFERRED
    assert accepted.peer_address == CLIENT
    assert len({packet[1:17] for packet in there}) == 1
    assert all(not packet[0] & 0x80 for packet in there)
    assert len(there[0]) >= 1200, "the challenge is not expanded (RFC 9000 8.2.1)"
    assert sources[0] == SERVER
    moved = sources.index(PREFERRED)
    assert sources[-100:] == [PREFERRED] * 100
    assert len(sources) - moved > len(body) // 1500
    assert pair.counters()["preferred_moves"] == pair.client.counters()[0]["preferred_moves"] == 1
    assert pair.counters()["migrations"] == 1


def test_address_that_does_not_answer(make_pair: MakePair) -> None:
    """RFC 9000 9.6.1: when the validation fails everything goes on as before."""
    pair = make_pair(server=SETTINGS)
    tried = packets(pair.up, PREFERRED, lost=math.inf)
    connection = pair.connect()
    pair.run(lambda: len(tried) >= 2)  # asked more than once: the first may have been lost
    assert pair.fetch(connection).body == b"Hello"
    pair.run(lambda: len(tried) >= 3)
    assert connection.peer_address == SERVER
    assert pair.fetch(connection).body == b"Hello"
    assert pair.client.counters()[0]["preferred_moves"] == 0


def test_lost_answers(make_pair: MakePair) -> None:
    """The first answer from the preferred address is lost: the client asks again, and goes there."""
    pair = make_pair(server=SETTINGS)
    answers = packets(pair.down, PREFERRED, lost=1)
    connection = pair.connect()
    pair.run(lambda: connection.peer_address == PREFERRED)
    assert len(answers) > 1
    assert pair.fetch(connection).body == b"Hello"


def test_client_that_stays(make_pair: MakePair) -> None:
    """`use_preferred_address=False`: not one packet goes there."""
    pair = make_pair(server=SETTINGS, client={"use_preferred_address": False})
    there = packets(pair.up, PREFERRED)
    connection = pair.connect()
    assert pair.fetch(connection).body == b"Hello"
    assert not there
    assert connection.peer_address == SERVER


def test_loopback_is_not_tried(make_pair: MakePair) -> None:
    """RFC 9000 21.5.6: a server elsewhere may not make the client send to its own machine."""
    pair = make_pair(server={"preferred_address_v4": "127.0.0.1:4443"})
    there = packets(pair.up, ("127.0.0.1", 4443))
    assert pair.fetch(pair.connect()).body == b"Hello"
    assert not there


def test_other_family_is_not_tried(make_pair: MakePair) -> None:
    """The client's socket is IPv4: an IPv6 address is of no use to it."""
    pair = make_pair(server={"preferred_address_v6": "[2001:db8::7]:4443"})
    connection = pair.connect()
    assert pair.fetch(connection).body == b"Hello"
    assert connection.peer_address == SERVER


def test_migration_disabled(make_pair: MakePair) -> None:
    """RFC 9000 18.2: disable_active_migration does not hold for the preferred address, nor there any more."""
    pair = make_pair(server={**SETTINGS, "disable_active_migration": True})
    connection = pair.client.connect(0, SERVER, "localhost")
    pair.run(lambda: connection.established)
    assert connection.migration_disabled
    pair.run(lambda: connection.peer_address == PREFERRED)
    assert not connection.migration_disabled


def test_retry(make_pair: MakePair) -> None:
    """The address fits into the transport parameters beside what a Retry adds (RFC 9000 7.3)."""
    pair = make_pair(server={**SETTINGS, "enable_retry": True, "connection_id_length": 20})
    connection = pair.connect()
    pair.run(lambda: connection.peer_address == PREFERRED)


def test_reset_at_the_preferred_address(make_pair: MakePair) -> None:
    """RFC 9000 10.3: that the server has crashed is told there too, by the token of the ID in use."""
    pair = make_pair(server={**SETTINGS, "secret_key": bytes(32)})
    connection = pair.connect()
    pair.run(lambda: connection.peer_address == PREFERRED)
    pair.settle()
    pair.new_server()
    connection.send_ping()
    pair.run(lambda: connection.closed, timeout=2)
    assert pair.counters()["stateless_resets_sent"] == 1


def test_nothing_is_left(make_pair: MakePair) -> None:
    """The connection ID of the preferred address leads nowhere once the connection is gone."""
    pair = make_pair(server=SETTINGS)
    connection = pair.connect()
    pair.run(lambda: connection.peer_address == PREFERRED)
    assert pair.counters()["cids"] >= 8
    connection.close()
    pair.run(lambda: not pair.server.connections)
    assert pair.counters()["cids"] == 0
