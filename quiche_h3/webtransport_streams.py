"""The streams of WebTransport sessions, the same on a server and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from ._core.webtransport_streams import StreamBase
from .errors import (
    FlowControl,
    InvalidState,
    QuicheH3Error,
    StreamClosed,
    WebTransportStreamReset,
)
from .response import READY, Data
from .webtransport_codes import from_wire, to_wire

if TYPE_CHECKING:
    from .webtransport import WebTransportSession

_READ_TURN: Final = 262_144  # what one stream may hand to callbacks in a turn


class Waiters:
    """Callbacks that wait for the same thing, each called once."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Callable[[], object]] = []

    def add(self, callback: Callable[[], object]) -> None:
        self._waiting.append(callback)

    def wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    async def wait(self) -> None:
        """Until the next `wake()`."""
        await until(self.add)


async def until(register: Callable[[Callable[[], None]], None]) -> None:
    """Waits for the callback that `register` is given to be called."""
    import asyncio

    future = asyncio.get_running_loop().create_future()
    register(lambda: None if future.done() else future.set_result(None))
    await future


class _Room:
    """Awaitable: the stream may be written to again."""

    __slots__ = ("_stream",)

    def __init__(self, stream: WebTransportStream) -> None:
        self._stream = stream

    def __await__(self) -> Any:
        return self._stream._until_room().__await__()


