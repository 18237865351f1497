"""The relay itself: what it does to datagrams is what was asked for, and the same each time."""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from client_support import eventually

from .relay import Network, Relay, build, lacking

SIZE = 1200


@contextmanager
def ends(scenario: str, **options: Any) -> Iterator[tuple[Relay, socket.socket, socket.socket]]:
    """A relay, a client's socket connected to it, and the server's socket behind it."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for each in (server, client):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            each.settimeout(5)
        server.bind(("127.0.0.1", 0))
        with Relay(scenario, upstream=server.getsockname(), **options) as relay:
            client.connect(("127.0.0.1", relay.port))
            yield relay, client, server


def numbered(count: int, size: int = SIZE) -> list[bytes]:
    """Datagrams that can be told apart."""
    return [i.to_bytes(4, "big") * (size // 4) for i in range(count)]


def received(end: socket.socket, quiet: float = 0.3) -> list[bytes]:
    """All that comes until nothing has come for a while: that nothing is on its way any more is no event."""
    end.settimeout(quiet)
    out = []
    try:
        while True:
            out.append(end.recv(65_536))
    except TimeoutError:
        return out


def number_of(payload: bytes) -> int:
    return int.from_bytes(payload[-4:], "big")


def send_all(client: socket.socket, payloads: list[bytes]) -> None:
    for i, payload in enumerate(payloads):
        client.send(payload)
        if i % 50 == 49:
            time.sleep(0.001)  # no faster than the kernel hands them on


MIXED = "--reorder=10 --reorder-delay=3ms --duplicate=5 --jitter=4ms"


@pytest.mark.parametrize("scenario", ["drop-rate", "corrupt-rate"])
def test_same_seed_same_log(scenario: str) -> None:
    """The same datagrams under the same seed meet the same fate; under another seed, another."""

    def run(seed: int) -> list[str]:
        words = f"{scenario} --delay=1ms --rate_to_server=20 --rate_to_client=0 --burst_to_server=3 {MIXED}"
        with ends(words, seed=seed) as (relay, client, server):
            send_all(client, numbered(400))
            received(server)
        return [line.split(" ", 2)[2] for line in relay.text]  # without its times

    first = run(7)
    assert len(first) == 400
    assert run(7) == first
    assert run(8) != first


def test_drop_rate() -> None:
    """30 % in bursts of at most 3: the datagram after three lost ones is spared, which makes 29.4 %."""
    with ends("drop-rate --rate_to_server=30 --rate_to_client=0 --burst_to_server=3") as (
        relay,
        client,
        server,
    ):
        send_all(client, numbered(5000, 100))
        came = received(server)
        server.connect(("127.0.0.1", relay.port))
    fates = [datagram.fate for datagram in relay.log]
    assert len(came) == fates.count("forward")
    assert fates.count("drop:rate") / 5000 == pytest.approx(0.294, abs=0.025)
    assert max(len(list(run)) for fate, run in groupby(fates) if fate != "forward") == 3


def test_directions_are_apart() -> None:
    """What is asked for one direction leaves the other alone."""
    with ends("drop-rate --rate_to_server=0 --rate_to_client=100") as (relay, client, server):
        client.send(b"there")
        payload, address = server.recvfrom(100)
        server.sendto(b"back", address)
        assert payload == b"there"
        assert received(client) == []
    assert [(d.direction, d.fate) for d in relay.log] == [("toserver", "forward"), ("toclient", "drop:rate")]


def test_droplist() -> None:
    """Numbers count from 1, each direction its own."""
    with ends("droplist --drops_to_server=2,3,7") as (_, client, server):
        send_all(client, numbered(8))
        assert [number_of(payload) + 1 for payload in received(server)] == [1, 4, 5, 6, 8]


def test_corrupt_rate() -> None:
    """One byte among the first 50 becomes another; Version Negotiation (version 0) is spared."""
    with ends("corrupt-rate --rate_to_server=30 --rate_to_client=0 --burst_to_server=3") as (
        relay,
        client,
        server,
    ):
        sent = numbered(1000)
        send_all(client, sent)
        came = received(server)
        negotiation = b"\x80" + bytes(99)
        send_all(client, [negotiation] * 200)
        assert received(server) == [negotiation] * 200
    wrong = [i for i in range(1000) if sent[i] != came[i]]
    assert wrong == [d.number - 1 for d in relay.log if d.fate == "corrupt"]
    assert 240 <= len(wrong) <= 350
    offsets = []
    for i in wrong:
        different = [at for at in range(SIZE) if sent[i][at] != came[i][at]]
        assert len(different) == 1
        offsets += different
    assert min(offsets) < 5
    assert 45 < max(offsets) < 50


def test_delay() -> None:
    """15 ms there and 15 ms back, and nothing worth mentioning on top."""
    with ends("simple-p2p --delay=15ms") as (_, client, server):
        trips = []
        for _ in range(20):
            begin = time.monotonic()
            client.send(b"ping")
            payload, address = server.recvfrom(100)
            server.sendto(payload, address)
            client.recv(100)
            trips.append(time.monotonic() - begin)
    assert min(trips) >= 0.030
    assert statistics.median(trips) < 0.034


def test_bandwidth() -> None:
    """1 Mbit/s, counting the headers of PPP, IP and UDP (2, 20 and 8 bytes), as on a point-to-point link."""
    with ends("simple-p2p --bandwidth=1Mbps") as (_, client, server):
        begin = time.monotonic()
        send_all(client, numbered(50))
        for _ in range(50):
            server.recv(65_536)
        taken = time.monotonic() - begin
    assert 50 * (SIZE + 30) * 8 / 1e6 <= taken < 0.6


def test_queue() -> None:
    """One datagram on the wire, one in the device, 25 in the queue: the tail is dropped."""
    with ends("simple-p2p --bandwidth=1Mbps --queue=25") as (relay, client, server):
        for payload in numbered(60):
            client.send(payload)
        assert [number_of(payload) for payload in received(server, 1)] == list(range(27))
    assert {datagram.fate for datagram in relay.log[27:]} == {"drop:queue"}


def test_blackhole() -> None:
    """On for a while, then off, counted from the first datagram, in the direction that was said."""
    with ends("blackhole --on=200ms --off=200ms --repeat=1 --direction=toserver") as (relay, client, server):
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < 0.7:
            client.send(int(now * 1000).to_bytes(4, "big"))
            time.sleep(0.01)
        came = [number_of(payload) for payload in received(server)]
        assert not [at for at in came if 210 < at < 390]
        assert len([at for at in came if at < 190]) > 10
        assert len([at for at in came if at > 410]) > 10
    assert {d.fate for d in relay.log} == {"forward", "drop:blackhole"}


@pytest.mark.parametrize("address", [False, True])
def test_rebind(address: bool) -> None:
    """A new port, and address, after 100 ms and then every 200 ms."""
    words = "rebind --first-rebind=100ms --rebind-freq=200ms" + " --rebind-addr" * address
    with ends(words) as (relay, client, server):
        paths: dict[tuple[str, int], None] = {}
        while len(paths) < 4:
            client.send(b"x")
            paths[server.recvfrom(100)[1]] = None
            time.sleep(0.01)
    assert len({host for host, _ in paths}) == (4 if address else 1)
    at = [float(note.split()[0]) for note in relay.notes[:3]]
    assert at == pytest.approx([100, 300, 500], abs=20)


def test_old_binding() -> None:
    """What goes to where a client was is lost, as at a NAT: no error, no delivery."""
    with ends("simple-p2p") as (relay, client, server):
        client.send(b"x")
        old = new = server.recvfrom(100)[1]
        relay.say("rebind")
        while new == old:
            client.send(b"x")
            new = server.recvfrom(100)[1]
        server.sendto(b"to the old path", old)
        server.sendto(b"to the new path", new)
        assert received(client) == [b"to the new path"]


def test_several_clients() -> None:
    """Each client's address is one of its own to the server."""
    with ends("simple-p2p") as (relay, client, server):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            client.send(b"1")
            first = server.recvfrom(10)[1]
            other.sendto(b"2", ("127.0.0.1", relay.port))
            second = server.recvfrom(10)[1]
            server.sendto(b"to 2", second)
            assert other.recv(10) == b"to 2"
        assert first != second
    assert [datagram.flow for datagram in relay.log] == [1, 2, 2]


