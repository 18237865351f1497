"""Loop.run() of quiche_h3.ev: stopping it, calls from other threads, exceptions in callbacks."""

from __future__ import annotations

import ctypes
import logging
import socket
import threading
from typing import NoReturn

import ev_support
import pytest
from ev_support import calling, fail, keep_open, once_asleep, run_in_thread

from quiche_h3 import ev

loop = ev_support.loop
no_leaks = ev_support.no_leaks
pair = ev_support.pair


# Stopping, posted calls, threads


def test_run_returns_without_watchers(loop: ev.Loop) -> None:
    """Our own wake-up and signal watchers do not keep the loop running."""
    assert loop.run() is False
    assert loop.run(once=True) is False


def test_stop_in_a_callback_ends_this_iteration(loop: ev.Loop) -> None:
    """stop() leaves run() with the watchers still active, and counts for one run only."""
    calls: list[int] = []
    timer = ev.Timer(loop, 0, 1e-6, calling(lambda: calls.append(1), loop.stop))
    timer.start()
    assert loop.run() is True
    assert loop.run() is True
    assert len(calls) == 2
    timer.stop()


def test_stop_before_run_is_not_lost(loop: ev.Loop) -> None:
    """A stop() that comes before run() does not leave the loop asleep, and does not outlive that run."""
    keep = keep_open(loop)
    loop.stop()
    loop.stop()
    assert loop.run() is True
    timer = ev.Timer(loop, 0.001, 0, lambda *_: keep.stop())
    timer.start()
    assert loop.run() is False


def test_stop_from_another_thread(loop: ev.Loop) -> None:
    """stop() wakes a loop that sleeps in another thread."""
    keep = keep_open(loop)
    thread = run_in_thread(loop)
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()
    keep.stop()


def test_other_threads_run_while_the_loop_sleeps(loop: ev.Loop) -> None:
    """The GIL is free while libev sleeps: a thread can compute and then wake the loop."""
    result: list[int] = []
    wake = ev.Async(loop, lambda w, _: w.stop())
    wake.start()
    with once_asleep(loop, calling(lambda: result.append(sum(range(300_000))), wake.send)):
        assert loop.run() is False
    assert result == [sum(range(300_000))]


def test_callbacks_hold_the_gil_and_stay_in_one_thread(loop: ev.Loop) -> None:
    """Each callback runs in run()'s thread with that thread's state current, while other threads compete."""
    done = threading.Event()
    rivals = [threading.Thread(target=lambda: [None for _ in iter(done.is_set, True)]) for _ in range(2)]
    seen: set[tuple[int, int]] = set()
    calls: list[int] = []

    def callback(watcher: ev.Timer, _: int) -> None:
        calls.append(1)
        seen.add((threading.get_ident(), ctypes.pythonapi.PyGILState_Check()))
        if len(calls) == 20:
            watcher.stop()

    for rival in rivals:
        rival.start()
    timer = ev.Timer(loop, 0, 1e-6, callback)
    timer.start()
    loop.run()
    done.set()
    for rival in rivals:
        rival.join()
    assert seen == {(threading.get_ident(), 1)}


