"""From a CONNECT request to a running session: what is checked before, and how its handler is run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ._core.webtransport import WebTransport
from .errors import (
    ConnectionClosed,
    Forbidden,
    H3ErrorCode,
    InvalidState,
    QuicheH3Error,
    SessionClosed,
    WebTransportError,
    WebTransportStreamError,
    error_to_status,
)
from .headers import Pair, encode_header
from .request import Request
from .response import HeaderItems
from .routing import HandlerKind, Origins, Route
from .webtransport import CloseInfo, WebTransportSession

if TYPE_CHECKING:
    import asyncio

    from ._core.http3_stream import Stream
    from .handlers import Dispatcher

log: Final = logging.getLogger("quiche_h3")

PROTOCOLS: Final = (b"webtransport", b"webtransport-h3")
# RFC 9651 4.2: a list of strings; parameters are of no meaning here.
_STRING: Final = re.compile(r'\s*"((?:[ !#-\[\]-~]|\\["\\])*)"(?:;[^,"]*)*\s*')
_TOO_EARLY: Final = 425
_NOT_IMPLEMENTED: Final = 501


class ServerSession(WebTransportSession):
    """A session as a server's handler has it: to be accepted or rejected first.

    A handler that uses the session accepts it by that, one that returns does too.
    """

    def __init__(self, transport: WebTransport, stream: Stream, request: Request) -> None:
        super().__init__(transport, stream, request)
        self.own_fields: list[Pair] = []
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
        pairs = [(b":status", b"200"), *self.own_fields, *_encode(headers)]
        if self.request.headers.get("sec-webtransport-http3-draft02"):
            pairs.append((b"sec-webtransport-http3-draft", b"draft02"))
        if self.protocol is not None:
            pairs.append((b"wt-protocol", quote_string(self.protocol).encode("ascii")))
        self.stream.send_headers(pairs)
        self._established()

    def reject(self, status: int = 403, headers: HeaderItems | None = None) -> None:
        """Answers with a status of 300 to 599, and `headers`: there will be no session."""
        self._check_new()
        if not 300 <= status <= 599:
            raise InvalidState(f"{status} rejects no session: use 300 to 599")
        pairs = [(b":status", b"%d" % status), *self.own_fields, *_encode(headers)]
        self.stream.send_headers(pairs, True)
        self.stream.stop_receiving(H3ErrorCode.H3_NO_ERROR)
        self.transport.counters.reject()
        self._ended(CloseInfo(0, "", False))

    def _check_new(self) -> None:
        if self.over:
            raise self.end_error()
        if self.open:
            raise InvalidState("the session was accepted before")

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

    def request(self, stream: Stream, request: Request, route: Route, own_fields: list[Pair]) -> None:
        """A CONNECT for a route of sessions."""
        policy = route.session
        transport = stream.http3.claims
        fields = stream.fields
        if policy is None or not isinstance(transport, WebTransport) or fields.protocol not in PROTOCOLS:
            self._refuse(stream, transport, _NOT_IMPLEMENTED)
        elif stream.early_data:  # section 3.2: it could be a replay
            self._refuse(stream, transport, _TOO_EARLY)
        elif len(transport.sessions) >= self._dispatcher.config.wt_max_sessions:
            transport.counters.reject()
            stream.reset(H3ErrorCode.H3_REQUEST_REJECTED)
            self._dispatcher.handler_ended(False, True)
        elif not origin_allowed(policy.origins, request.headers.get("origin"), request):
            log.info("a session for %s was refused to %s", request.path, request.headers.get("origin"))
            self._refuse(stream, transport, error_to_status(Forbidden()))
        else:
            session = ServerSession(transport, stream, request)
            session.own_fields = own_fields
            session.offer(policy.protocols)
            session.begin()
            # Section 3.2: not before the client's SETTINGS, which say how the session is to be.
            transport.when_settings(lambda: self._run(session, route.handler, policy.kind, route.arity))

    def _refuse(self, stream: Stream, transport: object, status: int) -> None:
        stream.send_headers([(b":status", b"%d" % status)], True)
        stream.stop_receiving(H3ErrorCode.H3_NO_ERROR)
        if isinstance(transport, WebTransport):
            transport.counters.reject()
        self._dispatcher.handler_ended(False, False)

    def _run(
        self, session: ServerSession, handler: Callable[..., Any], kind: HandlerKind, arity: int
    ) -> None:
        arguments = (session,) if arity == 1 else (session.request, session)[:arity]
        try:
            result = handler(*arguments)
            if kind is HandlerKind.COROUTINE:
                task = self._dispatcher.spawn(result)
                task.add_done_callback(lambda task: self._task_done(session, task))
                return
            if not (session.open or session.over):
                session.accept()
            session.when_closed(lambda: self._dispatcher.handler_ended(False, False))
        except Exception as exc:
            self._failed(session, exc)

    def _task_done(self, session: ServerSession, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            session.abort(H3ErrorCode.H3_REQUEST_CANCELLED)
            self._dispatcher.handler_ended(False, True)
            return
        exc = task.exception()
        if exc is not None:
            self._failed(session, exc)
            return
        try:
            session.close()
        except QuicheH3Error:
            log.debug("a session could not be closed", exc_info=True)
        self._dispatcher.handler_ended(False, False)

    def _failed(self, session: ServerSession, exc: BaseException) -> None:
        """A handler raised: an error of its own, or because the session went first."""
        gone = session.over and isinstance(
            exc, (SessionClosed, ConnectionClosed, WebTransportError, WebTransportStreamError)
        )
        status = error_to_status(exc)
        try:
            if not (session.open or session.over):
                session.reject(status)
            else:
                session.abort()
        except QuicheH3Error:
            session.abort()
        if not gone and status >= 500:
            log.error("the session handler of %s failed", session.request.path, exc_info=exc)
        self._dispatcher.handler_ended(not gone and status >= 500, gone)
