"""The application that the peers talk to, served by this library in a process of its own.

``python -m interop.apps CERTIFICATE KEY [FIELDS]`` prints its port as JSON and ends with its standard input.
FIELDS are more fields of the configuration, as JSON. Every kind of handler is here, with the routes of the
peers' own servers and a few that show what the server holds.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

from quiche_h3 import Request, Response, Server, ServerConfig

from . import pattern


class Application:
    """The handlers, and what they have seen."""

    def __init__(self) -> None:
        self.produced = 0
        """Bytes that /bytes/N has handed to the server since /produced was last asked."""
        self.released = threading.Event()
        """Set by /release: lets /unread read."""

    def hello(self, req: Request, res: Response) -> str:
        return "Hello, HTTP/3!"

    def download(self, req: Request, res: Response) -> Iterator[bytes]:
        size = int(req.params["size"])
        res.header("content-length", str(size))
        for chunk in pattern.chunks(size):
            self.produced += len(chunk)
            yield chunk

    def take_produced(self, req: Request, res: Response) -> dict[str, int]:
        produced, self.produced = self.produced, 0
        return {"produced": produced}

    def upload(self, req: Request, res: Response) -> dict[str, Any]:
        size, digest = 0, hashlib.sha256()
        for chunk in req.body:
            size += len(chunk)
            digest.update(chunk)
        return {"bytes": size, "sha256": digest.hexdigest()}

    def upload_whole(self, req: Request, res: Response) -> dict[str, Any]:
        body = req.body.read_all()
        return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}

    async def upload_async(self, req: Request, res: Response) -> dict[str, Any]:
        size, digest = 0, hashlib.sha256()
        async for chunk in req.body:
            size += len(chunk)
            digest.update(chunk)
        return {"bytes": size, "sha256": digest.hexdigest()}

    def upload_generator(self, req: Request, res: Response) -> Iterator[Any]:
        size, digest = 0, hashlib.sha256()
        while not req.body.ended:
            while chunk := req.body.read(65_536):
                size += len(chunk)
                digest.update(chunk)
            yield req.body
        yield json.dumps({"bytes": size, "sha256": digest.hexdigest()})

    def unread(self, req: Request, res: Response) -> dict[str, Any]:
        self.released.clear()
        self.released.wait(60)
        return self.upload(req, res)

    def release(self, req: Request, res: Response) -> str:
        self.released.set()
        return "released"

    async def echo(self, req: Request, res: Response) -> AsyncIterator[bytes]:
        async for chunk in req.body:
            yield chunk

    def trailers(self, req: Request, res: Response) -> None:
        res.status(200)
        res.write_all(b"body before trailers")
        res.send_trailers([("x-trailer", "after the body")])

    def live(self, req: Request, res: Response) -> dict[str, int]:
        """How many objects of the library's own types there are, threads, and allocated blocks in all."""
        gc.collect()
        types = (type(o) for o in gc.get_objects())
        kinds = Counter(t.__qualname__ for t in types if f"{t.__module__}".startswith("quiche_h3."))
        return {**kinds, "threads": threading.active_count(), "blocks": sys.getallocatedblocks()}

    def server(self, config: ServerConfig) -> Server:
        server = Server(config)
        server.get("/hello")(self.hello)
        server.get("/bytes/:size")(self.download)
        server.get("/produced")(self.take_produced)
        server.post("/upload", blocking=True)(self.upload)
        server.post("/upload-whole", blocking=True)(self.upload_whole)
        server.post("/upload-async")(self.upload_async)
        server.post("/upload-generator")(self.upload_generator)
        server.post("/unread", blocking=True)(self.unread)
        server.get("/release")(self.release)
        server.post("/echo")(self.echo)
        server.get("/trailers")(self.trailers)
        server.get("/live")(self.live)
        return server


def main(certificate: str, key: str, fields: str = "{}") -> None:
    logging.basicConfig(level=logging.WARNING)
    config = ServerConfig(
        bind_addr="127.0.0.1", bind_port=0, cert_path=certificate, key_path=key, max_request_body_size=1 << 31
    )
    for name, value in json.loads(fields).items():
        setattr(config, name, value)
    with Application().server(config).running() as address:
        print(json.dumps({"port": address.port}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
