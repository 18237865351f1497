"""The backends, Io and Timer of quiche_h3.ev, and how long loops and watchers live."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import ev_support
import pytest
from ev_support import calling, fail, ignore

from quiche_h3 import ev
from quiche_h3.errors import ConfigError

loop = ev_support.loop
no_leaks = ev_support.no_leaks
pair = ev_support.pair

BACKENDS = ["epoll", "kqueue", "poll", "select", "linuxaio", "io_uring"]


# Backends


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_each_backend_works_or_is_refused_by_name(
    backend: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Every backend name either gives a working loop or a ConfigError that names those there are."""
    try:
        loop = ev.Loop(backend)
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert backend not in ("auto", "poll", "select")
        assert refusal.startswith(f"event_backend: {backend!r} is ")
        assert "poll, select" in refusal
        return
    with loop:
        assert loop.backend == backend or backend == "auto"
        assert loop.backend in BACKENDS
        seen: list[bytes] = []
        reader = ev.Io(
            loop, pair[0], ev.READ, calling(lambda: seen.append(pair[0].recv(9)), lambda: reader.stop())
        )
        reader.start()
        timer = ev.Timer(loop, 0, 0, lambda *_: pair[1].send(b"x"))
        timer.start()
        assert loop.run() is False
        assert seen == [b"x"]


@pytest.mark.parametrize("backend", ["asyncio", "EPOLL", ""])
def test_unknown_backend_is_refused(backend: str) -> None:
    """A name that is no libev backend, "asyncio" among them, is a ConfigError about event_backend."""
    with pytest.raises(ConfigError, match=r"^event_backend: .*is not a backend.*; use auto or one of"):
        ev.Loop(backend)


