"""A fixed piece of work whose instructions are counted: `python tests/instructions.py ROUNDS`.

A server with its router and a plain handler, and a client, in one process and without sockets: every round is
sixteen requests at once and their responses.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from quiche_h3 import ClientConfig, Request, Response, Server, ServerConfig, make_dev_certificate
from quiche_h3._core.connection import Connection
from quiche_h3._core.endpoint import Endpoint
from quiche_h3._core.fields import Http3Limits
from quiche_h3._core.http3 import Http3
from quiche_h3._core.http3_state import Http3Counters
from quiche_h3._core.http3_stream import Stream
from quiche_h3._core.settings import EngineSettings
from quiche_h3._core.udp import UdpSocket

SERVER, CLIENT = ("192.0.2.1", 443), ("192.0.2.2", 5000)
REQUESTS = 16
FIELDS = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b"user-agent", b"quiche_h3"),
    (b"accept", b"*/*"),
]


def ignored(*args: Any) -> None:
    """Whatever else happens is of no interest."""


class Answer:
    """One response: its body is read as it comes."""

    on_headers = on_trailers = on_sent = on_drained = on_reset = on_stopped = on_closed = ignored

    def __init__(self, client: Client, connection: Connection, path: bytes = b"/hello") -> None:
        self.client = client
        self.stream: Stream = connection.context.open_request([(b":path", path), *FIELDS], True, self)

    def on_readable(self) -> None:
        while self.stream.recv():
            pass

    def on_finished(self) -> None:
        self.client.finished += 1


class Client:
    """The client's application."""

    connection_opened = connection_closed = goaway = datagram = refused = request = ignored

    def __init__(self) -> None:
        self.limits = Http3Limits(count=100, name=256, value=8192, total=32_768, path=2048)
        self.counters = Http3Counters()
        self.finished = 0

    def protocol(self, connection: Connection) -> Http3:
        http3 = Http3(connection, self, self.limits, self.counters, server=False)
        connection.context = http3
        return http3


def hello(req: Request, res: Response) -> str:
    return "Hello, HTTP/3!"


class Pair:
    """The two endpoints, and the way between them."""

    def __init__(self, folder: Path) -> None:
        files = SimpleNamespace(cert_path=str(folder / "cert.pem"), key_path=str(folder / "key.pem"))
        for path, content in zip(vars(files).values(), make_dev_certificate(), strict=True):
            Path(path).write_bytes(content)
        config = ServerConfig(cert_path=files.cert_path, key_path=files.key_path)
        self.app = Server(config)
        self.app.get("/hello")(hello)
        self.app.compile()
        self.server = Endpoint(EngineSettings(config, files), self.app._app, server=True)
        self.receiver = Client()
        self.client = Endpoint(EngineSettings(ClientConfig(verify=False)), self.receiver, server=False)
        self.sockets = UdpSocket(memory=SERVER), UdpSocket(memory=CLIENT)
        self.server.add_socket(self.sockets[0])
        self.client.add_socket(self.sockets[1])

    def pump(self, done: Callable[[], object]) -> None:
        """Carries packets both ways until it is done."""
        there, here = self.sockets
        while not done():
            self.client.turn()
            sent = here.take()
            for payload, source, to in sent:
                self.server.receive_udp_payload(0, payload, source, to)
            self.server.turn()
            back = there.take()
            for payload, source, _ in back:
                self.client.receive_udp_payload(0, payload, source)
            if not sent and not back and not done():
                self.sleep()

    def sleep(self) -> None:
        """Until the next deadline of either side."""
        deadlines = [at for at in (self.client.deadline(), self.server.deadline()) if at is not None]
        time.sleep(max(0.0, min(deadlines) / 1e9 - time.monotonic()))

    def connect(self) -> Connection:
        """A new connection."""
        connection = self.client.connect(0, SERVER, "localhost")
        self.pump(lambda: connection.context is not None)
        return connection

    def round(self, connection: Connection) -> None:
        """So many requests at once, and all their responses."""
        due = self.receiver.finished + REQUESTS
        for _ in range(REQUESTS):
            Answer(self.receiver, connection)
        self.pump(lambda: self.receiver.finished == due)


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder))
        connection = pair.connect()
        for _ in range(rounds):
            pair.round(connection)
        pair.client.drop_all()
        pair.server.drop_all()


if __name__ == "__main__":
    main(int(sys.argv[1]))
