"""The guard of a connection, where a whole server would hide what it looks at."""

from __future__ import annotations

import time
from collections.abc import Callable

from quiche_h3._core.guard import Guard, GuardLimits
from quiche_h3.errors import H3ErrorCode

from .pair import Handler, Pair, get

MakePair = Callable[..., Pair]


def guarded(pair: Pair) -> None:
    """Puts the guard of the server's configuration on its only connection."""
    (accepted,) = pair.server.connections.values()
    accepted.watch = Guard(accepted.context, GuardLimits(pair.server_config))


def test_a_body_that_the_handler_does_not_read_is_not_slow(make_pair: MakePair) -> None:
    """Attack row 21: the rate is the client's. What waits for the handler is not held against the client."""
    pair = make_pair(server={"body_grace_ms": 60})
    pair.server_app.on_request = lambda stream: pair.server_app.listen(stream, read=False)
    connection = pair.connect()
    guarded(pair)
    handler = pair.request(connection, get(method=b"POST"), b"waits here")
    end = time.monotonic() + 0.4
    pair.run(lambda: time.monotonic() > end)
    assert pair.server_app.counters.as_dict()["slow_bodies"] == 0
    assert not handler.over
    pair.server_app.handlers[0].drain()
    assert pair.server_app.handlers[0].body == b"waits here"


def test_a_body_that_stops_is_slow(make_pair: MakePair) -> None:
    """Attack row 21: the handler has read everything: now it is the client that is waited for."""
    pair = make_pair(server={"body_grace_ms": 60})
    pair.server_app.on_request = pair.server_app.listen
    connection = pair.connect()
    guarded(pair)
    client = Handler()
    stream = connection.context.open_request(get(method=b"POST"), False, client)
    stream.enqueue(b"begins")
    pair.run(lambda: client.reset_codes)
    assert client.reset_codes == [H3ErrorCode.H3_REQUEST_CANCELLED]
    assert pair.server_app.counters.as_dict()["slow_bodies"] == 1


def test_an_idle_connection_is_not_looked_at(make_pair: MakePair) -> None:
    """A look costs nothing where nothing happens: after the last one only the far deadlines are left."""
    pair = make_pair(server={"header_timeout_ms": 80, "idle_timeout_ms": 60_000})
    connection = pair.connect()
    guarded(pair)
    assert pair.fetch(connection).body == b"Hello"
    end = time.monotonic() + 0.4
    pair.run(lambda: time.monotonic() > end)
    deadline = pair.server.deadline()
    assert deadline is not None
    assert deadline / 1e9 > time.monotonic() + 5
