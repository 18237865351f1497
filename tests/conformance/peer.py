"""A server without sockets, and a client that says whatever a test wants, encrypted as it should be.

Time passes only where somebody waits for it: `Peer.pump()` runs until neither side has anything to say.
"""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pylsqpack
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    DatagramFrameReceived,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicPacketType, encode_long_header_first_byte
from aioquic.tls import Epoch

from quiche_h3 import Server, ServerConfig
from quiche_h3._core.udp import UdpSocket
from quiche_h3.drivers import Driver

from . import wire

Address = tuple[str, int]
SERVER: Address = ("192.0.2.1", 443)
VERSION = 1
_PACKET_TYPES = {
    Epoch.INITIAL: QuicPacketType.INITIAL,
    Epoch.HANDSHAKE: QuicPacketType.HANDSHAKE,
    Epoch.ZERO_RTT: QuicPacketType.ZERO_RTT,
}
_hosts = itertools.count(1)


class _Stepper(Driver):
    """A driver that is driven: nothing happens but in `turn()`."""

    again = False

    def start(self) -> None:
        pass

    def post(self, function: Callable[..., object], *args: Any) -> None:
        function(*args)

    def soon(self) -> None:
        self.again = True

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        """Never: no time passes."""

    def _arm(self, at: int) -> None:
        pass

    def _watch_writes(self, wanted: bool) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass

    def turn(self) -> bool:
        """One turn; False when nothing is left to do now."""
        self.again = False
        self._turn()
        return self.again


class MemoryServer(Server):
    """The server as programs use it, with its handlers and limits, but its packets come from `give()`."""

    def __init__(self, **fields: Any) -> None:
        certificate: dict[str, Any] = {} if "cert_path" in fields else {"dev_cert": True}
        super().__init__(ServerConfig(bind_addr="127.0.0.1", bind_port=0, **certificate, **fields))
        self.socket = UdpSocket(memory=SERVER)
        self.answers: dict[Address, list[bytes]] = {}
        self.calls: list[str] = []
        """The paths of the requests that reached a handler, which is to note them here."""

    def open(self) -> None:
        with mock.patch("quiche_h3.server.open_server_sockets", return_value=[self.socket]):
            super().open()

    def __enter__(self) -> MemoryServer:  # type: ignore[override]
        endpoint = self._prepare()
        self._begin(_Stepper(endpoint))
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._driver is not None
        self._end(self._driver)

    def give(self, payload: bytes, source: Address) -> None:
        """A udp payload comes in."""
        assert self._endpoint is not None
        self._endpoint.receive_udp_payload(0, payload, source)

    def turn(self) -> bool:
        """One turn. False when nothing is left to do now."""
        assert isinstance(self._driver, _Stepper)
        again = self._driver.turn()
        for payload, _, to in self.socket.take():
            self.answers.setdefault(to, []).append(payload)
        return again

    def take(self, address: Address) -> list[bytes]:
        """What was sent to an address."""
        return self.answers.pop(address, [])


class RawQuic(QuicConnection):
    """aioquic's connection with its TLS extensions and its crypto stream open to changes."""

    def __init__(self, configuration: QuicConfiguration, peer: Peer) -> None:
        self.peer = peer
        super().__init__(
            configuration=configuration, session_ticket_handler=lambda ticket: peer.tickets.append(ticket)
        )
        self._loss._pacer.next_send_time = lambda now: None  # type: ignore  # nothing is held back

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls.handshake_extensions = self.peer.extensions(self.tls.handshake_extensions)

    def _serialize_transport_parameters(self) -> bytes:
        return self.peer.parameters(super()._serialize_transport_parameters())

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> Any:
        if stream_id % 4 == 0 and not self._stream_is_discarded(stream_id):  # opened by an injected frame
            self._get_or_create_stream_for_send(stream_id)
        return super()._get_or_create_stream(frame_type, stream_id)

    def _handle_connection_close_frame(self, *args: Any) -> None:
        super()._handle_connection_close_frame(*args)
        if (event := self._close_event) is not None:  # aioquic tells of it when its draining time is over
            self.peer.closed = Closed(event.error_code, event.frame_type is None, event.reason_phrase)

    def _push_crypto_data(self) -> None:
        for epoch, buffer in self._crypto_buffers.items():
            data = self.peer.crypto(epoch, buffer.data)
            buffer.seek(0)
            if data:
                self._crypto_streams[epoch].sender.write(data)


@dataclass
class Answer:
    """What has come back on one stream."""

    data: bytearray = field(default_factory=bytearray)
    fin: bool = False
    reset: int | None = None
    stop: int | None = None
    """The codes of RESET_STREAM and STOP_SENDING."""

    @property
    def sections(self) -> list[list[tuple[bytes, bytes]]]:
        """The field sections, in order."""
        decoder = pylsqpack.Decoder(0, 0)
        found = (payload for kind, payload in wire.read_frames(bytes(self.data)) if kind == wire.HEADERS)
        return [decoder.feed_header(0, payload)[1] for payload in found]

    @property
    def status(self) -> int | None:
        """The last status: there may be interim ones before."""
        found = [value for section in self.sections for name, value in section if name == b":status"]
        return int(found[-1]) if found else None

    @property
    def body(self) -> bytes:
        frames = wire.read_frames(bytes(self.data))
        return b"".join(payload for kind, payload in frames if kind == wire.DATA)


@dataclass(frozen=True)
class Closed:
    """How the server ended the connection (RFC 9000 19.19)."""

    code: int
    app: bool
    reason: str = field(default="", compare=False)


