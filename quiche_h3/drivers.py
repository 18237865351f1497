"""The two loops that can run an endpoint: libev, and whatever asyncio runs (its own loop or uvloop).

A driver watches the sockets and one timer, and calls the endpoint: `receive`, then `turn`. It knows nothing
of what the endpoint does, and the endpoint nothing of how it is woken.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from . import ev
from .config import EventBackend

if TYPE_CHECKING:
    from ._core.endpoint import Endpoint

_MAX_SLEEP_NS: Final = 3_600_000_000_000
_EAGER: Final = sys.version_info >= (3, 12)
_BLOCKED_RETRY_NS: Final = 1_000_000  # ENOBUFS: the socket stays writable, only time can help


class Driver:
    """What both drivers share: when to turn, and when to look again."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.after_turn: Callable[[], None] | None = None
        """Called after every turn; the server looks there whether it has drained."""
        self._armed = 0  # the time the timer is set to; 0: it is not
        self._watching_writes = False
        endpoint.set_wake(self.soon)

    def start(self) -> None:
        """Begins to watch the endpoint's sockets."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends `run()`, from any thread."""
        raise NotImplementedError

    def close(self) -> None:
        """Stops watching. The endpoint is left as it is."""
        raise NotImplementedError

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Calls the function in the loop's thread, from any thread."""
        raise NotImplementedError

    def soon(self) -> None:
        """A turn in the next round of the loop. From the loop's own thread."""
        raise NotImplementedError

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Calls back once after `delay` seconds, unless the driver is closed before."""
        raise NotImplementedError

    def _arm(self, at: int) -> None:
        raise NotImplementedError

    def _watch_writes(self, wanted: bool) -> None:
        raise NotImplementedError

    def _readable(self, index: int) -> None:
        more = self.endpoint.receive(index)
        self._turn(more)

    def _timer_fired(self) -> None:
        self._armed = 0
        self._turn(False)

    def _turn(self, more: bool) -> None:
        endpoint = self.endpoint
        again = endpoint.turn()
        blocked = endpoint.blocked
        if blocked is not self._watching_writes:
            self._watching_writes = blocked
            self._watch_writes(blocked)
        if self.after_turn is not None:
            self.after_turn()
        if again:
            self.soon()
            return
        at = endpoint.deadline()
        if blocked:
            retry = time.monotonic_ns() + _BLOCKED_RETRY_NS
            at = retry if at is None else min(at, retry)
        # A timer that is due earlier finds out by itself that the deadline has moved: most only move away.
        if at is not None and (not self._armed or at < self._armed):
            self._armed = at
            self._arm(at)


class LibevDriver(Driver):
    """Runs the endpoint on a `quiche_h3.ev.Loop`, which the program's own watchers may share."""

    def __init__(self, endpoint: Endpoint, loop: ev.Loop | None, backend: EventBackend) -> None:
        super().__init__(endpoint)
        self._own_loop = loop is None
        self.loop = ev.Loop(backend.value) if loop is None else loop
        self._ios: list[ev.Io] = []
        self._timers: list[ev.Timer] = []
        self._timer = ev.Timer(self.loop, 0.0, 0.0, lambda w, e: self._timer_fired())
        self._now = ev.Timer(self.loop, 0.0, 0.0, lambda w, e: self._turn(False))

    def start(self) -> None:
        for index, sock in enumerate(self.endpoint.sockets):
            io = ev.Io(self.loop, sock.fileno(), ev.READ, self._io_callback(index))
            io.start()
            self._ios.append(io)
        self._turn(False)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Calls back once after `delay` seconds, unless the driver is closed before."""
        timer = ev.Timer(self.loop, delay, 0.0, lambda w, e: callback())
        timer.start()
        self._timers.append(timer)

    def _io_callback(self, index: int) -> Callable[[ev.Io, int], None]:
        def ready(watcher: ev.Io, events: int) -> None:
            if events & ev.READ:
                self._readable(index)
            else:
                self._turn(False)

        return ready

    def run(self) -> None:
        """Until `stop()`."""
        self.loop.run()

    def run_once(self, timeout: float | None) -> None:
        """One round of the loop, waiting at most `timeout` seconds (None: for ever, 0: not at all)."""
        limit = None if timeout is None else ev.Timer(self.loop, max(0.0, timeout), 0.0, lambda w, e: None)
        if limit is not None:
            limit.start()
        try:
            self.loop.run(once=True)
        finally:
            if limit is not None:
                limit.stop()

    def stop(self) -> None:
        self.loop.stop()

    def post(self, function: Callable[..., object], *args: Any) -> None:
        self.loop.post(function, *args)

    def soon(self) -> None:
        if not self._now.active:
            self._now.start()

    def _arm(self, at: int) -> None:
        self._timer.stop()
        self._timer.set(max(0, min(at - time.monotonic_ns(), _MAX_SLEEP_NS)) / 1e9)
        self._timer.start()

    def _watch_writes(self, wanted: bool) -> None:
        for io in self._ios:
            io.stop()
            io.events = ev.READ | ev.WRITE if wanted else ev.READ
            io.start()

    def close(self) -> None:
        for watcher in (*self._ios, *self._timers, self._timer, self._now):
            watcher.stop()
        self._ios.clear()
        if self._own_loop:
            self.loop.close()


class AsyncioDriver(Driver):
    """Runs the endpoint inside a running asyncio loop. libev cannot be nested there, so it takes no part."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._stopped = self.loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []

    def start(self) -> None:
        for index, sock in enumerate(self.endpoint.sockets):
            self.loop.add_reader(sock.fileno(), self._readable, index)
        self._turn(False)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Calls back once after `delay` seconds, unless the driver is closed before."""
        self._timers.append(self.loop.call_later(delay, callback))

    async def run(self) -> None:
        """Until `stop()`."""
        await asyncio.shield(self._stopped)

    def _finish(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._finish)

    def post(self, function: Callable[..., object], *args: Any) -> None:
        self.loop.call_soon_threadsafe(function, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a handler's coroutine, up to its first wait at once where the interpreter can (3.12 on)."""
        task: asyncio.Task[None]
        if _EAGER:
            task = asyncio.Task(coroutine, loop=self.loop, eager_start=True)
        else:
            task = self.loop.create_task(coroutine)
        if not task.done():
            self._tasks.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(self._tasks.discard)
        return task

    def soon(self) -> None:
        if self._soon is None:
            self._soon = self.loop.call_soon(self._soon_fired)

    def _soon_fired(self) -> None:
        self._soon = None
        self._turn(False)

    def _arm(self, at: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0, min(at - time.monotonic_ns(), _MAX_SLEEP_NS)) / 1e9
        self._timer = self.loop.call_later(delay, self._timer_fired)

    def _watch_writes(self, wanted: bool) -> None:
        for sock in self.endpoint.sockets:
            if wanted:
                self.loop.add_writer(sock.fileno(), self._turn, False)
            else:
                self.loop.remove_writer(sock.fileno())

    def close(self) -> None:
        for sock in self.endpoint.sockets:
            if sock.fileno() >= 0:
                self.loop.remove_reader(sock.fileno())
                self.loop.remove_writer(sock.fileno())
        if self._timer is not None:
            self._timer.cancel()
        if self._soon is not None:
            self._soon.cancel()
        for timer in self._timers:
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
