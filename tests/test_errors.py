"""The exception tree, its status map, the error codes and the gates for quiche's return codes."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from quiche_h3 import errors
from quiche_h3.errors import (
    ConfigError,
    ConnectionClosed,
    DatagramError,
    GeneratorError,
    H3ErrorCode,
    HandlerError,
    Http3Error,
    MethodNotAllowed,
    NotFound,
    QuicError,
    QuicErrorCode,
    QuicheH3Error,
    StreamBlocked,
    StreamingError,
    StreamReset,
    WebTransportError,
    WebTransportStreamError,
    check_h3,
    check_quic,
    describe_code,
    error_to_status,
)

FAMILIES: dict[type[QuicheH3Error], str] = {
    HandlerError: """HeadersAlreadySent ResponseEnded StreamBlocked InvalidState PayloadTooLarge NotFound
        MethodNotAllowed BadRequest Unauthorized Forbidden RequestTimeout TooManyRequests InternalServerError
        RequestHeaderFieldsTooLarge RangeNotSatisfiable InvalidRange Unsatisfiable Malformed MultiRange
        NonBytesUnit InvalidRedirectStatus OutOfMemory""",
    StreamingError: "StreamBlocked ResponseEnded HeadersAlreadySent InvalidState PayloadTooLarge OutOfMemory",
    DatagramError: "WouldBlock DatagramTooLarge ConnectionClosed Done OutOfMemory",
    WebTransportError: "SessionClosed StreamBlocked InvalidState WouldBlock OutOfMemory",
    WebTransportStreamError: "StreamClosed StreamReset FlowControl WouldBlock InvalidState OutOfMemory",
    GeneratorError: "EndOfStream ReadError OutOfMemory",
}

STATUS = {
    "BadRequest": 400,
    "ProtocolNotImplemented": 501,
    "Malformed": 400,
    "MultiRange": 400,
    "NonBytesUnit": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "MethodNotAllowed": 405,
    "RequestTimeout": 408,
    "PayloadTooLarge": 413,
    "UriTooLong": 414,
    "RangeNotSatisfiable": 416,
    "InvalidRange": 416,
    "Unsatisfiable": 416,
    "TooEarly": 425,
    "TooManyRequests": 429,
    "RequestHeaderFieldsTooLarge": 431,
    "StreamBlocked": 503,
    "WouldBlock": 503,
    "Done": 503,
    "ServiceUnavailable": 503,
}

ARGUMENTS: dict[str, tuple[object, ...]] = {
    "ConfigError": ("bind_port", "70000 is too large", "use 0 to 65535"),
    "ConnectionClosed": (True, 0x100, b"bye", False),
    "StreamReset": (0x10C, True),
    "QuicError": (-6,),
    "Http3Error": (-9,),
    "MethodNotAllowed": (("GET", "HEAD"),),
    "StatusError": (404,),
    "MalformedMessage": ("two content-lengths",),
    "SessionRejected": (403, "the server answered with status 403"),
    "WebTransportStreamReset": (0x52E4A40FA8DB, 0),
}

ALL = sorted(
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, QuicheH3Error) and value is not QuicheH3Error
)

QUIC_CODES = {
    "BUFFER_TOO_SHORT": -2,
    "UNKNOWN_VERSION": -3,
    "INVALID_FRAME": -4,
    "INVALID_PACKET": -5,
    "INVALID_STATE": -6,
    "INVALID_STREAM_STATE": -7,
    "INVALID_TRANSPORT_PARAM": -8,
    "CRYPTO_FAIL": -9,
    "TLS_FAIL": -10,
    "FLOW_CONTROL": -11,
    "STREAM_LIMIT": -12,
    "FINAL_SIZE": -13,
    "CONGESTION_CONTROL": -14,
    "STREAM_STOPPED": -15,
    "STREAM_RESET": -16,
    "ID_LIMIT": -17,
    "OUT_OF_IDENTIFIERS": -18,
    "KEY_UPDATE": -19,
    "CRYPTO_BUFFER_EXCEEDED": -20,
    "INVALID_ACK_RANGE": -21,
    "OPTIMISTIC_ACK_DETECTED": -22,
    "INVALID_DCID_INITIALIZATION": -23,
}

H3_CODES = {
    "BUFFER_TOO_SHORT": -2,
    "INTERNAL_ERROR": -3,
    "EXCESSIVE_LOAD": -4,
    "ID_ERROR": -5,
    "STREAM_CREATION_ERROR": -6,
    "CLOSED_CRITICAL_STREAM": -7,
    "MISSING_SETTINGS": -8,
    "FRAME_UNEXPECTED": -9,
    "FRAME_ERROR": -10,
    "QPACK_DECOMPRESSION_FAILED": -11,
    "SETTINGS_ERROR": -14,
    "REQUEST_REJECTED": -15,
    "REQUEST_CANCELLED": -16,
    "REQUEST_INCOMPLETE": -17,
    "MESSAGE_ERROR": -18,
    "CONNECT_ERROR": -19,
    "VERSION_FALLBACK": -20,
}


def make(name: str) -> QuicheH3Error:
    cls: type[QuicheH3Error] = getattr(errors, name)
    return cls(*ARGUMENTS.get(name, ()))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_family_holds_its_errors(family: type[QuicheH3Error]) -> None:
    """Specification 4.1: each error is a subclass of every error set that names it."""
    for name in FAMILIES[family].split():
        assert issubclass(getattr(errors, name), family), name


def test_errors_are_in_no_other_family() -> None:
    """An error of specification 4.1 is in a set that does not name it only where errors.py says why."""
    named = {name for names in FAMILIES.values() for name in names.split()}
    extra = {
        (name, family.__name__)
        for name in named
        for family, names in FAMILIES.items()
        if issubclass(getattr(errors, name), family) and name not in names.split()
    }
    assert extra == {
        ("StreamClosed", "StreamingError"),
        ("StreamReset", "StreamingError"),
        ("ConnectionClosed", "StreamingError"),
        ("SessionClosed", "DatagramError"),
        ("SessionClosed", "WebTransportStreamError"),
    }


@pytest.mark.parametrize("name", ALL)
def test_status_map(name: str) -> None:
    """error_to_status() answers for every exception of the tree, 500 where nothing else was agreed."""
    assert error_to_status(make(name)) == STATUS.get(name, 500)


@pytest.mark.parametrize("exc", [ValueError("x"), MemoryError(), KeyboardInterrupt(), OSError(2, "no file")])
def test_status_of_foreign_exceptions(exc: BaseException) -> None:
    """An exception that is not ours is a server error and tells the client nothing more."""
    assert error_to_status(exc) == 500


def test_status_of_a_users_subclass() -> None:
    """A user's subclass has the status of its nearest base."""

    class NoSuchUser(NotFound):
        pass

    assert error_to_status(NoSuchUser("42")) == 404


