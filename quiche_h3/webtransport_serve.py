"""Answering all that comes in a session, side by side: `WebTransportSession.serve()`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final

from .errors import DatagramError, FlowControl, StreamReset
from .webtransport_streams import WebTransportStream

if TYPE_CHECKING:
    from .webtransport import WebTransportSession

StreamHandler = Callable[[WebTransportStream], Coroutine[Any, Any, object]]
DatagramHandler = Callable[[bytes], "Awaitable[object] | object"]

# What a peer can do to a handler: go away, give a stream up, send more than is wanted, take too little.
_OF_THE_PEER: Final = (StreamReset, FlowControl, DatagramError)


class Serving:
    """The handlers of one session that run."""

    def __init__(self, session: WebTransportSession) -> None:
        self.session = session
        self.tasks: set[asyncio.Task[None]] = set()
        self.error: BaseException | None = None
        self.ended = asyncio.Event()
        """The session is over, or a handler has failed."""

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        self.error = self.error or error
        self.ended.set()

    def take_streams(self, handler: StreamHandler, bidi: bool) -> None:
        def take(stream: WebTransportStream) -> None:
            self.begin(_answer(handler, stream))

        setattr(self.session, "on_bidi_stream" if bidi else "on_uni_stream", take)
        while self.session.open and (stream := self.session.take_stream_nowait(bidi)) is not None:
            take(stream)

    def take_datagrams(self, handler: DatagramHandler) -> None:
        if iscoroutinefunction(handler):
            self.begin(_answer_datagrams(handler, self.session))
            return

        def take(payload: bytes) -> None:
            try:
                handler(payload)
            except _OF_THE_PEER:
                pass
            except Exception as error:
                self.failed(error)

        self.session.on_datagram = take
        while (payload := self.session.next_datagram()) is not None:
            take(payload)

    async def wait(self) -> None:
        """Until the session is over and the handlers have ended, or one of them has failed."""
        await self.ended.wait()
        while self.tasks and self.error is None:
            await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
        if self.error is not None:
            raise self.error

    async def stop(self) -> None:
        """Ends what still runs; the session's streams and datagrams wait to be taken again."""
        self.session.on_bidi_stream = self.session.on_uni_stream = self.session.on_datagram = None
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _answer(handler: StreamHandler, stream: WebTransportStream) -> None:
    try:
        async with stream:
            await handler(stream)
    except _OF_THE_PEER:
        pass


async def _answer_datagrams(
    handler: Callable[[bytes], Awaitable[object]], session: WebTransportSession
) -> None:
    async for payload in session.datagrams():
        try:
            await handler(payload)
        except _OF_THE_PEER:
            pass


async def serve(
    session: WebTransportSession,
    on_bidi_stream: StreamHandler | None,
    on_uni_stream: StreamHandler | None,
    on_datagram: DatagramHandler | None,
) -> None:
    """See `WebTransportSession.serve()`."""
    session.check_open()
    serving = Serving(session)
    session.when_closed(serving.ended.set)
    try:
        for bidi, handler in ((True, on_bidi_stream), (False, on_uni_stream)):
            if handler is not None:
                serving.take_streams(handler, bidi)
        if on_datagram is not None:
            serving.take_datagrams(on_datagram)
        await serving.wait()
    finally:
        await serving.stop()
