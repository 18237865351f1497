"""The polling mode: requests become events in a queue, and the program answers them when it comes to it."""

from __future__ import annotations

from collections import deque

from ._core.http3_stream import Stream
from .body import Body
from .config import ServerConfig
from .errors import QuicheH3Error
from .events import BodyEvent, Event, FailedEvent, FinishedEvent, RequestDatagramEvent, RequestEvent
from .exchange import Exchange
from .handlers import Dispatcher
from .request import Request
from .response import Response
from .routing import Router


class PolledExchange(Exchange):
    """Turns what happens on a stream into events."""

    __slots__ = ("_events",)

    def __init__(
        self,
        dispatcher: Dispatcher,
        stream: Stream,
        request: Request,
        response: Response,
        events: deque[Event],
    ) -> None:
        super().__init__(dispatcher, stream, request, response)
        self._events = events
        self.on_datagram = self._on_datagram

    def _on_datagram(self, payload: bytes) -> None:
        self._events.append(RequestDatagramEvent(self.request, self.response, payload))

    def on_readable(self) -> None:
        self._events.append(BodyEvent(self.request, self.response))

    def on_finished(self) -> None:
        if self.length_is_right():
            self._events.append(FinishedEvent(self.request, self.response))

    def on_sent(self) -> None:
        super().on_sent()
        self.done()

    def _broken(self, error: QuicheH3Error) -> None:
        if self.error is None:
            super()._broken(error)
            self.done(failed=True)
            self._events.append(FailedEvent(self.request, self.response, error))


class PollingDispatcher(Dispatcher):
    """Queues requests instead of calling handlers."""

    def __init__(self, config: ServerConfig, router: Router, events: deque[Event]) -> None:
        super().__init__(config, router)
        self._events = events

    def request(self, stream: Stream) -> None:
        self.started += 1
        request = Request(stream, {}, Body())
        head_only = stream.fields.method == b"HEAD"
        response = Response(
            request, stream, self._exchange_of, self.config.max_response_queue_bytes, head_only
        )
        self.add_own_fields(response)
        exchange = PolledExchange(self, stream, request, response, self._events)
        exchange.running = True
        try:
            self.admit(stream)
        except QuicheH3Error as exc:
            exchange.fail(exc)
            return
        request.body = Body(exchange, limit=self.config.max_request_body_size)
        self._events.append(RequestEvent(request, response))
        if not stream.receiving:
            self._events.append(FinishedEvent(request, response))