@pytest.mark.parametrize("name", ALL)
def test_text_and_pickle(name: str) -> None:
    """Every exception has a text of one line of its own, and survives pickling (worker processes)."""
    exc = make(name)
    assert str(exc)
    assert "\n" not in str(exc)
    copy = pickle.loads(pickle.dumps(exc))
    assert type(copy) is type(exc)
    assert str(copy) == str(exc)
    assert vars(copy) == vars(exc)


def test_own_text_wins() -> None:
    """A message given by the raiser is the text."""
    assert str(NotFound("no such user")) == "no such user"
    assert str(NotFound()) == "Not found"


def test_config_error_names_field_problem_and_remedy() -> None:
    """ConfigError is one line "field: problem; remedy", and a ValueError."""
    exc = ConfigError("bind_port", "70000 is too large", "use 0 to 65535")
    assert str(exc) == "bind_port: 70000 is too large; use 0 to 65535"
    assert (exc.field, exc.problem, exc.remedy) == ("bind_port", "70000 is too large", "use 0 to 65535")
    assert isinstance(exc, ValueError)


def test_method_not_allowed_carries_the_methods() -> None:
    """RFC 9110 15.5.6: a 405 must list the methods, so the exception carries them."""
    exc = MethodNotAllowed(["GET", "HEAD"])
    assert exc.allowed == ("GET", "HEAD")
    assert "GET, HEAD" in str(exc)
    assert MethodNotAllowed().allowed == ()


def test_closed_and_reset_name_their_codes() -> None:
    """The text of ConnectionClosed and StreamReset names the RFC's code and says who did it."""
    assert "H3_REQUEST_CANCELLED" in str(StreamReset(0x10C))
    assert "peer" in str(StreamReset(0x10C))
    closed = ConnectionClosed(app=False, code=0x178, reason=b"\xff", remote=False)
    assert "no_application_protocol" in str(closed)
    assert "us" in str(closed)
    assert "\\xff" in str(closed)
    assert (closed.app, closed.code, closed.reason, closed.remote) == (False, 0x178, b"\xff", False)


