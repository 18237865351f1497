"""The exception tree, the protocol error codes, and the one map from an exception to an HTTP status.

Everything this package raises on purpose is a `QuicheH3Error`. Errors are sorted into six families by where
they may come up: `HandlerError`, `StreamingError`, `DatagramError`, `WebTransportError`,
`WebTransportStreamError` and `GeneratorError`. An error that belongs to several families inherits all of
them, so `except StreamingError` around a write catches whatever a write may raise.

Return codes of quiche's C API become exceptions in `check_quic()` and `check_h3()` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final


class H3ErrorCode(IntEnum):
    """Application error codes.

    HTTP/3 (RFC 9114 8.1), QPACK (RFC 9204 6), HTTP datagrams (RFC 9297 5.2) and WebTransport over HTTP/3.
    """

    H3_DATAGRAM_ERROR = 0x33
    H3_NO_ERROR = 0x100
    H3_GENERAL_PROTOCOL_ERROR = 0x101
    H3_INTERNAL_ERROR = 0x102
    H3_STREAM_CREATION_ERROR = 0x103
    H3_CLOSED_CRITICAL_STREAM = 0x104
    H3_FRAME_UNEXPECTED = 0x105
    H3_FRAME_ERROR = 0x106
    H3_EXCESSIVE_LOAD = 0x107
    H3_ID_ERROR = 0x108
    H3_SETTINGS_ERROR = 0x109
    H3_MISSING_SETTINGS = 0x10A
    H3_REQUEST_REJECTED = 0x10B
    H3_REQUEST_CANCELLED = 0x10C
    H3_REQUEST_INCOMPLETE = 0x10D
    H3_MESSAGE_ERROR = 0x10E
    H3_CONNECT_ERROR = 0x10F
    H3_VERSION_FALLBACK = 0x110
    QPACK_DECOMPRESSION_FAILED = 0x200
    QPACK_ENCODER_STREAM_ERROR = 0x201
    QPACK_DECODER_STREAM_ERROR = 0x202
    WT_SESSION_GONE = 0x170D7B68
    WT_BUFFERED_STREAM_REJECTED = 0x3994BD84
    WT_FLOW_CONTROL_ERROR = 0x045D4487
    WT_ALPN_ERROR = 0x0817B3DD
    WT_REQUIREMENTS_NOT_MET = 0x212C0D48


class QuicErrorCode(IntEnum):
    """Transport error codes (RFC 9000 20.1, RFC 9368 10.2). For 0x100 to 0x1ff see `crypto_alert`."""

    NO_ERROR = 0x00
    INTERNAL_ERROR = 0x01
    CONNECTION_REFUSED = 0x02
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    FRAME_ENCODING_ERROR = 0x07
    TRANSPORT_PARAMETER_ERROR = 0x08
    CONNECTION_ID_LIMIT_ERROR = 0x09
    PROTOCOL_VIOLATION = 0x0A
    INVALID_TOKEN = 0x0B
    APPLICATION_ERROR = 0x0C
    CRYPTO_BUFFER_EXCEEDED = 0x0D
    KEY_UPDATE_ERROR = 0x0E
    AEAD_LIMIT_REACHED = 0x0F
    NO_VIABLE_PATH = 0x10
    VERSION_NEGOTIATION_ERROR = 0x11


# TLS alert descriptions (RFC 8446 6, RFC 7301 3.2), carried in CRYPTO_ERROR codes as 0x100 + alert.
_TLS_ALERTS: Final = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}


def crypto_alert(code: int) -> int | None:
    """The TLS alert in a transport error code of the CRYPTO_ERROR range (RFC 9001 4.8), else None."""
    return code - 0x100 if 0x100 <= code <= 0x1FF else None


def describe_code(app: bool, code: int) -> str:
    """A name for an error code that was sent on the wire.

    `app` says which space the code is of: True for HTTP/3 (RESET_STREAM, STOP_SENDING, application
    CONNECTION_CLOSE), False for the QUIC transport. An unknown code is shown by its number.
    """
    if app:
        if code in H3ErrorCode._value2member_map_:
            return f"{H3ErrorCode(code).name} (0x{code:x})"
        if code >= 0x21 and (code - 0x21) % 0x1F == 0:
            return f"reserved, means H3_NO_ERROR (0x{code:x})"  # greasing, RFC 9114 8.1
        return f"application error 0x{code:x}"
    alert = crypto_alert(code)
    if alert is not None:
        return f"CRYPTO_ERROR (0x{code:x}), TLS alert {_TLS_ALERTS.get(alert, alert)}"
    if code in QuicErrorCode._value2member_map_:
        return f"{QuicErrorCode(code).name} (0x{code:x})"
    return f"transport error 0x{code:x}"


class QuicheH3Error(Exception):
    """Something went wrong in quiche_h3."""

    def __str__(self) -> str:
        text = super().__str__()
        if not text and (doc := type(self).__doc__):
            text = doc.splitlines()[0].rstrip(".")
        return text or type(self).__name__


# The families (specification 4.1).


class HandlerError(QuicheH3Error):
    """A request handler failed."""


class StreamingError(QuicheH3Error):
    """Reading or writing a body failed."""


class DatagramError(QuicheH3Error):
    """Sending or receiving a datagram failed."""


class WebTransportError(QuicheH3Error):
    """A WebTransport session operation failed."""


class WebTransportStreamError(QuicheH3Error):
    """A WebTransport stream operation failed."""


class GeneratorError(QuicheH3Error):
    """A source of response data failed."""


# Before anything is served.


class ConfigError(QuicheH3Error, ValueError):
    """A configuration value cannot be used.

    `field` is the name of the configuration field, `problem` what is wrong with its value, `remedy` what
    would be right.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(field, problem, remedy)
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}; {self.remedy}"


