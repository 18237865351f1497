"""HTTP/3 server and client on Cloudflare's quiche."""

from typing import TYPE_CHECKING

from ._core.connection import (
    Connection,
)
from .body import (
    AsyncBody,
    BlockingBody,
    Body,
)
from .config import (
    ClientConfig,
    EventBackend,
    LogLevel,
    ServerConfig,
)
from .errors import (
    BadRequest,
    CapsuleError,
    ConfigError,
    ConnectError,
    ConnectionClosed,
    ConnectTimedOut,
    DatagramError,
    DatagramNotEnabled,
    DatagramTooLarge,
    Done,
    EndOfStream,
    FlowControl,
    Forbidden,
    GeneratorError,
    H3ErrorCode,
    HandlerError,
    HeaderInvalid,
    HeadersAlreadySent,
    Http3Error,
    InternalServerError,
    InvalidRange,
    InvalidRedirectStatus,
    InvalidState,
    Malformed,
    MalformedMessage,
    MethodNotAllowed,
    MultiRange,
    NonBytesUnit,
    NotFound,
    OutOfMemory,
    PayloadTooLarge,
    ProtocolNotImplemented,
    QuicError,
    QuicErrorCode,
    QuicheH3Error,
    RangeNotSatisfiable,
    ReadError,
    RedirectError,
    RequestHeaderFieldsTooLarge,
    RequestTimeout,
    ResponseEnded,
    RouteError,
    ServiceUnavailable,
    SessionClosed,
    SessionRejected,
    StatusError,
    StreamBlocked,
    StreamClosed,
    StreamingError,
    StreamReset,
    TimedOut,
    TooEarly,
    TooManyRequests,
    Unauthorized,
    Unsatisfiable,
    UriTooLong,
    WebTransportError,
    WebTransportStreamError,
    WebTransportStreamReset,
    WouldBlock,
    crypto_alert,
    describe_code,
    error_to_status,
)
from .events import (
    BodyEvent,
    ClosedEvent,
    DatagramEvent,
    Event,
    FailedEvent,
    FinishedEvent,
    RequestDatagramEvent,
    RequestEvent,
)
from .headers import (
    Headers,
)
from .request import (
    Priority,
    Request,
)
from .response import (
    Response,
)
from .routing import (
    Router,
)
from .server import (
    Address,
    Server,
)
from .webtransport import (
    CloseInfo,
    WebTransportSession,
)
from .webtransport_blocking import (
    BlockingSession,
    BlockingStream,
)
from .webtransport_server import (
    ServerSession,
)
from .webtransport_streams import (
    WebTransportStream,
)
from .webtransport_threads import (
    BlockingServerSession,
)

