"""What the tests of the client share: a server with something to ask for, and a body to check."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from quiche_h3 import H3ErrorCode, Request, Response, Server, ServerConfig

KIB, MIB = 1 << 10, 1 << 20
BLOCK = hashlib.shake_256(b"client").digest(65_521)


def blocks(size: int) -> Iterator[bytes]:
    """The first `size` bytes of the pattern, in pieces."""
    while size > 0:
        yield BLOCK[:size]
        size -= len(BLOCK)


def digest(chunks: Iterator[bytes]) -> str:
    sha = hashlib.sha256()
    for chunk in chunks:
        sha.update(chunk)
    return sha.hexdigest()


def free_port() -> int:
    """A UDP port of 127.0.0.1 that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def silence(host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """The URL of a port that takes every datagram and answers none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((host, port))
        yield "https://{}:{}".format(*silent.getsockname())


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits for what no event announces: the state of another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


class Application:
    """The server's handlers, and what they have seen."""

    def __init__(self) -> None:
        self.produced = 0
        self.held = threading.Event()
        self.release = threading.Event()
        self.server = Server(ServerConfig(dev_cert=True, bind_addr="127.0.0.1", bind_port=0))
        self.register(self.server)

    def register(self, server: Server) -> None:
        server.get("/hello")(lambda: "Hello, HTTP/3!\n")
        server.get("/bytes/:size")(self.download)
        server.get("/short")(self.short)
        server.get("/interim")(self.interim)
        server.get("/trailers")(self.trailers)
        server.get("/reset")(self.reset)
        server.get("/hold", blocking=True)(self.hold)
        server.route(["GET", "POST", "PUT", "DELETE"], "/describe")(self.describe)
        server.post("/echo")(self.echo)
        server.post("/refuse")(self.refuse)
        server.post("/unread", blocking=True)(self.unread)
        server.post("/request-trailers", blocking=True)(self.request_trailers)
        server.on_datagram(lambda s, connection, payload: s.send_datagram(connection, payload[::-1]))

    def download(self, req: Request, res: Response) -> Iterator[bytes]:
        size = int(req.params["size"])
        res.header("content-length", size)
        for chunk in blocks(size):
            self.produced += len(chunk)
            yield chunk

    def short(self, req: Request, res: Response) -> Iterator[bytes]:
        res.stream.http3.keeps_lengths = False  # else a server of ours does not say what is not so
        res.header("content-length", 10)
        yield b"only 6"

    def interim(self, req: Request, res: Response) -> str:
        res.inform(103, {"link": "</style.css>; rel=preload"})
        return "after the hints"

    def trailers(self, req: Request, res: Response) -> None:
        res.write_all(b"body")
        res.send_trailers([("x-checksum", "1234")])

    def reset(self, req: Request, res: Response) -> Iterator[bytes]:
        yield b"the beginning"
        res.reset(H3ErrorCode.H3_REQUEST_REJECTED)

    def hold(self, req: Request, res: Response) -> str:
        self.held.set()
        self.release.wait(30)
        return "released"

    def describe(self, req: Request, res: Response) -> dict[str, Any]:
        return {
            "method": req.method,
            "path": req.raw_path.decode(),
            "authority": req.authority,
            "headers": dict(req.headers.items()),
            "body": req.body.read_all().decode(),
        }

    def echo(self, req: Request, res: Response) -> Iterator[Any]:
        while not req.body.ended:
            yield req.body
            yield req.body.read()

    def refuse(self, req: Request, res: Response) -> Iterator[bytes]:
        res.status(413)
        yield b"too much"

    def unread(self, req: Request, res: Response) -> dict[str, int]:
        self.held.set()
        self.release.wait(30)
        return {"bytes": sum(len(chunk) for chunk in req.body)}

    def request_trailers(self, req: Request, res: Response) -> dict[str, Any]:
        body = req.body.read_all()
        return {"body": body.decode(), "trailers": dict(req.trailers.items()) if req.trailers else None}


def streams(app: Application) -> int:
    """Request streams that the server holds."""
    return sum(len(c.context.streams) for c in app.server.connections if c.context is not None)