def test_watchers_start_and_stop_in_any_thread(
    loop: ev.Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """A watcher started in another thread is seen by a loop already asleep."""
    keep = keep_open(loop)
    thread = run_in_thread(loop)
    fired, ready = threading.Event(), threading.Event()
    timer = ev.Timer(loop, 0, 0, lambda *_: fired.set())
    timer.start()
    assert fired.wait(10)
    watcher = ev.Io(loop, pair[0], ev.WRITE, calling(lambda: watcher.stop(), ready.set))
    watcher.start()
    assert ready.wait(10)
    keep.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_post_from_threads_keeps_each_threads_order(loop: ev.Loop) -> None:
    """Calls posted by several threads are all made, in the loop's thread, each thread's in its order."""
    seen: list[tuple[int, int]] = []
    threads_seen: set[int] = set()
    keep = keep_open(loop)
    thread = run_in_thread(loop)

    def take(sender: int, number: int) -> None:
        seen.append((sender, number))
        threads_seen.add(threading.get_ident())

    def send(sender: int) -> None:
        for number in range(1000):
            loop.post(take, sender, number)

    senders = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for each in senders:
        each.start()
    for each in senders:
        each.join()
    loop.post(loop.stop)
    thread.join(10)
    assert not thread.is_alive()
    assert threads_seen == {thread.ident}
    for n in range(4):
        assert [number for sender, number in seen if sender == n] == list(range(1000))
    keep.stop()


def test_posts_keep_the_loop_running_and_do_not_starve_io(
    loop: ev.Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Posted calls are made without any watcher active, and between their batches descriptors are served."""
    order: list[str] = []
    for _ in range(1000):
        loop.post(order.append, "post")
    watcher = ev.Io(loop, pair[0], ev.WRITE, calling(lambda: order.append("io"), lambda: watcher.stop()))
    watcher.start()
    assert loop.run() is False
    assert order.count("post") == 1000
    assert order.index("io") <= 128


def test_a_post_that_posts_itself_starves_nobody(loop: ev.Loop) -> None:
    """A call that posts itself runs once per batch, so that a timer still comes."""

    def again() -> None:
        loop.post(again)

    again()
    timer = ev.Timer(loop, 0.001, 0, lambda *_: loop.stop())
    timer.start()
    loop.run()


def test_posts_before_stop_are_made(loop: ev.Loop) -> None:
    """What was posted before stop() is called before run() returns."""
    seen: list[int] = []
    keep = keep_open(loop)
    loop.post(seen.append, 1)
    loop.stop()
    assert loop.run() is True
    assert seen == [1]
    keep.stop()


def test_post_refuses_what_cannot_be_called(loop: ev.Loop) -> None:
    """A mistake is raised to the caller of post(), not in the loop."""
    with pytest.raises(TypeError, match="callable"):
        loop.post(None)  # type: ignore[arg-type]


def test_async_sends_are_merged_and_only_count_when_active(loop: ev.Loop) -> None:
    """Several sends before the loop looks are one call; a send to a stopped watcher is nothing."""
    calls: list[int] = []
    watcher = ev.Async(loop, lambda w, _: calls.append(1))
    watcher.send()
    watcher.start()
    watcher.send()
    watcher.send()
    loop.run(once=True)
    assert calls == [1]
    watcher.stop()


def test_run_is_not_reentrant(loop: ev.Loop) -> None:
    """run() in a callback, run() in a second thread and close() while running are refused."""
    errors: list[str] = []

    def callback(*_: object) -> None:
        for call in (loop.run, loop.close):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    timer = ev.Timer(loop, 0, 0, callback)
    timer.start()
    loop.run()
    keep = keep_open(loop)
    thread = run_in_thread(loop)
    callback()
    loop.stop()
    thread.join()
    keep.stop()
    assert len(errors) == 4
    assert all("running" in error for error in errors)


# Exceptions


def test_exception_is_logged_once_and_stops_an_io(
    loop: ev.Loop, pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    """An Io that raised is logged with its traceback and stopped, or it would spin; the loop goes on."""
    watcher = ev.Io(loop, pair[0], ev.WRITE, fail)
    watcher.start()
    with caplog.at_level(logging.ERROR, "quiche_h3"):
        assert loop.run() is False
    assert not watcher.active
    assert [record.name for record in caplog.records] == ["quiche_h3"]
    assert caplog.records[0].exc_info is not None
    assert "in fail" in caplog.text
    assert "ZeroDivisionError: from a callback" in caplog.text
    caplog.clear()


def test_exception_leaves_other_watchers_and_posts_alone(
    loop: ev.Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """A repeating timer that raises goes on, and so do calls posted behind one that raises."""
    calls: list[int] = []

    def callback(watcher: ev.Timer, _: int) -> None:
        calls.append(1)
        if len(calls) == 3:
            watcher.stop()
        fail()

    loop.post(fail)
    loop.post(calls.append, 1)
    timer = ev.Timer(loop, 0.001, 1e-6, callback)
    timer.start()
    with caplog.at_level(logging.ERROR, "quiche_h3"):
        loop.run()
    assert calls == [1, 1, 1]
    assert len(caplog.records) == 3
    caplog.clear()


@pytest.mark.parametrize("how", ["io", "timer", "async", "post"])
def test_debug_raises_out_of_run(how: str, pair: tuple[socket.socket, socket.socket]) -> None:
    """With debug=True the exception itself leaves run(), once, and the loop can run again."""
    with ev.Loop(debug=True) as loop:
        if how == "post":
            loop.post(fail)
        elif how == "io":
            ev.Io(loop, pair[0], ev.WRITE, fail).start()
        elif how == "timer":
            ev.Timer(loop, 0, 0, fail).start()
        else:
            watcher = ev.Async(loop, fail)
            watcher.start()
            watcher.send()
        keep = keep_open(loop)
        with pytest.raises(ZeroDivisionError, match="from a callback"):
            loop.run()
        keep.stop()
        timer = ev.Timer(loop, 0, 0, lambda *_: loop.stop())
        timer.start()
        loop.run()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_base_exceptions_leave_run(loop: ev.Loop, kind: type[BaseException]) -> None:
    """What is not an Exception leaves run() also without debug, from callbacks and from posted calls."""

    def leave(*_: object) -> None:
        raise kind

    keep = keep_open(loop)
    timer = ev.Timer(loop, 0, 0, leave)
    timer.start()
    with pytest.raises(kind):
        loop.run()
    loop.post(leave)
    with pytest.raises(kind):
        loop.run()
    keep.stop()


def test_failing_log_handler_does_not_reach_libev(loop: ev.Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """When logging itself raises, that leaves run() instead of being lost in a C callback."""

    def refuse(record: logging.LogRecord) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(logging.getLogger("quiche_h3"), "handle", refuse)
    timer = ev.Timer(loop, 0, 0, fail)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run()
