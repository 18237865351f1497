"""A server's connections: what runs on each, and who is told that one began, ended, or brought a datagram.

`ServerConnections` is the application of the endpoint and of the HTTP/3 layer.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ._core.connection import Connection
from ._core.fields import Http3Limits
from ._core.guard import Guard, GuardLimits
from ._core.hq import HQ_ALPN, Hq
from ._core.http3 import Http3
from ._core.http3_state import Http3Counters
from ._core.webtransport import WebTransport
from ._core.webtransport_streams import WebTransportCounters
from .config import ServerConfig
from .errors import ConnectionClosed
from .events import ClosedEvent, DatagramEvent, Event
from .handlers import Dispatcher

if TYPE_CHECKING:
    from ._core.http3_stream import Stream

log: Final = logging.getLogger("quiche_h3")

_UNRECOGNIZED_NAME: Final = 0x100 + 112  # the alert of RFC 8446 6.2, as RFC 9001 4.8 has it


class ServerConnections:
    """What the endpoint and HTTP/3 call, connection by connection."""

    def __init__(self) -> None:
        self.counters = Http3Counters()
        self.webtransport_counters = WebTransportCounters()
        self.webtransport = False
        """Sessions are served."""
        self.events: deque[Event] | None = None
        """Where things are told in polling mode."""
        self.on_datagram: Callable[[Connection, bytes], object] | None = None
        self.connect_hooks: list[Callable[[Connection], object]] = []
        self.close_hooks: list[Callable[[Connection], object]] = []

    def configure(self, config: ServerConfig, dispatcher: Dispatcher) -> None:
        """For the connections that begin from now on."""
        self._limits = Http3Limits(
            count=config.max_header_count,
            name=config.max_header_name_length,
            value=config.max_header_value_length,
            total=config.max_request_headers_size,
            path=config.max_path_length,
        )
        self._patience = GuardLimits(config)
        self._name_required = config.server_name_required
        self.dispatch_by(dispatcher)

    def dispatch_by(self, dispatcher: Dispatcher) -> None:
        """Who gets the requests."""
        self.dispatcher = dispatcher
        self.request = dispatcher.request  # not by way of a method, which would cost each a call

    def protocol(self, connection: Connection) -> Http3 | Hq:
        """A connection may carry data: HTTP/3 starts on it, or HTTP/0.9 where that was negotiated."""
        if connection.alpn in HQ_ALPN:
            connection.context = hq = Hq(connection, self, server=True)
            return hq
        http3 = Http3(connection, self, self._limits, self.counters, server=True)
        http3.keeps_early = self.on_datagram is None and self.events is None
        connection.context = http3
        connection.watch = Guard(http3, self._patience)
        if self.webtransport:
            WebTransport(http3, self.webtransport_counters)
        return http3

    def connection_opened(self, connection: Connection) -> None:
        """A handshake is complete."""
        if self._name_required and not connection.server_name:
            connection.close(_UNRECOGNIZED_NAME, b"a server name is required", app=False)
        elif self.connect_hooks:
            self._call(self.connect_hooks, connection)

    def connection_closed(self, connection: Connection) -> None:
        """A connection is gone. One whose handshake never ended was nobody's: a stray packet makes it."""
        if not connection.established:
            return
        if self.events is not None:
            reason = connection.close_reason
            self.events.append(
                ClosedEvent(connection, reason if isinstance(reason, ConnectionClosed) else None)
            )
        if self.close_hooks:
            self._call(self.close_hooks, connection)

    def _call(self, hooks: list[Callable[[Connection], object]], connection: Connection) -> None:
        for hook in hooks:
            try:
                hook(connection)
            except Exception:
                log.exception("the hook %r failed", hook)

    def refused(self, stream: Stream, status: int) -> None:
        """A request came in that no handler may see."""
        self.dispatcher.refused(stream, status)

    def goaway(self, connection: Connection, stream_id: int) -> None:
        """A client's GOAWAY speaks of pushes, and there are none (RFC 9114 5.2)."""

    def datagram(self, connection: Connection, payload: bytes) -> bool:
        """A QUIC DATAGRAM came in that is no request's. False: nobody wants it."""
        if self.events is not None:
            self.events.append(DatagramEvent(connection, payload))
        elif self.on_datagram is not None:
            try:
                self.on_datagram(connection, payload)
            except Exception:
                log.exception("the on_datagram callback failed")
        else:
            return False
        return True
