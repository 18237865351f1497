"""A bad network on purpose: what goes between browsers and a server, lost and late as it is told."""

from __future__ import annotations

import heapq
import random
import selectors
import socket
import threading
import time
from itertools import count
from typing import Any

MAX_CLIENTS = 64
MAX_WAITING = 4096  # datagrams on their way


class BadNetwork:
    """A UDP relay in a thread of its own. Clients send to `port`."""

    def __init__(self) -> None:
        self.loss = 0.0
        """The part of the datagrams that is lost, each way."""
        self.delay = 0.0
        """Seconds that each is on its way, each way."""
        self._upstream = ("", 0)
        self._front = self._bind()
        self._servers: dict[Any, socket.socket] = {}  # client's address -> our socket towards the server
        self._waiting: list[tuple[float, int, socket.socket, bytes, Any]] = []
        self._number = count()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ, None)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bad-network", daemon=True)

    def start(self, upstream: tuple[str, int]) -> None:
        """Stands before the server at this address from now on."""
        self._upstream = upstream
        self._thread.start()

    @property
    def port(self) -> int:
        port: int = self._front.getsockname()[1]
        return port

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    @staticmethod
    def _bind() -> socket.socket:
        """For IPv6 and IPv4: browsers take localhost for either."""
        if not socket.has_dualstack_ipv6():
            front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            front.bind(("0.0.0.0", 0))
        else:
            front = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            front.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            front.bind(("::", 0))
        front.setblocking(False)
        return front

    def _run(self) -> None:
        while not self._ending.is_set():
            wait = self._waiting[0][0] - time.monotonic() if self._waiting else 0.1
            for key, _ in self._selector.select(min(0.1, max(0.0, wait))):
                self._take(key.fileobj, key.data)  # type: ignore[arg-type]
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, out, payload, to = heapq.heappop(self._waiting)
                try:
                    out.sendto(payload, to)
                except OSError:
                    pass  # the other side is gone, or its buffer is full: lost

    def _take(self, source: socket.socket, client: Any) -> None:
        """What has come: of clients, or of the server for one client."""
        for _ in range(64):
            try:
                payload, sender = source.recvfrom(65_535)
            except OSError:
                return
            if random.random() < self.loss or len(self._waiting) >= MAX_WAITING:
                continue
            if client is not None:
                out, to = self._front, client
            else:
                out, to = self._towards_server(sender), self._upstream
            heapq.heappush(
                self._waiting, (time.monotonic() + self.delay, next(self._number), out, payload, to)
            )

    def _towards_server(self, client: Any) -> socket.socket:
        """The socket that stands for a client. The oldest makes way for one too many."""
        if client not in self._servers:
            if len(self._servers) >= MAX_CLIENTS:
                oldest = self._servers.pop(next(iter(self._servers)))
                self._selector.unregister(oldest)
                oldest.close()
            family = socket.AF_INET6 if ":" in self._upstream[0] else socket.AF_INET
            towards = self._servers[client] = socket.socket(family, socket.SOCK_DGRAM)
            towards.setblocking(False)
            self._selector.register(towards, selectors.EVENT_READ, client)
        return self._servers[client]
