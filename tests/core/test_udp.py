"""Sockets on loopback: batches, segmentation, what the kernel refuses, the address of answers."""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from server_support import logged

from quiche_h3._core.endpoint import Endpoint
from quiche_h3._core.http3_stream import Stream
from quiche_h3._core.settings import EngineSettings
from quiche_h3._core.sockets import open_server_sockets, open_socket
from quiche_h3._core.udp import UdpSocket
from quiche_h3.config import ClientConfig, ServerConfig
from quiche_h3.dev_certificate import make_dev_certificate
from quiche_h3.errors import ConfigError

from .pair import OK, App, Handler, get


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 on this machine")


def bound(host: str = "127.0.0.1", **options: int) -> socket.socket:
    """A bound UDP socket; options by the end of their names, e.g. SNDBUF."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    for name, value in options.items():
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, f"SO_{name}"), value)
    sock.bind((host, 0))
    return sock


class Real:
    """A server and a client endpoint on sockets of the kernel, driven by poll()."""

    def __init__(
        self, certificate: SimpleNamespace, servers: list[UdpSocket], client: UdpSocket, config: ServerConfig
    ) -> None:
        self.server_app, self.client_app = App(True), App(False)
        self.server = Endpoint(EngineSettings(config, certificate), self.server_app, server=True)
        self.client = Endpoint(EngineSettings(ClientConfig(verify=False)), self.client_app, server=False)
        for sock in servers:
            self.server.add_socket(sock)
        self.client.add_socket(client)
        self.blocked = False
        self.turns = 0

    def close(self) -> None:
        for endpoint in (self.client, self.server):
            endpoint.drop_all()
            for sock in endpoint.sockets:
                sock.close()

    def run(self, done: Callable[[], object], timeout: float = 10.0) -> None:
        until = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < until, "not done in time"
            busy = False
            self.turns += 1
            for endpoint in (self.client, self.server):
                for index in range(len(endpoint.sockets)):
                    busy = endpoint.receive(index) or busy
                busy = endpoint.turn() or busy
                self.blocked = self.blocked or endpoint.blocked
            if not busy and not done():
                self.wait(until)

    def wait(self, until: float) -> None:
        poll = select.poll()
        times = [until]
        for endpoint in (self.client, self.server):
            at = endpoint.deadline()
            if at is not None:
                times.append(at / 1e9)
            for sock in endpoint.sockets:
                poll.register(sock.fileno(), select.POLLIN | (select.POLLOUT if sock.blocked else 0))
        poll.poll(max(0.0, min(times) - time.monotonic()) * 1000 + 1)

    def fetch(self, to: tuple[str, int], body: bytes = b"") -> Handler:
        connection = self.client.connect(0, to, "localhost")
        self.run(lambda: connection.established or connection.closed)
        handler = Handler()
        handler.stream = connection.context.open_request(get(method=b"POST"), not body, handler)
        if body:
            handler.stream.enqueue(body, True)
        self.run(lambda: handler.over)
        return handler


@pytest.fixture
def real(certificate: SimpleNamespace) -> Iterator[Callable[..., Real]]:
    made: list[Real] = []

    def make(
        servers: list[UdpSocket], client: UdpSocket | None = None, config: ServerConfig | None = None
    ) -> Real:
        made.append(Real(certificate, servers, client or UdpSocket(bound()), config or ServerConfig()))
        return made[-1]

    yield make
    for one in made:
        one.close()


def echo(stream: Stream, app: App) -> None:
    handler = app.listen(stream)
    stream.send_headers(OK)

    def pass_on() -> None:
        stream.enqueue(bytes(handler.body))
        handler.body.clear()

    handler.on["readable"] = pass_on
    handler.on["finished"] = stream.finish
    if not stream.receiving:
        stream.finish()


@pytest.mark.parametrize("gro", [True, False])
@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize("batch", [1, 16, 64])
def test_segmentation_changes_no_byte(real: Callable[..., Real], gso: bool, gro: bool, batch: int) -> None:
    """With and without UDP GSO and GRO, and in batches of any size, the same bytes arrive both ways."""
    server = UdpSocket(bound(), gso=gso, gro=gro, batch=batch)
    pair = real([server], UdpSocket(bound(), gso=gso, gro=gro, batch=batch))
    pair.server_app.on_request = lambda stream: echo(stream, pair.server_app)
    body = random.Random(1).randbytes(1_000_000)
    handler = pair.fetch(server.address, body)
    assert handler.body == body
    counters = server.counters()
    assert counters["send_errors"] == {}
    assert counters["datagrams_received"] > 700
    assert counters["datagrams_sent"] > 700


SLOW_NETWORK = """
ip link set lo up && tc qdisc add dev lo root tbf rate 200mbit burst 20kb limit 8mb && exec "$@"
"""


def in_slow_network(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a network of its own, whose loopback takes its time: there a send buffer can be full."""
    command = ["unshare", "--net", "sh", "-ec", SLOW_NETWORK, "sh", sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1])


