"""Single frames and packets that want more than they are entitled to."""

from __future__ import annotations

import random
import time

import pytest
from conformance import wire
from conformance.peer import MemoryServer, Peer

from quiche_h3.errors import H3ErrorCode

from .support import MIB, count, is_well, make_server, metrics, resident

CONNECTION_ID_LIMIT, PROTOCOL_VIOLATION = 0x09, 0x0A


def ack(largest: int, first_range: int = 0, ranges: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An ACK frame (RFC 9000 19.3)."""
    head = b"\x02" + b"".join(map(wire.varint, (largest, 0, len(ranges), first_range)))
    return head + b"".join(wire.varint(gap) + wire.varint(length) for gap, length in ranges)


def new_connection_id(sequence: int, retire: int) -> bytes:
    """NEW_CONNECTION_ID (RFC 9000 19.15)."""
    cid = sequence.to_bytes(8, "big")
    return b"\x18" + wire.varint(sequence) + wire.varint(retire) + bytes([len(cid)]) + cid + cid + cid


def test_an_acknowledgement_of_what_was_never_sent() -> None:
    """Attack row 15, CVE-2025-4820 and -4821: PROTOCOL_VIOLATION (RFC 9000 13.1)."""
    with make_server() as server:
        peer = Peer(server).open()
        peer.inject(ack(100_000))
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (PROTOCOL_VIOLATION, False)
        is_well(server)


def test_acknowledgements_in_sixty_ranges() -> None:
    """Attack row 16: a packet full of ACK ranges costs less than 50 us, and leaves nothing."""
    with make_server() as server:
        peer = Peer(server).open()
        for i in range(200):
            peer.fetch(wire.get(), 4 * i)
        largest = peer.quic._spaces[list(peer.quic._spaces)[-1]].largest_received_packet
        frame = ack(largest, 0, tuple((0, 0) for _ in range(min(largest // 2 - 1, 60))))
        assert largest > 120
        packets = [peer.packet(frame * 6) for _ in range(count(20_000, 2000))]
        before, began = resident(), time.thread_time()
        for packet in packets:
            server.give(packet, peer.address)
        spent = (time.thread_time() - began) / len(packets)
        peer.pump()
        assert peer.closed is None
        assert spent < 50e-6, f"{spent * 1e6:.0f} us for 360 ranges"
        assert resident() - before < MIB
        is_well(server)


def test_priority_updates_in_masses() -> None:
    """Attack row 29, RFC 9218 7: more than the bucket holds close the connection; those of a page do not."""
    update = wire.frame(0xF0700, wire.varint(4) + b"u=1")  # PRIORITY_UPDATE of stream 4
    with make_server(priority_updates_per_second=50) as server:
        peer = Peer(server).open()
        peer.send(2, update * 400)
        peer.pump()
        assert peer.closed is None
        assert peer.fetch(wire.get()).body == b"Hello"
        peer.send(2, update * 2000)
        peer.pump()
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (H3ErrorCode.H3_EXCESSIVE_LOAD, True)
        assert metrics(server, "http3")["update_floods"] == 1
        is_well(server)


@pytest.mark.parametrize("retiring", [False, True])
def test_connection_ids_in_masses(retiring: bool) -> None:
    """Attack row 13, CVE-2024-1410 and -22189: more than we store is 0x09; retired ones leave nothing."""
    with make_server() as server:
        peer = Peer(server).open()
        before = resident()
        for sequence in range(100, 100 + 2000, 10):
            if peer.closed is not None:
                break
            ids = range(sequence, sequence + 10)
            peer.server.give(
                peer.packet(b"".join(new_connection_id(i, i if retiring else 0) for i in ids)), peer.address
            )
            peer.turn()  # nothing is acknowledged
        if not retiring:  # else there are never more than one
            assert peer.closed is not None
            assert (peer.closed.code, peer.closed.app) == (CONNECTION_ID_LIMIT, False)
        assert resident() - before < MIB
        is_well(server)


def first_flight(server: MemoryServer) -> tuple[Peer, list[bytes]]:
    peer = Peer(server).start()
    return peer, [payload for payload, _ in peer.quic.datagrams_to_send(time.monotonic())]


def test_initials_that_only_look_good() -> None:
    """Attack row 5, CVE-2025-54939: what does not decrypt leaves no connection, gets no answer."""
    rng = random.Random(5)
    with make_server(max_half_open_per_address=0, new_connections_per_address=0) as server:
        flights = [first_flight(server)[1][0] for _ in range(20)]

        def attack(number: int) -> None:
            for i in range(number):
                packet = bytearray(flights[i % 20])
                packet[rng.randrange(60, 1200)] ^= 1 + rng.randrange(255)
                packet[6:14] = rng.randbytes(8)  # the keys are made from the connection ID
                server.give(bytes(packet), ("198.51.100.7", 1024 + i % 60_000))
                server.turn()

        attack(500)
        before = resident()
        attack(count(100_000, 3000))
        assert not server.connections
        assert not server.answers
        assert resident() - before < MIB
        is_well(server)


def test_packets_of_others_behind_an_initial() -> None:
    """Attack row 6, RFC 9000 12.2: coalesced packets of another connection ID begin no second one."""
    with make_server() as server:
        _, (one, *_) = first_flight(server)
        _, (other, *_) = first_flight(server)
        server.give(one + other, ("198.51.100.8", 4444))
        server.turn()
        assert len(server.connections) == 1
        assert metrics(server, "connections")["accepted"] == 1


def test_datagrams_of_every_size() -> None:
    """Attack rows 1 and 45: from one byte to 65,507, other protocols: no state, few answers."""
    with make_server() as server:
        dns = bytes.fromhex("123401000001000000000000076578616d706c6503636f6d0000010001")
        junk = [bytes([fill]) * size for fill in (0, 0x40, 0x80, 0xFF) for size in (1, 2, 20, 1200, 65_507)]
        sent = [*junk, dns, b"GET / HTTP/1.1\r\n\r\n"] * 50
        for payload in sent:
            server.give(payload, ("198.51.100.9", 53))
            server.turn()
        assert not server.connections
        answered = sum(map(len, server.take(("198.51.100.9", 53))))
        assert answered < sum(map(len, sent)) // 100
        is_well(server)
