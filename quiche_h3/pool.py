"""The connection pool: at most one connection to an origin (RFC 9114 3.3), shared by all its requests.

In the loop's thread. Whoever wants a connection says what to do with it; how many requests the server takes
at once is its own limit, which the connection keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from .client_link import Link, closed_by_us
from .errors import ConnectError, ConnectTimedOut
from .timeouts import Timeouts
from .urls import Origin

if TYPE_CHECKING:
    from .client_engine import ClientEngine
    from .drivers import Timer


class _Waiter:
    """Somebody who wants a connection. Its timer is of its phase: for a place, then to connect."""

    def __init__(self, origin: Origin, safe: bool, timeouts: Timeouts, use: Callable[[Link], object]) -> None:
        self.origin = origin
        self.use = use
        self.safe = safe
        self.timeouts = timeouts
        self.future: Future[Link] = Future()
        self.connecting = False
        self.timer: Timer | None = None

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Pool:
    """The links of one client by origin, at most `engine.config.max_connections` of them."""

    def __init__(self, engine: ClientEngine) -> None:
        self._engine = engine
        self._limit = engine.config.max_connections
        self._links: dict[Origin, Link] = {}  # the one used last stands last
        self._draining: set[Link] = set()  # after GOAWAY, until their requests have ended
        self._waiting: list[_Waiter] = []
        self._serving = False
        self._again = False
        engine.on_shutdown = self._end

    def with_link(
        self, origin: Origin, safe: bool, timeouts: Timeouts, use: Callable[[Link], object]
    ) -> Future[Link]:
        """Calls `use(link)` as soon as a request can be opened on a link: if it is safe, maybe in 0-RTT.

        The future is done after that. It fails with what `use` raises, or with ConnectError, of which
        ConnectTimedOut tells the phase, "pool" or "connect".
        """
        waiter = _Waiter(origin, safe, timeouts, use)
        if self._engine.ending:
            waiter.future.set_exception(closed_by_us())
            return waiter.future
        self._waiting.append(waiter)
        self._serve()
        return waiter.future

    def forget(self, future: Future[Link]) -> None:
        """Nobody waits for the future any more."""
        for waiter in [waiter for waiter in self._waiting if waiter.future is future]:
            self._drop(waiter)
        self._serve()

    def links(self) -> list[Link]:
        """Every link there is, also those that take no more requests."""
        return [*self._links.values(), *self._draining]

    def _end(self) -> None:
        """The client is closed: nobody gets a connection any more."""
        for waiter in list(self._waiting):
            self._drop(waiter)
            waiter.future.set_exception(closed_by_us())

    def _changed(self, link: Link) -> None:
        """A link can do more or less than before."""
        if link.ended:
            if self._links.get(link.origin) is link:
                del self._links[link.origin]
                self._fail_waiters(link)
                if link.connection is not None and not link.gone:
                    self._draining.add(link)
            if link in self._draining and not link.exchanges:
                self._draining.discard(link)
                link.close()
        self._serve()

    def _fail_waiters(self, link: Link) -> None:
        error = link.connected.exception() if link.connected.done() else None
        if error is None:
            return  # it was connected once: they get another one
        for waiter in [waiter for waiter in self._waiting if waiter.origin == link.origin]:
            self._drop(waiter)
            waiter.future.set_exception(error)

    def _serve(self) -> None:
        """Gives links to those who wait, and begins as many as there is room for."""
        if self._serving:  # a link that is closed here, or fails at once, calls back
            self._again = True
            return
        self._serving = self._again = True
        try:
            while self._again:
                self._again = False
                for waiter in list(self._waiting):
                    if not waiter.future.done():
                        self._serve_one(waiter)
        finally:
            self._serving = False

    def _serve_one(self, waiter: _Waiter) -> None:
        link = self._links.get(waiter.origin)
        if link is not None and link.usable(waiter.safe):
            self._links[waiter.origin] = self._links.pop(waiter.origin)
            self._drop(waiter)
            try:
                waiter.use(link)
            except Exception as exc:
                waiter.future.set_exception(exc)
            else:
                waiter.future.set_result(link)
            return
        if link is None and self._has_room():
            timeout = self._engine.config.connect_timeout_ms / 1000
            self._links[waiter.origin] = link = self._engine.link(waiter.origin, timeout, self._changed)
            if link.ended:
                self._changed(link)
                return
        if link is not None and not waiter.connecting:
            waiter.connecting = True
            waiter.stop()
        if waiter.timer is None:
            phase = "connect" if waiter.connecting else "pool"
            seconds = waiter.timeouts.seconds(phase)
            if seconds < math.inf:
                waiter.timer = self._engine.driver.call_later(seconds, self._expiry(waiter, phase, seconds))

    def _has_room(self) -> bool:
        if len(self._links) + len(self._draining) < self._limit:
            return True
        wanted = {waiter.origin for waiter in self._waiting}
        for origin, link in self._links.items():
            if link.connected.done() and not link.exchanges and origin not in wanted:
                del self._links[origin]
                link.close()
                return True
        return False

    def _expiry(self, waiter: _Waiter, phase: str, seconds: float) -> Callable[[], None]:
        def expire() -> None:
            self._drop(waiter)
            waiter.future.set_exception(self._too_late(waiter, phase, seconds))
            link = self._links.get(waiter.origin)
            if link is not None and not link.connected.done() and not self._wanted(waiter.origin):
                link.close()

        return expire

    def _too_late(self, waiter: _Waiter, phase: str, seconds: float) -> ConnectError:
        authority = waiter.origin.authority
        if phase == "pool":
            why = f"all {self._limit} connections were busy for {seconds:g} s"
        else:
            link = self._links.get(waiter.origin)
            who = authority if link is None else link.tried()
            why = f"no answer from {who} within {seconds:g} s"
        return ConnectTimedOut(f"no connection to {authority}: {why}", phase)

    def _wanted(self, origin: Origin) -> bool:
        return any(waiter.origin == origin for waiter in self._waiting)

    def _drop(self, waiter: _Waiter) -> None:
        waiter.stop()
        if waiter in self._waiting:
            self._waiting.remove(waiter)