def slow_network_is_possible() -> bool:
    try:
        return in_slow_network("-c", "pass").returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not slow_network_is_possible(), reason="needs root, unshare, ip and tc")
@pytest.mark.parametrize("gso", [True, False])
def test_a_full_send_buffer_delays_and_loses_nothing(gso: bool) -> None:
    """EAGAIN: what the kernel does not take is kept and sent when it does, and the loop never spins."""
    done = in_slow_network("-m", "core.test_udp", str(int(gso)))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["same"]
    assert result["was_blocked"]
    assert result["send_blocked"] > 3
    assert result["send_errors"] == {}
    assert result["lost"] == 0
    assert result["turns"] < 5000


def download_with_a_full_buffer(gso: bool) -> None:
    """Runs inside the slow network."""
    with tempfile.TemporaryDirectory() as directory:
        cert, key = make_dev_certificate()
        paths = [str(Path(directory, name)) for name in ("cert.pem", "key.pem")]
        for path, data in zip(paths, (cert, key), strict=True):
            Path(path).write_bytes(data)
        server = UdpSocket(bound(SNDBUF=30_000), gso=gso)
        client = UdpSocket(bound(RCVBUF=8 << 20))
        pair = Real(SimpleNamespace(cert_path=paths[0], key_path=paths[1]), [server], client, ServerConfig())
    body = random.Random(2).randbytes(2_000_000)
    pair.server_app.answer_with(body)
    handler = pair.fetch(server.address)
    counters = server.counters()
    (accepted,) = pair.server.connections.values()
    print(
        json.dumps(
            {
                "same": handler.body == body,
                "was_blocked": pair.blocked,
                "send_blocked": counters["send_blocked"],
                "send_errors": counters["send_errors"],
                "lost": accepted.stats()["packets_lost"],
                "turns": pair.turns,
            }
        )
    )


def test_what_the_network_refuses_is_lost_and_counted(certificate: SimpleNamespace) -> None:
    """EMSGSIZE, ENETUNREACH, EINVAL and their like count as lost packets; the next answer leaves."""
    receiver = bound()
    server = UdpSocket(bound())
    endpoint = Endpoint(EngineSettings(ServerConfig(), certificate), App(True), server=True)
    endpoint.add_socket(server)
    packet = b"\xc0\x57\x41\x49\x54\x08" + bytes(8) + b"\0" + bytes(1200)
    for to in (("127.0.0.1", 0), ("8.8.8.8", 53), ("::1", 53), receiver.getsockname()):
        endpoint.receive_udp_payload(0, packet, to, server.address)
    endpoint.turn()
    receiver.settimeout(5)
    assert receiver.recv(2000)[1:5] == bytes(4)
    errors = server.counters()["send_errors"]
    assert sum(errors.values()) >= 2
    assert not endpoint.blocked
    receiver.close()
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of ICMP without a connected socket")
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=ipv6)])
def test_a_port_where_nobody_listens(real: Callable[..., Real], host: str) -> None:
    """ICMP port unreachable ends a handshake, and no connection: it is not authentic (RFC 9000 14.2.1)."""
    server, client = UdpSocket(bound(host)), UdpSocket(bound(host), errors=True)
    pair = real([server], client)
    with contextlib.closing(bound(host)) as gone:
        address = gone.getsockname()[:2]
    refused = pair.client.connect(0, address, "localhost")
    pair.run(lambda: refused.closed, 5)
    assert refused.close_reason is not None
    assert refused.close_reason.reason == b"refused"
    pair.fetch(server.address)
    (connection,) = pair.client.connections.values()
    before = client.counters()["recv_errors"]
    server.close()
    until = time.monotonic() + 5
    while client.counters()["recv_errors"] == before:
        assert time.monotonic() < until
        connection.send_ping()
        pair.client.turn()
        select.select([client.fileno()], [], [], 0.1)
        pair.client.receive(0)
    assert not connection.closed
    assert client.counters()["send_errors"] == {}