class WebTransportStream(StreamBase):
    """A stream of a session. Made by `open_bidi_stream()` and its like, or by the peer.

    Every code is the application's own, 0 to 2**32 - 1.
    """

    __slots__ = ("_data", "_delivering", "_over_late", "_paused", "_room", "error", "state", "stop_error")

    session: WebTransportSession

    def __init__(self, session: WebTransportSession) -> None:
        self._data = Waiters()
        self._room = Waiters()
        self._paused = self._delivering = self._over_late = False
        self.state: Any = None
        """The program's own."""
        self.error: QuicheH3Error | None = None
        """Why nothing more can be read, other than by the peer's end of the stream."""
        self.stop_error: QuicheH3Error | None = None
        """Why nothing more can be written, other than by `finish()`."""

    @property
    def bidirectional(self) -> bool:
        """Both sides may write."""
        return not self.id & 2

    @property
    def readable(self) -> bool:
        """More may come, or is there: `read()` has not seen the end yet."""
        return self.receiving

    @property
    def writable(self) -> bool:
        """The sending half is open."""
        return self.sending

    # Reading

    async def read(self, n: int = 65_536) -> bytes:
        """Up to `n` bytes, waiting for the first of them; b"" at the end of the stream.

        Raises WebTransportStreamReset when the peer reset it, SessionClosed or ConnectionClosed when those
        went first, StreamClosed after `stop_sending()`, InvalidState for a stream that is only ours to write.
        """
        while not (data := self.read_nowait(n)) and self.receiving and n > 0:
            await until(self.when_readable)
        return data

    def read_nowait(self, n: int = 65_536) -> bytes:
        """As `read()`, but what is there now: b"" also when that is nothing, and `readable` is still true."""
        data = self.recv(n)
        if not data and self.error is not None:
            raise self.error
        if not (data or self.receiving or self.bidirectional or self.incoming):
            raise InvalidState("a unidirectional stream is written by the side that opens it")
        return data

    def when_readable(self, callback: Callable[[], None]) -> None:
        """Calls back once when there is something to read, or the end."""
        if not self.receiving:
            callback()
            return
        self._data.add(callback)
        self.wanted = True

    async def read_all(self, limit: int = 1 << 24) -> bytes:
        """Everything up to the end of the stream. Raises FlowControl when that is more than `limit` bytes."""
        parts, size = [], 0
        while data := await self.read():
            parts.append(data)
            size += len(data)
            if size > limit:
                raise FlowControl(f"the stream has more than {limit} bytes")
        return b"".join(parts)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    def stop_sending(self, code: int = 0) -> None:
        """Tells the peer that no more of what it sends is wanted."""
        wire = to_wire(code)
        if self.receiving:
            self.error = StreamClosed("we have stopped the stream")
            self.stop_receiving(wire)
            self._data.wake()

    def pause(self) -> None:
        """No more calls of `on_stream_data`: the stream's window closes, and its writer must wait."""
        self._paused = True
        self.wanted = False

    def resume(self) -> None:
        """Ends a `pause()`."""
        self._paused = False
        if self.receiving and self.session.on_stream_data is not None:
            self.wanted = True
            self._readable()

    # Writing

    def write(self, data: Data) -> Awaitable[None]:
        """Sends `data`; the result may be awaited to wait until there is room for more.

        Raises FlowControl, with nothing sent, when `wt_stream_pending_max` bytes wait already: one who
        awaits each write never meets it. Raises WebTransportStreamReset when the peer wants no more,
        StreamClosed after `finish()` or `reset()`, SessionClosed and ConnectionClosed.
        """
        if self.stop_error is not None:
            raise self.stop_error
        limit = self.session.pending_max
        if self.pending >= limit:
            raise FlowControl(f"{self.pending} bytes wait to be sent")
        if type(data) is not bytes:
            data = data.encode() if isinstance(data, str) else bytes(data)
        self.enqueue(data)
        return READY if self.pending < limit else _Room(self)

    async def _until_room(self) -> None:
        while self.pending >= self.session.pending_max:
            await until(self.when_drained)
        if self.stop_error is not None:
            raise self.stop_error

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Calls back once when nothing waits to be sent, or nothing can be sent any more."""
        if not self.pending:
            callback()
            return
        self._room.add(callback)
        self.watched = True

    def finish(self) -> None:
        """Ends our half after what was written. Once it has ended it does nothing."""
        if self.sending and not self.fin_queued:
            self.enqueue(b"", True)

    def reset(self, code: int = 0) -> None:
        """Ends our half at once: what was written may never arrive."""
        wire = to_wire(code)
        if self.sending:
            self.stop_error = StreamClosed("we have reset the stream")
            self.reset_sending(wire)
            self._room.wake()

    async def __aenter__(self) -> WebTransportStream:
        return self

    async def __aexit__(self, kind: object, exc: object, trace: object) -> None:
        """Finishes the stream, or resets it when the block raised; what was not read is not wanted."""
        self.leave(kind is not None)

    def leave(self, failed: bool) -> None:
        """The end of a `with` block: finishes the stream, or resets it; what was not read is not wanted."""
        if failed:
            self.reset()
        elif not self.session.over:
            self.finish()
        self.stop_sending()

    # Calls of the core

    def _readable(self) -> None:
        callback = self.session.on_stream_data
        if callback is None:
            self.wanted = False
            self._data.wake()
            return
        left = _READ_TURN
        self._delivering = True
        try:
            while left > 0 and not self._paused and self.receiving:
                data = self.recv()
                fin = not self.receiving and self.error is None
                if not data and not fin:
                    break
                left -= len(data)
                callback(self, data, fin)
        finally:
            self._delivering = False
        if self._over_late:
            self._over()

    def _drained(self) -> None:
        self.watched = False
        self._room.wake()

    def _was_reset(self, code: int) -> None:
        error = self.error = WebTransportStreamReset(code, from_wire(code))
        self._data.wake()
        if self.session.on_stream_reset is not None:
            self.session.on_stream_reset(self, error.code)

    def _was_stopped(self, code: int) -> None:
        error = self.stop_error = WebTransportStreamReset(code, from_wire(code))
        self._room.wake()
        if self.session.on_stream_reset is not None:
            self.session.on_stream_reset(self, error.code)

    def _aborted(self) -> None:
        error = self.session.end_error()
        if self.receiving:
            self.error = self.error or error
        if self.sending:
            self.stop_error = self.stop_error or error

    def _over(self) -> None:
        if self._delivering:
            self._over_late = True
            return
        self._data.wake()
        self._room.wake()
        if self.session.on_stream_closed is not None:
            self.session.on_stream_closed(self)

    def __repr__(self) -> str:
        return f"<WebTransportStream {self.id} of session {self.session.session_id}>"