def test_reorder_duplicate_and_jitter() -> None:
    """So many are late and so many come twice; nothing is lost."""
    with ends(f"simple-p2p {MIXED}") as (relay, client, server):
        send_all(client, numbered(1000))
        came = [number_of(payload) for payload in received(server)]
    assert set(came) == set(range(1000))
    assert 25 <= len(came) - 1000 <= 80
    assert came != sorted(came)
    assert 70 <= sum("late" in datagram.fate for datagram in relay.log) <= 135


def test_mtu_that_shrinks() -> None:
    """IP packets that are larger vanish, from the moment it is said."""
    with ends("simple-p2p") as (relay, client, server):
        client.send(bytes(1400))
        assert len(server.recv(2000)) == 1400
        relay.say("--mtu=1280")
        while received(server, 0.05):  # until what was said was heard
            client.send(bytes(1400))
        client.send(bytes(1253))
        client.send(bytes(1252))
        assert {len(payload) for payload in received(server)} == {1252}
    assert relay.log[-1].passed
    assert relay.log[-2].fate == "drop:mtu"


def test_long_headers_are_in_the_log() -> None:
    """Version and connection IDs can be read off it (RFC 8999 5.1)."""
    with ends("simple-p2p") as (relay, client, server):
        client.send(b"\xc0\0\0\0\x01\x02ab\x02cd" + bytes(200))
        client.send(b"\x40" + bytes(200))
        received(server)
    assert [len(datagram.header) for datagram in relay.log] == [96, 0]
    assert relay.log[0].header.startswith(b"\xc0\0\0\0\x01\x02ab\x02cd")


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        ("", "no scenario"),
        ("no-such", "no such scenario"),
        ("simple-p2p --dealy=1ms", "no such parameter"),
        ("simple-p2p --delay=1", "not understood"),
        ("simple-p2p --bandwidth=0Mbps", "not understood"),
        ("drop-rate --rate_to_client=101", "not understood"),
        ("droplist --drops_to_client=1,x", "not understood"),
        ("blackhole --direction=up", "not understood"),
        ("simple-p2p --rate_to_client=1", "no such parameter"),
    ],
)
def test_scenario_that_is_none(scenario: str, text: str) -> None:
    """What is not understood is refused, and named."""
    command = [str(build()), "--upstream=127.0.0.1:9", scenario]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert text in done.stderr