def test_no_descriptors_left_is_an_error_not_an_abort() -> None:
    """libev aborts when it gets no descriptor for its wake-up channel; Loop raises OSError before that."""
    script = """
import resource
from quiche_h3 import ev
resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
loops = []
try:
    while True:
        loops.append(ev.Loop())
except OSError as error:
    print(len(loops) > 0, error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True 24\n"), done.stderr


# Io


def test_io_reports_what_is_ready(loop: ev.Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    """revents is READ, WRITE or both, as the descriptor is; the callback gets its watcher."""
    seen: list[tuple[ev.Io, int]] = []
    watcher = ev.Io(loop, pair[0], ev.READ | ev.WRITE, lambda w, revents: seen.append((w, revents)))
    watcher.start()
    assert loop.run(once=True) is True
    pair[1].send(b"x")
    loop.run(once=True)
    watcher.stop()
    assert seen == [(watcher, ev.WRITE), (watcher, ev.READ | ev.WRITE)]
    seen.clear()


def test_io_events_change_while_active(loop: ev.Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    """Setting events takes effect at once, in the callback too, and keeps the watcher as active as it was."""
    seen: list[int] = []

    def callback(watcher: ev.Io, revents: int) -> None:
        seen.append(revents)
        if watcher.events == ev.WRITE:
            pair[1].send(b"x")
            watcher.events = ev.READ
        else:
            watcher.stop()

    watcher = ev.Io(loop, pair[0].fileno(), ev.READ, callback)
    watcher.events = ev.WRITE
    assert not watcher.active
    watcher.start()
    assert watcher.active
    loop.run()
    assert seen == [ev.WRITE, ev.READ]
    assert not watcher.active
    assert watcher.fd == pair[0].fileno()


@pytest.mark.parametrize("events", [0, 4, ev.READ | 0x80, -1])
def test_io_refuses_other_events(loop: ev.Loop, events: int) -> None:
    """Only READ and WRITE can be watched for, at construction and later."""
    with pytest.raises(ValueError, match="READ, WRITE or both"):
        ev.Io(loop, 0, events, ignore)
    watcher = ev.Io(loop, 0, ev.READ, ignore)
    with pytest.raises(ValueError, match="READ, WRITE or both"):
        watcher.events = events
    assert watcher.events == ev.READ


@pytest.mark.parametrize("fd", [-1, 2**31 - 1])
def test_io_refuses_a_descriptor_that_is_not_open(loop: ev.Loop, fd: int) -> None:
    """A nonsensical number is an error; libev would try to allocate a table up to it and abort."""
    with pytest.raises((OSError, ValueError)):
        ev.Io(loop, fd, ev.READ, ignore).start()


def test_io_whose_descriptor_was_closed_stops(loop: ev.Loop) -> None:
    """A descriptor closed between start() and the wait ends in one last call, not in an abort or a spin."""
    loop.run()  # has its own descriptors open, so that none takes a freed number
    seen: list[bool] = []

    def closed() -> ev.Io:
        reading, writing = os.pipe()
        watcher = ev.Io(loop, reading, ev.READ, callback)
        watcher.start()
        os.close(reading)
        os.close(writing)
        return watcher

    def callback(watcher: ev.Io, _: int) -> None:
        seen.append(watcher.active)
        if len(seen) == 1:
            closed()

    watcher = closed()
    assert loop.run() is False
    assert seen == [False, False]
    assert not watcher.active


def test_stop_takes_back_an_event_already_seen(loop: ev.Loop) -> None:
    """Of two ready watchers that stop each other, one is called."""
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(end) for end in socket.socketpair()]
        called: list[ev.Io] = []

        def callback(watcher: ev.Io, _: int) -> None:
            called.append(watcher)
            for each in watchers:
                each.stop()

        watchers = [ev.Io(loop, end, ev.WRITE, callback) for end in ends]
        for watcher in watchers:
            watcher.start()
        assert loop.run() is False
        assert len(called) == 1
        called.clear()
        watchers.clear()


# Timer


def test_timer_is_not_early_and_comes_in_order(loop: ev.Loop) -> None:
    """Timers fire in the order of their times, none before its time, and a one-shot is then inactive."""
    seen: list[tuple[float, bool]] = []
    began = time.monotonic()

    def timer(after: float) -> ev.Timer:
        def callback(watcher: ev.Timer, _: int) -> None:
            assert time.monotonic() - began >= after
            seen.append((after, watcher.active))

        return ev.Timer(loop, after, 0, callback)

    timers = [timer(after) for after in (0.03, 0.01, 0.02)]
    for each in timers:
        each.start()
    assert loop.run() is False
    assert seen == [(0.01, False), (0.02, False), (0.03, False)]


def test_timer_counts_from_its_start(loop: ev.Loop) -> None:
    """Time spent outside run() before start() does not count, though libev's clock stood still."""
    began = loop.now()
    while time.time() < began + 0.05:
        pass
    started = time.monotonic()
    timer = ev.Timer(loop, 0.04, 0, ignore)
    timer.start()
    loop.run()
    assert time.monotonic() - started >= 0.04


def test_timer_zero_is_the_next_iteration(loop: ev.Loop) -> None:
    """A zero timer restarted in its own callback fires once per iteration: it neither hangs nor starves."""
    seen: list[float] = []

    def callback(watcher: ev.Timer, _: int) -> None:
        seen.append(0)
        watcher.start()

    timer = ev.Timer(loop, 0, 0, callback)
    timer.start()
    for expected in (1, 2, 3):
        assert loop.run(once=True) is True
        assert len(seen) == expected
    timer.stop()


def test_timer_repeats_until_stopped(loop: ev.Loop) -> None:
    """A repeating timer fires after `after` and then each `repeat`, and stop() in its callback ends it."""
    times: list[float] = []

    def callback(watcher: ev.Timer, _: int) -> None:
        times.append(time.monotonic())
        if len(times) == 3:
            watcher.stop()

    timer = ev.Timer(loop, 0, 0.01, callback)
    timer.start()
    began = time.monotonic()
    loop.run()
    assert len(times) == 3
    assert times[2] - began >= 0.02
    assert (timer.after, timer.repeat, timer.active) == (0, 0.01, False)


