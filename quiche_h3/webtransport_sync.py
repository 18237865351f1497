"""A client's WebTransport session for programs that wait: `connect_webtransport()`.

The session itself lives in the loop's thread. `BlockingSession` and `BlockingStream` have its methods,
callable from any thread; what is a coroutine there waits here, as long as the timeout given to
`connect_webtransport()`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from .client_exchange import HeaderItems
from .client_link import ConnectionInfo
from .client_thread import ClientThread
from .config import ClientConfig
from .errors import ConnectionClosed, SessionClosed, TimedOut
from .headers import Headers
from .response import Data
from .webtransport import CloseInfo
from .webtransport_client import (
    ClientSession,
    open_session,
    own_connection,
    prepare_session,
    resolve_session,
)
from .webtransport_streams import WebTransportStream

T = TypeVar("T")

# What callbacks are set by, and what they get in place of the loop's own stream.
_CALLBACKS: Final = frozenset(
    {
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


class _Caller:
    """Calls into the loop's thread, and waits there."""

    def __init__(self, thread: ClientThread, who: str, timeout: float) -> None:
        self.thread = thread
        self.who = who
        self.timeout = timeout

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

        self.thread.post(step)
        try:
            return self.thread.wait(future, self.timeout if timeout is None else timeout, self.who)
        except TimedOut:
            if future.cancel():
                raise
            return future.result()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        return self.thread.call(function, *args)


class BlockingStream:
    """A stream of a `BlockingSession`: the methods of `WebTransportStream`."""

    def __init__(self, stream: WebTransportStream, caller: _Caller) -> None:
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
    """A client's session: the methods of `WebTransportSession`, callable from any thread.

    Callbacks (`on_datagram` and its like) may be set too. They are called in the client's own thread, with
    the loop's own streams: they must not wait. What came before they were set waits to be taken by calls.
    """

    def __init__(self, session: ClientSession, caller: _Caller) -> None:
        self._session = session
        self._caller = caller
        self.state: Any = None
        """The program's own."""
        self._finalizer = weakref.finalize(self, caller.thread.close)

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
    def protocol(self) -> str | None:
        """The subprotocol that was agreed on, or None."""
        return self._session.protocol

    @property
    def response_headers(self) -> Headers:
        """The fields of the server's answer."""
        return self._session.response_headers

    @property
    def info(self) -> ConnectionInfo | None:
        """What the handshake has led to."""
        return self._session.info

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
        """Opens a stream that both sides write, as soon as the server allows another."""
        return self._open(True)

    def open_uni_stream(self) -> BlockingStream:
        """Opens a stream that we write, as soon as the server allows another."""
        return self._open(False)

    def _open(self, bidi: bool) -> BlockingStream:
        session = self._session
        stream = self._caller.until(
            lambda: session.try_open(bidi), lambda step: session.when_credit(bidi, step)
        )
        return BlockingStream(stream, self._caller)

    def incoming_bidi_streams(self) -> Iterator[BlockingStream]:
        """Streams of the server that both sides write, as they come, to the end of the session."""
        return self._incoming(True)

    def incoming_uni_streams(self) -> Iterator[BlockingStream]:
        """Streams that the server alone writes, as they come, to the end of the session."""
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
        """Asks the server to bring the session to its end."""
        self._caller.call(self._session.drain)

    def wait_closed(self, timeout: float | None = None) -> CloseInfo:
        """Waits for the end of the session."""
        session = self._session
        if session.close_info is not None:
            return session.close_info
        return self._caller.until(lambda: session.close_info, session.when_closed, timeout)

    def close(self, code: int = 0, reason: str = "") -> None:
        """Ends the session, and its connection. May be called more than once."""
        try:
            self._caller.call(self._session.close, code, reason)
            self._caller.thread.wait(self._session.parted, self._caller.timeout, self._caller.who)
        except (ConnectionClosed, TimedOut):
            pass
        self._finalizer()

    def __enter__(self) -> BlockingSession:
        return self

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<BlockingSession {self._session!r}>"


def connect_webtransport(
    url: str,
    *,
    headers: HeaderItems | None = None,
    protocols: Iterable[str] = (),
    verify: bool = True,
    cafile: str | None = None,
    config: ClientConfig | None = None,
    timeout: float | None = 30.0,
    keep_alive_s: float | None = None,
) -> BlockingSession:
    """Opens a WebTransport session with the server of an https URL.

    `headers` are further fields of the CONNECT, as Origin; `protocols` the subprotocols that we speak, best
    first: `session.protocol` is the one that the server has chosen. `timeout` is the most seconds that any
    one wait may take. The rest is as of `connect()`.

    Raises ValueError, ConfigError, HeaderInvalid, ConnectError, TimedOut, and SessionRejected, which has the
    server's status.
    """
    origin, asked, settings = prepare_session(url, headers, protocols, verify, cafile, config)
    limit = math.inf if timeout is None else timeout
    thread = ClientThread(settings, None, keep_alive_s, webtransport=True)
    caller = _Caller(thread, origin.authority, limit)
    try:
        link = thread.call(thread.engine.link, origin, min(limit, settings.connect_timeout_ms / 1000))
        thread.wait(link.connected, math.inf, origin.authority)
        opened: Future[ClientSession] = Future()
        thread.post(open_session, link, asked, lambda result: resolve_session(opened, result))
        session = thread.wait(opened, limit, origin.authority)
        own_connection(session, thread.engine, thread.close)
        thread.wait(session.established, limit, origin.authority)
    except BaseException:
        thread.close()
        raise
    return BlockingSession(session, caller)
