"""Two endpoints in one process, with a network of our own between them: no sockets, no loop.

What is real: both endpoints, and the monotonic clock. `Pair.run()` waits for the next deadline of either side
or the next arrival, never for a fixed time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from types import SimpleNamespace
from typing import Any

from quiche_h3._core.connection import Connection
from quiche_h3._core.endpoint import Endpoint
from quiche_h3._core.fields import FieldSection, Http3Limits
from quiche_h3._core.http3 import Http3
from quiche_h3._core.http3_state import Http3Counters
from quiche_h3._core.http3_stream import Stream
from quiche_h3._core.settings import EngineSettings
from quiche_h3._core.udp import UdpSocket
from quiche_h3.config import ClientConfig, ServerConfig
from quiche_h3.errors import ConnectionClosed

Address = tuple[str, int]
Pairs = list[tuple[bytes, bytes]]

SERVER: Address = ("192.0.2.1", 443)
CLIENT: Address = ("192.0.2.2", 5000)
LIMITS = {"count": 100, "name": 256, "value": 8192, "total": 32768, "path": 2048}
OK: Pairs = [(b":status", b"200")]


def get(path: bytes = b"/", method: bytes = b"GET") -> Pairs:
    """The fields of a request."""
    return [(b":method", method), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", path)]


class Handler:
    """Writes down the calls it gets for one stream, and reads the body as it comes."""

    def __init__(self, *, read: bool = True) -> None:
        self.calls: list[str] = []
        self.body = bytearray()
        self.interim: list[FieldSection] = []
        self.fields: FieldSection | None = None
        self.trailers: Pairs | None = None
        self.reset_codes: list[int] = []
        self.stop_codes: list[int] = []
        self.error: ConnectionClosed | None = None
        self.read = read
        self.stream: Stream | None = None
        self.on: dict[str, Callable[[], object]] = {}

    def note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.on:
            self.on[name]()

    @property
    def status(self) -> int:
        return 0 if self.fields is None else self.fields.status

    @property
    def finished(self) -> bool:
        return "finished" in self.calls

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self.finished or bool(self.reset_codes) or self.error is not None

    def drain(self) -> None:
        while self.stream is not None and (chunk := self.stream.recv()):
            self.body += chunk

    def on_headers(self, fields: FieldSection, interim: bool) -> None:
        if interim:
            self.interim.append(fields)
        else:
            self.fields = fields
        self.note("headers")

    def on_trailers(self, fields: FieldSection) -> None:
        self.trailers = fields.pairs()
        self.note("trailers")

    def on_readable(self) -> None:
        if self.read:
            self.drain()
        self.note("readable")

    def on_finished(self) -> None:
        self.note("finished")

    def on_sent(self) -> None:
        self.note("sent")

    def on_drained(self) -> None:
        self.note("drained")

    def on_reset(self, code: int) -> None:
        self.reset_codes.append(int(code))
        self.note("reset")

    def on_stopped(self, code: int) -> None:
        self.stop_codes.append(int(code))
        self.note("stopped")

    def on_closed(self, error: ConnectionClosed) -> None:
        self.error = error
        self.note("closed")


class App:
    """An endpoint's application: keeps what it is told. `on_request` answers requests."""

    def __init__(self, server: bool, limits: dict[str, int] | None = None) -> None:
        self.server = server
        self.limits = Http3Limits(**{**LIMITS, **(limits or {})})
        self.counters = Http3Counters()
        self.opened: list[Connection] = []
        self.closed: list[Connection] = []
        self.requests: list[Stream] = []
        self.handlers: list[Handler] = []
        self.refusals: list[int] = []
        self.goaways: list[int] = []
        self.datagrams: list[bytes] = []
        self.on_request: Callable[[Stream], object] = self.answer
        self.instead: dict[str, Callable[..., object]] = {}  # replaces calls, by name
        self.keep = True

    def protocol(self, connection: Connection) -> Http3:
        http3 = Http3(connection, self, self.limits, self.counters, server=self.server)
        connection.context = http3
        http3.keeps_lengths = False  # peers are to be told what is wrong
        return http3

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, "__dict__").get("instead", {}).get(
            name
        ) or super().__getattribute__(name)

    def connection_opened(self, connection: Connection) -> None:
        if self.keep:
            self.opened.append(connection)

    def connection_closed(self, connection: Connection) -> None:
        if self.keep:
            self.closed.append(connection)

    def answer(self, stream: Stream, body: bytes = b"Hello") -> None:
        stream.send_headers(OK)
        stream.enqueue(body, True)

    def answer_with(self, body: bytes) -> None:
        """Every request gets this body."""
        self.on_request = lambda stream: self.answer(stream, body)

    def listen(self, stream: Stream, *, read: bool = True) -> Handler:
        """A handler that writes down what happens to the stream."""
        handler = Handler(read=read)
        handler.stream = stream
        stream.handler = handler
        self.handlers.append(handler)
        return handler

    def request(self, stream: Stream) -> None:
        if self.keep:
            self.requests.append(stream)
        self.on_request(stream)

    def refused(self, stream: Stream, status: int) -> None:
        self.refusals.append(status)
        stream.send_headers([(b":status", b"%d" % status)], True)
        stream.stop_receiving(0x10E)

    def goaway(self, connection: Connection, stream_id: int) -> None:
        self.goaways.append(stream_id)

    def datagram(self, connection: Connection, payload: bytes) -> None:
        self.datagrams.append(payload)