class RouteError(QuicheH3Error, ValueError):
    """A route pattern is malformed or already taken."""


# Using a response or stream out of turn, and its flow control.


class HeadersAlreadySent(HandlerError, StreamingError):
    """The response headers have already been sent."""


class ResponseEnded(HandlerError, StreamingError):
    """The response has already ended."""


class StreamBlocked(HandlerError, StreamingError, WebTransportError):
    """The stream can take no more data now; try again when it is writable."""


class InvalidState(HandlerError, StreamingError, WebTransportError, WebTransportStreamError):
    """The operation is not allowed in this state."""


class WouldBlock(DatagramError, WebTransportError, WebTransportStreamError):
    """The operation cannot be completed now; try again later."""


class FlowControl(WebTransportStreamError):
    """Flow control allows no more data on this stream."""


class EndOfStream(GeneratorError):
    """The source has no more data."""


class ReadError(GeneratorError):
    """Reading from the source failed."""


class HeaderInvalid(HandlerError, ValueError):
    """A header field name or value of our own is not valid; nothing was sent."""


class InvalidRedirectStatus(HandlerError):
    """The status of a redirect must be 301, 302, 303, 307 or 308."""


class OutOfMemory(
    HandlerError,
    StreamingError,
    DatagramError,
    WebTransportError,
    WebTransportStreamError,
    GeneratorError,
    MemoryError,
):
    """Not enough memory."""


# The other side, or the stream or connection under us, is gone. The specification has StreamClosed and
# StreamReset in the WebTransport stream family and ConnectionClosed in the datagram family; a request stream
# and its body end in the same three ways, so they belong to StreamingError as well.


class StreamClosed(StreamingError, WebTransportStreamError):
    """The stream is closed."""


class StreamReset(StreamingError, WebTransportStreamError):
    """The stream was reset.

    `code` is the application error code (RFC 9114 8.1), `remote` True if the peer reset the stream.
    """

    def __init__(self, code: int, remote: bool = True) -> None:
        super().__init__(code, remote)
        self.code = code
        self.remote = remote

    def __str__(self) -> str:
        return f"stream reset by {'the peer' if self.remote else 'us'}: {describe_code(True, self.code)}"


class WebTransportStreamReset(StreamReset):
    """The peer of a WebTransport session reset the stream, or wants no more of it.

    `code` is the application's, -1 where the peer used one that is no application's, as when its session
    went; `wire_code` is that of HTTP/3.
    """

    def __init__(self, wire_code: int, code: int | None) -> None:
        super().__init__(-1 if code is None else code, True)
        self.wire_code = wire_code

    def __reduce__(self) -> tuple[type[WebTransportStreamReset], tuple[int, int | None]]:
        return type(self), (self.wire_code, None if self.code < 0 else self.code)

    def __str__(self) -> str:
        what = describe_code(True, self.wire_code) if self.code < 0 else f"code {self.code}"
        return f"stream reset by the peer: {what}"


