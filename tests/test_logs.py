"""Loggers, the access log's line, the throttle, and the set-up that programs may use."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from quiche_h3 import logs
from quiche_h3.config import LogLevel
from quiche_h3.errors import ConfigError
from quiche_h3.logs import DebugThrottle, access_logger, log_access, logger, quic_logger, setup_logging


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leaves the loggers as they were, and the environment without our names."""
    for name in ("H3_LOG_LEVEL", "H3_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    targets = (logger, access_logger, quic_logger)
    saved = [(t.level, t.propagate, list(t.handlers)) for t in targets]
    yield
    for target, (level, propagate, handlers) in zip(targets, saved, strict=True):
        target.setLevel(level)
        target.propagate = propagate
        target.handlers[:] = handlers


def one_request(path: str = "/hello?a=1", peer: tuple[str, int] = ("192.0.2.1", 5000)) -> None:
    log_access(peer, "GET", path, 200, 15, 0.0012345, 7, 4)


def test_importing_adds_no_handler() -> None:
    """A library does not choose where lines go, and a program that has not chosen still sees its errors."""
    code = (
        "import logging, quiche_h3.logs as logs; logs.logger.error('seen'); logs.logger.info('not this');"
        "print(logs.logger.handlers, logging.root.handlers, logs.logger.level)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("[] [] 0\n", "seen\n")


def test_names() -> None:
    """The three loggers have the documented names, so that logging.config can address them."""
    assert [t.name for t in (logger, access_logger, quic_logger)] == [
        "quiche_h3",
        "quiche_h3.access",
        "quiche_h3.quic",
    ]


def test_access_line(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per request: peer, method, path, status, bytes, duration, connection and stream."""
    setup_logging("info", access=True)
    one_request()
    one_request(peer=("2001:db8::1", 443))
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.endswith('192.0.2.1:5000 "GET /hello?a=1" 200 15 1.234ms conn=7 stream=4')
    assert ' [2001:db8::1]:443 "GET ' in second
    assert err == ""


@pytest.mark.parametrize("path", ["/a\r\nforged", "/\x1b[2J", '/" 200 0', "/\u2028x", "/\\x", "/\u202egnp"])
def test_access_line_cannot_be_forged(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A client chooses its path, which must not start a line, end the quotes or speak to the terminal."""
    setup_logging("info", access=True)
    one_request(path)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.rstrip("\n").isprintable()
    assert out.count('"') - out.count('\\"') == 2
    assert path not in out


def test_access_values_are_in_the_record(caplog: pytest.LogCaptureFixture) -> None:
    """A program with a format of its own finds the values in record.args."""
    with caplog.at_level(logging.INFO, "quiche_h3.access"):
        one_request()
    (record,) = caplog.records
    assert isinstance(record.args, dict)
    assert (record.args["status"], record.args["bytes"], record.args["conn_id"]) == (200, 15, 7)


def test_access_log_is_off_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """`access=False` writes nothing, at whatever level."""
    setup_logging("trace", access=False)
    one_request()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("level", "shown"),
    [("error", 1), ("warn", 2), ("info", 3), (LogLevel.DEBUG, 4), (LogLevel.TRACE, 5)],
)
def test_levels(level: LogLevel | str, shown: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each level of specification 4.1 shows itself and what is more severe, on stderr."""
    setup_logging(level)
    for number in (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, logs.TRACE):
        quic_logger.log(number, "line")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("quiche_h3.quic: line") == shown


def test_unknown_level() -> None:
    """A level that is none is not taken for another."""
    with pytest.raises(ValueError, match="loud"):
        setup_logging("loud")


@pytest.mark.parametrize(
    ("env", "level"),
    [
        ({}, logging.WARNING),
        ({"H3_LOG_LEVEL": "info"}, logging.INFO),
        ({"H3_DEBUG": "1"}, logging.DEBUG),
        ({"H3_DEBUG": "0"}, logging.WARNING),
        ({"H3_DEBUG": "1", "H3_LOG_LEVEL": "error"}, logging.ERROR),
    ],
)
def test_level_of_the_environment(env: dict[str, str], level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """H3_LOG_LEVEL and H3_DEBUG (specification 5.6) set the level where the program sets none."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    setup_logging()
    assert logger.level == level


def test_bad_level_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong level in the environment is a clear error."""
    monkeypatch.setenv("H3_LOG_LEVEL", "loud")
    with pytest.raises(ConfigError, match="H3_LOG_LEVEL"):
        setup_logging()


def test_setup_again_replaces_only_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """A second call does not double lines, and a program's own handler stays."""
    own = logging.StreamHandler(io.StringIO())
    logger.addHandler(own)
    setup_logging("info", access=True)
    setup_logging("info", access=True)
    logger.warning("once")
    one_request()
    out, err = capsys.readouterr()
    assert err.count("once") == 1
    assert out.count("GET") == 1
    assert own in logger.handlers
    assert own.stream.getvalue() == "once\n"


@pytest.mark.parametrize(
    ("every", "lines", "passed"), [(1, 7, 7), (10, 1, 1), (10, 10, 1), (10, 11, 2), (3, 100, 34)]
)
def test_throttle(every: int, lines: int, passed: int) -> None:
    """debug_log_throttle: one line of every n passes, the first one first, and the rest is counted."""
    throttle = DebugThrottle(every)
    admitted = [throttle.admit() for _ in range(lines)]
    assert admitted[0]
    assert (sum(admitted), throttle.passed, throttle.dropped) == (passed, passed, lines - passed)
