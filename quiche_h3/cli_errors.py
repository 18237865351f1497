"""What a failed command says, and the code it ends with: of `get` that of curl for the same, else 2."""

from __future__ import annotations

import os
import socket
from typing import Final

import click

from .errors import (
    ConnectError,
    ConnectionClosed,
    RedirectError,
    StatusError,
    StreamingError,
    TimedOut,
    crypto_alert,
)

USAGE: Final = 2
NO_NAME: Final = 6
NO_CONNECTION: Final = 7
STATUS: Final = 22
NOT_WRITTEN: Final = 23
NOT_READ: Final = 26
TIME: Final = 28
HANDSHAKE: Final = 35
REDIRECTS: Final = 47
NOT_RECEIVED: Final = 56
CERTIFICATE: Final = 60


class Failed(click.ClickException):
    """A command has failed, and ends with this message and code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def show_error(error: BaseException) -> str:
    """An error as people read it, without the numbers of the system's."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror
    return str(error)


def exit_code(error: BaseException) -> int:
    """The code that curl ends with for such an error; 2 for one that it does not know."""
    if isinstance(error, Failed):
        return error.code
    if isinstance(error, ConnectError) and not isinstance(error, TimedOut):
        return _of_connecting(error.__cause__)
    codes: list[tuple[type[Exception], int]] = [
        (StatusError, STATUS),
        (RedirectError, REDIRECTS),
        (TimedOut, TIME),
        (StreamingError, NOT_RECEIVED),  # ConnectionClosed, StreamReset, MalformedMessage
    ]
    return next((code for kind, code in codes if isinstance(error, kind)), USAGE)


def _of_connecting(cause: BaseException | None) -> int:
    if isinstance(cause, (socket.gaierror, UnicodeError)):
        return NO_NAME
    if isinstance(cause, ConnectionClosed) and not cause.app and crypto_alert(cause.code) is not None:
        return HANDSHAKE if cause.remote else CERTIFICATE
    return NO_CONNECTION
