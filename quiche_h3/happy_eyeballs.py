"""Happy Eyeballs (RFC 8305): addresses are tried one beside the other, the first that answers wins."""

from __future__ import annotations

import ipaddress
import socket
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

from .drivers import Timer

if TYPE_CHECKING:
    from ._core.connection import Connection

Address = tuple[str, int]

MAX_ADDRESSES: Final = 8
# RFC 8305 5: how long one address is waited for before the next is tried beside it. Loopback is never slow.
_ATTEMPT_DELAY: Final = 0.25
_LOOPBACK_DELAY: Final = 0.02


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a name in the order in which to try them. Raises OSError or UnicodeError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    scoped = (
        (f"{at[0]}%{at[3]}" if len(at) == 4 and at[3] and "%" not in str(at[0]) else str(at[0]))
        for *_, at in found
    )
    return interleave(dict.fromkeys((text, port) for text in scoped))


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """The two families in turns, beginning with that of the first address (RFC 8305 4), at most 8."""
    first: list[Address] = []
    other: list[Address] = []
    for address in addresses:
        same = not first or (":" in address[0]) == (":" in first[0][0])
        (first if same else other).append(address)
    mixed = chain.from_iterable(zip_longest(first, other))
    return [address for address in mixed if address is not None][:MAX_ADDRESSES]


def source_address(address: Address) -> str:
    """The local address that packets to `address` leave from. Raises OSError when there is no way there."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


class Race:
    """The attempts to reach one server. Each is begun by `begin`, which raises OSError where there is no way.

    `lost()` is called once, when every attempt has failed; `failures` says why.
    """

    def __init__(
        self,
        addresses: list[Address],
        begin: Callable[[Address], Connection],
        call_later: Callable[[float, Callable[[], None]], Timer],
        lost: Callable[[], None],
    ) -> None:
        self.running: dict[Connection, Address] = {}
        self.failures: list[tuple[Address, str]] = []
        self._todo = deque(addresses)
        self._begin = begin
        self._call_later = call_later
        self._lost = lost
        self._timer: Timer | None = None

    def start(self) -> None:
        """Tries the next address, and after a while the one after it."""
        self._stop_timer()
        while self._todo:
            address = self._todo.popleft()
            try:
                self.running[self._begin(address)] = address
            except OSError as exc:
                self.failures.append((address, exc.strerror or str(exc)))
                continue
            if self._todo:
                loopback = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
                self._timer = self._call_later(_LOOPBACK_DELAY if loopback else _ATTEMPT_DELAY, self.start)
            return
        if not self.running:
            self._lost()

    def failed(self, connection: Connection, why: str) -> None:
        """An attempt has failed: the next address has its turn at once."""
        self.failures.append((self.running.pop(connection), why))
        self.start()

    def end(self, winner: Connection | None = None) -> list[Connection]:
        """No further attempt is made. Returns those that were under way beside the winner."""
        self._stop_timer()
        self._todo.clear()
        others = [connection for connection in self.running if connection is not winner]
        self.running.clear()
        return others

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
