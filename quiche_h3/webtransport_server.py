"""From a CONNECT request to a running session: what is checked before, and how its handler is run."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ._core.webtransport import WebTransport
from .errors import (
    BadRequest,
    ConnectionClosed,
    Forbidden,
    H3ErrorCode,
    HandlerError,
    InvalidState,
    ProtocolNotImplemented,
    ServiceUnavailable,
    SessionClosed,
    WebTransportError,
    WebTransportStreamError,
    error_to_status,
)
from .exchange import Exchange
from .headers import Pair, encode_header
from .request import Request
from .response import HeaderItems
from .routing import HandlerKind, Origins, Route, SessionPolicy
from .threads import HandlerThreads
from .webtransport import CloseInfo, WebTransportSession
from .webtransport_answer import SessionResponse, UnansweredStream
from .webtransport_threads import BlockingServerSession, SessionCaller, ThreadedSessionResponse

if TYPE_CHECKING:
    import asyncio

    from ._core.http3_stream import Stream
    from .handlers import Dispatcher

log: Final = logging.getLogger("quiche_h3")

_LAST_DRAFTS: Final = b"webtransport-h3"
PROTOCOLS: Final = (b"webtransport", _LAST_DRAFTS)
# RFC 9651 4.2: a list of strings; parameters are of no meaning here.
_STRING: Final = re.compile(r'\s*"((?:[ !#-\[\]-~]|\\["\\])*)"(?:;[^,"]*)*\s*')


class ServerSession(WebTransportSession):
    """A session as a server's handler has it: to be accepted or rejected first.

    A handler that uses the session accepts it by that, one that returns does too.
    """

    def __init__(
        self,
        transport: WebTransport,
        stream: Stream,
        request: Request,
        route: Route,
        response: SessionResponse,
        refused: Callable[[ServerSession], Exchange],
    ) -> None:
        super().__init__(transport, stream, request)
        self.route = route
        self.response = response
        response.session, response.entered = self, False
        response.use(UnansweredStream(self))
        self._make_refusal = refused
        self.refusal: Exchange | None = None
        """What answers the CONNECT where the session is not to be."""
        self._choices: tuple[str, ...] = ()

    def offer(self, protocols: Iterable[str]) -> None:
        """The subprotocols that the route knows: the first of the client's that is among them is taken."""
        known = set(protocols)
        self._choices = parse_strings(self.request.headers.get("wt-available-protocols", ""))
        self.protocol = next((name for name in self._choices if name in known), None)

    def accept(self, headers: HeaderItems | None = None, protocol: str | None = None) -> None:
        """Answers with 200, and `headers`: the session is open.

        `protocol` is the subprotocol, one of those that the client offered; by default the first of them that
        the route knows. Raises InvalidState when the session was answered before, ValueError for a protocol
        that was not offered, HeaderInvalid.
        """
        self._check_new()
        if protocol is not None:
            if protocol not in self._choices:
                raise ValueError(f"the client does not offer the protocol {protocol!r}")
            self.protocol = protocol
        pairs = [(b":status", b"200"), *self.response.fields, *_encode(headers)]
        if self.request.headers.get("sec-webtransport-http3-draft02"):
            pairs.append((b"sec-webtransport-http3-draft", b"draft02"))
        if self.protocol is not None:
            pairs.append((b"wt-protocol", quote_string(self.protocol).encode("ascii")))
        self.stream.send_headers(pairs)
        self.response.accepted()
        self._established()

    def reject(self, status: int = 403, headers: HeaderItems | None = None) -> None:
        """Answers with a status of 300 to 599, and `headers`: there will be no session."""
        self._check_new()
        if not 300 <= status <= 599:
            raise InvalidState(f"{status} rejects no session: use 300 to 599")
        response = self.response
        response.add_pairs(_encode(headers))
        response.status(status)
        response.end()

    def refused(self) -> Exchange:
        """There will be no session: its CONNECT is answered as any other request."""
        if self.refusal is None:
            self._check_new()
            self.transport.counters.reject()
            self._ended(CloseInfo(0, "", False))
            self.refusal = self._make_refusal(self)
        return self.refusal

    def _check_new(self) -> None:
        if self.over:
            raise self.end_error()
        if self.open:
            raise InvalidState("the session was accepted before")

    # Section 3.2: what comes before the session is accepted is no capsule yet, and waits.

    def _capsules(self) -> None:
        if self.open or self.over:
            super()._capsules()

    def _finished(self) -> None:
        if self.open or self.over:
            super()._finished()

    def _ensure_open(self) -> None:
        if self.over:
            raise self.end_error()
        self.accept()


