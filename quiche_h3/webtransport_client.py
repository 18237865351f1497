"""A client's WebTransport sessions: `aconnect_webtransport()` for asyncio, and what both clients share.

A session has a connection of its own, which ends with it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from ._core.webtransport import WebTransport
from ._core.webtransport_sessions import WT_ENABLED
from .asyncio_driver import AsyncioDriver
from .client_engine import ClientEngine, prepare_config
from .client_exchange import HeaderItems, encode_headers
from .client_link import ConnectionInfo, Link, closed_by_us
from .config import ClientConfig
from .errors import (
    H3ErrorCode,
    QuicheH3Error,
    SessionRejected,
    TimedOut,
)
from .headers import Headers, Pair
from .urls import Origin, parse_url, request_target
from .webtransport import CloseInfo, WebTransportSession
from .webtransport_server import parse_strings, quote_string

if TYPE_CHECKING:
    from ._core.fields import FieldSection
    from ._core.http3_stream import Stream

# What a server may say that it serves WebTransport by, from the first draft to the last.
_ENABLE_WEBTRANSPORT: Final = 0x2B603742
_MAX_SESSIONS_07: Final = 0xC671706A
_MAX_SESSIONS_13: Final = 0x14E9CD29
_ENABLE_CONNECT_PROTOCOL: Final = 0x8
_GOODBYE_S: Final = 1.0


class SessionRequest:
    """What is asked for: path and fields, and the subprotocols that we know, best first."""

    def __init__(
        self, origin: Origin, path: str, headers: HeaderItems | None, protocols: Iterable[str]
    ) -> None:
        self.authority = origin.authority
        self.path = path
        self.protocols = tuple(protocols)
        self.fields = [] if headers is None else encode_headers(headers)
        for name in self.protocols:
            if not (name and name.isascii() and name.isprintable()):
                raise ValueError(f"{name!r} is no name of a subprotocol: use printable ASCII")
        if self.protocols:
            quoted = ", ".join(map(quote_string, self.protocols))
            self.fields.append((b"wt-available-protocols", quoted.encode("ascii")))

    def pairs(self, token: bytes) -> list[Pair]:
        """The field section of the CONNECT."""
        return [
            (b":method", b"CONNECT"),
            (b":scheme", b"https"),
            (b":authority", self.authority.encode("ascii")),
            (b":path", request_target(self.path).encode("ascii")),
            (b":protocol", token),
            (b"sec-webtransport-http3-draft02", b"1"),
            *self.fields,
        ]


class ClientSession(WebTransportSession):
    """A session that we have asked for."""

    def __init__(self, transport: WebTransport, stream: Stream, asked: SessionRequest) -> None:
        super().__init__(transport, stream)
        self.established: Future[ClientSession] = Future()
        """The session once it is open; else it fails with SessionRejected or what broke the connection."""
        self.response_headers = Headers([])
        """The fields of the server's answer."""
        self.info: ConnectionInfo | None = None
        """What the handshake has led to."""
        self.parted: Future[None] = Future()
        """The session is over and the server knows: its connection can go."""
        self.released: Future[None] = Future()
        """Its connection has gone."""
        self._asked = asked

    def _headers(self, fields: FieldSection) -> None:
        self.response_headers = Headers(fields.pairs())
        status = fields.status
        if not 200 <= status < 300:
            error = SessionRejected(status, f"the server refuses the session with status {status}")
            self.abort(H3ErrorCode.H3_REQUEST_CANCELLED, error)
            return
        answer = parse_strings(self.response_headers.get("wt-protocol", "") or "")
        if answer and answer[0] not in self._asked.protocols:
            error = SessionRejected(status, f"the server speaks {answer[0]!r}, which was not offered")
            self.abort(H3ErrorCode.WT_ALPN_ERROR, error)
            return
        self.protocol = answer[0] if answer else None
        if self.session_id != self.stream.id or self.session_id not in self.transport.sessions:
            self.begin()
        self._established()
        self.established.set_result(self)

    def _ended(self, info: CloseInfo) -> None:
        super()._ended(info)
        if not self.established.done():
            self.established.set_exception(info.error or self.end_error())
        if info.remote or info.error is not None:
            self._part()

    def _finished(self) -> None:
        super()._finished()
        self._part()

    def _aborted(self, error: QuicheH3Error) -> None:
        super()._aborted(error)
        self._part()

    def _stopped(self, error: QuicheH3Error) -> None:
        if self.open or self.over:  # else a response follows: the server did not want to read on
            super()._stopped(error)

    def _part(self) -> None:
        if not self.parted.done():
            self.parted.set_result(None)

    async def aclose(self, code: int = 0, reason: str = "") -> None:
        """`close()`, and waits until the connection is closed too. For asyncio."""
        self.close(code, reason)
        await asyncio.shield(asyncio.wrap_future(self.released))

    async def __aenter__(self) -> ClientSession:
        return self

    async def __aexit__(self, kind: object, exc: object, trace: object) -> None:
        await self.aclose()


