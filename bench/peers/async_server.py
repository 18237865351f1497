"""quiche_h3 with `async def` handlers on asyncio, uvloop where it is installed: `... CERTIFICATE KEY`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from quiche_h3 import Request, Response, Server

from .content import HELLO, chunks
from .plain_server import config, serve


async def hello(req: Request, res: Response) -> str:
    return HELLO


async def download(req: Request, res: Response) -> AsyncIterator[bytes]:
    size = int(req.params["size"])
    res.header("content-length", size)
    for chunk in chunks(size):
        yield chunk


async def upload(req: Request, res: Response) -> str:
    size = 0
    async for chunk in req.body:
        size += len(chunk)
    return str(size)


async def datagrams(req: Request, res: Response) -> None:
    res.write_all(b"")
    await req.body.read_all()


if __name__ == "__main__":
    server = Server(config(*sys.argv[1:]))
    server.get("/hello")(hello)
    server.get("/bytes/:size")(download)
    server.post("/upload")(upload)
    server.post("/datagrams")(datagrams)
    serve(server)