@dataclass
class Link:
    """One direction of the network. Everything it does to packets comes from one seeded generator."""

    random: random.Random
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    delay: float = 0.0  # seconds
    hook: Callable[[bytes, Address, Address], bool] | None = None  # False drops the packet
    sent: int = 0
    bytes_sent: int = 0
    seen: list[tuple[float, bytes]] = field(default_factory=list)  # all that was sent, when `record` is set
    record: bool = False
    queue: list[tuple[float, int, bytes, Address, Address]] = field(default_factory=list)

    def send(self, payload: bytes, source: Address, to: Address) -> None:
        self.sent += 1
        self.bytes_sent += len(payload)
        if self.record:
            self.seen.append((time.monotonic(), payload))
        if self.hook is not None and not self.hook(payload, source, to):
            return
        chance = self.random.random
        if chance() < self.loss:
            return
        for _ in range(2 if chance() < self.duplicate else 1):
            data = payload
            if chance() < self.corrupt:
                at = self.random.randrange(len(payload))
                data = payload[:at] + bytes([payload[at] ^ 1 << self.random.randrange(8)]) + payload[at + 1 :]
            late = 0.002 * chance() if chance() < self.reorder else 0.0
            heappush(self.queue, (time.monotonic() + self.delay + late, self.sent, data, source, to))

    def arrived(self) -> list[tuple[bytes, Address, Address]]:
        """What has come out of the other end by now."""
        out = []
        now = time.monotonic()
        while self.queue and self.queue[0][0] <= now:
            out.append(heappop(self.queue)[2:])
        return out


