"""WebTransport sessions, the same on a server and a client.

Everything here belongs to the loop's thread. What must wait is a coroutine; what need not is a plain call,
and what happens can be had by callbacks as well: see `WebTransportSession`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ._core.webtransport import WebTransport
from ._core.webtransport_sessions import SessionBase
from .capsules import CapsuleReader, encode_capsule
from .errors import (
    CapsuleError,
    ConnectionClosed,
    H3ErrorCode,
    InvalidState,
    QuicheH3Error,
    SessionClosed,
    StreamBlocked,
    StreamReset,
)
from .request import Request
from .webtransport_streams import Waiters, WebTransportStream, until

if TYPE_CHECKING:
    from ._core.fields import FieldSection
    from ._core.http3_stream import Stream
    from .webtransport_serve import DatagramHandler, StreamHandler

log: Final = logging.getLogger("quiche_h3")

CLOSE_SESSION: Final = 0x2843
DRAIN_SESSION: Final = 0x78AE
MAX_REASON: Final = 1024
_MAX_DATA: Final = 0x190B4D3D
_MAX_STREAMS: Final = (0x190B4D40, 0x190B4D3F)  # by kind: unidirectional, bidirectional
_STREAMS_BLOCKED: Final = (0x190B4D44, 0x190B4D43)
_OF_STREAMS: Final = (0x190B4D3E, 0x190B4D42)  # WT_MAX_STREAM_DATA, WT_STREAM_DATA_BLOCKED: for HTTP/2 alone
_MAX_CAPSULES: Final = 4096  # bytes of capsules that wait for a peer who takes none

StreamCallback = Callable[["WebTransportStream"], object]


class CloseInfo(NamedTuple):
    """How a session ended."""

    code: int
    """The application's code, 0 where there was none."""
    reason: str
    """The application's text."""
    remote: bool
    """The peer ended it."""
    error: QuicheH3Error | None = None
    """What broke it, or None when it was closed in good order."""