def test_fast_enough() -> None:
    """100 Mbit/s both ways cost it less than half of one core, so that it is not what is measured."""
    count = 9300  # of 1,350 bytes: 100 Mbit
    with ends("simple-p2p --delay=5ms --bandwidth=1Gbps") as (relay, client, server):
        cpu, begin = relay.process.cpu_seconds(), time.monotonic()
        for i in range(0, count, 100):
            for _ in range(100):
                client.send(bytes(1350))
            for _ in range(100):
                payload, address = server.recvfrom(2000)
                server.sendto(payload, address)
            if i == 0:
                continue
            for _ in range(100):
                client.recv(2000)
        assert relay.process.cpu_seconds() - cpu < 0.5
        assert time.monotonic() - begin < 10
    assert all(datagram.passed for datagram in relay.log)


ECHO = """
import json, socket, struct, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 4433))
s.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
print(json.dumps({}), flush=True)
for _ in range(int(sys.argv[1])):
    data, control, _, address = s.recvmsg(2000, 100)
    tos = control[0][2][0] if control else 0
    s.sendto(json.dumps([address[0], address[1], tos, len(data)]).encode(), address)
"""
ASK = """
import json, socket, sys
for family, level, option, host in [
    (socket.AF_INET, socket.IPPROTO_IP, socket.IP_TOS, sys.argv[1]),
    (socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_TCLASS, sys.argv[2]),
]:
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.setsockopt(level, option, 2)
    s.bind(("", 5000))
    for _ in range(2):
        s.sendto(bytes(1100), (host, 4433))
        print(s.recv(2000).decode(), flush=True)
        if _ == 0:
            sys.stdin.readline()
"""
LACKING = lacking()


@pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
def test_between_namespaces() -> None:
    """Both families; ECN bits arrive (RFC 3168 5), and after a rebinding both address and port are new."""
    with Network("rebind --delay=1ms --rebind-addr") as network:
        python = [sys.executable, "-c"]
        server = subprocess.Popen(
            network.within(network.server, [*python, ECHO, "4"]), stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        server.stdout.readline()
        client = subprocess.Popen(
            network.within(network.client, [*python, ASK, network.SERVER4, network.SERVER6]),
            stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        answers = []
        for _ in range(2):
            answers.append(json.loads(client.stdout.readline()))
            rebinds = len(network.relay.notes)
            network.relay.say("rebind")
            while len(network.relay.notes) == rebinds:
                time.sleep(0.01)
            client.stdin.write("\n")
            client.stdin.flush()
            answers.append(json.loads(client.stdout.readline()))
        assert client.wait(10) == 0
        assert server.wait(10) == 0
    first, second, third, fourth = answers
    assert first == [f"::ffff:{network.CLIENT4}", 5000, 2, 1100]
    assert re.match(r"::ffff:193\.167\.0\.\d+$", second[0])
    assert second[0] != first[0]
    assert second[1] != 5000
    assert second[2:] == [2, 1100]
    assert third[2:] == fourth[2:] == [2, 1100]
    assert third[0] != fourth[0]


@pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
def test_times_count_from_the_first_datagram() -> None:
    """Not from what IPv6 says when an interface comes up: endpoints may start seconds later."""
    with Network("rebind --delay=1ms --first-rebind=200ms") as network:
        eventually(lambda: bool(network.relay.log))
        said = network.relay.log[0]
        assert (said.flow, said.size, said.at) == (0, 0, 0.0)
        time.sleep(0.5)  # that nothing happens is no event
        assert not any("rebind" in note for note in network.relay.notes)
        send = "import socket, sys; socket.socket(2, 2).sendto(b'now', (sys.argv[1], 443))"
        subprocess.run(
            network.within(network.client, [sys.executable, "-c", send, network.SERVER4]), check=True
        )
        eventually(lambda: any("rebind" in note for note in network.relay.notes))


def test_it_is_built_once(tmp_path: Path) -> None:
    """The program is kept outside the clone, under the hash of its sources."""
    assert build() == build()
    assert Path(__file__).parent not in build().parents