class Pair:
    """A server endpoint and a client endpoint, and the two directions of the network between them."""

    def __init__(
        self,
        certificate: SimpleNamespace,
        *,
        server: dict[str, Any] | None = None,
        client: dict[str, Any] | None = None,
        limits: dict[str, int] | None = None,
        client_limits: dict[str, int] | None = None,
        seed: int = 1,
    ) -> None:
        self.server_app = App(True, limits)
        self.client_app = App(False, client_limits)
        self.certificate = certificate
        # The one client stands for many. Fields are to arrive as they were sent: no date among them.
        own: dict[str, Any] = dict.fromkeys(
            (
                "max_connections_per_address",
                "max_half_open_per_address",
                "new_connections_per_address",
                "stream_resets_burst",
            ),
            0,
        )
        self.server_config = ServerConfig(**{**own, "date_header": False, **(server or {})})
        self.server = self.new_server()
        client_config = ClientConfig(**{"verify": False, **(client or {})})
        self.client = Endpoint(EngineSettings(client_config), self.client_app, server=False)
        self.client_socket = UdpSocket(memory=CLIENT)
        self.client.add_socket(self.client_socket)
        self.up = Link(random.Random(seed))
        self.down = Link(random.Random(seed + 1))
        self.nat: Address = CLIENT  # what the server sees of the client
        self.turns = 0

    def new_server(self) -> Endpoint:
        """A server endpoint in the place of the old one, which is forgotten as by a crash."""
        self.server = Endpoint(
            EngineSettings(self.server_config, self.certificate), self.server_app, server=True
        )
        self.server_socket = UdpSocket(memory=SERVER)
        self.server.add_socket(self.server_socket)
        return self.server

    # Network

    def step(self) -> bool:
        """One turn of both sides. False when nothing is left to do now."""
        self.turns += 1
        busy = self.client.turn()
        for payload, source, to in self.client_socket.take():
            self.up.send(payload, self.nat if source == CLIENT else source, to)
        for payload, source, to in self.up.arrived():
            busy = True
            self.server.receive_udp_payload(0, payload, source, to)
        busy = self.server.turn() or busy
        for payload, source, to in self.server_socket.take():
            self.down.send(payload, source, to)
        for payload, source, to in self.down.arrived():
            if to == self.nat:
                busy = True
                self.client.receive_udp_payload(0, payload, source)
        return busy

    def wait(self, until: float) -> None:
        """Until the next arrival or deadline of either side, at the latest `until` (time.monotonic())."""
        times = [until, *(link.queue[0][0] for link in (self.up, self.down) if link.queue)]
        for endpoint in (self.server, self.client):
            at = endpoint.deadline()
            if at is not None:
                times.append(at / 1e9)
        left = min(times) - time.monotonic()
        if left > 0:
            time.sleep(left)

    def run(self, done: Callable[[], object], timeout: float = 10.0) -> None:
        """Pumps until `done()` is true. Fails after `timeout` seconds."""
        until = time.monotonic() + timeout
        while not done():
            if time.monotonic() >= until:
                raise AssertionError(f"not done within {timeout} s after {self.turns} turns")
            if not self.step() and not done():
                self.wait(until)

    def run_until_body(self, handler: Handler, size: int) -> None:
        """Pumps until so much of the body has come."""
        self.run(lambda: len(handler.body) >= size)

    def settle(self) -> None:
        """Pumps until both sides have nothing to do but to wait for a deadline."""
        while True:
            if self.step():
                continue
            if not (self.up.queue or self.down.queue):
                return
            self.wait(time.monotonic() + 1)

    # Short forms

    def connect(self, *, timeout: float = 10.0) -> Connection:
        """A new established connection, HTTP/3 settings exchanged."""
        connection = self.client.connect(0, SERVER, "localhost")
        self.run(lambda: connection.established or connection.closed, timeout)
        assert connection.established, connection.close_reason
        self.settle()
        return connection

    def request(
        self,
        connection: Connection,
        pairs: Pairs | None = None,
        body: bytes | None = None,
        *,
        trailers: Pairs | None = None,
        read: bool = True,
    ) -> Handler:
        """Opens a request; does not pump."""
        handler = Handler(read=read)
        fin = body is None and trailers is None
        stream = connection.context.open_request(get() if pairs is None else pairs, fin, handler)
        handler.stream = stream
        if body is not None:
            stream.enqueue(body, trailers is None)
        if trailers is not None:
            stream.finish(trailers)
        return handler

    def fetch(self, connection: Connection, pairs: Pairs | None = None, body: bytes | None = None) -> Handler:
        """A request and its whole response."""
        handler = self.request(connection, pairs, body)
        self.run(lambda: handler.over)
        return handler

    def counters(self) -> dict[str, int]:
        """The server endpoint's counters."""
        return self.server.counters()[0]

    def give_server(self, payload: bytes, source: Address = ("198.51.100.9", 9999)) -> list[bytes]:
        """Hands the server a udp payload and returns what it answers to that address at once."""
        self.server.receive_udp_payload(0, payload, source)
        self.server.turn()
        answers = []
        for data, sender, to in self.server_socket.take():
            if to == source:
                answers.append(data)
            else:
                self.down.send(data, sender, to)
        return answers


def initial(
    dcid: bytes = b"\x11" * 8,
    scid: bytes = b"\x22" * 8,
    *,
    version: int = 1,
    token: bytes = b"",
    size: int = 1200,
    rest: Sequence[int] | None = None,
) -> bytes:
    """A packet that looks like an Initial (RFC 9000 17.2.2), with a payload that cannot be decrypted."""
    head = b"\xc3" + version.to_bytes(4, "big") + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid
    head += (0x4000 | len(token)).to_bytes(2, "big") + token
    left = max(0, size - len(head) - 2)
    head += (0x4000 | left).to_bytes(2, "big")
    return (head + (bytes(left) if rest is None else bytes(rest)))[:size]


def echo(pair: Pair) -> None:
    """The server answers with the request's body, and its trailers, as they come."""

    def begin(stream: Stream) -> None:
        handler = pair.server_app.listen(stream)
        stream.send_headers(OK)

        def pass_on() -> None:
            if handler.body:
                stream.enqueue(bytes(handler.body))
                handler.body.clear()

        handler.on["readable"] = pass_on
        handler.on["finished"] = lambda: stream.finish(handler.trailers)
        if not stream.receiving:
            stream.finish()

    pair.server_app.on_request = begin


def listen(pair: Pair, *, read: bool = True) -> None:
    """The server takes requests and answers nothing."""
    pair.server_app.on_request = lambda stream: pair.server_app.listen(stream, read=read)


def boom(*_: object) -> None:
    raise ZeroDivisionError("from a callback")
