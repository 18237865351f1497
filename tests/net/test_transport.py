"""Features of the transport, end to end over the relay: what each must do on a network, seen from outside.

What needs no network is elsewhere: Retry, Version Negotiation, rebinding, close codes and stateless resets in
memory in tests/core/test_endpoint.py and test_tokens.py, pacing in tests/core/test_pacing.py, refusals of GSO
and of the system to send in tests/core/test_udp.py.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aioquic.tls import Epoch
from client_support import KIB, MIB, eventually
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from interop.programs import MODULES, Process, started
from server_support import client_of

import quiche_h3
from quiche_h3 import ConnectionClosed, Server, ServerSession

from .relay import SIMPLE, Datagram, Network, Relay, ip, lacking
from .site import behind, connect, download, make_site, relayed, upload

LINK = SIMPLE.partition(" ")[2]
LACKING = lacking()
needs_namespaces = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    """One server for all tests that need no configuration of their own."""
    server = make_site()
    with server.running():
        yield server


# ---- size of packets ----


def largest(log: list[Datagram], direction: str, since: float = 0.0) -> int:
    return max(d.size for d in log if d.passed and d.direction == direction and d.at >= since)


@pytest.mark.parametrize("mtu", [1500, 1378, 1300, 1280, 1240])
def test_narrow_path(site: Server, mtu: int) -> None:
    """RFC 8899: packets as large as the path takes, found without ICMP; 1,200 bytes pass (RFC 9000 14)."""
    words = f"simple-p2p --delay=5ms --bandwidth=50Mbps --mtu={mtu}"
    with relayed(site, words) as relay, connect(relay.url) as client:
        assert download(client, 2 * MIB) + upload(client, 2 * MIB) < 5
    most = min(1350, mtu - 28)
    for direction in ("toclient", "toserver"):
        assert most - 12 <= largest(relay.log, direction) <= most
    assert sum(d.fate == "drop:mtu" for d in relay.log) < 60


@pytest.mark.parametrize("direction", ["download", "upload"])
def test_path_that_becomes_narrow(site: Server, direction: str) -> None:
    """RFC 8899 4.3: after a few timeouts without an answer the search begins anew; the transfer goes on."""
    words = "simple-p2p --delay=5ms --bandwidth=10Mbps"
    with relayed(site, words) as relay, connect(relay.url) as client:
        transfer = download if direction == "download" else upload
        transfer(client, MIB // 2)
        relay.say("--mtu=1280")
        changed = len(relay.log)
        assert transfer(client, MIB) < 6
    assert any(d.size == 1350 and d.passed for d in relay.log[:changed])
    assert any(d.fate == "drop:mtu" for d in relay.log)
    end = [d for d in relay.log[-200:] if d.size > 1000]
    assert max(d.size for d in end if d.passed) <= 1252


def test_without_discovery() -> None:
    """`discover_pmtu=False` sends what `max_send_udp_payload_size` says, from the end of the handshake on."""
    fields = {"discover_pmtu": False, "max_send_udp_payload_size": 1252}
    with behind("simple-p2p --mtu=1280", **fields) as relay, connect(relay.url, **fields) as client:
        download(client, MIB)
    assert all(d.passed for d in relay.log)
    assert largest(relay.log, "toclient") == 1252


# ---- between namespaces: real addresses, real MTUs ----


@contextmanager
def served(network: Network, **fields: object) -> Iterator[Process]:
    """A site in the server's namespace, on both families."""
    options = json.dumps({"bind_addr": "::", "bind_port": 4433, **fields})
    with started(
        network.within(network.server, [sys.executable, "-m", "net.site", "serve", options])
    ) as process:
        yield process


