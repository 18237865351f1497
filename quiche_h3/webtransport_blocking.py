"""A WebTransport session for programs that wait, on a server and on a client.

The session itself lives in the loop's thread. `BlockingSession` and `BlockingStream` have its methods,
callable from any thread; what is a coroutine there waits here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from .errors import ConnectionClosed, SessionClosed, TimedOut
from .request import Request
from .response import Data
from .webtransport import CloseInfo, WebTransportSession
from .webtransport_streams import WebTransportStream

T = TypeVar("T")

# What callbacks are set by, and what they get in place of the loop's own stream.
_CALLBACKS: Final = frozenset(
    {
        "on_session_established",
        "on_session_closed",
        "on_session_draining",
        "on_datagram",
        "on_bidi_stream",
        "on_uni_stream",
        "on_stream_data",
        "on_stream_reset",
        "on_stream_closed",
    }
)


class Caller:
    """Calls into the loop's thread, and waits there. `timeout` is the most seconds that one wait takes.

    A base: `post()` and `wait()` are the subclasses'.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Calls the function in the loop's thread, at once when this is it. Raises ConnectionClosed."""
        raise NotImplementedError

    def wait(self, future: Future[T], timeout: float) -> T:
        """The future's result. Raises TimedOut, and InvalidState in the loop's own thread."""
        raise NotImplementedError

    def until(
        self,
        attempt: Callable[[], T | None],
        register: Callable[[Callable[[], None]], None],
        timeout: float | None = None,
    ) -> T:
        """What `attempt()` gives, once it gives something; `register(step)` says when to try again."""
        future: Future[T] = Future()

        def step() -> None:
            if future.done():
                return
            try:
                result = attempt()
                if result is None:
                    register(step)
            except Exception as exc:
                future.set_exception(exc)
                return
            if result is not None:
                future.set_result(result)

        def give_up(late: TimedOut) -> None:
            if not future.done():
                future.set_exception(late)

        self.post(step)
        try:
            return self.wait(future, self.timeout if timeout is None else timeout)
        except TimedOut as late:
            # In the loop's thread, where nothing can come in between: what was taken is not lost.
            self.post(give_up, late)
            return self.wait(future, math.inf)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The function's result, from the loop's thread."""
        future: Future[T] = Future()

        def run() -> None:
            if future.done():  # it was given up before its turn came
                return
            try:
                future.set_result(function(*args))
            except Exception as exc:
                future.set_exception(exc)

        self.post(run)
        return self.wait(future, math.inf)


class BlockingStream:
    """A stream of a `BlockingSession`: the methods of `WebTransportStream`."""

    def __init__(self, stream: WebTransportStream, caller: Caller) -> None:
        self._stream = stream
        self._caller = caller
        self.id = stream.id
        """QUIC stream ID."""
        self.bidirectional = stream.bidirectional
        """Both sides may write."""
        self.state: Any = None
        """The program's own."""

    @property
    def readable(self) -> bool:
        """More may come, or is there."""
        return self._stream.readable

    @property
    def writable(self) -> bool:
        """The sending half is open."""
        return self._stream.writable

    def read(self, n: int = 65_536, timeout: float | None = None) -> bytes:
        """Up to `n` bytes, waiting for the first of them; b"" at the end. Raises as `WebTransportStream`."""
        stream = self._stream

        def attempt() -> bytes | None:
            data = stream.read_nowait(n)
            return data if data or not stream.receiving or n <= 0 else None

        return self._caller.until(attempt, stream.when_readable, timeout)

    def read_all(self) -> bytes:
        """Everything up to the end of the stream."""
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read():
            yield data

    def write(self, data: Data) -> None:
        """Sends `data`, and waits until there is room for more."""
        stream = self._stream
        limit = stream.session.pending_max
        given = False

        def attempt() -> bool | None:
            nonlocal given
            if not given:
                if stream.pending >= limit:
                    return None
                stream.write(data)
                given = True
            if stream.stop_error is not None:
                raise stream.stop_error
            return True if stream.pending < limit else None

        self._caller.until(attempt, stream.when_drained)

    def finish(self) -> None:
        """Ends our half after what was written."""
        self._caller.call(self._stream.finish)

    def reset(self, code: int = 0) -> None:
        """Ends our half at once: what was written may never arrive."""
        self._caller.call(self._stream.reset, code)

    def stop_sending(self, code: int = 0) -> None:
        """Tells the peer that no more of what it sends is wanted."""
        self._caller.call(self._stream.stop_sending, code)

    def __enter__(self) -> BlockingStream:
        return self

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        """As of `WebTransportStream`."""
        try:
            self._caller.call(self._stream.leave, kind is not None)
        except ConnectionClosed:
            pass

    def __repr__(self) -> str:
        return f"<BlockingStream {self.id}>"