class MalformedMessage(StreamReset):
    """The peer's message breaks the rules of HTTP (RFC 9114 4.1.2): we reset it with H3_MESSAGE_ERROR.

    `problem` says what is wrong with it.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(H3ErrorCode.H3_MESSAGE_ERROR, False)
        self.problem = problem

    def __reduce__(self) -> tuple[type[MalformedMessage], tuple[str]]:
        return type(self), (self.problem,)

    def __str__(self) -> str:
        return f"the message is malformed: {self.problem}"


class ConnectionClosed(StreamingError, DatagramError):
    """The connection is closed.

    `app` is True for an application close (HTTP/3 codes), False for a transport close (RFC 9000 19.19);
    `code` is the error code in that space; `reason` the phrase as sent, not promised to be UTF-8; `remote`
    True if the peer closed.
    """

    def __init__(self, app: bool, code: int, reason: bytes = b"", remote: bool = True) -> None:
        super().__init__(app, code, reason, remote)
        self.app = app
        self.code = code
        self.reason = reason
        self.remote = remote

    def __str__(self) -> str:
        by = "the peer" if self.remote else "us"
        text = f"connection closed by {by}: {describe_code(self.app, self.code)}"
        return f"{text}: {self.reason.decode('utf-8', 'backslashreplace')}" if self.reason else text


# What only a client meets.


class ConnectError(QuicheH3Error, ConnectionError):
    """No connection could be made.

    The text names the address and what failed: the host's name, the network, the server's certificate, the
    time given. Where QUIC closed the connection, `__cause__` is its ConnectionClosed.
    """


class TimedOut(StreamingError, TimeoutError):
    """The peer did not answer, or took no data, within the time given.

    `phase` says what was waited for: ``"connect"``, ``"pool"``, ``"write"`` or ``"read"``.
    """

    def __init__(self, text: str = "", phase: str = "read") -> None:
        super().__init__(text)
        self.phase = phase


class ConnectTimedOut(ConnectError, TimedOut):
    """No connection could be made within the time given, or there was no room for one (phase ``"pool"``)."""

    def __init__(self, text: str = "", phase: str = "connect") -> None:
        TimedOut.__init__(self, text, phase)


class RedirectError(QuicheH3Error):
    """A redirect cannot be followed: there were too many, or it leads where this client cannot go."""


class StatusError(QuicheH3Error):
    """A response's status says that the request failed.

    `status` is its code, 400 or more.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return f"the server answered with status {self.status}"


class SessionClosed(WebTransportError, WebTransportStreamError, DatagramError):
    """The WebTransport session is closed.

    Whatever a program does with a closed session or its streams ends so, hence the three sets.
    """


class SessionRejected(WebTransportError, ConnectionError):
    """The server does not accept the session.

    `status` is that of its answer, 0 where it was not even asked: it does not offer WebTransport.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status

    def __reduce__(self) -> tuple[type[SessionRejected], tuple[int, str]]:
        return type(self), (self.status, str(self))


class CapsuleError(QuicheH3Error):
    """A capsule is malformed or larger than it may be (RFC 9297 section 3.3)."""


class Done(DatagramError):
    """There is nothing more to receive."""


class DatagramTooLarge(DatagramError):
    """The datagram is larger than the connection can carry."""


class DatagramNotEnabled(DatagramError):
    """The peer did not negotiate datagrams (RFC 9221 3, RFC 9297 2.1.1)."""


# What a handler raises to answer with a status.


class BadRequest(HandlerError):
    """Bad request."""


class Unauthorized(HandlerError):
    """Unauthorized."""


class Forbidden(HandlerError):
    """Forbidden."""


class NotFound(HandlerError):
    """Not found."""


class MethodNotAllowed(HandlerError):
    """Method not allowed.

    `allowed` are the methods that the resource has, for the Allow header field (RFC 9110 15.5.6).
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self.allowed = tuple(allowed)
        super().__init__(self.allowed)

    def __str__(self) -> str:
        return "Method not allowed" + (f"; allowed: {', '.join(self.allowed)}" if self.allowed else "")


class ProtocolNotImplemented(HandlerError):
    """Nobody here speaks this protocol."""


class RequestTimeout(HandlerError):
    """The request was not complete in time."""