@pytest.mark.skipif(sys.platform != "linux", reason="UDP GSO is Linux's")
def test_segmentation_that_is_refused(real: Callable[..., Real]) -> None:
    """The kernel refuses GSO in mid-transfer: each packet goes by itself, none is lost; it is said once."""
    sock = bound()
    sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK: the kernel segments nothing without checksums
    server = UdpSocket(sock, gso=True)
    pair = real([server], UdpSocket(bound(RCVBUF=8 << 20)))
    body = random.Random(6).randbytes(1_000_000)
    pair.server_app.answer_with(body)
    with logged("quiche_h3") as records:
        for _ in range(2):
            assert pair.fetch(server.address).body == body
    counters = server.counters()
    assert (counters["gso_fallbacks"], counters["send_errors"]) == (1, {})
    assert [accepted.stats()["packets_lost"] for accepted in pair.server_app.opened] == [0, 0]
    assert len([record for record in records if "GSO" in record.getMessage()]) == 1


def test_packets_larger_than_the_path_takes(real: Callable[..., Real], certificate: SimpleNamespace) -> None:
    """EMSGSIZE (don't-fragment is set): the packet counts as lost, and the connection goes on."""
    server = UdpSocket(bound())
    pair = real([server])
    pair.client = Endpoint(
        EngineSettings(ClientConfig(verify=False, max_send_udp_payload_size=65_500)),
        pair.client_app,
        server=False,
    )
    pair.client.add_socket(UdpSocket(bound()))
    pair.server_app.on_request = lambda stream: echo(stream, pair.server_app)
    body = random.Random(5).randbytes(500_000)
    assert pair.fetch(server.address, body).body == body


@pytest.mark.parametrize(
    ("host", "to"),
    [
        ("0.0.0.0", ["127.0.0.1", "127.0.0.2", "127.1.2.3"]),
        ("127.0.0.5", ["127.0.0.5"]),
        pytest.param("::", ["127.0.0.1", "127.0.0.3"], marks=ipv6),
        pytest.param("::", ["::1"], marks=ipv6),
        pytest.param("::1", ["::1"], marks=ipv6),
    ],
)
def test_answers_leave_from_the_address_that_was_asked(
    real: Callable[..., Real], host: str, to: list[str]
) -> None:
    """RFC 9000 9: a client drops answers that come from another address than it sent to."""
    server = UdpSocket(bound(host))
    pair = real([server], UdpSocket(bound("::1" if to == ["::1"] else "127.0.0.1")))
    for address in to:
        assert pair.fetch((address, server.address[1])).body == b"Hello"
        assert pair.server_app.opened[-1].local_address[0] == address
        assert pair.server_app.opened[-1].peer_address[0] == ("::1" if address == "::1" else "127.0.0.1")


@ipv6
def test_several_sockets(real: Callable[..., Real]) -> None:
    """Each connection is answered by the socket that it came to, whichever of them it is."""
    servers = [UdpSocket(bound(host)) for host in ("127.0.0.1", "127.0.0.2", "0.0.0.0", "::1")]
    pair = real(servers)
    for host, sock in zip(("127.0.0.1", "127.0.0.2", "127.0.0.9"), servers, strict=False):
        assert pair.fetch((host, sock.address[1])).body == b"Hello"
    assert all(sock.counters()["datagrams_sent"] > 0 for sock in servers[:3])
    assert servers[3].counters()["datagrams_sent"] == 0


def test_overflow_is_counted() -> None:
    """SO_RXQ_OVFL: what the kernel dropped because we were slow shows in the counters."""
    sock = bound(RCVBUF=2304)
    server = UdpSocket(sock, gro=False)
    sender = bound()
    for _ in range(200):
        sender.sendto(b"\x40" + bytes(1000), server.address)
    endpoint = Endpoint(EngineSettings(ClientConfig(verify=False)), App(False), server=False)
    endpoint.add_socket(server)
    while endpoint.receive(0):
        pass
    sender.sendto(b"\x40" + bytes(100), server.address)  # brings the counter
    endpoint.receive(0)
    counters = server.counters()
    assert counters["recv_overflow"] > 0
    assert counters["recv_overflow"] + counters["datagrams_received"] == 201
    sender.close()
    server.close()


def test_a_payload_larger_than_its_slot_is_dropped(certificate: SimpleNamespace) -> None:
    """What is cut off by the kernel is no packet: it is counted and does not reach QUIC."""
    server = UdpSocket(bound(), gro=False, slot=1500)
    sender = bound()
    sender.sendto(b"\x40" + bytes(5000), server.address)
    sender.sendto(b"", server.address)
    sender.sendto(b"\x40" + bytes(30), server.address)
    endpoint = Endpoint(EngineSettings(ServerConfig(), certificate), App(True), server=True)
    endpoint.add_socket(server)
    endpoint.receive(0)
    counters = endpoint.counters()[0]
    assert counters["unknown_dropped"] == 1
    assert counters["malformed_dropped"] == 0
    sender.close()
    server.close()


