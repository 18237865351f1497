"""Runs an endpoint inside asyncio, on its own loop or uvloop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from .drivers import MAX_SLEEP_NS, Driver, Timer
from .eager_tasks import task_starter

if TYPE_CHECKING:
    from ._core.endpoint import Endpoint

_CANCELLED_S: Final = 1.0  # so long a handler may take to heed its cancellation when the server ends


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A uvloop where that is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """asyncio.Runner of 3.11, as far as it is needed on 3.10."""
    loop = new_event_loop()
    try:
        loop.run_until_complete(coroutine)
    finally:
        try:
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


class AsyncioDriver(Driver):
    """Runs the endpoint inside a running asyncio loop. libev cannot be nested there, so it takes no part."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._stopped = self.loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = task_starter(self.loop)

    def watch(self, index: int) -> None:
        self.loop.add_reader(self.endpoint.sockets[index].fileno(), self._readable, index)

    def unwatch(self, index: int) -> None:
        fd = self.endpoint.sockets[index].fileno()
        self.loop.remove_reader(fd)
        self.loop.remove_writer(fd)

    def _readable(self, index: int) -> None:
        if not self._tasks:
            super()._readable(index)
            return
        # Those that are woken by this run before the turn that sends, which `handle()` asks for.
        self.endpoint.receive(index)
        self.endpoint.handle()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        def fired() -> None:
            self._timers.discard(timer)
            callback()

        timer = self.loop.call_later(delay, fired)
        self._timers = {other for other in self._timers if not other.cancelled()}
        self._timers.add(timer)
        return timer

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
        """Runs a handler's coroutine, up to its first wait at once."""
        task = self._start(coroutine)
        if not task.done():
            self._tasks.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(self._tasks.discard)
        return task

    def soon(self) -> None:
        if threading.get_ident() != self._thread:  # a connection was closed from another thread
            self.loop.call_soon_threadsafe(self.soon)
        elif self._soon is None:
            self._soon = self.loop.call_soon(self._soon_fired)

    def _soon_fired(self) -> None:
        self._soon = None
        self._turn()

    def _arm(self, at: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0, min(at - time.monotonic_ns(), MAX_SLEEP_NS)) / 1e9
        self._timer = self.loop.call_later(delay, self._timer_fired)

    def _watch_writes(self, wanted: bool) -> None:
        for sock in self.endpoint.sockets:
            if sock.fileno() < 0:  # its place waits for another socket
                continue
            if wanted:
                self.loop.add_writer(sock.fileno(), self._turn)
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

    async def wait_closed(self) -> None:
        """After `close()`: lets the handlers that were cancelled come to their end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CANCELLED_S)