def _encode(headers: HeaderItems | None) -> list[Pair]:
    if headers is None:
        return []
    items = headers.items() if hasattr(headers, "items") else headers
    return [encode_header(name, value) for name, value in items]


def quote_string(text: str) -> str:
    """A string as structured fields have it (RFC 9651 3.3.3)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parse_strings(value: str) -> tuple[str, ...]:
    """The strings of a structured field's list; none at all when it is malformed (RFC 9651 4.2)."""
    found = []
    at = 0
    while match := _STRING.match(value, at):
        found.append(re.sub(r"\\(.)", r"\1", match[1]))
        at = match.end()
        if at == len(value):
            return tuple(found)
        if value[at] != ",":
            break
        at += 1
    return ()


def origin_allowed(origins: Origins, origin: str | None, request: Request) -> bool:
    """Whether a page of `origin` may open a session. A client that is no browser sends no Origin field."""
    if origin is None:
        return True
    if callable(origins):
        return bool(origins(origin, request))
    if origins is not None:
        return "*" in origins or origin in origins
    parts = urlsplit(origin)
    try:
        port = parts.port or 443
    except ValueError:
        return False
    host, _, own_port = request.authority.lower().rpartition(":")
    if not own_port.isdigit() or host.endswith(":"):
        host, own_port = request.authority.lower(), "443"
    name = (parts.hostname or "").lower()
    return parts.scheme == "https" and name == host.strip("[]") and port == int(own_port)


