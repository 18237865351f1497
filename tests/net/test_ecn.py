"""ECN end to end (RFC 9000 13.4): over networks that show marks as they are, clear, change or set them."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from client_support import MIB

from .site import connect, download, make_site, upload

NOT_ECT, ECT1, ECT0, CE = range(4)


@contextmanager
def network(upstream: tuple[str, int], codepoint: int, seen: set[int]) -> Iterator[int]:
    """A relay on the loopback that sends with this codepoint, both ways. Yields the port for clients.

    The codepoints with which packets come, from either side, are added to `seen`.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside,
        selectors.DefaultSelector() as selector,
    ):
        inside.bind(("127.0.0.1", 0))
        outside.bind(("127.0.0.1", 0))
        for sock in (inside, outside):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, codepoint)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
            selector.register(sock, selectors.EVENT_READ)
        ended = threading.Event()

        def receive(sock: socket.socket) -> tuple[bytes, Any]:
            data, ancillary, _, sender = sock.recvmsg(65_536, socket.CMSG_SPACE(4))
            seen.update(value[0] & 3 for _, kind, value in ancillary if kind == socket.IP_TOS)
            return data, sender

        def work() -> None:
            client = None
            while not ended.is_set():
                for key, _ in selector.select(0.05):
                    if key.fileobj is inside:
                        data, client = receive(inside)
                        outside.sendto(data, upstream)
                    elif client is not None:
                        inside.sendto(receive(outside)[0], client)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield inside.getsockname()[1]
        finally:
            ended.set()
            thread.join()


def transfer(codepoint: int, **fields: Any) -> tuple[dict[str, Any], dict[str, Any], set[int]]:
    """4 MiB up and down over such a network: client's statistics, server's metrics, codepoints of both."""
    server = make_site(**fields)
    seen: set[int] = set()
    with (
        server.running() as address,
        network((address.host, address.port), codepoint, seen) as port,
        connect(f"https://127.0.0.1:{port}", **fields) as client,
    ):
        upload(client, 4 * MIB)
        download(client, 4 * MIB)
        return client.stats(), server.export_metrics(), seen


def test_marks_that_arrive() -> None:
    """Both sides go on marking, and nothing was congested."""
    client, server, seen = transfer(ECT0)
    assert seen == {ECT0}
    assert (client["ecn_failed"], client["ecn_congestion"]) == (0, 0)
    assert (server["connections"]["ecn_failed"], server["connections"]["ecn_congestion"]) == (0, 0)
    assert server["engine"]["ecn_received"] > 1000
    assert server["engine"]["ecn_ce_received"] == 0


@pytest.mark.parametrize("codepoint", [NOT_ECT, ECT1])
def test_marks_that_do_not(codepoint: int) -> None:
    """RFC 9000 13.4.2.1: cleared or changed on the way, validation fails; the transfer is whole."""
    client, server, _ = transfer(codepoint)
    assert client["ecn_failed"] == server["connections"]["ecn_failed"] == 1


def test_congestion() -> None:
    """RFC 9002 7.1: every packet is marked for congestion. Both sides learn of it, and go on marking."""
    client, server, _ = transfer(CE)
    assert client["ecn_failed"] == server["connections"]["ecn_failed"] == 0
    assert client["ecn_congestion"] > 500
    assert server["connections"]["ecn_congestion"] > 500
    assert server["engine"]["ecn_ce_received"] == server["engine"]["ecn_received"]


@pytest.mark.parametrize("fields", [{"ecn": False}, {"cc_algorithm": "bbr2_gcongestion"}])
def test_nothing_is_marked(fields: dict[str, Any]) -> None:
    """Where it is not wanted, or would not be heeded; marks that come all the same do no harm."""
    client, server, seen = transfer(ECT0, **fields)
    assert seen == {NOT_ECT}
    assert (client["ecn_failed"], client["ecn_congestion"]) == (0, 0)
    assert server["engine"]["ecn_received"] > 0


@pytest.mark.parametrize("fields", [{"gso": False, "gro": False}, {}])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_what_the_kernel_is_told(host: str, fields: dict[str, Any]) -> None:
    """ECT(0) is set and seen on IPv4, IPv6, and IPv4 by a dual-stack socket, with and without GSO."""
    bind = host if host == "127.0.0.1" else "::"
    server = make_site(bind_addr=bind, **fields)
    with server.running() as address:
        url = f"https://[::1]:{address.port}" if host == "::1" else f"https://127.0.0.1:{address.port}"
        with connect(url, **fields) as client:
            upload(client, MIB)
            download(client, MIB)
            assert client.stats()["ecn_failed"] == 0
        engine, connections = (server.export_metrics()[name] for name in ("engine", "connections"))
        assert engine["ecn_received"] == engine["datagrams_received"] > 100
        assert connections["ecn_failed"] == 0
