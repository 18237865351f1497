"""Datagrams: fast, unordered, and lost when the network loses them.

    quiche-h3 serve examples/datagrams.py:server --dev-cert
    python examples/datagrams.py https://localhost:4433

Three kinds: raw QUIC datagrams of a connection (RFC 9221), and HTTP datagrams of one request (RFC 9297), by
a callback or by `async for`. A client keeps its request open while it sends: they belong to the request.
"""

from __future__ import annotations

import sys
import time

import quiche_h3
from quiche_h3 import Connection, Request, Response, Server, ServerConfig, WouldBlock

server = Server(ServerConfig(dev_cert=True))


@server.on_datagram
def echo(server: Server, connection: Connection, payload: bytes) -> None:
    """Sends a raw datagram back; drops it where the queue is full."""
    try:
        server.send_datagram(connection, payload)
    except WouldBlock:
        pass


@server.get("/echo")
def opened(req: Request, res: Response) -> str:
    """Answers at once; the response ends when the client ends its request."""
    return "send me datagrams\n"


@server.route_h3_datagram("GET", "/echo")
def on_datagram(req: Request, res: Response, payload: bytes) -> None:
    res.send_h3_datagram(payload)


@server.post("/sum")
async def total(req: Request, res: Response) -> str:
    """Adds up the numbers that come as datagrams until the client ends its request."""
    payloads = res.h3_datagrams()
    res.write(b"")  # the response begins: now the client may send
    numbers = [int(payload) async for payload in payloads]
    return f"{len(numbers)} numbers, {sum(numbers)} in all\n"


def main(url: str) -> None:
    """The round trip of a hundred datagrams."""
    with quiche_h3.connect(url, verify=False) as client, client.open("GET", "/echo") as request:
        print(request.response().read().decode(), end="")
        replies = request.datagrams(timeout=1)
        times = []
        for number in range(100):
            start = time.perf_counter()
            request.send_datagram(b"%d" % number)
            next(replies)
            times.append(time.perf_counter() - start)
        request.end()
        print(f"{len(times)} round trips, the median {sorted(times)[50] * 1e6:.0f} microseconds")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "https://localhost:4433")
