"""Events of the polling mode: what `Server.next_event()` returns, in the order in which things happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ConnectionClosed, QuicheH3Error
from .request import Request
from .response import Response

if TYPE_CHECKING:
    from ._core.connection import Connection


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A request came in; answer it through `response`, now or later."""

    request: Request
    response: Response


@dataclass(frozen=True, slots=True)
class BodyEvent:
    """There is body to read: `request.body.read()`. Not repeated until it was read."""

    request: Request
    response: Response


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """The whole request was received and read, trailers included."""

    request: Request
    response: Response


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """The request came to nothing: the client reset it, or the connection is gone."""

    request: Request
    response: Response
    error: QuicheH3Error


@dataclass(frozen=True, slots=True)
class DatagramEvent:
    """A QUIC DATAGRAM (RFC 9221) that belongs to no request."""

    connection: Connection
    payload: bytes


@dataclass(frozen=True, slots=True)
class RequestDatagramEvent:
    """An HTTP datagram of a request (RFC 9297)."""

    request: Request
    response: Response
    payload: bytes


@dataclass(frozen=True, slots=True)
class ClosedEvent:
    """A connection is gone."""

    connection: Connection
    error: ConnectionClosed | None


Event = (
    RequestEvent
    | BodyEvent
    | FinishedEvent
    | FailedEvent
    | DatagramEvent
    | RequestDatagramEvent
    | ClosedEvent
)
