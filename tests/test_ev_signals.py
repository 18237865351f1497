"""Signals and forks under the loop of quiche_h3.ev."""

from __future__ import annotations

import os
import signal
import socket
import threading

import ev_support
import pytest
from ev_support import (
    calling,
    fail,
    handled,
    ignore,
    in_child,
    keep_open,
    once_asleep,
    run_in_thread,
    signal_self,
)

from quiche_h3 import ev

loop = ev_support.loop
no_leaks = ev_support.no_leaks
pair = ev_support.pair


# Signals


def test_keyboard_interrupt_leaves_a_sleeping_run(loop: ev.Loop) -> None:
    """Ctrl-C leaves run() at once although nothing else happens, whichever thread the kernel chooses."""
    keep = keep_open(loop)
    with (
        handled(signal.SIGINT, signal.default_int_handler),
        once_asleep(loop, lambda: signal_self(signal.SIGINT)),
        pytest.raises(KeyboardInterrupt),
    ):
        loop.run()
    keep.stop()


def test_python_signal_handlers_run_while_the_loop_sleeps(loop: ev.Loop) -> None:
    """A handler installed with signal.signal runs promptly and may call stop(); it stays installed."""
    keep = keep_open(loop)
    seen: list[int] = []
    with (
        handled(signal.SIGUSR1, calling(lambda: seen.append(1), loop.stop)),
        once_asleep(loop, lambda: os.kill(os.getpid(), signal.SIGUSR1)),
    ):
        assert loop.run() is True
    assert seen == [1]
    keep.stop()


def test_an_exception_of_a_signal_handler_leaves_run(loop: ev.Loop) -> None:
    """What a handler raises is not logged away: it leaves run(), as it leaves other Python code."""
    keep = keep_open(loop)
    with (
        handled(signal.SIGUSR1, fail),
        once_asleep(loop, lambda: signal_self(signal.SIGUSR1)),
        pytest.raises(ZeroDivisionError),
    ):
        loop.run()
    keep.stop()


def test_the_previous_wakeup_descriptor_is_fed_and_restored(loop: ev.Loop) -> None:
    """Another user of signal.set_wakeup_fd, asyncio for one, still gets each signal's number."""
    keep = keep_open(loop)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        with handled(signal.SIGUSR1, lambda *_: loop.stop()):
            timer = ev.Timer(loop, 0, 0, lambda *_: signal.raise_signal(signal.SIGUSR1))
            timer.start()
            loop.run()
        assert os.read(reading, 10) == bytes([signal.SIGUSR1])
    finally:
        assert signal.set_wakeup_fd(before) == writing
        os.close(reading)
        os.close(writing)
    keep.stop()


def test_signal_watcher(loop: ev.Loop) -> None:
    """A Signal calls back in the loop, each time, and stop() puts the previous handler back."""
    with handled(signal.SIGUSR1, ignore):
        seen: list[bool] = []

        def callback(watcher: ev.Signal, _: int) -> None:
            seen.append(watcher.active)
            if len(seen) == 2:
                watcher.stop()
            else:
                os.kill(os.getpid(), signal.SIGUSR1)

        watcher = ev.Signal(loop, signal.SIGUSR1, callback)
        assert watcher.signum == signal.SIGUSR1
        watcher.start()
        assert signal.getsignal(signal.SIGUSR1) is not ignore
        sender = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))
        sender.start()
        assert loop.run() is False
        sender.join()
        assert seen == [True, True]
        assert signal.getsignal(signal.SIGUSR1) is ignore


def test_signal_watcher_of_a_loop_in_another_thread(loop: ev.Loop) -> None:
    """Signals come to the main thread; a loop in another one still gets its callback there."""
    seen: list[int] = []
    came = threading.Event()
    watcher = ev.Signal(loop, signal.SIGUSR1, calling(lambda: seen.append(threading.get_ident()), came.set))
    watcher.start()
    thread = run_in_thread(loop)
    signal.raise_signal(signal.SIGUSR1)
    assert came.wait(10)
    loop.stop()
    thread.join()
    assert seen == [thread.ident]
    watcher.stop()


def test_signal_watcher_leaves_other_handlers_alone(loop: ev.Loop) -> None:
    """A handler installed after ours is not overwritten by stop(); other signals keep theirs."""
    with handled(signal.SIGUSR1, ignore), handled(signal.SIGUSR2, ignore):
        watcher = ev.Signal(loop, signal.SIGUSR1, ignore)
        watcher.start()
        assert signal.getsignal(signal.SIGUSR2) is ignore
        signal.signal(signal.SIGUSR1, fail)
        watcher.stop()
        assert signal.getsignal(signal.SIGUSR1) is fail


def test_signal_watcher_refusals(loop: ev.Loop) -> None:
    """One active watcher per signal, main thread only, no uncatchable or unknown signals."""
    first = ev.Signal(loop, signal.SIGUSR1, ignore)
    second = ev.Signal(loop, signal.SIGUSR1, ignore)
    first.start()
    with pytest.raises(RuntimeError, match="active Signal"):
        second.start()
    first.stop()
    second.start()
    second.stop()
    with pytest.raises(OSError, match="Invalid argument"):
        ev.Signal(loop, signal.SIGKILL, ignore).start()
    with pytest.raises(ValueError, match="out of range"):
        ev.Signal(loop, 12345, ignore).start()
    errors: list[ValueError] = []

    def elsewhere() -> None:
        try:
            first.start()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert not first.active
    errors.clear()


# Fork


def test_forked_child_must_say_so(loop: ev.Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    """In a forked child run() is refused until fork(), and then the child's watchers do not disturb ours."""
    seen: list[bytes] = []
    watcher = ev.Io(
        loop, pair[0], ev.READ, calling(lambda: seen.append(pair[0].recv(9)), lambda: watcher.stop())
    )
    watcher.start()
    loop.stop()
    loop.run()  # the kernel knows the descriptor before the fork

    def child() -> None:
        with pytest.raises(RuntimeError, match="fork"):
            loop.run()
        loop.fork()
        pair[1].send(b"child")
        assert loop.run() is False
        assert seen == [b"child"]

    assert in_child(child)
    pair[1].send(b"parent")
    assert loop.run() is False
    assert seen == [b"parent"]


def test_forked_child_gets_its_own_signals(loop: ev.Loop) -> None:
    """After fork() in a callback of the running loop, a signal to the child wakes the child's loop."""
    codes: list[int] = []

    def child() -> None:
        loop.fork()
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
        sender = threading.Thread(target=signal_self, args=(signal.SIGUSR1,))
        keep_open(loop)
        ev.Timer(loop, 0, 0, lambda *_: sender.start()).start()

    def callback(*_: object) -> None:
        pid = os.fork()
        if pid:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            return
        try:
            child()  # and back into the loop, which only the signal's handler leaves
        except BaseException:
            os._exit(1)

    timer = ev.Timer(loop, 0, 0, callback)
    timer.start()
    loop.run()
    assert codes == [0]


def test_forked_child_of_a_loop_in_a_thread(loop: ev.Loop) -> None:
    """A loop that ran in a thread the child has not got cannot be used there, but can be closed."""
    keep = keep_open(loop)
    thread = run_in_thread(loop)

    def child() -> None:
        with pytest.raises(RuntimeError):
            loop.run()
        with pytest.raises(RuntimeError, match="another thread"):
            loop.fork()
        loop.close()
        with ev.Loop() as own:
            own.run()

    assert in_child(child)
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()
    keep.stop()
