"""Blocking handlers: a stream as a thread of the pool sees it.

QUIC state belongs to the loop's thread alone. A call from another thread is posted there and waited for;
where the stream cannot go on, the thread waits, which is the whole of its backpressure.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .datagrams import BlockingDatagrams, DatagramQueue
from .errors import QuicheH3Error
from .headers import Pair
from .response import Response

if TYPE_CHECKING:
    from ._core.http3_stream import Stream

READ_AHEAD = 262_144  # one change of threads brings so much of a body, if it is there


T = TypeVar("T")


class Exchange(Protocol):
    """The loop's side of a stream: `handlers.Exchange` on a server, `ClientExchange` on a client."""

    stream: Stream
    error: QuicheH3Error | None

    @property
    def ended(self) -> bool: ...
    def take(self, size: int) -> bytes: ...
    def when_readable(self, callback: Callable[[], None]) -> None: ...
    def when_drained(self, callback: Callable[[], None]) -> None: ...
    def open_datagrams(self) -> DatagramQueue: ...


class ThreadStream:
    """What `Response` and `BlockingBody` need of a stream, callable from one thread other than the loop's."""

    def __init__(self, exchange: Exchange, post: Callable[..., None], limit: int) -> None:
        self._exchange = exchange
        self._stream: Stream = exchange.stream
        self._post = post
        self._limit = limit
        self._read_ahead: deque[bytes] = deque()
        self._future: Future[Any] | None = None  # what the thread waits for, or waited for last

    def _wait(self, future: Future[T]) -> T:
        return future.result()

    def _post_and_wait(self, function: Callable[..., None], *args: Any) -> Any:
        """The result that the function, called in the loop's thread, gives the future it gets first."""
        self._future = future = Future[Any]()
        self._post(function, future, *args)
        return self._wait(future)

    def abandon(self, error: QuicheH3Error) -> None:
        """In the loop's thread: whoever waits gets `error`. A loop that has ended runs nothing any more."""
        if self._future is not None and not self._future.done():
            self._future.set_exception(error)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result, from the loop's thread."""
        return self._post_and_wait(self._call, function, *args)

    def _call(self, future: Future[Any], function: Callable[..., Any], *args: Any) -> None:
        if future.done():
            return
        try:
            self._check()
            future.set_result(function(*args))
        except Exception as exc:
            future.set_exception(exc)

    def _check(self) -> None:
        if self._exchange.error is not None:
            raise self._exchange.error

    # Sending

    @property
    def pending(self) -> int:
        """Always 0: a call returns only when the queue has room again."""
        return 0

    @property
    def sending(self) -> bool:
        return bool(self._stream.sending)

    @property
    def bytes_sent(self) -> int:
        return int(self._stream.bytes_sent)

    def send_headers(self, pairs: list[Pair], fin: bool = False) -> None:
        self._run(self._stream.send_headers, pairs, fin)

    def enqueue(self, data: bytes, fin: bool = False) -> None:
        """Queues `data` and waits until there is room for more."""
        self._post_and_wait(self._enqueue, data, fin)

    def _enqueue(self, future: Future[None], data: bytes, fin: bool) -> None:
        if future.done():
            return
        try:
            self._check()
            self._stream.enqueue(data, fin)
        except Exception as exc:
            future.set_exception(exc)
            return
        if fin or self._stream.pending < self._limit:
            future.set_result(None)
        else:
            self._exchange.when_drained(lambda: self._drained(future))

    def _drained(self, future: Future[None]) -> None:
        if future.done():
            return
        if self._exchange.error is None:
            future.set_result(None)
        else:
            future.set_exception(self._exchange.error)

    def write(self, data: bytes) -> int:
        """Takes all of it: a thread can wait."""
        self.enqueue(data)
        return len(data)

    def finish(self, trailers: list[Pair] | None = None) -> None:
        self._run(self._stream.finish, trailers)

    def reset(self, code: int) -> None:
        self._run(self._stream.reset, code)

    def stop_receiving(self, code: int) -> None:
        self._run(self._stream.stop_receiving, code)

    def send_datagram(self, payload: bytes, capsules: bool = False) -> None:
        self._run(self._stream.send_datagram, payload, capsules)

    def set_priority(self, urgency: int, incremental: bool) -> None:
        self._run(self._stream.set_priority, urgency, incremental)

    def datagrams(self) -> BlockingDatagrams:
        """The datagrams of the request, to be waited for in this thread."""
        queue = self._run(self._exchange.open_datagrams)
        return BlockingDatagrams(lambda: self._post_and_wait(queue.give))

    # Receiving

    @property
    def ended(self) -> bool:
        return not self._read_ahead and not self._stream.receiving

    def take(self, size: int) -> bytes:
        """Up to `size` bytes, waiting for the first of them; empty only at the end of the body."""
        if not self._read_ahead:
            self._read_ahead.extend(self._fetch())
        if not self._read_ahead:
            return b""
        data = self._read_ahead.popleft()
        if len(data) > size:
            self._read_ahead.appendleft(data[size:])
        return data[:size]

    def when_readable(self, callback: Callable[[], None]) -> None:
        """`take` waits by itself."""
        callback()

    def _fetch(self) -> list[bytes]:
        parts: list[bytes] = self._post_and_wait(self._fill)
        return parts

    def _fill(self, future: Future[list[bytes]]) -> None:
        """In the loop's thread: gives the future what is there, now or when something comes."""
        if future.done():
            return
        # No closure that names itself: as a cycle it would keep megabytes of body until the collector runs.
        parts: list[bytes] = []
        size = 0
        try:
            while size < READ_AHEAD and (chunk := self._exchange.take(65_536)):
                parts.append(chunk)
                size += len(chunk)
        except QuicheH3Error as exc:
            future.set_exception(exc)
            return
        if parts or self._exchange.ended:
            future.set_result(parts)
        else:
            self._exchange.when_readable(lambda: self._fill(future))


class BlockingResponse(Response):
    """A response written from a thread: every call that must wait does."""

    __slots__ = ()

    def h3_datagrams(self) -> BlockingDatagrams:  # type: ignore[override]  # the same, waited for in the thread
        """The HTTP datagrams of the request (RFC 9297) as they come: `for payload in res.h3_datagrams()`."""
        self._open_capsules()
        stream: Any = self._stream
        datagrams: BlockingDatagrams = stream.datagrams()
        return datagrams

    def produce(self, chunks: Iterator[Any]) -> None:
        """Sends what the iterator yields, and ends the response."""
        for chunk in chunks:
            self.write_all(chunk)
            if self.head_only:
                break
        if isinstance(chunks, Generator):
            chunks.close()
        if not self.ended:
            self.end()


class HandlerThreads:
    """The threads of blocking handlers, made when they are needed; used by the loop's thread.

    Unlike those of concurrent.futures they are daemons: a handler that never returns keeps no process from
    its end.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, task: Callable[[], None], unfinished: int) -> None:
        """Runs `task`, which must not raise. `unfinished` is how many there are with this one."""
        self._tasks.put(task)
        if self._count < min(unfinished, self._limit):
            self._count += 1
            name = f"quiche_h3-handler-{self._count}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # nor does a thread that waits keep a request alive

    def close(self) -> None:
        """Ends the threads, each after what it is doing; what waits for one is dropped."""
        while not self._tasks.empty():
            self._tasks.get()
        for _ in range(self._count):
            self._tasks.put(None)
