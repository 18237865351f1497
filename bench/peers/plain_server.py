"""quiche_h3 with plain and generator handlers, on its own event loop: `... CERTIFICATE KEY`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Iterator
from typing import Any

from quiche_h3 import Connection, Request, Response, Server, ServerConfig, WouldBlock

from .content import HELLO, chunks

MIB = 1 << 20


def config(certificate: str, key: str) -> ServerConfig:
    """The defaults but for the limits; QUICHE_H3_... in the environment changes a field for an experiment."""
    given: dict[str, Any] = {
        "bind_addr": "127.0.0.1",
        "bind_port": 0,
        "cert_path": certificate,
        "key_path": key,
        "max_request_body_size": 1024 * MIB,
        "idle_timeout_ms": 60_000,
    }
    return ServerConfig.load(None, os.environ, given)


def hello(req: Request, res: Response) -> str:
    return HELLO


def download(req: Request, res: Response) -> Iterator[bytes]:
    size = int(req.params["size"])
    res.header("content-length", size)
    yield from chunks(size)


def upload(req: Request, res: Response) -> Generator[Any, None, str]:
    size = 0
    while not req.body.ended:
        yield req.body
        for chunk in req.body:
            size += len(chunk)
    return str(size)


def datagrams(req: Request, res: Response) -> Iterator[Any]:
    res.write_all(b"")
    while not req.body.ended:
        yield req.body


def echo(server: Server, connection: Connection, payload: bytes) -> None:
    try:
        server.send_datagram(connection, payload)
    except WouldBlock:
        pass  # lost, as on a network


def serve(server: Server) -> None:
    """Serves until standard input ends."""
    server.on_datagram(echo)
    with server.running() as address:
        print(json.dumps({"port": address.port}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    server = Server(config(*sys.argv[1:]))
    server.get("/hello")(hello)
    server.get("/bytes/:size")(download)
    server.post("/upload")(upload)
    server.post("/datagrams")(datagrams)
    serve(server)
