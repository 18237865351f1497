"""What is fuzzed. A target takes one input, checks what must hold whatever it is, and names the outcome."""

from __future__ import annotations

from typing import Any, ClassVar

from aioquic.tls import Epoch
from conformance import wire
from conformance.conftest import make_server
from conformance.peer import MemoryServer, Peer, good_request
from conformance.test_fields import LIMITS, MALFORMED, WELL_FORMED
from core.pair import initial

from quiche_h3 import ServerSession, WebTransportStream
from quiche_h3._core.connection import Connection
from quiche_h3.capsules import CapsuleReader, encode_capsule
from quiche_h3.errors import CapsuleError

V = wire.varint
CHECK_EVERY = 2000
MAX_CONNECTIONS = 5000


def ending(connection: Connection) -> str:
    """How a connection ended: what we found wrong, if the peer did not end it."""
    reason = connection.close_reason
    if reason is None or reason.remote:
        return "open" if reason is None else "remote"
    return f"{reason.app} {reason.code:#x} {reason.reason!r}"


class Target:
    """One way in. `run()` returns what can be seen of the outcome: inputs with new ones are worth keeping."""

    name = ""

    def seeds(self) -> list[bytes]:
        """Inputs to begin with."""
        raise NotImplementedError

    def run(self, data: bytes) -> str:
        """Takes an input. Raises what it breaks."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends it; what must still be right is checked a last time."""


class ServerTarget(Target):
    """A server that has to serve other clients whatever it is given."""

    def __init__(self) -> None:
        self.server = self.new_server().__enter__()
        self.count = 0

    def new_server(self) -> MemoryServer:
        """The server to fuzz."""
        return make_server(max_connections=MAX_CONNECTIONS, enable_early_data=True)

    def checked(self) -> None:
        """Every now and then: another client is served."""
        self.count += 1
        if self.count % CHECK_EVERY == 0:
            self.server.calls.clear()
            good_request(self.server)

    def close(self) -> None:
        good_request(self.server)
        self.server.__exit__()

    def turn(self) -> None:
        """What the server has to do now, done."""
        for _ in range(1000):
            if not self.server.turn():
                return
        raise AssertionError("the server does not come to rest")


class Datagrams(ServerTarget):
    """Raw UDP payloads, from addresses that change. The first byte of an input, if odd, pads it to 1,200."""

    name = "datagrams"

    def seeds(self) -> list[bytes]:
        peer = Peer(self.server).start()
        sent = [payload for payload, _ in peer.quic.datagrams_to_send(0.0)]
        established = Peer(self.server).open()
        short = established.packet(wire.stream_frame(0, wire.get(), fin=True))
        return [
            b"\x01" + payload
            for payload in [
                *sent,
                short,
                initial(),
                initial(size=1199),
                initial(version=0x1A2A3A4A),
                initial(version=0),
                initial(version=0x6B3343CF),
                b"\xd3" + initial(version=0x6B3343CF)[1:],
                initial(dcid=bytes(20), scid=b""),
                initial(dcid=b""),
                initial(token=bytes(100)),
                b"",
                b"\x40",
                b"\xc0" * 30,
                b"\x40" + bytes(40),
            ]
        ]

    def run(self, data: bytes) -> str:
        self.checked()
        data = data[1:].ljust(1200 if data[:1] > b"" and data[0] & 1 else 0, b"\0")
        address = (f"10.{self.count >> 12 & 255}.{self.count >> 4 & 255}.9", 1 + self.count % 65_535)
        self.server.give(data, address)
        self.turn()
        answers = self.server.take(address)
        self.server.answers.clear()
        # RFC 9000 8.1: nobody is sent more than three times what came.
        assert sum(map(len, answers)) <= 3 * len(data), "amplification"
        return ",".join(sorted({f"{payload[0] & 0xF0:x}" for payload in answers}))


