"""What runs an endpoint: the libev driver, and what every driver does.

A driver watches the sockets and one timer, and calls the endpoint: `receive`, then `turn`. It knows nothing
of what the endpoint does, and the endpoint nothing of how it is woken. The other driver is in
`asyncio_driver`: a program that does not use asyncio is spared the 9 MiB of importing it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from . import ev
from .config import EventBackend

if TYPE_CHECKING:
    from ._core.endpoint import Endpoint

MAX_SLEEP_NS: Final = 3_600_000_000_000
_BLOCKED_RETRY_NS: Final = 1_000_000  # ENOBUFS: the socket stays writable, only time can help


class Timer(Protocol):
    """What `call_later()` returns."""

    def cancel(self) -> object:
        """Nothing is called back any more."""
        ...


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
        for index in range(len(self.endpoint.sockets)):
            self.watch(index)
        self._turn()

    def watch(self, index: int) -> None:
        """Watches a socket that was added to the endpoint."""
        raise NotImplementedError

    def unwatch(self, index: int) -> None:
        """Watches a socket no more: to be called before it is removed from the endpoint."""
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

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Calls back once after `delay` seconds, unless that is cancelled or the driver is closed before."""
        raise NotImplementedError

    def _arm(self, at: int) -> None:
        raise NotImplementedError

    def _watch_writes(self, wanted: bool) -> None:
        raise NotImplementedError

    def _readable(self, index: int) -> None:
        self.endpoint.receive(index)
        self._turn()

    def _timer_fired(self) -> None:
        self._armed = 0
        self._turn()

    def _turn(self) -> None:
        endpoint = self.endpoint
        again = endpoint.turn()
        blocked = endpoint.blocked
        if blocked != self._watching_writes:
            self._watching_writes = blocked
            self._watch_writes(blocked)
        if self.after_turn is not None:
            self.after_turn()
        if again:
            self.soon()
            return
        at = endpoint.due_at()
        if blocked:
            retry = time.monotonic_ns() + _BLOCKED_RETRY_NS
            at = min(at, retry) if at else retry
        # A timer that is due earlier finds out by itself that the deadline has moved: most only move away.
        if at and (not self._armed or at < self._armed):
            self._armed = at
            self._arm(at)


class _LibevTimer:
    """One call of a function later, which the driver forgets when it was made or cancelled."""

    def __init__(self, driver: LibevDriver, delay: float, callback: Callable[[], None]) -> None:
        self._driver = driver
        self._callback = callback
        self._timer = ev.Timer(driver.loop, delay, 0.0, lambda w, e: self._fired())
        self._timer.start()

    def cancel(self) -> None:
        self._timer.stop()
        self._driver.timers.discard(self)

    def _fired(self) -> None:
        self.cancel()
        self._callback()


class LibevDriver(Driver):
    """Runs the endpoint on a `quiche_h3.ev.Loop`, which the program's own watchers may share."""

    def __init__(self, endpoint: Endpoint, loop: ev.Loop | None, backend: EventBackend) -> None:
        super().__init__(endpoint)
        self._own_loop = loop is None
        self._closed = False
        self.loop = ev.Loop(backend.value) if loop is None else loop
        self.timers: set[_LibevTimer] = set()
        self._ios: dict[int, ev.Io] = {}
        self._timer = ev.Timer(self.loop, 0.0, 0.0, lambda w, e: self._timer_fired())
        self._now = ev.Timer(self.loop, 0.0, 0.0, lambda w, e: self._turn())

    def watch(self, index: int) -> None:
        fd = self.endpoint.sockets[index].fileno()
        self._ios[index] = io = ev.Io(self.loop, fd, ev.READ, self._io_callback(index))
        io.start()

    def unwatch(self, index: int) -> None:
        self._ios.pop(index).stop()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        timer = _LibevTimer(self, delay, callback)
        self.timers.add(timer)
        return timer

    def _io_callback(self, index: int) -> Callable[[ev.Io, int], None]:
        read = ev.READ

        def ready(watcher: ev.Io, events: int) -> None:
            if events & read:
                self._readable(index)
            else:
                self._turn()

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
        if self._closed:  # the program's own loop may run on, or never again
            raise RuntimeError("the server has ended")
        self.loop.post(function, *args)

    def soon(self) -> None:
        if not self._now.active:
            self._now.start()

    def _arm(self, at: int) -> None:
        self._timer.stop()
        self._timer.set(max(0, min(at - time.monotonic_ns(), MAX_SLEEP_NS)) / 1e9)
        self._timer.start()

    def _watch_writes(self, wanted: bool) -> None:
        for io in self._ios.values():
            io.stop()
            io.events = ev.READ | ev.WRITE if wanted else ev.READ
            io.start()

    def close(self) -> None:
        self._closed = True
        for watcher in (*self._ios.values(), self._timer, self._now):
            watcher.stop()
        for timer in list(self.timers):
            timer.cancel()
        self._ios.clear()
        if self._own_loop:
            self.loop.close()
