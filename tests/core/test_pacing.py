"""How fast packets leave: by send times where the congestion control gives them, else in bounded bursts."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from quiche_h3._core.http3_stream import Stream

from .pair import Pair

MakePair = Callable[..., Pair]


def departures(pair: Pair, size: int) -> list[tuple[float, int]]:
    """When how many bytes left the server during a download."""
    pair.server_app.answer_with(bytes(size))
    connection = pair.connect()
    handler = pair.request(connection)
    pair.down.record = True
    pair.run(lambda: handler.finished, timeout=20)
    assert len(handler.body) == size
    return [(at, len(payload)) for at, payload in pair.down.seen]


def bursts(times: list[tuple[float, int]], gap: float) -> list[int]:
    """Bytes that left together: no pause of `gap` seconds between them."""
    out = [0]
    last = times[0][0]
    for at, size in times:
        if at - last >= gap:
            out.append(0)
        out[-1] += size
        last = at
    return out


def test_cubic_sends_bounded_bursts_on_a_long_path(make_pair: MakePair) -> None:
    """RFC 9002 7.7: with a round trip of 40 ms no burst is larger than `max_burst_packets`."""
    pair = make_pair(server={"max_burst_packets": 8, "initial_congestion_window_packets": 200})
    pair.up.delay = pair.down.delay = 0.02
    times = departures(pair, 300_000)
    largest = max(bursts(times, 0.001))
    assert largest <= 3 * 8 * 1350  # a burst, and what a late timer lets out with the next


def test_cubic_does_not_wait_on_a_short_path(make_pair: MakePair) -> None:
    """Where the round trip is shorter than a timer's grain, nothing is held back."""
    pair = make_pair(server={"max_burst_packets": 8, "initial_congestion_window_packets": 200})
    begin = time.monotonic()
    departures(pair, 300_000)
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("algorithm", ["cubic", "reno"])
def test_a_full_window_is_no_reason_for_small_packets(make_pair: MakePair, algorithm: str) -> None:
    """RFC 9002 7: what is left of the window grows to a packet's size before use (RFC 1122 4.2.3.4)."""
    pair = make_pair(server={"cc_algorithm": algorithm})
    pair.up.delay = pair.down.delay = 0.01
    pair.down.loss = 0.01
    sizes = [size for _, size in departures(pair, 2_000_000)]
    whole = sum(size >= 1200 for size in sizes)
    assert whole >= 0.99 * len(sizes), (whole, len(sizes))


@pytest.mark.parametrize("enabled", [True, False])
def test_bbr2_paces_by_send_times(make_pair: MakePair, enabled: bool) -> None:
    """RFC 9002 7.7: BBR2 spreads its window over the round trip, unless `enable_pacing` is off."""
    pair = make_pair(
        server={
            "cc_algorithm": "bbr2_gcongestion",
            "enable_pacing": enabled,
            "initial_congestion_window_packets": 100,
            "max_burst_packets": 1024,
        }
    )
    pair.up.delay = pair.down.delay = 0.025
    times = departures(pair, 120_000)
    first_window = [entry for entry in times if entry[0] < times[0][0] + 0.02]
    largest = max(bursts(first_window, 0.0004))
    if enabled:
        assert largest < 60_000
    else:
        assert largest > 90_000


def test_the_close_is_not_paced(make_pair: MakePair) -> None:
    """RFC 9000 10.2: CONNECTION_CLOSE leaves at once, whatever waits for its time."""
    pair = make_pair(server={"cc_algorithm": "bbr2_gcongestion", "initial_congestion_window_packets": 100})
    pair.up.delay = pair.down.delay = 0.05
    pair.server_app.answer_with(bytes(1_000_000))
    connection = pair.connect()
    pair.request(connection)
    accepted = pair.server_app.opened[0]
    pair.run(lambda: accepted.context.streams)
    accepted.close(0x100, "now")
    pair.server.turn()
    sent = pair.server_socket.take()
    assert 0 < len(sent[-1][0]) < 200


def test_a_slow_handler_holds_nothing_back(pair: Pair) -> None:
    """What is ready at the end of a turn leaves in that turn, however long its handlers took."""

    def answer(stream: Stream) -> None:
        until = time.monotonic() + 0.005
        while time.monotonic() < until:
            pass
        pair.server_app.answer(stream)

    pair.server_app.on_request = answer
    connection = pair.connect()
    pair.request(connection)
    pair.client.turn()
    for payload, source, _ in pair.client_socket.take():
        pair.server.receive_udp_payload(0, payload, source)
    pair.server_socket.take()
    pair.server.turn()
    assert pair.server_app.requests
    assert pair.server_socket.take()
    deadline = pair.server.deadline()
    assert deadline is not None
    assert deadline / 1e9 > time.monotonic() + 0.005  # no packet waits for its time