class Packets(ServerTarget):
    """Frames of QUIC and of HTTP/3 in packets that are encrypted as they should be.

    The first byte of an input says where its frames go: 0 to 127 into 1-RTT packets, 128 to 191 into
    Handshake packets, the rest into Initial packets.
    """

    name = "packets"

    def __init__(self) -> None:
        super().__init__()
        self.peers: dict[Epoch, tuple[Peer, Any]] = {}

    def seeds(self) -> list[bytes]:
        stream = wire.stream_frame
        control = V(wire.CONTROL) + wire.settings((6, 1 << 16))
        post = wire.headers(wire.request(b"/body", b"POST")) + wire.frame(wire.DATA, b"body")
        frames = [
            stream(0, wire.get(), fin=True),
            stream(0, post),
            stream(0, post, fin=True),
            stream(0, b"x", offset=9),
            stream(0, post + wire.headers([(b"x", b"y")]), fin=True),
            stream(4, wire.frame(0x21, b"abc") + wire.get()),
            stream(14, control),
            stream(14, V(wire.PUSH) + V(0)),
            stream(14, V(0x21) + b"abc", fin=True),
            stream(2, wire.frame(wire.GOAWAY, V(0)), offset=6),
            stream(2, wire.frame(wire.PRIORITY_UPDATE, V(0) + b"u=1")),
            stream(6, wire.prefixed(0, 5, 0x20), offset=1),
            stream(10, wire.prefixed(0, 6, 0x40), offset=1),
            b"\x01",
            b"\x02" + V(3) + V(0) + V(0) + V(1),
            b"\x03" + V(3) + V(0) + V(1) + V(1) + V(0) + V(0) * 4,
            b"\x04" + V(0) + V(1) + V(0),
            b"\x05" + V(0) + V(1),
            b"\x06" + V(0) + V(4) + b"abcd",
            b"\x07" + V(1) + b"t",
            b"\x10" + V(1 << 20),
            b"\x11" + V(0) + V(1 << 20),
            b"\x12" + V(200),
            b"\x13" + V(200),
            b"\x14" + V(9),
            b"\x15" + V(0) + V(9),
            b"\x16" + V(9),
            b"\x17" + V(9),
            b"\x18" + V(1) + V(0) + b"\x08" + bytes(24),
            b"\x19" + V(1),
            b"\x1a" + bytes(8),
            b"\x1b" + bytes(8),
            b"\x1c" + V(1) + V(0) + V(0),
            b"\x1d" + V(0) + V(0),
            b"\x1e",
            b"\x30" + b"datagram",
            b"\x31" + V(3) + b"abc",
        ]
        hello = b"\x06" + V(0) + V(6) + b"\x01\0\0\x02\x03\x03"
        return [b"\0" + f for f in frames] + [
            b"\x80" + frames[18],
            b"\x80\x01",
            b"\xc0" + hello,
            b"\xc0\x02\0\0\0\0",
        ]

    def peer(self, epoch: Epoch) -> tuple[Peer, Any]:
        """A client that can send in this epoch, and the server's connection of it."""
        known = self.peers.get(epoch)
        if known is None or known[1].draining:
            before = set(self.server.connections)
            peer = Peer(self.server)
            if epoch is Epoch.ONE_RTT:
                peer.open()
            else:
                peer.start().pump(until=lambda: peer.keys(Epoch.HANDSHAKE))
            (connection,) = set(self.server.connections) - before
            known = self.peers[epoch] = (peer, connection)
        return known

    def run(self, data: bytes) -> str:
        self.checked()
        first = data[0] if data else 0
        epoch = Epoch.ONE_RTT if first < 128 else Epoch.HANDSHAKE if first < 192 else Epoch.INITIAL
        peer, connection = self.peer(epoch)
        self.server.give(peer.packet(data[1:1100], epoch=epoch), peer.address)
        self.turn()
        self.server.answers.clear()
        return f"{epoch.name} {ending(connection)}"