def visit(network: Network, size: int, *hosts: str) -> list[dict[str, Any]]:
    """What a client in its namespace tells of a download and an upload from each host."""
    urls = [f"https://{f'[{host}]' if ':' in host else host}:4433" for host in hosts]
    command = network.within(network.client, [sys.executable, "-m", "net.site", "visit", str(size), *urls])
    done = subprocess.run(
        command, env=os.environ | MODULES, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_namespaces
def test_both_families_at_once() -> None:
    """One server, one port: a client that comes over IPv4 and one that comes over IPv6."""
    with Network("simple-p2p --delay=5ms --bandwidth=50Mbps") as network, served(network):
        told = visit(network, MIB, network.SERVER4, network.SERVER6)
    assert [":" in each["peer"] for each in told] == [False, True]


@needs_namespaces
def test_device_of_1280_bytes() -> None:
    """A larger packet is refused at once (EMSGSIZE, DF is set): it counts as lost, and smaller ones go on."""
    with Network("simple-p2p --delay=5ms --bandwidth=50Mbps", mtu=1280) as network, served(network):
        for told in visit(network, MIB, network.SERVER4, network.SERVER6):
            assert sum(told["seconds"]) < 5
    sizes = {d.size for d in network.relay.log if d.flow}
    assert max(sizes) <= 1252


@needs_namespaces
def test_namespaces_that_rebind() -> None:
    """Port and address change ten times in mid-transfer, as no socket of one machine shows it."""
    with (
        Network(f"rebind {LINK} --rebind-addr") as network,
        served(network),
        ThreadPoolExecutor(1) as pool,
    ):
        visiting = pool.submit(visit, network, 2 * MIB, network.SERVER4)
        for _ in range(10):
            size = len(network.relay.text)
            while len(network.relay.text) < size + 100 and not visiting.done():
                time.sleep(0.01)
            network.relay.say("rebind")
        assert sum(visiting.result()[0]["seconds"]) < 15
    assert len([note for note in network.relay.notes if "rebind" in note]) == 10


@needs_namespaces
@pytest.mark.parametrize("kind", ["prohibit", "unreachable", "blackhole"])
def test_route_that_is_gone(kind: str) -> None:
    """EACCES, EHOSTUNREACH or EINVAL from each send for a second: packets are lost, the connection is not."""
    with Network(SIMPLE) as network, served(network), ThreadPoolExecutor(1) as pool:
        visiting = pool.submit(visit, network, MIB, network.SERVER4)
        while len(network.relay.log) < 200:
            time.sleep(0.01)
        ip("-n", network.server, "route", "add", kind, network.CLIENT4)
        time.sleep(1)
        ip("-n", network.server, "route", "del", kind, network.CLIENT4)
        assert sum(visiting.result()[0]["seconds"]) < 15


# ---- handshakes ----


def nine_certificates(folder: Path) -> tuple[Path, Path]:
    """A chain that is far larger than what may be sent before the client's address is proven."""
    now = datetime.datetime.now(datetime.timezone.utc)
    chain: list[bytes] = []
    issuer, issuer_key = None, None
    for level in range(9):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"level {level}")])
        padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), bytes(500))
        made = (
            x509.CertificateBuilder(issuer or name, name, key.public_key(), level + 1)
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(padding, critical=False)
            .sign(issuer_key or key, hashes.SHA256())
        )
        chain.insert(0, made.public_bytes(serialization.Encoding.PEM))
        issuer, issuer_key = name, key
    assert issuer_key is not None
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "chain.pem").write_bytes(b"".join(chain))
    (folder / "key.pem").write_bytes(issuer_key.private_bytes(encoding, form, serialization.NoEncryption()))
    return folder / "chain.pem", folder / "key.pem"


def proves_address(datagram: Datagram) -> bool:
    """It holds a Handshake packet, alone or behind an Initial one (RFC 9000 8.1, 12.2), or is a later one."""
    header = datagram.header
    if not header or header[0] & 0xF0 == 0xE0:
        return True
    at = 6 + header[5]  # behind the DCID
    at += 1 + header[at]  # behind the SCID
    assert header[at] == 0  # no token
    length = int.from_bytes(header[at + 1 : at + 3], "big") & 0x3FFF
    end = at + 3 + length
    return end < len(header) and header[end] & 0xF0 == 0xE0