def open_session(
    link: Link, asked: SessionRequest, done: Callable[[ClientSession | Exception], None]
) -> None:
    """Asks for a session on a connection, once the server's SETTINGS are there. In the loop's thread."""
    http3 = link.http3
    transport = None if http3 is None else http3.claims
    if http3 is None or not isinstance(transport, WebTransport):
        done(link.error or closed_by_us())
        return
    supported = (_ENABLE_WEBTRANSPORT, _MAX_SESSIONS_07, _MAX_SESSIONS_13, WT_ENABLED)

    def begin() -> None:
        settings = transport.peer_settings()
        if settings is None:
            done(link.error or closed_by_us())
            return
        if settings.get(WT_ENABLED, 0) > 1:  # section 3.1
            http3.connection.close(H3ErrorCode.H3_SETTINGS_ERROR, b"WT_ENABLED is 0 or 1")
            done(SessionRejected(0, f"{asked.authority} offers WebTransport by a setting that is malformed"))
            return
        offers = [identifier for identifier in supported if settings.get(identifier)]
        if not offers or not settings.get(_ENABLE_CONNECT_PROTOCOL):
            done(SessionRejected(0, f"{asked.authority} does not offer WebTransport"))
            return
        token = b"webtransport-h3" if offers == [WT_ENABLED] else b"webtransport"
        try:
            stream = http3.open_request(asked.pairs(token), False, None)
        except QuicheH3Error as exc:
            done(exc)
            return
        session = ClientSession(transport, stream, asked)
        session.info = link.connected.result()
        if stream.id < 1 << 62:  # else it waits for credit, and has none yet
            session.begin()
        done(session)

    transport.when_settings(begin)


def prepare_session(
    url: str,
    headers: HeaderItems | None,
    protocols: Iterable[str],
    verify: bool,
    cafile: str | None,
    config: ClientConfig | None,
) -> tuple[Origin, SessionRequest, ClientConfig]:
    """What a session needs, checked."""
    origin, path = parse_url(url)
    settings = prepare_config(config, verify, cafile)
    return origin, SessionRequest(origin, path, headers, protocols), settings


async def aconnect_webtransport(
    url: str,
    *,
    headers: HeaderItems | None = None,
    protocols: Iterable[str] = (),
    verify: bool = True,
    cafile: str | None = None,
    config: ClientConfig | None = None,
    timeout: float | None = 30.0,
    keep_alive_s: float | None = None,
) -> ClientSession:
    """Opens a WebTransport session with the server of an https URL, in the running asyncio loop.

    `headers` are further fields of the CONNECT, as Origin; `protocols` the subprotocols that we speak, best
    first: `session.protocol` is the one that the server has chosen. The rest is as of `connect()`.

    Raises ValueError, ConfigError, HeaderInvalid, ConnectError, TimedOut, and SessionRejected, which has the
    server's status.
    """
    origin, asked, settings = prepare_session(url, headers, protocols, verify, cafile, config)
    engine = ClientEngine(settings, AsyncioDriver, keep_alive_s=keep_alive_s, webtransport=True)
    released: Future[None] = Future()

    def release() -> None:
        if not released.done():
            engine.release()
            released.set_result(None)

    engine.driver.start()
    limit = math.inf if timeout is None else timeout
    try:
        link = engine.link(origin, min(limit, settings.connect_timeout_ms / 1000))
        await asyncio.wrap_future(link.connected)
        opened: Future[ClientSession] = Future()
        open_session(link, asked, lambda result: resolve_session(opened, result))
        session = await asyncio.wait_for(asyncio.wrap_future(opened), timeout)
        session.released = released
        own_connection(session, engine, lambda: engine.shutdown(release))
        await asyncio.wait_for(asyncio.wrap_future(session.established), timeout)
    except BaseException as exc:
        if not engine.ending:
            engine.shutdown(release)
        if isinstance(exc, asyncio.TimeoutError) and not isinstance(exc, QuicheH3Error):
            raise TimedOut(f"{origin.authority} did not answer within {limit:g} s") from None
        raise
    return session


def own_connection(session: ClientSession, engine: ClientEngine, shutdown: Callable[[], None]) -> None:
    """Lets the connection end with the session: when the server knows of its end, or soon enough."""
    session.when_closed(lambda: engine.driver.call_later(_GOODBYE_S, session._part))

    def part() -> None:
        if not engine.ending:
            shutdown()

    session.parted.add_done_callback(lambda future: engine.driver.post(part))


def resolve_session(future: Future[ClientSession], result: ClientSession | Exception) -> None:
    """Gives a future what `open_session()` came to."""
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