class Peer:
    """A client. What it says beyond QUIC's own is up to the test.

    The hooks `extensions`, `parameters` and `crypto` may be replaced before `connect()`.
    """

    def __init__(self, server: MemoryServer, *, alpn: str = "h3", **options: Any) -> None:
        host = next(_hosts)  # limits by address are another test's concern
        self.server = server
        self.address: Address = (f"10.{host >> 16 & 255}.{host >> 8 & 255}.{host & 255}", 5000)
        self.answers: dict[int, Answer] = {}
        self.datagrams: list[bytes] = []
        self.tickets: list[Any] = []
        self.closed: Closed | None = None
        self.extensions: Callable[[Any], Any] = lambda extensions: extensions
        self.parameters: Callable[[bytes], bytes] = lambda parameters: parameters
        self.crypto: Callable[[Epoch, bytes], bytes] = lambda epoch, data: data
        options = {"max_datagram_frame_size": 65_536, "server_name": "localhost", **options}
        self.configuration = QuicConfiguration(
            is_client=True, alpn_protocols=[alpn], verify_mode=ssl.CERT_NONE, **options
        )
        self.quic = RawQuic(self.configuration, self)

    # Connection

    def start(self) -> Peer:
        """Sends the ClientHello, and nothing more until it is pumped."""
        self.quic.connect(SERVER, time.monotonic())
        return self

    def connect(self) -> Peer:
        """The whole handshake; no stream is open then."""
        self.start().pump()
        return self

    def open(self, *pairs: tuple[int, int]) -> Peer:
        """The whole handshake, and the three streams of a well-behaved client, with these settings."""
        self.connect()
        self.send(2, wire.varint(wire.CONTROL) + wire.settings(*pairs))
        self.send(6, wire.varint(wire.ENCODER))
        self.send(10, wire.varint(wire.DECODER))
        self.pump()
        return self

    @property
    def keys(self) -> Callable[[Epoch], bool]:
        """Whether there are keys to send with."""
        return lambda epoch: bool(epoch in self.quic._cryptos and self.quic._cryptos[epoch].send.is_valid())

    def pump(self, until: Callable[[], object] = lambda: False, seconds: float = 5.0) -> None:
        """Until neither side has anything to say, or `until` holds, which stops before we answer."""
        end = time.process_time() + seconds  # of work: other load on the machine is none of ours
        busy = True
        while busy and not until():
            assert time.process_time() < end, "it never becomes quiet"
            busy = False
            for payload, _ in self.quic.datagrams_to_send(time.monotonic()):
                self.server.give(payload, self.address)
                busy = True
            busy = self.turn() or busy

    def turn(self) -> bool:
        """The server's turn, and we read what it says without an answer. False when it said nothing."""
        busy = self.server.turn()
        for payload in self.server.take(self.address):
            self.quic.receive_datagram(payload, SERVER, time.monotonic())
            busy = True
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                answer = self.answer(event.stream_id)
                answer.data += event.data
                answer.fin = answer.fin or event.end_stream
            elif isinstance(event, StreamReset):
                self.answer(event.stream_id).reset = event.error_code
            elif isinstance(event, StopSendingReceived):
                self.answer(event.stream_id).stop = event.error_code
            elif isinstance(event, DatagramFrameReceived):
                self.datagrams.append(event.data)
        return busy

    def answer(self, stream_id: int = 0) -> Answer:
        """What has come back on a stream until now."""
        return self.answers.setdefault(stream_id, Answer())

    # What is said

    def send(self, stream_id: int, data: bytes, fin: bool = False) -> None:
        """Bytes on a stream, by the rules of QUIC. Goes out with the next pump."""
        self.quic.send_stream_data(stream_id, data, fin)

    def packet(self, payload: bytes, *, epoch: Epoch = Epoch.ONE_RTT, reserved: int = 0) -> bytes:
        """A packet with these frames, encrypted. `reserved`: the value of its two reserved bits."""
        quic = self.quic
        number = quic._packet_number
        quic._packet_number += 1
        size = 2 if len(payload) > 1 else 4  # of the packet number: header protection samples what follows
        dcid, scid = quic._peer_cid.cid, quic.host_cid
        crypto = quic._cryptos[epoch]
        if epoch is Epoch.ONE_RTT:
            header = bytes([0x40 | size - 1 | reserved << 3 | crypto.key_phase << 2]) + dcid
        else:
            kind = _PACKET_TYPES[epoch]
            if epoch is Epoch.INITIAL:
                payload += bytes(max(0, 1200 - 28 - len(dcid) - len(scid) - len(payload)))
            first = encode_long_header_first_byte(VERSION, kind, size - 1) | reserved << 2
            header = bytes([first]) + VERSION.to_bytes(4, "big")
            header += bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid
            header += wire.varint(0) if epoch is Epoch.INITIAL else b""  # no token
            header += (size + len(payload) + 16 | 0x4000).to_bytes(2, "big")
        header += number.to_bytes(size, "big")
        return crypto.encrypt_packet(header, payload, number)

    def inject(self, payload: bytes, **options: Any) -> None:
        """Sends a packet with these frames now, and pumps."""
        self.server.give(self.packet(payload, **options), self.address)
        self.pump()

    # Short forms

    def fetch(self, data: bytes, stream_id: int = 0, fin: bool = True) -> Answer:
        """Bytes on a request stream, and what they bring."""
        self.send(stream_id, data, fin)
        self.pump()
        return self.answer(stream_id)


def good_request(server: MemoryServer) -> None:
    """Nothing of what went before is felt by the next client."""
    peer = Peer(server).open()
    answer = peer.fetch(wire.get())
    assert (answer.status, answer.body, answer.fin) == (200, b"Hello", True)
    assert peer.closed is None