class BlockingSession:
    """The methods of `WebTransportSession`, callable from any thread.

    Callbacks (`on_datagram` and its like) may be set too. They are called in the loop's thread, with the
    loop's own streams: they must not wait. What came before they were set waits to be taken by calls.
    """

    def __init__(self, session: WebTransportSession, caller: Caller) -> None:
        self._session = session
        self._caller = caller
        self.state: Any = None
        """The program's own."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLBACKS:
            self._caller.call(setattr, self._session, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def session_id(self) -> int:
        """ID of the CONNECT stream."""
        return self._session.session_id

    @property
    def request(self) -> Request:
        """The CONNECT request: headers, path, query, params. On a client None."""
        return self._session.request

    @property
    def over(self) -> bool:
        """The session has ended."""
        return self._session.over

    @property
    def protocol(self) -> str | None:
        """The subprotocol that was agreed on, or None."""
        return self._session.protocol

    @property
    def stats(self) -> dict[str, int]:
        """Counters of the session."""
        return self._session.stats

    @property
    def draining(self) -> bool:
        """One of the sides wants the session to come to its end."""
        return self._session.draining

    @property
    def close_info(self) -> CloseInfo | None:
        """How the session ended; None while it has not."""
        return self._session.close_info

    @property
    def max_datagram_size(self) -> int:
        """The largest payload in bytes that a datagram can have now."""
        return self._caller.call(lambda: self._session.max_datagram_size)

    def send_datagram(self, data: bytes) -> None:
        """Sends a datagram. Raises as `WebTransportSession.send_datagram()`."""
        self._caller.call(self._session.send_datagram, data)

    def receive_datagram(self, timeout: float | None = None) -> bytes:
        """The next datagram. Raises SessionClosed or ConnectionClosed when none will come, TimedOut."""
        return self._caller.until(self._session.take_datagram_nowait, self._session.when_datagram, timeout)

    def datagrams(self) -> Iterator[bytes]:
        """Datagrams as they come, to the end of the session."""
        while True:
            try:
                yield self.receive_datagram(math.inf)
            except (SessionClosed, ConnectionClosed):
                return

    def open_bidi_stream(self) -> BlockingStream:
        """Opens a stream that both sides write, as soon as the peer allows another."""
        return self._open(True)

    def open_uni_stream(self) -> BlockingStream:
        """Opens a stream that we write, as soon as the peer allows another."""
        return self._open(False)

    def _open(self, bidi: bool) -> BlockingStream:
        session = self._session
        stream = self._caller.until(
            lambda: session.try_open(bidi), lambda step: session.when_credit(bidi, step)
        )
        return BlockingStream(stream, self._caller)

    def incoming_bidi_streams(self) -> Iterator[BlockingStream]:
        """Streams of the peer that both sides write, as they come, to the end of the session."""
        return self._incoming(True)

    def incoming_uni_streams(self) -> Iterator[BlockingStream]:
        """Streams that the peer alone writes, as they come, to the end of the session."""
        return self._incoming(False)

    def _incoming(self, bidi: bool) -> Iterator[BlockingStream]:
        session = self._session
        while True:
            try:
                stream = self._caller.until(
                    lambda: session.take_stream_nowait(bidi),
                    lambda step: session.when_stream(bidi, step),
                    math.inf,
                )
            except (SessionClosed, ConnectionClosed):
                return
            yield BlockingStream(stream, self._caller)

    def drain(self) -> None:
        """Asks the peer to bring the session to its end."""
        self._caller.call(self._session.drain)

    def wait_closed(self, timeout: float | None = None) -> CloseInfo:
        """Waits for the end of the session."""
        session = self._session
        if session.close_info is not None:
            return session.close_info
        return self._caller.until(lambda: session.close_info, session.when_closed, timeout)

    def close(self, code: int = 0, reason: str = "") -> None:
        """Ends the session. May be called more than once."""
        try:
            self._caller.call(self._session.close, code, reason)
        except ConnectionClosed:
            pass

    def __enter__(self) -> BlockingSession:
        return self

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._session!r}>"
