"""Blocking handlers of a server's sessions: each has a thread, and a session that waits in it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ConnectionClosed, InvalidState, TimedOut
from .files import FileResponse
from .response import Data, Drain, HeaderItems, _Ready
from .webtransport_answer import SessionResponse
from .webtransport_blocking import BlockingSession, Caller

if TYPE_CHECKING:
    from .webtransport_server import ServerSession

T = TypeVar("T")


class SessionCaller(Caller):
    """Into the thread of the server's loop, in which it is made."""

    def __init__(self, post: Callable[..., None]) -> None:
        super().__init__(math.inf)
        self._post = post
        self._loop = threading.get_ident()
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._ended = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        if threading.get_ident() == self._loop:
            function(*args)
            return
        try:
            self._post(function, *args)
        except RuntimeError:
            raise ConnectionClosed(False, 0, b"", False) from None

    def wait(self, future: Future[T], timeout: float) -> T:
        if threading.get_ident() == self._loop and not future.done():
            raise InvalidState("a callback cannot wait: it runs in the thread that it would wait for")
        with self._lock:
            self._waiting.add(future)
            ended = self._ended
        if ended:
            self.abandon()
        try:
            return future.result(None if math.isinf(timeout) else timeout)
        except FutureTimeout:
            if future.done():
                return future.result()
            raise TimedOut(f"nothing came within {timeout:g} s") from None
        finally:
            with self._lock:
                self._waiting.discard(future)

    def abandon(self) -> None:
        """The loop has ended, and runs nothing any more: whoever waits for it gets ConnectionClosed."""
        with self._lock:
            self._ended = True
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionClosed(False, 0, b"", False))


class BlockingServerSession(BlockingSession):
    """A session as a blocking handler has it: to be accepted or rejected first, as a `ServerSession`.

    No wait has a limit but the one that it is given: a session without traffic ends by `wt_session_idle_ms`.
    """

    _session: ServerSession

    def accept(self, headers: HeaderItems | None = None, protocol: str | None = None) -> None:
        """Answers with 200, and `headers`. Raises as `ServerSession.accept()`."""
        self._caller.call(self._session.accept, headers, protocol)

    def reject(self, status: int = 403, headers: HeaderItems | None = None) -> None:
        """Answers with a status of 300 to 599, and `headers`: there will be no session."""
        self._caller.call(self._session.reject, status, headers)


class ThreadedSessionResponse(SessionResponse):
    """For the middleware around a blocking handler: what it sends goes by the loop's thread."""

    __slots__ = ("caller",)

    caller: Caller

    def end(self, final: Data | None = None) -> None:
        self.caller.call(super().end, final)

    def write(self, data: Data) -> int:
        return self.caller.call(super().write, data)

    def write_all(self, data: Data) -> _Ready | Drain:
        return self.caller.call(super().write_all, data)

    def send_trailers(self, trailers: HeaderItems) -> None:
        self.caller.call(super().send_trailers, trailers)

    def when_drained(self, callback: Callable[[], None]) -> None:
        self.caller.call(super().when_drained, callback)

    def set_priority(self, urgency: int, incremental: bool = False) -> None:
        self.caller.call(super().set_priority, urgency, incremental)

    def reset(self, code: int = 0x102) -> None:
        self.caller.call(super().reset, code)

    def inform(self, code: int, headers: HeaderItems = ()) -> None:
        self.caller.call(super().inform, code, headers)

    def send_plan(self, plan: FileResponse) -> None:
        self.caller.call(super().send_plan, plan)

    def produce(self, chunks: Iterator[Any]) -> None:
        self.caller.call(super().produce, chunks)
