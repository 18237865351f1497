"""Fixtures and helpers of the tests of quiche_h3.ev."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from quiche_h3 import ev


def ignore(*_: object) -> None:
    """A callback that does nothing."""


def fail(*_: object) -> NoReturn:
    """A callback that raises."""
    raise ZeroDivisionError("from a callback")


def calling(*functions: Callable[[], object]) -> Callable[..., None]:
    """A callback that calls each function in turn."""

    def callback(*_: object) -> None:
        for function in functions:
            function()

    return callback


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Every test frees the watchers it made, and leaves signals as they were."""
    gc.collect()
    made, freed = ev._debug_counts()
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)]
    yield
    gc.collect()
    made_after, freed_after = ev._debug_counts()
    assert made_after - made == freed_after - freed
    assert signal.set_wakeup_fd(wakeup) == wakeup
    assert handlers == [
        signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    ]


@pytest.fixture
def loop() -> Iterator[ev.Loop]:
    with ev.Loop() as loop:
        yield loop


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def run_in_thread(loop: ev.Loop) -> threading.Thread:
    """Start a thread that runs the loop, and return once the loop makes calls."""
    running = threading.Event()
    loop.post(running.set)
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert running.wait(10)
    return thread


def keep_open(loop: ev.Loop) -> ev.Async:
    """Keep a loop running that has nothing else to wait for."""
    watcher = ev.Async(loop, ignore)
    watcher.start()
    return watcher


@contextlib.contextmanager
def once_asleep(loop: ev.Loop, action: Callable[[], object]) -> Iterator[None]:
    """Do something in another thread when the loop, run by this one, has gone to sleep."""
    awake = threading.Event()
    thread = threading.Thread(target=lambda: (awake.wait(10), action()))
    thread.start()
    timer = ev.Timer(loop, 0, 0, lambda *_: awake.set())
    timer.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # the thread gets the GIL when the loop lets it go, not in the timer's callback
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def signal_self(number: signal.Signals) -> None:
    """Send a signal that the kernel delivers to the calling thread."""
    signal.pthread_kill(threading.get_ident(), number)


def in_child(body: Callable[[], object]) -> bool:
    """Fork, run body in the child, and tell whether it succeeded."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        except BaseException:
            logging.getLogger(__name__).exception("in the forked child")
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@contextlib.contextmanager
def handled(number: signal.Signals, handler: Callable[..., object]) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
