"""HTTP datagrams of one request (RFC 9297): a queue of the newest ones, and whoever waits for the next.

They come as QUIC DATAGRAM frames or, on a stream that speaks the capsule protocol, as capsules in its body;
whoever takes them sees no difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any, Final

from .capsules import CapsuleReader

DATAGRAM_CAPSULE: Final = 0x00  # RFC 9297 3.5
MAX_DATAGRAM: Final = 65_535

End = Exception | None
"""How the datagrams of a request ended: None when the peer has finished its half of the stream."""


def capsule_reader() -> CapsuleReader:
    """A reader of the capsules that are HTTP datagrams."""
    return CapsuleReader({DATAGRAM_CAPSULE: MAX_DATAGRAM})


class DatagramQueue:
    """The newest HTTP datagrams of a request that nobody has taken yet; used in the loop's thread."""

    def __init__(self, limit: int, dropped: Callable[[], object]) -> None:
        self._queue: deque[bytes] = deque()
        self._limit = limit
        self._dropped = dropped
        self._waiting: list[Callable[[], None]] = []
        self._over = False
        self._error: End = None

    def push(self, payload: bytes) -> None:
        """Adds a datagram. In a full queue the oldest makes way for it, and is counted as dropped."""
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self._dropped()
        self._queue.append(payload)
        self._wake()

    def close(self, error: End) -> None:
        """No more will come. What is there can still be taken; then `error` is raised, if there is one."""
        if self._over:
            return
        self._over = True
        self._error = error
        self._wake()

    def _wake(self) -> None:
        """All who wait: one of them may have given up meanwhile."""
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def take(self) -> bytes | None:
        """The oldest one, or None when there is none now. Raises the error that the request ended with."""
        if self._queue:
            return self._queue.popleft()
        if self._error is not None:
            raise self._error
        return None

    @property
    def over(self) -> bool:
        """All were taken, and no more will come."""
        return self._over and not self._queue

    def when_readable(self, callback: Callable[[], None]) -> None:
        """Calls back once, when there is one to take or no more will come."""
        if self._queue or self._over:
            callback()
        else:
            self._waiting.append(callback)

    def give(self, future: Future[bytes | None]) -> None:
        """Gives the future the next one as soon as there is one, None at the end."""
        if future.done():
            return
        try:
            payload = self.take()
        except Exception as exc:
            future.set_exception(exc)
            return
        if payload is not None or self._over:
            future.set_result(payload)
        else:
            self.when_readable(lambda: self.give(future))


class _Next:
    """Awaits one call of `when_readable`'s callback."""

    __slots__ = ("_queue",)

    def __init__(self, queue: DatagramQueue) -> None:
        self._queue = queue

    def __await__(self) -> Generator[Any, None, None]:
        import asyncio

        future = asyncio.get_running_loop().create_future()
        self._queue.when_readable(lambda: None if future.done() else future.set_result(None))
        yield from future


class AsyncDatagrams(AsyncIterator[bytes]):
    """The datagrams of a request as they come: `async for payload in ...`."""

    __slots__ = ("_queue",)

    def __init__(self, queue: DatagramQueue) -> None:
        self._queue = queue

    async def __anext__(self) -> bytes:
        while (payload := self._queue.take()) is None:
            if self._queue.over:
                raise StopAsyncIteration
            await _Next(self._queue)
        return payload


class BlockingDatagrams(Iterator[bytes]):
    """The datagrams of a request as they come: `for payload in ...`, which waits in its own thread."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], bytes | None]) -> None:
        self._wait = wait

    def __next__(self) -> bytes:
        payload = self._wait()
        if payload is None:
            raise StopIteration
        return payload