def test_amplification_limit(tmp_path: Path) -> None:
    """RFC 9000 8.1: until the client has proven its address, three bytes for each of its own, on the wire.

    The chain has nine certificates and more than 7,500 bytes, and the client's packets 2 to 7 are lost.
    """
    certificate, key = nine_certificates(tmp_path)
    fields = {"dev_cert": False, "cert_path": str(certificate), "key_path": str(key)}
    words = f"droplist {LINK} --drops_to_server=2,3,4,5,6,7"
    with behind(words, **fields) as relay, connect(relay.url, connect_timeout_ms=30_000) as client:
        download(client, 5 * KIB)
    came = went = 0
    for datagram in relay.log:
        if datagram.direction == "toserver" and datagram.passed:
            came += datagram.size
            if proves_address(datagram):
                break
        elif datagram.direction == "toclient":
            went += datagram.size
            assert went <= 3 * came
    assert went > 2400
    assert sum(d.fate == "drop:list" for d in relay.log) == 6


@pytest.mark.parametrize("delay", ["375ms", "750ms"])
def test_handshake_over_a_long_way(site: Server, delay: str) -> None:
    """The runner's longrtt: a round trip that is longer than the first probe timeout."""
    words = f"simple-p2p --delay={delay} --bandwidth=10Mbps --queue=25"
    with relayed(site, words) as relay, connect(relay.url) as client:
        download(client, KIB)
    assert len({d.flow for d in relay.log}) == 1


# ---- a connection's life ----


def test_key_update_by_the_peer(site: Server) -> None:
    """RFC 9001 6: aioquic updates its keys three times between transfers, and we follow each time."""

    async def run() -> list[int]:
        phases = []
        async with client_of(url, window=8 * MIB) as client:
            quic = client._quic
            for _ in range(3):
                assert (await client.get(f"/bytes/{MIB // 2}")).size == MIB // 2
                quic.request_key_update()
                client.transmit()
                await client.ping()
                phases.append(quic._cryptos[Epoch.ONE_RTT].key_phase)
        return phases

    with relayed(site, "simple-p2p --delay=2ms") as relay:
        url = relay.url
        assert asyncio.run(run()) == [1, 0, 1]


async def lost_of_echo(
    send: Callable[[bytes], None], listen: Callable[[Callable[[bytes], None]], object]
) -> float:
    """The share of 30,000 datagrams, each in a packet of its own, that do not come back."""
    count, received, newest = 30_000, 0, 0
    arrived = asyncio.Event()

    def on_datagram(payload: bytes) -> None:
        nonlocal received, newest
        received += 1
        newest = max(newest, int.from_bytes(payload[:4], "big"))
        arrived.set()

    listen(on_datagram)
    for number in [*range(1, count + 1), count + 100]:
        while number - newest > 100:  # fewer than a queue holds are on their way
            arrived.clear()
            try:
                await asyncio.wait_for(arrived.wait(), 1)
            except asyncio.TimeoutError:
                newest = number  # all of these are lost
        if number <= count:
            send(number.to_bytes(4, "big") + bytes(696))
    return 1 - received / count


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["quic", "webtransport"])
def test_datagrams_are_lost_as_the_network_loses(kind: str) -> None:
    """RFC 9221 5: 1 % loss on the way back loses 1 % of the echo; none is sent again, none kept back."""
    server = make_site()

    @server.on_datagram
    def echo(server: Server, connection: Any, payload: bytes) -> None:
        server.send_datagram(connection, payload)

    @server.webtransport("/echo")
    def session(session: ServerSession) -> None:
        session.on_datagram = session.send_datagram

    async def run() -> float:
        if kind == "quic":
            async with await quiche_h3.aconnect(relay.url, verify=False) as client:
                return await lost_of_echo(client.send_datagram, client.on_datagram)
        async with await quiche_h3.aconnect_webtransport(f"{relay.url}/echo", verify=False) as session:
            return await lost_of_echo(
                session.send_datagram, lambda callback: setattr(session, "on_datagram", callback)
            )

    words = "drop-rate --delay=1ms --rate_to_client=1 --rate_to_server=0"
    with server.running(), relayed(server, words) as relay:
        assert 0.008 <= asyncio.run(run()) <= 0.012


