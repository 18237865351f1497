"""A client's WebTransport session for programs that wait: `connect_webtransport()`."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from .client_exchange import HeaderItems
from .client_link import ConnectionInfo
from .client_thread import ClientThread
from .config import ClientConfig
from .errors import ConnectionClosed, TimedOut
from .headers import Headers
from .webtransport_blocking import BlockingSession, Caller
from .webtransport_client import (
    ClientSession,
    open_session,
    own_connection,
    prepare_session,
    resolve_session,
)

T = TypeVar("T")


class _ThreadCaller(Caller):
    """Into a client's own thread."""

    def __init__(self, thread: ClientThread, who: str, timeout: float) -> None:
        super().__init__(timeout)
        self.thread = thread
        self._who = who

    def post(self, function: Callable[..., object], *args: Any) -> None:
        self.thread.post(function, *args)

    def wait(self, future: Future[T], timeout: float) -> T:
        return self.thread.wait(future, timeout, self._who)


class BlockingClientSession(BlockingSession):
    """A client's session, which has a connection and a thread of its own."""

    _session: ClientSession

    def __init__(self, session: ClientSession, caller: _ThreadCaller) -> None:
        super().__init__(session, caller)
        self._finalizer = weakref.finalize(self, caller.thread.close)

    @property
    def response_headers(self) -> Headers:
        """The fields of the server's answer."""
        return self._session.response_headers

    @property
    def info(self) -> ConnectionInfo | None:
        """What the handshake has led to."""
        return self._session.info

    def close(self, code: int = 0, reason: str = "") -> None:
        """Ends the session, and its connection. May be called more than once."""
        super().close(code, reason)
        try:
            self._caller.wait(self._session.parted, self._caller.timeout)
        except (ConnectionClosed, TimedOut):
            pass
        self._finalizer()


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
) -> BlockingClientSession:
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
    caller = _ThreadCaller(thread, origin.authority, limit)
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
    return BlockingClientSession(session, caller)
