"""Message bodies as they are received: by a handler on the server, by the program on the client.

Nothing is read ahead of whoever reads: what nobody takes stays in quiche and closes the peer's flow control
window. The classes differ only in how they wait: not at all (`Body`), with `await` (`AsyncBody`), or by
blocking the thread (`BlockingBody`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, Protocol

from .errors import InvalidState, Malformed, PayloadTooLarge

CHUNK = 65_536  # what one read takes at most when it is not told otherwise


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as exc:
        raise Malformed(f"the body is not JSON: {exc}") from exc


class Source(Protocol):
    """Where a body comes from: the receiving half of a stream."""

    @property
    def ended(self) -> bool:
        """Everything was read, trailers included."""
        ...

    def take(self, size: int) -> bytes:
        """Up to `size` bytes that are there now. Raises what broke the stream."""
        ...

    def when_readable(self, callback: Callable[[], None]) -> None:
        """Calls back once, when there is something to take, or the body has ended or broken."""
        ...


class Body:
    """A body read without waiting: the whole of it in plain handlers, what is there in generators."""

    __slots__ = ("_buffer", "_limit", "_source", "bytes_read")

    def __init__(self, source: Source | None = None, *, limit: int = 1 << 62, buffer: bytes = b"") -> None:
        self._source = source
        self._limit = limit
        self._buffer = buffer
        self.bytes_read = 0
        """Bytes taken so far."""

    @property
    def ended(self) -> bool:
        """Everything was read."""
        return not self._buffer and (self._source is None or self._source.ended)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes (-1: all) of what is there now; empty when there is none yet, or no more.

        A generator handler yields its `req.body` to wait until there is more to read or `ended` is true.
        Raises PayloadTooLarge beyond the limit, StreamReset or ConnectionClosed when the peer went away.
        """
        if size >= 0:
            return self._take(size)
        parts = [self._take(len(self._buffer))]
        while chunk := self._take(CHUNK):
            parts.append(chunk)
        return b"".join(parts)

    def _take(self, size: int) -> bytes:
        if self._buffer:
            data, self._buffer = self._buffer[:size], self._buffer[size:]
        elif self._source is not None and size > 0:
            data = self._source.take(size)
        else:
            return b""
        self.bytes_read += len(data)
        if self.bytes_read > self._limit:
            raise PayloadTooLarge(f"the body is larger than {self._limit} bytes")
        return data

    def ready(self) -> bool:
        """There is something to read now. A chunk is taken to find out, and kept for the next `read`."""
        if not self._buffer and self._source is not None:
            self._buffer = self._source.take(CHUNK)
        return bool(self._buffer)

    def __iter__(self) -> Iterator[bytes]:
        """The chunks that are there now, of at most 64 KiB."""
        return iter(lambda: self.read(CHUNK), b"")

    def read_all(self, limit: int | None = None) -> bytes:
        """The rest of a body that is complete, as it is for a plain handler.

        Raises PayloadTooLarge beyond `limit` bytes, and InvalidState while the body is not complete.
        """
        data = self.read()
        if limit is not None and len(data) > limit:
            raise PayloadTooLarge(f"the body is larger than {limit} bytes")
        if not self.ended:
            raise InvalidState("the body is not complete: yield it until it has ended")
        return data

    def json(self) -> Any:
        """The whole body, parsed as JSON. Raises Malformed when it is none, which a handler may let pass."""
        return _parse(self.read_all())


class _Wait:
    """Awaits one call of `when_readable`'s callback, in whatever asyncio loop runs."""

    __slots__ = ("_source",)

    def __init__(self, source: Source) -> None:
        self._source = source

    def __await__(self) -> Generator[Any, None, None]:
        import asyncio

        future = asyncio.get_running_loop().create_future()
        self._source.when_readable(lambda: None if future.done() else future.set_result(None))
        yield from future


class AsyncBody(Body):
    """A body that is read with `await` and `async for`."""

    __slots__ = ()

    async def read(self, size: int = CHUNK) -> bytes:  # type: ignore[override]  # the same call, awaited
        """Up to `size` bytes (-1: all that is left) as soon as there are any; empty at the end."""
        if size < 0:
            return await self.read_all()
        if self._source is None:
            return b""
        while not (data := self._take(size)):
            if size == 0 or self._source.ended:
                break
            await _Wait(self._source)
        return data

    def __iter__(self) -> Iterator[bytes]:
        raise TypeError("use `async for` over the body in an async handler")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks as they come."""
        while chunk := await self.read():
            yield chunk

    async def read_all(self, limit: int | None = None) -> bytes:  # type: ignore[override]  # the same call, awaited
        """The rest of the body. Raises PayloadTooLarge beyond `limit` bytes."""
        parts: list[bytes] = []
        total = 0
        while chunk := await self.read():
            parts.append(chunk)
            total += len(chunk)
            if limit is not None and total > limit:
                raise PayloadTooLarge(f"the body is larger than {limit} bytes")
        return b"".join(parts)

    async def json(self) -> Any:
        """The whole body, parsed as JSON. Raises Malformed when it is none, which a handler may let pass."""
        return _parse(await self.read_all())


class BlockingBody(Body):
    """A body read from a thread of its own: every read waits. `Source` is one that blocks in `take`."""

    __slots__ = ()

    def read(self, size: int = CHUNK) -> bytes:
        """Up to `size` bytes (-1: all that is left), waiting for the first; empty at the end."""
        return self.read_all() if size < 0 else self._take(size)

    def read_all(self, limit: int | None = None) -> bytes:
        """The rest of the body. Raises PayloadTooLarge beyond `limit` bytes."""
        parts: list[bytes] = []
        total = 0
        while chunk := self.read():
            parts.append(chunk)
            total += len(chunk)
            if limit is not None and total > limit:
                raise PayloadTooLarge(f"the body is larger than {limit} bytes")
        return b"".join(parts)