def test_timer_stopped_and_started_waits_its_whole_time(loop: ev.Loop) -> None:
    """start() after stop() counts anew; libev would go on with what was left."""
    timer = ev.Timer(loop, 0.05, 0, ignore)
    timer.start()
    began: list[float] = []
    restart = calling(timer.stop, timer.start, lambda: began.append(time.monotonic()))
    helper = ev.Timer(loop, 0.03, 0, restart)
    helper.start()
    loop.run()
    assert time.monotonic() - began[0] >= 0.05


def test_timer_set_rearms_an_active_timer(loop: ev.Loop) -> None:
    """set() on an active timer starts it anew; on a stopped one it only keeps the values."""
    timer = ev.Timer(loop, 3600, 0, ignore)
    timer.set(7200, 1)
    assert (timer.after, timer.repeat, timer.active) == (7200, 1, False)
    timer.start()
    timer.set(0)
    assert (timer.after, timer.repeat, timer.active) == (0, 0, True)
    assert loop.run() is False


def test_timer_again_pushes_out_and_refuses_zero(loop: ev.Loop) -> None:
    """again() restarts with the interval; with repeat 0 libev would stop the timer silently, so it raises."""
    once = ev.Timer(loop, 0, 0, ignore)
    once.start()
    with pytest.raises(ValueError, match="repeating"):
        once.again()
    assert once.active
    once.stop()
    timer = ev.Timer(loop, 3600, 0.01, lambda w, _: w.stop())
    timer.again()
    assert timer.active
    timer.again()
    loop.run()
    assert timer.after == 3600


@pytest.mark.parametrize("seconds", [-1e-9, -1, math.nan, math.inf, -math.inf])
def test_timer_refuses_impossible_times(loop: ev.Loop, seconds: float) -> None:
    """Negative, infinite and NaN times are refused wherever they can be given, and change nothing."""
    for after, repeat in ((seconds, 0), (0, seconds)):
        with pytest.raises(ValueError, match="finite"):
            ev.Timer(loop, after, repeat, ignore)
    timer = ev.Timer(loop, 1, 2, ignore)
    with pytest.raises(ValueError, match="after"):
        timer.set(seconds)
    with pytest.raises(ValueError, match="repeat"):
        timer.set(0, seconds)
    assert (timer.after, timer.repeat) == (1, 2)


def test_now_stands_still_within_an_iteration(loop: ev.Loop) -> None:
    """now() is the time of the iteration, update_now() moves it, and both are epoch seconds."""
    assert abs(loop.now() - time.time()) < 60

    def callback(*_: object) -> None:
        first = loop.now()
        while time.time() < first + 0.01:
            assert loop.now() == first
        loop.update_now()
        assert loop.now() > first
        seen.append(first)

    seen: list[float] = []
    timer = ev.Timer(loop, 0, 0, callback)
    timer.start()
    loop.run()
    assert seen


# Lifetimes


def test_active_watchers_live_without_other_references(loop: ev.Loop) -> None:
    """A started watcher needs nobody to hold it, and is freed once it is done."""
    fired: list[int] = []
    timer = ev.Timer(loop, 0, 0, lambda *_: fired.append(1))
    gone = weakref.ref(timer)
    timer.start()
    timer.start()
    del timer
    gc.collect()
    assert gone() is not None
    loop.run()
    assert fired == [1]
    gc.collect()
    assert gone() is None