class WebTransportSession(SessionBase):
    """A session: streams in both directions, and datagrams.

    A coroutine iterates and awaits. Any other handler sets callbacks before the session is open:

    - `on_session_established()`, `on_session_closed(info)` with a `CloseInfo`, `on_session_draining()`;
    - `on_datagram(payload)`;
    - `on_bidi_stream(stream)`, `on_uni_stream(stream)` for streams of the peer;
    - `on_stream_data(stream, data, fin)`, with which all streams are read as data comes;
    - `on_stream_reset(stream, code)`: the peer reset the stream or wants no more of it; the code is -1 where
      it is no application's;
    - `on_stream_closed(stream)`: both halves have ended.
    """

    def __init__(self, transport: WebTransport, stream: Stream, request: Request | None = None) -> None:
        self.request: Request = request  # type: ignore[assignment]
        """The CONNECT request: headers, path, query, params. On a client what was sent."""
        self.protocol: str | None = None
        """The subprotocol that was agreed on, or None."""
        self.state: Any = None
        """The program's own."""
        self.draining = False
        """One of the sides wants the session to come to its end."""
        self.close_info: CloseInfo | None = None
        """How it ended; None while it has not."""
        self.pending_max: int = transport.config.wt_stream_pending_max
        self.on_session_established: Callable[[], object] | None = None
        self.on_session_closed: Callable[[CloseInfo], object] | None = None
        self.on_session_draining: Callable[[], object] | None = None
        self.on_bidi_stream: StreamCallback | None = None
        self.on_uni_stream: StreamCallback | None = None
        self.on_stream_data: Callable[[WebTransportStream, bytes, bool], object] | None = None
        self.on_stream_reset: Callable[[WebTransportStream, int], object] | None = None
        self.on_stream_closed: StreamCallback | None = None
        limits = dict.fromkeys((_MAX_DATA, *_MAX_STREAMS, *_STREAMS_BLOCKED, *_OF_STREAMS), 16)
        self._reader = CapsuleReader({CLOSE_SESSION: 4 + MAX_REASON, DRAIN_SESSION: 0, **limits})
        self._come: tuple[deque[WebTransportStream], ...] = (deque(), deque())  # uni, bidi
        self._stream_waiters = (Waiters(), Waiters())
        self._datagram_waiters = Waiters()
        self._opening = Waiters()
        self._closing = Waiters()

    # Life

    @property
    def over(self) -> bool:
        """The session has ended."""
        return self.close_info is not None

    def end_error(self) -> QuicheH3Error:
        """What operations raise once the session is over."""
        info = self.close_info
        if info is None:
            return SessionClosed()
        if isinstance(info.error, ConnectionClosed):
            return info.error
        by = "the peer" if info.remote else "us"
        text = f": {info.reason}" if info.reason else ""
        return SessionClosed(f"the session was closed by {by} with code {info.code}{text}")

    def _ensure_open(self) -> None:
        """The session is to be used: a client's is open or not, a server's is accepted by that."""
        if self.over:
            raise self.end_error()
        raise InvalidState("the session is not established yet")

    def close(self, code: int = 0, reason: str = "") -> None:
        """Ends the session; the peer gets the code (32 bits) and the reason (at most 1,024 bytes of UTF-8).

        Streams that are not complete are reset. It never waits, and does nothing when the session is over.
        """
        text = reason.encode()
        if not 0 <= code < 1 << 32:
            raise ValueError("the code of a session is at least 0 and below 2**32")
        if len(text) > MAX_REASON:
            raise ValueError(f"the reason of a session has at most {MAX_REASON} bytes")
        if self.over:
            return
        if not self.open:
            self._ensure_open()
        self._send_capsule(encode_capsule(CLOSE_SESSION, code.to_bytes(4, "big") + text), True)
        self._ended(CloseInfo(code, reason, False))

    def drain(self) -> None:
        """Asks the peer to bring the session to its end; it may go on as long as both want."""
        self.check_open()
        self.draining = True
        self._send_capsule(encode_capsule(DRAIN_SESSION))

    def abort(self, code: int = H3ErrorCode.H3_INTERNAL_ERROR, error: QuicheH3Error | None = None) -> None:
        """Ends the session without a word: its CONNECT stream is reset with a code of HTTP/3."""
        if not self.over:
            self.stream.reset(code)
            self._ended(CloseInfo(0, "", False, error or StreamReset(code, False)))

    async def wait_closed(self) -> CloseInfo:
        """Waits for the end of the session."""
        if not (self.open or self.over):
            self._ensure_open()
        while self.close_info is None:
            await self._closing.wait()
        return self.close_info

    def when_closed(self, callback: Callable[[], object]) -> None:
        """Calls back once when the session is over."""
        callback() if self.over else self._closing.add(callback)

    def _send_capsule(self, capsule: bytes, fin: bool = False) -> None:
        """Capsules never wait: a peer that lets them pile up loses the session."""
        if not (self.stream.sending and (capsule or fin)):
            return
        if self.stream.pending + len(capsule) > _MAX_CAPSULES:
            self.stream.reset(H3ErrorCode.H3_EXCESSIVE_LOAD)
            return
        self.stream.enqueue(capsule, fin)

    def _established(self) -> None:
        self.establish()
        if self.on_session_established is not None:
            self.on_session_established()
        for come, callback in zip(self._come, (self.on_uni_stream, self.on_bidi_stream), strict=True):
            while come and callback is not None:
                self._begin_stream(come.popleft(), callback)
        while self.on_datagram is not None and (payload := self.next_datagram()) is not None:
            self.on_datagram(payload)
        self._capsules()
        if not self.stream.receiving:
            self._finished()

    def _ended(self, info: CloseInfo) -> None:
        if self.over:
            return
        was_open = self.open
        self.close_info = info
        for stream in list(self.streams.values()):
            stream._aborted()
        self.end()
        for waiters in (*self._stream_waiters, self._datagram_waiters, self._opening, self._closing):
            waiters.wake()
        if was_open and self.on_session_closed is not None:
            self.on_session_closed(info)

    # Datagrams

    async def receive_datagram(self) -> bytes:
        """The next datagram. Raises SessionClosed or ConnectionClosed when none will come any more."""
        while (payload := self.take_datagram_nowait()) is None:
            await until(self.when_datagram)
        return payload

    def take_datagram_nowait(self) -> bytes | None:
        """As `receive_datagram()`, or None when there is none now."""
        payload = self.next_datagram()
        if payload is None and not self.open:
            self._ensure_open()
        return payload

    def when_datagram(self, callback: Callable[[], None]) -> None:
        """Calls back once when a datagram has come, or the session is over."""
        self._datagram_waiters.add(callback)
        self.datagram_waiter = self._datagram_waiters.wake

    def datagrams(self) -> AsyncIterator[bytes]:
        """Datagrams as they come, to the end of the session."""
        return _Datagrams(self)

    # Streams

    async def open_bidi_stream(self) -> WebTransportStream:
        """Opens a stream that both sides write, as soon as the peer allows another."""
        return await self._open(True)

    async def open_uni_stream(self) -> WebTransportStream:
        """Opens a stream that we write, as soon as the peer allows another."""
        return await self._open(False)

    async def _open(self, bidi: bool) -> WebTransportStream:
        while (stream := self.try_open(bidi)) is None:
            await until(lambda callback: self.when_credit(bidi, callback))
        return stream

    def when_credit(self, bidi: bool, callback: Callable[[], None]) -> None:
        """Calls back once when a stream may be opened, or the session is over."""
        self._opening.add(callback)
        self.transport.when_credit(bidi, self._opening.wake)

    def open_bidi_stream_nowait(self) -> WebTransportStream:
        """As `open_bidi_stream()`. Raises StreamBlocked when the peer allows no more streams now."""
        return self._open_now(True)

    def open_uni_stream_nowait(self) -> WebTransportStream:
        """As `open_uni_stream()`. Raises StreamBlocked when the peer allows no more streams now."""
        return self._open_now(False)

    def _open_now(self, bidi: bool) -> WebTransportStream:
        stream = self.try_open(bidi)
        if stream is None:
            raise StreamBlocked("the peer allows no more streams now")
        return stream

    def try_open(self, bidi: bool) -> WebTransportStream | None:
        """A new stream of ours, or None when the peer allows no more now."""
        stream: Any = self.transport.open_stream(self, bidi)
        if stream is not None:
            stream.wanted = self.on_stream_data is not None
        return stream  # type: ignore[no-any-return]

    def incoming_bidi_streams(self) -> AsyncIterator[WebTransportStream]:
        """Streams of the peer that both sides write, as they come, to the end of the session."""
        return self._incoming_streams(True)

    def incoming_uni_streams(self) -> AsyncIterator[WebTransportStream]:
        """Streams that the peer alone writes, as they come, to the end of the session."""
        return self._incoming_streams(False)

    async def _incoming_streams(self, bidi: bool) -> AsyncIterator[WebTransportStream]:
        try:
            while True:
                stream = self.take_stream_nowait(bidi)
                if stream is not None:
                    yield stream
                else:
                    await self._stream_waiters[bidi].wait()
        except (SessionClosed, ConnectionClosed):
            return

    def take_stream_nowait(self, bidi: bool) -> WebTransportStream | None:
        """The next stream of the peer, or None. Raises as `receive_datagram()`."""
        if self._come[bidi]:
            return self._come[bidi].popleft()
        if not self.open:
            self._ensure_open()
        return None

    def when_stream(self, bidi: bool, callback: Callable[[], None]) -> None:
        """Calls back once when a stream has come, or the session is over."""
        self._stream_waiters[bidi].add(callback)

    async def serve(
        self,
        *,
        on_bidi_stream: StreamHandler | None = None,
        on_uni_stream: StreamHandler | None = None,
        on_datagram: DatagramHandler | None = None,
    ) -> None:
        """Answers what comes to the end of the session: each stream of the peer in a task of its own.

        Stream handlers are coroutine functions, and what they return from is finished, as by `async with`.
        `on_datagram` takes one payload after another; it may be a plain function. Where the peer resets
        a stream, takes no more or goes away, the handler that meets it ends, and nothing else. Any other
        exception cancels all handlers and is raised here. When the session is over, those that still run
        may end; then this returns.
        """
        from .webtransport_serve import serve  # asyncio, which a server without coroutines does not import

        await serve(self, on_bidi_stream, on_uni_stream, on_datagram)

    # Calls of the core

    def _new_stream(self) -> WebTransportStream:
        return WebTransportStream(self)

    def _incoming(self, stream: WebTransportStream) -> None:
        callback = self.on_bidi_stream if stream.bidirectional else self.on_uni_stream
        if callback is not None and self.open:
            self._begin_stream(stream, callback)
            return
        self._come[stream.bidirectional].append(stream)
        self._stream_waiters[stream.bidirectional].wake()

    def _begin_stream(self, stream: WebTransportStream, callback: StreamCallback) -> None:
        callback(stream)
        if self.on_stream_data is None:
            return
        stream.wanted = True
        if not stream.receiving and stream.error is None:  # it ended with its first bytes
            self.on_stream_data(stream, b"", True)

    def _headers(self, fields: FieldSection) -> None:
        """A server has no response to wait for."""

    def _capsules(self) -> None:
        while data := self.stream.recv():
            if self.over:
                if self.close_info is not None and self.close_info.remote:
                    self.stream.reset(H3ErrorCode.H3_MESSAGE_ERROR)
                continue
            try:
                for kind, value in self._reader.feed(data):
                    self._capsule(kind, value)
            except CapsuleError as error:
                self.abort(H3ErrorCode.H3_MESSAGE_ERROR, error)
            if self.over and self._reader.partial:  # section 5: nothing follows the close
                self.stream.reset(H3ErrorCode.H3_MESSAGE_ERROR)

    def _capsule(self, kind: int, value: bytes) -> None:
        if self.over:
            self.stream.reset(H3ErrorCode.H3_MESSAGE_ERROR)
        elif kind == CLOSE_SESSION:
            if len(value) < 4:
                raise CapsuleError("a session's end has no code")
            try:
                reason = value[4:].decode()
            except UnicodeDecodeError as exc:
                raise CapsuleError("the reason of a session's end is not UTF-8") from exc
            self._finish_tunnel()
            self._ended(CloseInfo(int.from_bytes(value[:4], "big"), reason, True))
        elif kind in _OF_STREAMS:  # section 5.4
            raise CapsuleError("a limit of one stream is QUIC's, not the session's")
        elif kind != DRAIN_SESSION:
            self._credit(kind, value)
        elif not self.draining:
            self.draining = True
            if self.on_session_draining is not None:
                self.on_session_draining()

    def _credit(self, kind: int, value: bytes) -> None:
        """Section 5.6: ignored where there is no flow control."""
        if self.flow is None:
            return
        if not self.flow.take_capsule(kind, value):
            self._flow_error()
        elif kind == _MAX_DATA:
            self.more_credit()
        elif kind in _MAX_STREAMS:
            self._opening.wake()

    def _flow_error(self) -> None:
        self.abort(H3ErrorCode.WT_FLOW_CONTROL_ERROR)

    def _finish_tunnel(self) -> None:
        if self.stream.sending and self.stream.head_sent:
            self._send_capsule(b"", True)

    def _finished(self) -> None:
        if self.over:
            return
        if self._reader.partial:
            self.abort(H3ErrorCode.H3_MESSAGE_ERROR, CapsuleError("the session ended inside of a capsule"))
            return
        self._finish_tunnel()
        self._ended(CloseInfo(0, "", True))

    def _aborted(self, error: QuicheH3Error) -> None:
        if not self.over:
            self.stream.reset(H3ErrorCode.H3_REQUEST_CANCELLED)
            remote = getattr(error, "remote", True)
            self._ended(CloseInfo(0, "", remote, error))

    def _stopped(self, error: QuicheH3Error) -> None:
        self._aborted(error)

    def _idle(self) -> None:
        self.close(0, "idle")

    def _drain(self) -> None:
        if self.open and not self.draining:
            self.drain()

    def __repr__(self) -> str:
        state = "over" if self.over else "open" if self.open else "new"
        return f"<WebTransportSession {self.session_id} {state}>"


class _Datagrams(AsyncIterator[bytes]):
    """What `datagrams()` returns; half the price of an asynchronous generator."""

    __slots__ = ("_next", "_session")

    def __init__(self, session: WebTransportSession) -> None:
        self._session = session
        self._next = session.next_datagram

    async def __anext__(self) -> bytes:
        payload = self._next()
        if payload is not None:
            return payload
        try:
            return await self._session.receive_datagram()
        except (SessionClosed, ConnectionClosed):
            raise StopAsyncIteration from None