@pytest.mark.parametrize(
    ("app", "code", "text"),
    [
        (True, 0x100, "H3_NO_ERROR (0x100)"),
        (True, 0x200, "QPACK_DECOMPRESSION_FAILED (0x200)"),
        (True, 0x33, "H3_DATAGRAM_ERROR (0x33)"),
        (True, 0x21 + 0x1F * 1000, "reserved, means H3_NO_ERROR (0x7939)"),
        (True, 0x1234, "application error 0x1234"),
        (True, 0, "application error 0x0"),
        (False, 0x00, "NO_ERROR (0x0)"),
        (False, 0x0B, "INVALID_TOKEN (0xb)"),
        (False, 0x100, "CRYPTO_ERROR (0x100), TLS alert close_notify"),
        (False, 0x12F, "CRYPTO_ERROR (0x12f), TLS alert illegal_parameter"),
        (False, 0x1FF, "CRYPTO_ERROR (0x1ff), TLS alert 255"),
        (False, 0x200, "transport error 0x200"),
    ],
)
def test_describe_code(app: bool, code: int, text: str) -> None:
    """Codes of both spaces get their RFC names: RFC 9114 8.1, RFC 9204 6, RFC 9000 20.1, RFC 9001 4.8."""
    assert describe_code(app, code) == text


@pytest.mark.parametrize(("name", "code"), QUIC_CODES.items())
def test_quic_codes(name: str, code: int) -> None:
    """Each QUICHE_ERR_* raises QuicError with its own name, directly and shifted by -1000 through HTTP/3."""
    with pytest.raises(QuicError) as direct:
        check_quic(code)
    with pytest.raises(QuicError) as shifted:
        check_h3(code - 1000)
    for exc in (direct.value, shifted.value):
        assert (exc.name, exc.code) == (name, code)
        assert name in str(exc)


@pytest.mark.parametrize(("name", "code"), H3_CODES.items())
def test_h3_codes(name: str, code: int) -> None:
    """Each QUICHE_H3_ERR_* raises Http3Error with its own name."""
    with pytest.raises(Http3Error) as caught:
        check_h3(code)
    assert (caught.value.name, caught.value.code) == (name, code)
    assert name in str(caught.value)


def test_wire_codes() -> None:
    """An error that closes the connection knows the RFC's code for it; a local failure has none."""
    assert QuicError(-11).wire_code is QuicErrorCode.FLOW_CONTROL_ERROR
    assert QuicError(-2).wire_code is None
    assert Http3Error(-9).wire_code is H3ErrorCode.H3_FRAME_UNEXPECTED
    assert Http3Error(-2).wire_code is None


def test_unknown_codes_still_raise() -> None:
    """A code that a newer quiche adds is not taken for success."""
    with pytest.raises(QuicError, match="-99"):
        check_quic(-99)
    with pytest.raises(Http3Error, match="-12"):
        check_h3(-12)
    with pytest.raises(Http3Error, match="-1000"):
        check_h3(-1000)
    with pytest.raises(QuicError, match="-500"):
        check_h3(-1500)


def test_done_and_counts_pass() -> None:
    """DONE is no error and counts are returned; STREAM_BLOCKED is the typed backpressure error."""
    assert [check_quic(n) for n in (-1, 0, 1200)] == [-1, 0, 1200]
    assert [check_h3(n) for n in (-1, 0, 1200, -1001)] == [-1, 0, 1200, -1]
    with pytest.raises(StreamBlocked):
        check_h3(-13)


def test_tables_match_the_header() -> None:
    """The tables hold exactly the codes of the quiche.h that this package was built with."""
    header = Path(errors.__file__).parent / "_libs" / "include" / "quiche.h"
    if not header.exists():
        pytest.skip("quiche has not been built into the package")
    text = header.read_text()
    quic = {k: int(v) for k, v in re.findall(r"\bQUICHE_ERR_(\w+)\s*=\s*(-\d+)", text)}
    h3 = {k: int(v) for k, v in re.findall(r"\bQUICHE_H3_ERR_(\w+)\s*=\s*(-\d+)", text)}
    assert quic == {"DONE": -1, **QUIC_CODES}
    assert h3 == {"DONE": -1, "STREAM_BLOCKED": -13, **H3_CODES}
    shifted = re.findall(r"QUICHE_H3_TRANSPORT_ERR_(\w+)\s*=\s*QUICHE_ERR_(\w+) - 1000", text)
    assert shifted
    assert all(a == b for a, b in shifted)
