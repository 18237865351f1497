"""The client's loop in a thread of its own, and how other threads call into it and wait."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final

from . import ev
from ._core.endpoint import Endpoint
from .client_engine import ClientEngine
from .client_link import closed_by_us
from .config import ClientConfig
from .drivers import LibevDriver
from .errors import ConnectionClosed, InvalidState, TimedOut
from .threads import T
from .tickets import TicketStore

_HOUR: Final = 3600.0

log: Final = logging.getLogger("quiche_h3")


class ClientThread:
    """Runs an engine until `close()`."""

    def __init__(
        self,
        config: ClientConfig,
        tickets: TicketStore | None = None,
        keep_alive_s: float | None = None,
        webtransport: bool = False,
    ) -> None:
        self._config = config
        self.engine = ClientEngine(config, self._make_driver, tickets, keep_alive_s, webtransport)
        # Reentrant: a request that is garbage collected posts from wherever the thread happens to be.
        self._lock = threading.RLock()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="quiche_h3-client", daemon=True)
        self._thread.start()

    def _make_driver(self, endpoint: Endpoint) -> LibevDriver:
        self._driver = LibevDriver(endpoint, None, self._config.event_backend)
        return self._driver

    @property
    def ended(self) -> bool:
        """Nothing is called any more."""
        return self._ended

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Calls the function in the loop's thread. Raises ConnectionClosed when the loop has ended.

        In a forked process there is no such thread: InvalidState.
        """
        if self.engine.endpoint.forked:
            raise InvalidState("the process has forked: the client is the parent's, make another one here")
        if self._in_loop():
            function(*args)
        elif not self.defer(function, *args):
            raise closed_by_us()

    def defer(self, function: Callable[..., object], *args: Any) -> bool:
        """Calls the function later, never at once; returns False when the loop has ended."""
        if self.engine.endpoint.forked:
            return False  # nor would the lock ever be free, if the thread had it
        with self._lock:
            if not self._ended:
                self._calls.append((function, args))
                self._driver.post(self._make_calls)
            return not self._ended

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The function's result, from the loop's thread."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(function(*args))
            except Exception as exc:
                future.set_exception(exc)

        self.post(call)
        return future.result()

    def wait(self, future: Future[T], timeout: float, who: str, phase: str = "read") -> T:
        """The future's result. Raises TimedOut after `timeout` seconds."""
        if self._in_loop() and not future.done():
            raise InvalidState(
                "a callback of the client cannot wait: it runs in the thread it would wait for"
            )
        try:
            return future.result(None if math.isinf(timeout) else timeout)
        except FutureTimeout:
            if future.done():
                return future.result()
            raise TimedOut(f"{who} did not answer within {timeout:g} s", phase) from None

    def close(self) -> None:
        """Closes every connection with H3_NO_ERROR and ends the thread. May be called more than once."""
        if self.engine.endpoint.forked:
            return
        try:
            self.post(self._shutdown)
        except ConnectionClosed:
            pass
        if not self._in_loop():
            self._thread.join()

    def _shutdown(self) -> None:
        if not self.engine.ending:
            self.engine.shutdown(self._driver.stop)

    def _in_loop(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        # libev's loop ends when nothing is watched, as before the first connection and between two of them.
        idle = ev.Timer(self._driver.loop, _HOUR, _HOUR, lambda w, e: None)
        idle.start()
        try:
            self._driver.start()
            self._driver.run()
        except BaseException:
            log.exception("the client's thread failed")
        finally:
            idle.stop()
            with self._lock:
                self._ended = True
            self.engine.release()
            self._make_calls()  # they find everything closed, and say so

    def _make_calls(self) -> None:
        while self._calls:
            function, args = self._calls.popleft()
            try:
                function(*args)
            except Exception:
                log.exception("a call into the client's thread failed")
