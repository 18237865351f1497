"""An ASGI application on hypercorn, in one process with uvloop: `... CERTIFICATE KEY`."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from importlib import import_module
from typing import Any

from .content import HELLO, chunks


async def read_size(receive: Any) -> int:
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return size


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    path: str = scope["path"]
    if path.startswith("/bytes/"):
        size = int(path.rpartition("/")[2])
        fields = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        for chunk in chunks(size):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    body = (HELLO if path == "/hello" else str(await read_size(receive))).encode()
    fields = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def main(certificate: str, key: str) -> None:
    config: Any = import_module("hypercorn.config").Config()
    quic = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    quic.bind(("127.0.0.1", 0))
    config.bind = ["127.0.0.1:0"]
    config.quic_bind = [f"fd://{quic.fileno()}"]
    config.certfile, config.keyfile = certificate, key
    config.graceful_timeout = 0.1
    serve: Any = import_module("hypercorn.asyncio").serve

    async def ended() -> None:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    print(json.dumps({"port": quic.getsockname()[1]}), flush=True)  # what comes now waits in the socket
    await serve(application, config, shutdown_trigger=ended)


if __name__ == "__main__":
    import_module("uvloop").new_event_loop().run_until_complete(main(*sys.argv[1:]))
