"""This library's server, as its documentation tells to write it.

``quiche_h3_server.py CERTIFICATE KEY`` prints its port as JSON and ends with its standard input.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator

from quiche_h3 import Request, Response, Server, ServerConfig

BLOCK = hashlib.shake_256(b"quiche_h3").digest(65_521)


def hello(req: Request, res: Response) -> str:
    return "Hello, HTTP/3!"


def download(req: Request, res: Response) -> Iterator[bytes]:
    left = int(req.params["size"])
    res.header("content-length", str(left))
    while left:
        chunk = BLOCK[:left]
        left -= len(chunk)
        yield chunk


async def upload(req: Request, res: Response) -> str:
    size = 0
    async for chunk in req.body:
        size += len(chunk)
    return str(size)


def main(certificate: str, key: str) -> None:
    config = ServerConfig(bind_addr="127.0.0.1", bind_port=0, cert_path=certificate, key_path=key)
    server = Server(config)
    server.get("/hello")(hello)
    server.get("/bytes/:size")(download)
    server.post("/upload")(upload)
    with server.running() as address:
        print(json.dumps({"port": address.port}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