class Fields(ServerTarget):
    """Field sections: two lengths before each name and value, or QPACK as it is after a byte 255."""

    name = "fields"

    def __init__(self) -> None:
        super().__init__()
        self.known: Peer | None = None
        self.stream_id = 0

    def seeds(self) -> list[bytes]:
        lists = [*WELL_FORMED.values(), *MALFORMED.values(), *(pairs for pairs, _ in LIMITS.values())]
        plain = [
            b"".join(bytes([len(n), len(v)]) + n + v for n, v in pairs)
            for pairs in lists
            if all(len(n) < 250 and len(v) < 250 for n, v in pairs)
        ]
        qpack = [b"\xff" + wire.fields(pairs)[:1000] for pairs in lists]
        return [
            *plain,
            *qpack,
            b"\xff\0\0\xd1\xd7\xc1\x50\x01a",
            b"\xff\0\0" + b"\xff" * 9,
            b"\xff\x02\0\x80",
        ]

    @staticmethod
    def pairs(data: bytes) -> list[tuple[bytes, bytes]]:
        """The field list that an input stands for."""
        out, at = [], 0
        while at + 2 <= len(data):
            name, value = data[at], data[at + 1]
            at += 2
            out.append((data[at : at + name], data[at + name : at + name + value]))
            at += name + value
        return out

    def run(self, data: bytes) -> str:
        self.checked()
        peer = self.known
        if peer is None or peer.closed is not None or self.stream_id >= 400:  # before its limit of streams
            peer = self.known = Peer(self.server).open()
            self.stream_id = 0
        stream_id, self.stream_id = self.stream_id, self.stream_id + 4
        whole = data[:1] == b"\xff"
        section = data[1:] if whole else wire.fields(self.pairs(data))
        self.server.calls.clear()
        answer = peer.fetch(wire.frame(wire.HEADERS, section), stream_id)
        if not whole:  # RFC 9114 4.1.2: never an error of the connection
            assert peer.closed is None, peer.closed
            assert answer.status is not None or answer.reset is not None, "no answer"
        if self.server.calls:
            assert answer.reset is None, "a handler saw what was refused"
        return f"{peer.closed} {answer.status} {answer.reset}"


