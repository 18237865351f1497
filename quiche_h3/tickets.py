"""Session tickets between connections: in memory or in a file (RFC 8446 4.6.1, RFC 9001 4.5, 4.6)."""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

_log: Final = logging.getLogger("quiche_h3")

MAX_TICKETS: Final = 256
"""Origins that a store holds a ticket of; the one that was not heard of for longest goes first."""
_LIFETIME_S: Final = 7 * 86_400  # RFC 8446 4.6.1: no ticket is good for longer


class TicketStore(Protocol):
    """Where a client keeps what resumes its TLS sessions. Called from the thread of its loop.

    A key names the origin, and what its certificate was verified by. A ticket is used once, so that nobody
    can tell by it that two connections are of one client (RFC 8446 C.4).
    """

    def put(self, key: str, ticket: bytes) -> None:
        """Keeps a ticket, in place of the one there may be."""
        ...

    def take(self, key: str) -> bytes | None:
        """The ticket, which is then gone; None where there is none."""
        ...


class MemoryTickets:
    """Tickets for as long as the program runs. Several clients, in several threads, may share one."""

    def __init__(self) -> None:
        self._tickets: dict[str, tuple[float, bytes]] = {}
        self._lock = threading.Lock()

    def put(self, key: str, ticket: bytes) -> None:
        """Keeps a ticket, in place of the one there may be."""
        with self._lock:
            self._tickets.pop(key, None)
            self._tickets[key] = (time.monotonic(), ticket)
            if len(self._tickets) > MAX_TICKETS:
                del self._tickets[next(iter(self._tickets))]

    def take(self, key: str) -> bytes | None:
        """The ticket, which is then gone; None where there is none, or none that is young enough."""
        with self._lock:
            stored, ticket = self._tickets.pop(key, (0.0, b""))
        return ticket if ticket and time.monotonic() - stored < _LIFETIME_S else None


class FileTickets:
    """Tickets in a file, which this user alone may read, for as many programs as want to share it.

    Whoever reads the file can resume the sessions as we would. What cannot be read or written costs the
    resumption and a line in the log, never the connection.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def put(self, key: str, ticket: bytes) -> None:
        """Keeps a ticket, in place of the one there may be."""
        with self._changing() as tickets:
            tickets.pop(key, None)
            tickets[key] = [time.time(), base64.b64encode(ticket).decode()]
            while len(tickets) > MAX_TICKETS:
                del tickets[next(iter(tickets))]

    def take(self, key: str) -> bytes | None:
        """The ticket, which is then gone; None where there is none, or none that is young enough."""
        found = None
        with self._changing() as tickets:
            found = tickets.pop(key, None)
        try:
            stored, ticket = found or (0.0, "")
            fresh = abs(time.time() - float(stored)) < _LIFETIME_S
            return (base64.b64decode(ticket, validate=True) or None) if fresh else None
        except (TypeError, ValueError):
            return None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The file's content, written back when it has changed, while other programs wait."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            _log.warning("session tickets: %s cannot be used: %s", self.path, exc.strerror)
            yield {}
            return
        with os.fdopen(fd, "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.fchmod(fd, 0o600)
                tickets = self._parse(file.read())
                before = dict(tickets)
                yield tickets
                if tickets != before:
                    file.seek(0)
                    file.truncate()
                    file.write(json.dumps(tickets).encode())
            except OSError as exc:
                _log.warning("session tickets: %s: %s", self.path, exc.strerror)

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            tickets = json.loads(data or b"{}")
        except ValueError:
            tickets = None
        if not isinstance(tickets, dict):
            _log.warning("session tickets: %s is not a file of tickets, and is begun anew", self.path)
            return {}
        return tickets
