"""Extensible priorities (RFC 9218): the order in which the bytes of competing responses arrive."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quiche_h3._core.http3_stream import Stream

from .pair import Handler, Pair, get

MakePair = Callable[..., Pair]

SIZE = 300_000


class Arrivals:
    """Which response each piece of body that a client got belongs to, in order."""

    def __init__(self, pair: Pair, size: int = SIZE) -> None:
        self.size = size
        self.pair = pair
        self.connection = pair.connect()
        self.order: list[tuple[str, int]] = []
        self.handlers: dict[str, Handler] = {}
        pair.server_app.answer_with(bytes(size))

    def ask(self, name: str, priority: bytes | None = None) -> Stream:
        fields = get(b"/" + name.encode()) + ([] if priority is None else [(b"priority", priority)])
        handler = self.handlers[name] = self.pair.request(self.connection, fields)
        sizes = [0]

        def note() -> None:
            self.order.append((name, len(handler.body) - sizes[0]))
            sizes[0] = len(handler.body)

        handler.on["readable"] = note
        assert handler.stream is not None
        return handler.stream

    def run(self) -> None:
        self.pair.run(lambda: all(handler.over for handler in self.handlers.values()))
        assert all(len(handler.body) == self.size for handler in self.handlers.values())

    def ahead(self, first: str, other: str) -> int:
        """Bytes of `other` that came before the last byte of `first`."""
        last = max(i for i, (name, _) in enumerate(self.order) if name == first)
        return sum(size for name, size in self.order[:last] if name == other)


def test_urgency(pair: Pair) -> None:
    """RFC 9218 10: the more urgent response arrives first, although it was asked for last."""
    arrivals = Arrivals(pair)
    for name, priority in (("low", b"u=7"), ("default", None), ("high", b"u=0")):
        arrivals.ask(name, priority)
    arrivals.run()
    # What was handed to quiche before the others were known went out: one congestion window.
    assert arrivals.ahead("high", "default") < 30_000
    assert arrivals.ahead("high", "low") < 30_000
    assert arrivals.ahead("default", "low") < 60_000


def test_incremental(pair: Pair) -> None:
    """RFC 9218 10: incremental responses alternate, others come one after the other."""
    arrivals = Arrivals(pair)
    arrivals.ask("one")
    arrivals.ask("two")
    arrivals.run()
    assert arrivals.ahead("one", "two") < 30_000
    alternating = Arrivals(pair)
    alternating.ask("one", b"u=3, i")
    alternating.ask("two", b"u=3, i")
    alternating.run()
    assert alternating.ahead("one", "two") > SIZE // 2


def test_priority_update(pair: Pair) -> None:
    """RFC 9218 7: PRIORITY_UPDATE changes the rank of a response that is on its way; it can be taken."""
    arrivals = Arrivals(pair, 3_000_000)
    first = arrivals.ask("first", b"u=2")
    arrivals.ask("second", b"u=3")
    pair.run(lambda: len(arrivals.handlers["first"].body) > 20_000)
    first.send_priority_update(7, True)
    arrivals.run()
    assert arrivals.ahead("second", "first") < 1_000_000
    stream = next(s for s in pair.server_app.requests if s.fields.path == b"/first")
    assert stream.priority == (7, True)
    assert stream.take_last_priority_update() == b"u=7,i"
    assert stream.take_last_priority_update() is None


def test_the_server_has_the_last_word(pair: Pair) -> None:
    """RFC 9218 8: a rank that the server's program sets holds against the client's wishes."""
    arrivals = Arrivals(pair)

    def begin(stream: Stream) -> None:
        if stream.fields.path == b"/low":
            stream.set_priority(7, False)
        pair.server_app.answer(stream, bytes(SIZE))

    pair.server_app.on_request = begin
    low = arrivals.ask("low", b"u=0")
    arrivals.ask("other")
    pair.settle()
    low.send_priority_update(0, False)
    arrivals.run()
    assert arrivals.ahead("other", "low") < 30_000
    assert pair.server_app.requests[0].priority == (0, False)
    with pytest.raises(ValueError, match="urgency"):
        low.send_priority_update(8, False)


@pytest.mark.parametrize("value", [b"", b"u=9", b"u=x, i=maybe", b"\xff\xff", b"i, i, u", b"(1 2);u=0"])
def test_values_that_say_nothing(pair: Pair, value: bytes) -> None:
    """RFC 9218 4: what is not understood is ignored."""
    handler = pair.fetch(pair.connect(), [*get(), (b"priority", value)])
    assert handler.status == 200
    assert pair.server_app.requests[0].priority in ((3, False), (3, True))