class Sessions(ServerTarget):
    """A WebTransport session. The first byte says where the rest goes: see `run()`."""

    name = "sessions"
    SETTINGS: ClassVar = ((0x8, 1), (0x33, 1), (0x2B603742, 1))
    CONNECT: ClassVar = [(b":method", b"CONNECT"), (b":protocol", b"webtransport"), *wire.request(b"/wt")[1:]]

    def __init__(self) -> None:
        super().__init__()
        self.known: Peer | None = None
        self.connection: Any = None
        self.bidi = self.uni = 0
        self.ended = False

    def new_server(self) -> MemoryServer:
        """With a session handler that echoes."""
        server = make_server(max_connections=MAX_CONNECTIONS, enable_webtransport=True)

        @server.webtransport("/wt")
        def echo(session: ServerSession) -> None:
            def data(stream: WebTransportStream, chunk: bytes, fin: bool) -> None:
                if stream.bidirectional:
                    stream.write(chunk)
                    if fin:
                        stream.finish()

            session.on_datagram = session.send_datagram
            session.on_bidi_stream = session.on_uni_stream = lambda stream: None
            session.on_stream_data = data

        return server

    def seeds(self) -> list[bytes]:
        capsules = [
            encode_capsule(0, b"datagram"),
            encode_capsule(0x2843, bytes(4) + b"bye"),
            encode_capsule(0x2843, b"\0"),
            encode_capsule(0x2843, bytes(1100)),
            encode_capsule(0x78AE),
            encode_capsule(0x21, bytes(30)),
            encode_capsule(0x190B4D3D, V(100)),
            encode_capsule(0x190B4D3F, V(100)),
        ]
        bodies = [b"\0" + wire.frame(wire.DATA, capsule) for capsule in capsules]
        streams = [
            b"\x01" + V(0x41) + V(0) + b"abc",
            b"\x02" + V(0x54) + V(0) + b"abc",
            b"\x03" + V(0) + b"abc",
        ]
        others = [b"\x01" + V(0x41) + V(4) + b"x", b"\x02" + V(0x54) + V(3), b"\x03" + V(9) + b"abc", b"\x03"]
        closing = b"\0" + wire.frame(wire.DATA, capsules[0] + capsules[1]) + wire.frame(wire.DATA)
        return [
            *bodies,
            *streams,
            *others,
            closing,
            b"\x41" + V(0x41) + V(0),
            b"\x42" + V(0x54) + V(0),
            b"\x40",
        ]

    def open(self) -> Peer:
        """A client with an open session."""
        before = set(self.server.connections)
        peer = Peer(self.server).open(*self.SETTINGS)
        (self.connection,) = set(self.server.connections) - before
        assert peer.fetch(wire.headers(self.CONNECT), fin=False).status == 200
        self.bidi, self.uni, self.ended = 4, 14, False
        return peer

    def run(self, data: bytes) -> str:
        self.checked()
        peer = self.known
        answer = None if peer is None else peer.answer(0)
        over = peer is None or peer.closed or answer is None or answer.fin or answer.reset is not None
        if over or self.ended or self.bidi > 300 or self.uni > 40:
            peer = self.known = self.open()
        assert peer is not None
        where, fin, rest = (data[0] & 3, bool(data[0] & 0x40), data[1:]) if data else (0, False, b"")
        if where == 0:  # the body of the CONNECT request
            peer.send(0, rest, fin)
            self.ended = fin
        elif where == 1:  # a new bidirectional stream
            peer.send(self.bidi, rest, fin)
            self.bidi += 4
        elif where == 2:  # a new unidirectional stream
            peer.send(self.uni, rest, fin)
            self.uni += 4
        else:
            peer.quic.send_datagram_frame(rest[:1000])
        peer.pump()
        answer = peer.answer(0)
        return f"{where} {fin} {ending(self.connection)} {answer.fin} {answer.reset} {answer.stop}"


class Capsules(Target):
    """Bodies of capsules: however they are cut, the same comes out."""

    name = "capsules"
    WANTED: ClassVar = {0: 1200, 0x2843: 1028, 0x78AE: 0}

    def seeds(self) -> list[bytes]:
        close = encode_capsule(0x2843, bytes(4) + b"bye")
        return [
            encode_capsule(0, b"datagram"),
            close,
            encode_capsule(0x78AE),
            encode_capsule(0x21, bytes(100)),
            encode_capsule(0, bytes(1200)),
            encode_capsule(0, bytes(1201)),
            encode_capsule(0x2843, bytes(1029)),
            encode_capsule(0, b"a") + close + encode_capsule(1 << 61, b"b"),
            b"\xff" * 16,
            b"\0",
            b"\x40",
        ]

    def read(self, data: bytes, size: int) -> tuple[list[tuple[int, bytes]], bool | None]:
        """The capsules, and whether one has begun; None where one was too large."""
        reader = CapsuleReader(self.WANTED)
        found: list[tuple[int, bytes]] = []
        try:
            for at in range(0, len(data), size):
                found.extend(reader.feed(data[at : at + size]))
        except CapsuleError:
            return found, None
        return found, reader.partial

    def run(self, data: bytes) -> str:
        found, partial = whole = self.read(data, max(1, len(data)))
        for size in (1, 2, 7):
            assert self.read(data, size) == whole, "it depends on how the body is cut"
        for kind, value in found:
            assert len(value) <= self.WANTED[kind]
        again = b"".join(encode_capsule(*capsule) for capsule in found)
        assert self.read(again, 3) == (found, False)
        return f"{[kind for kind, _ in found][:6]} {partial}"


TARGETS: dict[str, type[Target]] = {
    target.name: target for target in (Datagrams, Packets, Fields, Sessions, Capsules)
}