def test_keep_alive_holds_a_binding(site: Server) -> None:
    """RFC 9000 10.1.2: with PINGs nothing is idle, without them both sides fall silent and give up."""
    with relayed(site, "simple-p2p --delay=2ms") as relay:
        fields = {"verify": False, "config": quiche_h3.ClientConfig(idle_timeout_ms=600)}
        with (
            quiche_h3.connect(relay.url, keep_alive_s=0.2, **fields) as kept,  # type: ignore[arg-type]
            quiche_h3.connect(relay.url, **fields) as idle,  # type: ignore[arg-type]
        ):
            eventually(lambda: idle.closed, 5)
            download(kept, KIB)


class SwappedAddresses:
    """Carries two clients' datagrams to one server, each from an address of its own, which they can swap."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.near, self.far = ([self.bound() for _ in range(2)] for _ in range(2))
        self.upstream = upstream
        self.clients: dict[socket.socket, Any] = {}
        self.swapped = False
        self.wake, self.stop = socket.socketpair()
        self.thread = threading.Thread(target=self.run)

    @staticmethod
    def bound() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        return sock

    def run(self) -> None:
        while True:
            ready, _, _ = select.select([*self.near, *self.far, self.wake], [], [])
            for sock in ready:
                if sock is self.wake:
                    return
                data, source = sock.recvfrom(65_536)
                far = self.far[::-1] if self.swapped else self.far
                if sock in self.near:
                    self.clients[sock] = source
                    far[self.near.index(sock)].sendto(data, self.upstream)
                else:
                    near = self.near[far.index(sock)]
                    near.sendto(data, self.clients[near])

    def __enter__(self) -> list[str]:
        self.thread.start()
        return [f"https://127.0.0.1:{sock.getsockname()[1]}" for sock in self.near]

    def __exit__(self, *exc: object) -> None:
        self.stop.close()
        self.thread.join()
        for sock in (*self.near, *self.far, self.wake):
            sock.close()


def test_two_clients_swap_addresses(site: Server) -> None:
    """RFC 9000 9.3: connections are told apart by their IDs, and each goes on where the other was."""
    assert site.address is not None
    swap = SwappedAddresses(("127.0.0.1", site.address.port))
    with swap as urls, connect(urls[0]) as first, connect(urls[1]) as second:
        before = site.export_metrics()["connections"]["migrations"]
        for turn in range(6):
            swap.swapped = bool(turn % 2)
            for client in (first, second):
                download(client, 256 * KIB)
        assert site.export_metrics()["connections"]["migrations"] - before == 10
        assert [first.closed, second.closed] == [False, False]


def test_stateless_reset() -> None:
    """RFC 9000 10.3: a server that was killed and started again says so, and the client ends at once."""

    def serve(port: int) -> AbstractContextManager[Process]:
        options = json.dumps({"secret_key": "ab" * 32, "bind_port": port})
        return started([sys.executable, "-m", "net.site", "serve", options], code=None)

    with (
        serve(0) as first,
        Relay("simple-p2p", upstream=("127.0.0.1", first.said["port"])) as relay,
        connect(relay.url) as client,
    ):
        download(client, KIB)
        first.popen.kill()
        first.popen.wait()
        with serve(first.said["port"]):
            begin = time.monotonic()
            with pytest.raises(ConnectionClosed):
                client.get("/bytes/1")
            assert time.monotonic() - begin < 5