class Sessions:
    """Begins sessions and runs their handlers, for a `Dispatcher`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._threads: HandlerThreads | None = None
        self._callers: set[SessionCaller] = set()  # one for each thread that is at work

    def request(self, stream: Stream, request: Request, route: Route) -> None:
        """A CONNECT for a route of sessions. Raises what is to be answered instead."""
        policy = route.session
        transport = stream.http3.claims
        if not isinstance(transport, WebTransport) or policy is None:
            raise ProtocolNotImplemented("nobody speaks WebTransport here")
        try:
            self._check(stream, request, policy)
        except HandlerError:
            transport.counters.reject()
            raise
        if len(transport.sessions) >= self._dispatcher.config.wt_max_sessions:
            transport.counters.reject()
            stream.reset(H3ErrorCode.H3_REQUEST_REJECTED)
            self._dispatcher.handler_ended(False, True)
            return
        session = self._new(transport, stream, request, route, policy)
        session.begin()
        # Section 3.2: not before the client's SETTINGS, which say how the session is to be.
        transport.when_settings(lambda: self._run(session, policy))

    def _check(self, stream: Stream, request: Request, policy: SessionPolicy) -> None:
        if stream.fields.protocol not in PROTOCOLS:
            raise ProtocolNotImplemented("here are sessions of WebTransport, and nothing else")
        if stream.fields.scheme != b"https":  # section 3.2
            raise BadRequest("the scheme of a session is https")
        origin = request.headers.get("origin")
        if not origin_allowed(policy.origins, origin, request):
            log.info("a session for %s was refused to %s", request.path, origin)
            raise Forbidden("pages of this origin may open no session here")

    def _new(
        self, transport: WebTransport, stream: Stream, request: Request, route: Route, policy: SessionPolicy
    ) -> ServerSession:
        dispatcher = self._dispatcher
        threaded = policy.calls is HandlerKind.BLOCKING
        kind = ThreadedSessionResponse if threaded else SessionResponse
        limit = dispatcher.config.max_response_queue_bytes
        response = kind(request, stream, lambda response: session.refused(), limit, False)
        dispatcher.add_own_fields(response)
        session = ServerSession(transport, stream, request, route, response, self._exchange)
        if isinstance(response, ThreadedSessionResponse):
            response.caller = SessionCaller(dispatcher.post)
            response.session = BlockingServerSession(session, response.caller)
        session.offer(policy.protocols)
        began = time.monotonic()

        def closed() -> None:
            if session.refusal is None and response.headers_sent:
                dispatcher.log_access(request, response, began)

        session.when_closed(closed)
        return session

    def _run(self, session: ServerSession, policy: SessionPolicy) -> None:
        transport = session.transport
        shared = len(transport.sessions) > 1 and not session.flow_controlled()
        if shared and session.stream.fields.protocol == _LAST_DRAFTS and not session.over:
            # Section 5.1. Clients of the drafts before may have several all the same.
            transport.counters.reject()
            session.abort(H3ErrorCode.H3_REQUEST_REJECTED)
        if session.over:  # or the client has gone meanwhile
            self._dispatcher.handler_ended(False, True)
            return
        if policy.calls is HandlerKind.BLOCKING:
            self._run_in_thread(session)
            return
        try:
            result = session.route.handler(session.request, session.response)
            if policy.calls is HandlerKind.COROUTINE:
                task = self._dispatcher.spawn(result)
                task.add_done_callback(lambda task: self._task_done(session, task))
                return
        except Exception as exc:
            self._failed(session, exc)
            return
        self._returned(session, result)

    def _task_done(self, session: ServerSession, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            session.abort(H3ErrorCode.H3_REQUEST_CANCELLED)
            self._dispatcher.handler_ended(False, True)
        elif (exc := task.exception()) is not None:
            self._failed(session, exc)
        else:
            self._returned(session, task.result())

    # Threads

    def _run_in_thread(self, session: ServerSession) -> None:
        limit = self._dispatcher.config.wt_session_threads
        response: Any = session.response
        if len(self._callers) >= limit:
            self._dispatcher.rejected += 1
            self._failed(session, ServiceUnavailable("no thread is free for another session"))
            return
        self._callers.add(response.caller)
        if self._threads is None:
            self._threads = HandlerThreads(limit)
        self._threads.submit(lambda: self._in_thread(session), len(self._callers))

    def _in_thread(self, session: ServerSession) -> None:
        result, error = None, None
        try:
            result = session.route.handler(session.request, session.response)
        except BaseException as exc:  # SystemExit ends no thread of a pool
            error = exc
        try:
            self._dispatcher.post(self._thread_ended, session, result, error)
        except RuntimeError:
            log.debug("a blocking session handler ended after the server")

    def _thread_ended(self, session: ServerSession, result: object, error: BaseException | None) -> None:
        response: Any = session.response
        self._callers.discard(response.caller)
        if error is None:
            self._returned(session, result)
        else:
            self._failed(session, error)

    def close(self) -> None:
        """The loop runs nothing any more: lets the threads go."""
        for caller in self._callers:
            caller.abandon()
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    # What became of it

    def _exchange(self, session: ServerSession) -> Exchange:
        """What answers a CONNECT that is not to be a session."""
        exchange = Exchange(self._dispatcher, session.stream, session.request, session.response)
        exchange.route = session.route
        exchange.running = True
        return exchange

    def _returned(self, session: ServerSession, result: object) -> None:
        """The handler and what stands around it are through."""
        response = session.response
        answered = result is not None or not response.entered or response.status_code >= 300
        if session.refusal is not None or (answered and not (session.open or session.over)):
            exchange = session.refused()
            try:
                exchange.finish(result)
            except Exception as exc:
                exchange.fail(exc)
            return
        policy = session.route.session
        lasting = policy is not None and policy.kind is HandlerKind.PLAIN
        try:
            if not lasting:
                session.close()
            elif not (session.open or session.over):
                session.accept()
        except Exception as exc:
            self._failed(session, exc)
            return
        if lasting:
            session.when_closed(lambda: self._dispatcher.handler_ended(False, False))
        else:
            self._dispatcher.handler_ended(False, False)

    def _failed(self, session: ServerSession, exc: BaseException) -> None:
        """A handler raised: an error of its own, or because the session went first."""
        if session.refusal is not None or not (session.open or session.over):
            session.refused().fail(exc if isinstance(exc, Exception) else RuntimeError(repr(exc)))
            return
        gone = session.over and isinstance(
            exc, (SessionClosed, ConnectionClosed, WebTransportError, WebTransportStreamError)
        )
        failed = not gone and error_to_status(exc) >= 500
        session.abort()
        if failed:
            log.error("the session handler of %s failed", session.request.path, exc_info=exc)
        self._dispatcher.handler_ended(failed, gone)