def test_close_releases_active_watchers(pair: tuple[socket.socket, socket.socket]) -> None:
    """close() stops every watcher, drops posted calls, gives descriptors back, and may be repeated."""
    descriptors = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else None
    loop = ev.Loop()
    loop.run()
    watchers: list[ev.Watcher] = [
        ev.Io(loop, pair[0], ev.READ, fail),
        ev.Timer(loop, 0, 1, fail),
        ev.Signal(loop, signal.SIGUSR1, fail),
        ev.Async(loop, fail),
    ]
    for watcher in watchers:
        watcher.start()
        assert watcher.active
    dropped = weakref.ref(watchers[1])
    loop.post(fail, watchers[1])
    loop.close()
    loop.close()
    assert not any(watcher.active for watcher in watchers)
    del watcher
    watchers.clear()
    gc.collect()
    assert dropped() is None
    if descriptors is not None:
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_closed_loop_refuses_everything_but_stop() -> None:
    """After close() all use raises RuntimeError, except stopping, which is already so."""
    loop = ev.Loop()
    io, timer = ev.Io(loop, 0, ev.READ, ignore), ev.Timer(loop, 0, 1, ignore)
    sig, wake = ev.Signal(loop, signal.SIGUSR1, ignore), ev.Async(loop, ignore)
    loop.close()
    uses: list[Callable[[], object]] = [
        loop.run, loop.now, loop.update_now, loop.fork, io.start, timer.start, timer.again, sig.start,
        wake.start, wake.send, lambda: loop.post(ignore),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(RuntimeError, match="closed"):
            use()
    loop.stop()
    for watcher in (io, timer, sig, wake):
        watcher.stop()
        assert not watcher.active
    assert "closed" in repr(loop)


def test_inactive_cycles_are_collected() -> None:
    """A watcher whose callback holds it, its loop and a posted call to that loop, is garbage when unused."""

    def make() -> list[weakref.ref[object]]:
        loop = ev.Loop()
        timer = ev.Timer(loop, 0, 0, lambda *_: calling(timer.start, loop.stop))
        loop.post(lambda: calling(timer.start, loop.stop))
        return [weakref.ref(timer), weakref.ref(loop)]

    gone = make()
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_a_watcher_keeps_its_loop() -> None:
    """The loop outlives its last outside reference as long as a watcher is there."""
    timer = ev.Timer(ev.Loop(), 0, 0, lambda w, _: w.loop.stop())
    gc.collect()
    timer.start()
    timer.loop.run()
    timer.loop.close()


def test_callback_may_stop_restart_and_forget_its_watcher(loop: ev.Loop) -> None:
    """Stopping and starting inside the callback, with no other reference left, frees nothing too soon."""
    calls: list[bool] = []

    def callback(watcher: ev.Timer, _: int) -> None:
        watcher.stop()
        watcher.start()
        watcher.stop()
        calls.append(watcher.active)
        if len(calls) < 3:
            watcher.start()

    for _ in range(3):
        calls.clear()
        ev.Timer(loop, 0, 1e-6, callback).start()
        assert loop.run() is False
        assert calls == [False] * 3


def test_finalizer_that_closes_the_loop_during_close() -> None:
    """close() set off again by an object that close() itself frees is harmless."""

    class Closer:
        def __init__(self, loop: ev.Loop) -> None:
            self.loop = loop

        def __call__(self, *_: object) -> None: ...

        def __del__(self) -> None:
            self.loop.close()

    loop = ev.Loop()
    ev.Timer(loop, 1, 0, Closer(loop)).start()
    loop.post(Closer(loop))
    loop.close()
    assert "closed" in repr(loop)


def test_constructors_refuse_nonsense(loop: ev.Loop) -> None:
    """Wrong types are refused at construction, half-made watchers are freed, and Watcher is abstract."""
    with pytest.raises(TypeError, match="callable"):
        ev.Async(loop, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ev.Async(None, ignore)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ev.Io(loop, "x", ev.READ, ignore)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ev.Watcher()
    with pytest.raises(TypeError, match="abstract"):
        ev.Watcher(loop)  # type: ignore[call-arg]


def test_many_watchers_leave_no_memory_behind() -> None:
    """100,000 watchers made, fired and dropped leave the process's peak memory where it was."""

    def round_of(count: int) -> None:
        with ev.Loop() as loop:
            for _ in range(count):
                timer = ev.Timer(loop, 0, 0, ignore)
                timer.start()
                loop.run()

    round_of(1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    round_of(100_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048