class PayloadTooLarge(HandlerError, StreamingError):
    """The body is larger than the limit."""


class UriTooLong(HandlerError):
    """The request path is longer than the limit."""


class TooEarly(HandlerError):
    """The request may be a replay; send it again when the handshake is complete."""


class TooManyRequests(HandlerError):
    """Too many requests."""


class RequestHeaderFieldsTooLarge(HandlerError):
    """The request header section is larger than the limit."""


class InternalServerError(HandlerError):
    """Internal server error."""


class ServiceUnavailable(HandlerError):
    """The server is too busy for this request now."""


# Range requests (RFC 9110 14).


class RangeNotSatisfiable(HandlerError):
    """None of the requested ranges can be served."""


class InvalidRange(HandlerError):
    """The range ends before it begins."""


class Unsatisfiable(HandlerError):
    """The range begins after the end of the content."""


class Malformed(HandlerError):
    """The Range header field cannot be parsed."""


class MultiRange(HandlerError):
    """More than one range is requested."""


class NonBytesUnit(HandlerError):
    """The range unit is not bytes."""


_STATUS: Final[dict[type[BaseException], int]] = {
    BadRequest: 400,
    Malformed: 400,
    MultiRange: 400,
    NonBytesUnit: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    MethodNotAllowed: 405,
    RequestTimeout: 408,
    PayloadTooLarge: 413,
    UriTooLong: 414,
    RangeNotSatisfiable: 416,
    InvalidRange: 416,
    Unsatisfiable: 416,
    TooEarly: 425,
    TooManyRequests: 429,
    RequestHeaderFieldsTooLarge: 431,
    ProtocolNotImplemented: 501,
    StreamBlocked: 503,
    WouldBlock: 503,
    Done: 503,
    ServiceUnavailable: 503,
}


def error_to_status(exc: BaseException) -> int:
    """The HTTP status for a request whose handler raised `exc`: that of its class or a base, else 500."""
    for cls in type(exc).__mro__:
        if (status := _STATUS.get(cls)) is not None:
            return status
    return 500


# The gates for quiche's C return codes: negative code -> (name, code that goes on the wire or None).

DONE: Final = -1
_H3_TRANSPORT_SHIFT: Final = -1000  # QUICHE_H3_TRANSPORT_ERR_X is QUICHE_ERR_X - 1000

_QUIC_ERRORS: Final[dict[int, tuple[str, QuicErrorCode | None]]] = {
    -2: ("BUFFER_TOO_SHORT", None),
    -3: ("UNKNOWN_VERSION", None),
    -4: ("INVALID_FRAME", QuicErrorCode.FRAME_ENCODING_ERROR),
    -5: ("INVALID_PACKET", None),
    -6: ("INVALID_STATE", None),
    -7: ("INVALID_STREAM_STATE", QuicErrorCode.STREAM_STATE_ERROR),
    -8: ("INVALID_TRANSPORT_PARAM", QuicErrorCode.TRANSPORT_PARAMETER_ERROR),
    -9: ("CRYPTO_FAIL", None),
    -10: ("TLS_FAIL", None),
    -11: ("FLOW_CONTROL", QuicErrorCode.FLOW_CONTROL_ERROR),
    -12: ("STREAM_LIMIT", QuicErrorCode.STREAM_LIMIT_ERROR),
    -13: ("FINAL_SIZE", QuicErrorCode.FINAL_SIZE_ERROR),
    -14: ("CONGESTION_CONTROL", None),
    -15: ("STREAM_STOPPED", None),
    -16: ("STREAM_RESET", None),
    -17: ("ID_LIMIT", QuicErrorCode.CONNECTION_ID_LIMIT_ERROR),
    -18: ("OUT_OF_IDENTIFIERS", None),
    -19: ("KEY_UPDATE", QuicErrorCode.KEY_UPDATE_ERROR),
    -20: ("CRYPTO_BUFFER_EXCEEDED", QuicErrorCode.CRYPTO_BUFFER_EXCEEDED),
    -21: ("INVALID_ACK_RANGE", QuicErrorCode.PROTOCOL_VIOLATION),
    -22: ("OPTIMISTIC_ACK_DETECTED", QuicErrorCode.PROTOCOL_VIOLATION),
    -23: ("INVALID_DCID_INITIALIZATION", None),
    -24: ("VERSION_NEGOTIATION", QuicErrorCode.VERSION_NEGOTIATION_ERROR),
}