if TYPE_CHECKING:
    from .async_client import (
        AsyncClient,
        AsyncClientConnection,
        aconnect,
    )
    from .async_messages import (
        AsyncClientRequest,
        AsyncClientResponse,
    )
    from .client import (
        Client,
        ClientConnection,
        connect,
    )
    from .client_exchange import (
        Interim,
    )
    from .client_link import (
        ConnectionInfo,
    )
    from .client_messages import (
        ClientRequest,
        ClientResponse,
    )
    from .dev_certificate import (
        make_dev_certificate,
    )
    from .httpx_transport import (
        AsyncHTTPX3Transport,
        HTTPX3Transport,
    )
    from .tickets import (
        FileTickets,
        MemoryTickets,
        TicketStore,
    )
    from .timeouts import (
        Timeouts,
    )
    from .webtransport_client import (
        ClientSession,
        aconnect_webtransport,
    )
    from .webtransport_sync import (
        BlockingClientSession,
        connect_webtransport,
    )

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AsyncBody",
    "AsyncClient",
    "AsyncClientConnection",
    "AsyncClientRequest",
    "AsyncClientResponse",
    "AsyncHTTPX3Transport",
    "BadRequest",
    "BlockingBody",
    "BlockingClientSession",
    "BlockingServerSession",
    "BlockingSession",
    "BlockingStream",
    "Body",
    "BodyEvent",
    "CapsuleError",
    "Client",
    "ClientConfig",
    "ClientConnection",
    "ClientRequest",
    "ClientResponse",
    "ClientSession",
    "CloseInfo",
    "ClosedEvent",
    "ConfigError",
    "ConnectError",
    "ConnectTimedOut",
    "Connection",
    "ConnectionClosed",
    "ConnectionInfo",
    "DatagramError",
    "DatagramEvent",
    "DatagramNotEnabled",
    "DatagramTooLarge",
    "Done",
    "EndOfStream",
    "Event",
    "EventBackend",
    "FailedEvent",
    "FileTickets",
    "FinishedEvent",
    "FlowControl",
    "Forbidden",
    "GeneratorError",
    "H3ErrorCode",
    "HTTPX3Transport",
    "HandlerError",
    "HeaderInvalid",
    "Headers",
    "HeadersAlreadySent",
    "Http3Error",
    "Interim",
    "InternalServerError",
    "InvalidRange",
    "InvalidRedirectStatus",
    "InvalidState",
    "LogLevel",
    "Malformed",
    "MalformedMessage",
    "MemoryTickets",
    "MethodNotAllowed",
    "MultiRange",
    "NonBytesUnit",
    "NotFound",
    "OutOfMemory",
    "PayloadTooLarge",
    "Priority",
    "ProtocolNotImplemented",
    "QuicError",
    "QuicErrorCode",
    "QuicheH3Error",
    "RangeNotSatisfiable",
    "ReadError",
    "RedirectError",
    "Request",
    "RequestDatagramEvent",
    "RequestEvent",
    "RequestHeaderFieldsTooLarge",
    "RequestTimeout",
    "Response",
    "ResponseEnded",
    "RouteError",
    "Router",
    "Server",
    "ServerConfig",
    "ServerSession",
    "ServiceUnavailable",
    "SessionClosed",
    "SessionRejected",
    "StatusError",
    "StreamBlocked",
    "StreamClosed",
    "StreamReset",
    "StreamingError",
    "TicketStore",
    "TimedOut",
    "Timeouts",
    "TooEarly",
    "TooManyRequests",
    "Unauthorized",
    "Unsatisfiable",
    "UriTooLong",
    "WebTransportError",
    "WebTransportSession",
    "WebTransportStream",
    "WebTransportStreamError",
    "WebTransportStreamReset",
    "WouldBlock",
    "aconnect",
    "aconnect_webtransport",
    "connect",
    "connect_webtransport",
    "crypto_alert",
    "describe_code",
    "error_to_status",
    "make_dev_certificate",
]

# Imported when asked for: a server needs no client, asyncio costs a program 9 MiB, what makes certificates
# 8 MiB, httpx need not be there.
_LAZY = {
    "Client": "client",
    "ClientConnection": "client",
    "connect": "client",
    "Interim": "client_exchange",
    "ConnectionInfo": "client_link",
    "ClientRequest": "client_messages",
    "ClientResponse": "client_messages",
    "FileTickets": "tickets",
    "MemoryTickets": "tickets",
    "TicketStore": "tickets",
    "Timeouts": "timeouts",
    "AsyncClient": "async_client",
    "AsyncClientConnection": "async_client",
    "AsyncClientRequest": "async_messages",
    "AsyncClientResponse": "async_messages",
    "AsyncHTTPX3Transport": "httpx_transport",
    "HTTPX3Transport": "httpx_transport",
    "aconnect": "async_client",
    "BlockingClientSession": "webtransport_sync",
    "ClientSession": "webtransport_client",
    "aconnect_webtransport": "webtransport_client",
    "connect_webtransport": "webtransport_sync",
    "make_dev_certificate": "dev_certificate",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
