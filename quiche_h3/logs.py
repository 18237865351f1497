"""Logging: three loggers, the access log's line, the throttle of quiche's debug log, a set-up for programs.

- `quiche_h3`: what the library has to say.
- `quiche_h3.access`: one line per request, when `access_log` is on.
- `quiche_h3.quic`: quiche's own debug log, when `enable_debug_logging` is on.

Importing the library adds no handler: where lines go is the program's choice, and until it chooses, `logging`
itself prints warnings and errors to stderr: a handler's traceback is never lost. `setup_logging()` is such a
choice, made by the command line.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from .config import LogLevel, TransportConfig

TRACE: Final = 5
"""The level below DEBUG, for what happens per packet."""

logger: Final = logging.getLogger("quiche_h3")
access_logger: Final = logging.getLogger("quiche_h3.access")
quic_logger: Final = logging.getLogger("quiche_h3.quic")

_LEVELS: Final = {
    LogLevel.ERROR: logging.ERROR,
    LogLevel.WARN: logging.WARNING,
    LogLevel.INFO: logging.INFO,
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.TRACE: TRACE,
}

_ACCESS_LINE: Final = (
    '%(peer)s "%(method)s %(path)s" %(status)d %(bytes)d %(duration_ms).3fms '
    "conn=%(conn_id)d stream=%(stream_id)d"
)

# What setup_logging() added, to be replaced by its next call; handlers of the program stay.
_installed: Final[list[tuple[logging.Logger, logging.Handler]]] = []


def level_number(level: LogLevel | str) -> int:
    """The number that `logging` has for a level. Raises ValueError for an unknown name."""
    return _LEVELS[LogLevel(level)]


def setup_logging(level: LogLevel | str | None = None, access: bool = False) -> None:
    """Sends the library's log to stderr, and the access log, if asked for, to stdout.

    `level` is the least severe that is shown; None takes it from H3_LOG_LEVEL or H3_DEBUG, else `warn`. For
    programs; may be called again. Raises `ConfigError` when the environment holds a level that is none.
    """
    if level is None:
        level = TransportConfig.environment(os.environ).get("log_level", LogLevel.WARN)
    logging.addLevelName(TRACE, "TRACE")
    while _installed:
        target, handler = _installed.pop()
        target.removeHandler(handler)
    outputs = [(logger, sys.stderr, "%(asctime)s %(levelname)s %(name)s: %(message)s")]
    if access:
        outputs.append((access_logger, sys.stdout, "%(asctime)s %(message)s"))
    for target, stream, layout in outputs:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(layout))
        target.addHandler(handler)
        _installed.append((target, handler))
    logger.setLevel(level_number(level))
    access_logger.setLevel(logging.INFO if access else logging.CRITICAL + 1)
    access_logger.propagate = not access


def format_address(address: tuple[str, int]) -> str:
    """`192.0.2.1:443` or `[2001:db8::1]:443`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def printable(text: str) -> str:
    """`text` with everything that could end or disguise a log line escaped: a client chooses its path."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')


def log_access(
    peer: tuple[str, int],
    method: str,
    path: str,
    status: int,
    bytes_sent: int,
    duration_s: float,
    conn_id: int,
    stream_id: int,
) -> None:
    """Writes the line of a finished request: `bytes_sent` of body, `duration_s` from its headers to its end.

    A status of 0 means that no response was sent. The values are also in the log record, as the mapping
    `record.args`, for programs that write their own format.
    """
    if access_logger.isEnabledFor(logging.INFO):
        values = {
            "peer": format_address(peer),
            "method": printable(method),
            "path": printable(path),
            "status": status,
            "bytes": bytes_sent,
            "duration_ms": duration_s * 1000,
            "conn_id": conn_id,
            "stream_id": stream_id,
        }
        access_logger.info(_ACCESS_LINE, values)


class DebugThrottle:
    """Lets one of every `every` lines of quiche's debug log pass, the first one first (`debug_log_throttle`).

    quiche writes several lines per packet; a line is formatted in Python only when `admit()` said yes.
    """

    __slots__ = ("dropped", "every", "passed")

    def __init__(self, every: int) -> None:
        self.every = every
        self.passed = 0
        self.dropped = 0

    def admit(self) -> bool:
        """Whether this line may pass; counts it in `passed` or `dropped`."""
        if (self.passed + self.dropped) % self.every == 0:
            self.passed += 1
            return True
        self.dropped += 1
        return False