def test_the_port_is_in_use() -> None:
    """A port that is taken is one ConfigError, with nothing left bound."""
    taken = bound("127.0.0.1")
    config = ServerConfig(bind_addr=["127.0.0.2", "127.0.0.1"], bind_port=taken.getsockname()[1])
    with pytest.raises(ConfigError, match="in use"):
        open_server_sockets(config)
    free = bound("127.0.0.2")
    free.close()
    again = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    again.bind(("127.0.0.2", config.bind_port))
    again.close()
    taken.close()
    with pytest.raises(ConfigError, match="not an address of this machine"):
        open_socket(config, "192.0.2.1", 0)


def test_preferred_addresses_are_bound() -> None:
    """A preferred address gets a socket of its own, unless another takes what comes in for it."""

    def addresses(bind_addr: list[str], preferred: str) -> list[tuple[str, int]]:
        config = ServerConfig(bind_addr=bind_addr, bind_port=port, preferred_address_v4=preferred)
        sockets = open_server_sockets(config)
        try:
            return [sock.address for sock in sockets]
        finally:
            for sock in sockets:
                sock.close()

    free = [bound("127.0.0.1"), bound("127.0.0.1")]
    port, other = (sock.getsockname()[1] for sock in free)
    for sock in free:
        sock.close()
    one, wildcard = ("127.0.0.1", port), ("0.0.0.0", port)
    assert addresses(["127.0.0.1"], f"127.0.0.1:{other}") == [one, ("127.0.0.1", other)]
    assert addresses(["127.0.0.1"], f"127.0.0.2:{port}") == [one, ("127.0.0.2", port)]
    assert addresses(["0.0.0.0"], f"127.0.0.2:{port}") == [wildcard]
    assert addresses(["0.0.0.0"], f"192.0.2.1:{port}") == [wildcard]  # a NAT may lead from there to us
    assert addresses(["0.0.0.0"], f"127.0.0.1:{other}") == [wildcard, ("127.0.0.1", other)]
    assert addresses(["127.0.0.1"], f"127.0.0.1:{port}") == [one]
    with pytest.raises(ConfigError, match="not an address of this machine") as caught:
        addresses(["127.0.0.1"], f"192.0.2.1:{other}")
    assert caught.value.field == "preferred_address_v4"
    assert addresses(["127.0.0.1"], f"127.0.0.1:{other}"), "something was left bound"


def test_a_closed_socket_is_quiet() -> None:
    """After close() a socket receives nothing, and turning its endpoint is harmless."""
    sock = UdpSocket(bound())
    endpoint = Endpoint(EngineSettings(ClientConfig(verify=False)), App(False), server=False)
    endpoint.add_socket(sock)
    endpoint.connect(0, ("127.0.0.1", 9), "localhost")
    sock.close()
    sock.close()
    assert sock.fileno() == -1
    assert endpoint.receive(0) is False
    endpoint.turn()
    endpoint.drop_all()


def test_an_endpoint_has_a_bounded_number_of_sockets() -> None:
    """The seventeenth socket is refused."""
    endpoint = Endpoint(EngineSettings(ClientConfig(verify=False)), App(False), server=False)
    for i in range(16):
        endpoint.add_socket(UdpSocket(memory=("192.0.2.1", i + 1)))
    with pytest.raises(ValueError, match="16"):
        endpoint.add_socket(UdpSocket(memory=("192.0.2.1", 99)))


@pytest.mark.parametrize("host", ["", "localhost", "1.2.3", "1.2.3.4.5", "::g", "1.2.3.4 "])
def test_only_literal_addresses(host: str) -> None:
    """quiche aborts the process on a socket address that is none: it must be refused before."""
    with pytest.raises(ValueError, match="address"):
        UdpSocket(memory=(host, 1))


if __name__ == "__main__":
    download_with_a_full_buffer(sys.argv[1] == "1")


def test_the_kernel_is_given_the_time_of_paced_packets(real: Callable[..., Real]) -> None:
    """`send_txtime`: packets go to the kernel ahead of their time, with that time (SO_TXTIME).

    The loopback has no queue that would hold them: what is seen here is that they were handed over so.
    """
    config = ServerConfig(
        bind_addr="127.0.0.1", bind_port=0, send_txtime=True, cc_algorithm="bbr2_gcongestion"
    )
    (server_socket,) = open_server_sockets(config)
    both = real([server_socket], config=config)
    both.server_app.answer_with(bytes(300_000))
    handler = both.fetch(server_socket.address)
    assert len(handler.body) == 300_000
    assert server_socket.counters()["txtime_messages"] > 0
    assert both.client.sockets[0].counters()["txtime_messages"] == 0
