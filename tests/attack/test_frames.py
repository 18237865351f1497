"""Single frames and packets that want more than they are entitled to."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from aioquic.tls import Epoch
from conformance import wire
from conformance.peer import MemoryServer, Peer

from quiche_h3.errors import H3ErrorCode

from .support import MIB, count, is_well, make_server, metrics, resident, wait

CONNECTION_ID_LIMIT, PROTOCOL_VIOLATION = 0x09, 0x0A


def ack(largest: int, first_range: int = 0, ranges: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An ACK frame (RFC 9000 19.3)."""
    head = b"\x02" + b"".join(map(wire.varint, (largest, 0, len(ranges), first_range)))
    return head + b"".join(wire.varint(gap) + wire.varint(length) for gap, length in ranges)


def new_connection_id(sequence: int, retire: int) -> bytes:
    """NEW_CONNECTION_ID (RFC 9000 19.15)."""
    cid = sequence.to_bytes(8, "big")
    return b"\x18" + wire.varint(sequence) + wire.varint(retire) + bytes([len(cid)]) + cid + cid + cid


def talk(peer: Peer, until: Callable[[], bool]) -> None:
    """Has the peer acknowledge whatever comes, at once."""
    end = time.process_time() + 20
    while not until():
        assert time.process_time() < end
        assert peer.closed is None
        peer.quic.send_ping(1)
        peer.pump(until)


def test_an_acknowledgement_of_what_was_never_sent() -> None:
    """Attack row 15, CVE-2025-4820 and -4821: PROTOCOL_VIOLATION (RFC 9000 13.1)."""
    with make_server() as server:
        peer = Peer(server).open()
        peer.inject(ack(100_000))
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (PROTOCOL_VIOLATION, False)
        is_well(server)


def test_an_acknowledgement_of_a_number_that_was_skipped() -> None:
    """Attack row 15, CVE-2025-4820: who acknowledges ahead of what came walks into it (RFC 9000 21.4)."""
    with make_server() as server:
        peer = Peer(server).open()
        received = peer.quic._spaces[Epoch.ONE_RTT].ack_queue
        peer.send(0, wire.get(b"/big"), True)
        talk(peer, lambda: len(received) > 1)
        lowest, largest = received[0].start, received[-1].stop - 1
        peer.inject(ack(largest, largest - lowest))

        def closed() -> bool:
            peer.pump()  # the burst that was sent may have to be over first
            return peer.closed is not None

        wait(server, closed)
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (PROTOCOL_VIOLATION, False)
        is_well(server)


def test_a_source_address_that_is_spoofed() -> None:
    """Attack row 37, RFC 9000 9.3: a packet sent on from elsewhere brings three times its size at most there.

    The client itself is served on, at its own address.
    """
    victim = ("203.0.113.7", 777)
    with make_server() as server:
        peer = Peer(server).open()
        peer.send(0, wire.get(b"/big"), True)
        talk(peer, lambda: len(peer.answer(0).data) > 100_000)
        packet = peer.packet(b"\x01" + bytes(100))
        server.give(packet, victim)
        for _ in range(20):
            server.turn()
        before = len(peer.answer(0).data)
        talk(peer, lambda: len(peer.answer(0).data) > before + 100_000)
        sent = sum(map(len, server.take(victim)))
        assert 0 < sent <= 3 * len(packet)


def test_acknowledgements_in_sixty_ranges() -> None:
    """Attack row 16: a packet full of ACK ranges costs less than 50 us, and leaves nothing."""
    with make_server() as server:
        peer = Peer(server).open()
        space, numbers = peer.quic._spaces[Epoch.ONE_RTT], [0]
        for i in range(250):
            peer.fetch(wire.get(), 4 * i)
            if (came := space.largest_received_packet) > numbers[-1] + 1:
                numbers.append(came)  # none that the server skipped, see above
        numbers = numbers[:-62:-1]
        assert len(numbers) == 61
        frame = ack(numbers[0], 0, tuple((high - low - 2, 0) for high, low in pairwise(numbers)))
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


GREASE = wire.frame(0x21)


@pytest.mark.parametrize(
    ("stream_id", "before", "frame"),
    [
        pytest.param(0, b"", GREASE, id="unknown frames"),
        pytest.param(
            0, wire.headers(wire.request(b"/upload", b"POST")), wire.frame(wire.DATA), id="empty DATA"
        ),
        pytest.param(2, b"", wire.frame(wire.MAX_PUSH_ID, b"\0"), id="MAX_PUSH_ID"),
        pytest.param(2, b"", wire.frame(wire.GOAWAY, b"\0"), id="GOAWAY"),
    ],
)
def test_frames_that_bring_nothing_in_masses(stream_id: int, before: bytes, frame: bytes) -> None:
    """Attack row 30, CVE-2019-9518, RFC 9114 10.5: ten times what a second allows is taken, no frame more."""
    with make_server(idle_frames_per_second=50) as server:
        peer = Peer(server).open()
        peer.send(stream_id, before + frame * 499)
        peer.pump()
        assert peer.closed is None
        assert peer.fetch(wire.get(), 4).body == b"Hello"
        peer.send(stream_id, frame * 2000)
        peer.pump()
        assert peer.closed is not None
        assert (peer.closed.code, peer.closed.app) == (H3ErrorCode.H3_EXCESSIVE_LOAD, True)
        wait(server, lambda: metrics(server, "http3")["idle_frame_floods"] == 1)
        is_well(server)


def test_streams_of_unknown_types_in_masses() -> None:
    """Attack row 30: they are counted like unknown frames."""
    with make_server(idle_frames_per_second=5) as server:
        peer = Peer(server).open()
        for stream_id in range(14, 14 + 4 * 1000, 4):
            if peer.closed is not None:
                break
            assert stream_id < 14 + 4 * 60
            peer.send(stream_id, b"\x21junk", True)
            peer.quic.send_ping(1)
            peer.pump()
        assert peer.closed is not None
        assert peer.closed.code == H3ErrorCode.H3_EXCESSIVE_LOAD
        is_well(server)


def test_frames_that_bring_nothing_beside_requests() -> None:
    """Two for each request, however many requests, and what a second allows again in the next."""
    with make_server(idle_frames_per_second=100) as server:
        peer = Peer(server).open()
        for i in range(1000):
            answer = peer.fetch(GREASE * 2 + wire.get(), 4 * i)
            assert answer.body == b"Hello"
            del peer.answers[4 * i]
        peer.send(2, GREASE * 1000)
        peer.pump()
        end = time.monotonic() + 0.3
        wait(server, lambda: time.monotonic() > end)
        peer.send(2, GREASE * 20)
        peer.pump()
        assert peer.closed is None
        assert metrics(server, "http3")["idle_frame_floods"] == 0


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