_H3_STREAM_BLOCKED: Final = -13
_H3_ERRORS: Final[dict[int, tuple[str, H3ErrorCode | None]]] = {
    -2: ("BUFFER_TOO_SHORT", None),
    -3: ("INTERNAL_ERROR", H3ErrorCode.H3_INTERNAL_ERROR),
    -4: ("EXCESSIVE_LOAD", H3ErrorCode.H3_EXCESSIVE_LOAD),
    -5: ("ID_ERROR", H3ErrorCode.H3_ID_ERROR),
    -6: ("STREAM_CREATION_ERROR", H3ErrorCode.H3_STREAM_CREATION_ERROR),
    -7: ("CLOSED_CRITICAL_STREAM", H3ErrorCode.H3_CLOSED_CRITICAL_STREAM),
    -8: ("MISSING_SETTINGS", H3ErrorCode.H3_MISSING_SETTINGS),
    -9: ("FRAME_UNEXPECTED", H3ErrorCode.H3_FRAME_UNEXPECTED),
    -10: ("FRAME_ERROR", H3ErrorCode.H3_FRAME_ERROR),
    -11: ("QPACK_DECOMPRESSION_FAILED", H3ErrorCode.QPACK_DECOMPRESSION_FAILED),
    _H3_STREAM_BLOCKED: ("STREAM_BLOCKED", None),
    -14: ("SETTINGS_ERROR", H3ErrorCode.H3_SETTINGS_ERROR),
    -15: ("REQUEST_REJECTED", H3ErrorCode.H3_REQUEST_REJECTED),
    -16: ("REQUEST_CANCELLED", H3ErrorCode.H3_REQUEST_CANCELLED),
    -17: ("REQUEST_INCOMPLETE", H3ErrorCode.H3_REQUEST_INCOMPLETE),
    -18: ("MESSAGE_ERROR", H3ErrorCode.H3_MESSAGE_ERROR),
    -19: ("CONNECT_ERROR", H3ErrorCode.H3_CONNECT_ERROR),
    -20: ("VERSION_FALLBACK", H3ErrorCode.H3_VERSION_FALLBACK),
}


class QuicError(QuicheH3Error):
    """The QUIC transport refused a call.

    `code` is quiche's negative return code, `name` its name without prefix, `wire_code` the transport error
    code (RFC 9000 20.1) that goes with it, None when the failure is local.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.name, self.wire_code = _QUIC_ERRORS.get(code, ("UNKNOWN", None))

    def __str__(self) -> str:
        wire = f", {self.wire_code.name}" if self.wire_code is not None else ""
        return f"QUIC: {self.name} ({self.code}){wire}"


class Http3Error(QuicheH3Error):
    """The HTTP/3 layer refused a call.

    `code` is quiche's negative return code, `name` its name without prefix, `wire_code` the HTTP/3 error code
    (RFC 9114 8.1) that goes with it, None when the failure is local.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.name, self.wire_code = _H3_ERRORS.get(code, ("UNKNOWN", None))

    def __str__(self) -> str:
        wire = f", {self.wire_code.name}" if self.wire_code is not None else ""
        return f"HTTP/3: {self.name} ({self.code}){wire}"


def check_quic(code: int) -> int:
    """Passes a return code of a `quiche_*` transport function: counts and `DONE` are returned, errors raise.

    Raises `QuicError`. `DONE` (-1) means "nothing to do now" and is the caller's to handle.
    """
    if code >= DONE:
        return code
    raise QuicError(code)


def check_h3(code: int) -> int:
    """Passes a return code of a `quiche_h3_*` function: counts and `DONE` are returned, errors raise.

    Raises `StreamBlocked` for QUICHE_H3_ERR_STREAM_BLOCKED, `QuicError` for a transport error that came up
    through HTTP/3 (shifted by -1000), `Http3Error` for the rest. A shifted DONE is returned as `DONE`.
    """
    if code >= DONE:
        return code
    if code == _H3_STREAM_BLOCKED:
        raise StreamBlocked
    if code < _H3_TRANSPORT_SHIFT:
        if (code := code - _H3_TRANSPORT_SHIFT) == DONE:
            return DONE
        raise QuicError(code)
    raise Http3Error(code)
