"""The endpoint: accepting, refusing, the stateless answers, connection IDs, deadlines, ending."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest

from quiche_h3._core.endpoint import Endpoint
from quiche_h3._core.http3_stream import Stream
from quiche_h3._core.settings import EngineSettings
from quiche_h3._core.udp import UdpSocket
from quiche_h3.config import ClientConfig

from .pair import CLIENT, SERVER, Address, App, Pair, initial

MakePair = Callable[..., Pair]
VERSIONS = b"\0\0\0\1\x6b\x33\x43\xcf"


def first_flight(pair: Pair) -> list[bytes]:
    """The udp payloads with which a client begins; they do not reach the server."""
    pair.client.connect(0, SERVER, "localhost")
    pair.client.turn()
    return [payload for payload, _, _ in pair.client_socket.take()]


# Accepting


def test_a_handshake_completes_on_both_sides(pair: Pair) -> None:
    """RFC 9001 4.1: both sides see the connection, its names and its addresses."""
    connection = pair.connect()
    (accepted,) = pair.server.connections.values()
    assert pair.server_app.opened == [accepted]
    assert pair.client_app.opened == [connection]
    assert (accepted.alpn, accepted.server_name) == ("h3", "localhost")
    assert accepted.peer_address == CLIENT
    assert accepted.local_address == SERVER
    assert connection.peer_address == SERVER
    counters = pair.counters()
    assert (counters["accepted"], counters["half_open"]) == (1, 0)


def test_the_server_chooses_its_own_connection_ids(make_pair: MakePair) -> None:
    """RFC 9000 7.2: the server's source connection ID is random and as long as configured, 16 to 20 bytes."""
    for length in (16, 20):
        pair = make_pair(server={"connection_id_length": length})
        pair.down.record = True
        pair.connect()
        first = pair.down.seen[0][1]
        assert first[6 + first[5]] == length


def test_max_connections(make_pair: MakePair) -> None:
    """Beyond `max_connections` an Initial costs nothing; when one has gone, the next is served."""
    pair = make_pair(server={"max_connections": 1})
    first = pair.connect()
    pair.client.connect(0, SERVER, "localhost")
    pair.settle()
    assert pair.counters()["refused"] > 0
    assert len(pair.server.connections) == 1
    first.close()
    pair.run(lambda: len(pair.server_app.closed) == 1)
    pair.connect()


def test_refuse_new(pair: Pair) -> None:
    """RFC 9000 5.2.2: a server that shuts down serves those it has, and tells others so at once."""
    connection = pair.connect()
    pair.server.refuse_new()
    assert pair.server.refusing
    refused = pair.client.connect(0, SERVER, "localhost")
    pair.run(lambda: refused.close_reason)
    assert refused.close_reason is not None
    assert (refused.close_reason.app, refused.close_reason.code) == (False, 0x02)
    counters = pair.counters()
    assert counters["refused"] >= counters["refusals_sent"] >= 1
    assert len(pair.server.connections) == 1
    assert pair.fetch(connection).body == b"Hello"


def test_refusals_are_rate_limited(make_pair: MakePair) -> None:
    """RFC 9000 21.11: of a flood few are told, with no more bytes than they sent, and nothing is kept."""
    pair = make_pair(server={"refusals_per_second": 1})
    (flight, *_) = first_flight(pair)
    pair.server.refuse_new()
    answers = [pair.give_server(flight) for _ in range(20)]
    assert sum(map(bool, answers)) == 2
    assert all(sum(map(len, answer)) <= len(flight) for answer in answers)
    assert pair.counters()["rate_limited"] == 18
    assert not pair.server.connections


# Admission: what one address may take


def test_connections_of_one_address(make_pair: MakePair) -> None:
    """`max_connections_per_address`: one address is refused the next, another one, in another /64, is not."""
    pair = make_pair(server={"max_connections_per_address": 2})
    pair.connect()
    first = pair.connect()
    refused = pair.client.connect(0, SERVER, "localhost")
    pair.run(lambda: refused.close_reason)
    assert pair.counters()["refused_by_address"] >= 1
    pair.nat = ("198.51.100.1", 5000)
    pair.connect()
    pair.nat = CLIENT
    first.close()
    pair.run(lambda: len(pair.server.connections) == 2)
    pair.connect()


def test_new_connections_of_one_address(make_pair: MakePair) -> None:
    """`new_connections_per_address`: twice as many at once; then Retry, and with its proof as many again."""
    pair = make_pair(server={"new_connections_per_address": 2})
    for _ in range(4):
        pair.connect()
    assert pair.counters()["retries_sent"] == 0
    for _ in range(4):
        pair.connect()
    assert pair.counters()["retries_sent"] >= 4
    refused = pair.client.connect(0, SERVER, "localhost")
    pair.run(lambda: refused.close_reason)
    assert pair.counters()["refused_by_address"] >= 1


def test_a_spoofed_flood_keeps_nobody_out(make_pair: MakePair) -> None:
    """RFC 9000 8.1: what comes from a client's address without proof does not count against the client."""
    pair = make_pair(server={"max_half_open_per_address": 3, "new_connections_per_address": 5})
    held = Pair(pair.certificate)
    for _ in range(40):
        pair.server.receive_udp_payload(0, first_flight(held)[0], CLIENT)
    pair.server_socket.take()
    counters = pair.counters()
    assert (counters["half_open"], counters["retries_sent"]) == (3, 37)
    assert pair.fetch(pair.connect()).body == b"Hello"


def test_addresses_are_counted_by_their_64_bits(make_pair: MakePair) -> None:
    """An IPv6 client owns a /64, an IPv4 client an address, mapped ones too; loopback is not limited."""
    pair = make_pair(server={"max_half_open_per_address": 1, "max_unproven_per_turn": 0})
    held = Pair(pair.certificate)

    def accepted(*hosts: str) -> int:
        before = pair.counters()["accepted"]
        for i, host in enumerate(hosts):
            pair.server.receive_udp_payload(0, first_flight(held)[0], (host, 6000 + i))
        return pair.counters()["accepted"] - before

    assert accepted("2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3") == 1
    assert accepted("2001:db8:0:1::1", "2001:db8:0:2::1") == 2
    assert accepted("198.51.100.1", "198.51.100.1", "198.51.100.2") == 2
    assert accepted("::ffff:203.0.113.1", "::ffff:203.0.113.2", "::ffff:203.0.113.2") == 2
    assert accepted("127.0.0.1", "127.0.0.1", "::1", "::1") == 4


def test_few_unproven_handshakes_in_a_turn(make_pair: MakePair) -> None:
    """Attack row 4: a flood that comes at once begins so many TLS handshakes; the others wait for proof."""
    pair = make_pair(server={"max_unproven_per_turn": 3})
    held = Pair(pair.certificate)

    def begin(number: int) -> tuple[int, int]:
        before = pair.counters()
        for i in range(number):
            pair.server.receive_udp_payload(0, first_flight(held)[0], (f"198.51.100.{i + 1}", 6000))
        after = pair.counters()
        pair.server.turn()
        return after["accepted"] - before["accepted"], after["retries_sent"] - before["retries_sent"]

    assert begin(5) == (3, 2)
    assert begin(3) == (3, 0)
    assert begin(4) == (3, 1)
    assert pair.fetch(pair.connect()).body == b"Hello"


def test_too_many_unfinished_handshakes(make_pair: MakePair) -> None:
    """At twice `half_open_retry_threshold` even a proven address starts nothing, and gets no answer."""
    pair = make_pair(server={"half_open_retry_threshold": 2})
    held = Pair(pair.certificate)
    for i in range(4):
        source = ("198.51.100.9", 7000 + i)
        held.client.connect(0, SERVER, "localhost")
        held.client.turn()
        for payload, _, _ in held.client_socket.take():
            for answer in pair.give_server(payload, source):
                if i >= 2:  # a Retry
                    held.client.receive_udp_payload(0, answer, SERVER)
        held.client.turn()
        for payload, _, _ in held.client_socket.take():
            pair.server.receive_udp_payload(0, payload, source)
        pair.server_socket.take()
    before = pair.counters()
    assert before["half_open"] == 4
    assert pair.give_server(first_flight(held)[0]) == []
    after = pair.counters()
    assert after["half_open_dropped"] > before["half_open_dropped"]
    assert (after["half_open"], after["retries_sent"]) == (4, before["retries_sent"])
    pair.server.drop_all()
    pair.connect()


def test_initials_of_a_known_connection_have_their_size_too(pair: Pair) -> None:
    """RFC 9000 14.1: a server drops an Initial packet in a datagram under 1,200 bytes, whoever sends it."""
    flight = first_flight(pair)
    pair.server.receive_udp_payload(0, flight[0], CLIENT)
    pair.server.receive_udp_payload(0, flight[0][:1199], CLIENT)
    assert pair.counters()["short_initials_dropped"] == 1


def test_a_handshake_has_a_size(make_pair: MakePair) -> None:
    """`max_handshake_bytes`: a client that goes on without an end is given up, and told."""
    pair = make_pair(server={"max_handshake_bytes": 4096})
    (flight, *_) = first_flight(pair)
    for _ in range(3):
        pair.give_server(flight)
    assert pair.counters()["half_open"] == 1
    pair.give_server(flight)
    counters = pair.counters()
    assert (counters["half_open"], counters["handshake_overruns"], counters["handshake_failed"]) == (0, 1, 1)


# Stateless answers


def test_version_negotiation_swaps_the_connection_ids(pair: Pair) -> None:
    """RFC 9000 17.2.1, RFC 8999 6: any lengths come back swapped, zero included, and our versions."""
    for dcid, scid in ((b"\x01" * 8, b"\x02" * 5), (b"", b""), (b"\x03" * 255, b"\x04" * 255)):
        (answer,) = pair.give_server(initial(dcid, scid, version=0x57414954))
        assert answer[0] & 0x80
        assert answer[1:5] == bytes(4)
        assert answer[5:] == bytes([len(scid)]) + scid + bytes([len(dcid)]) + dcid + VERSIONS


def test_version_negotiation_lists_what_is_configured(make_pair: MakePair) -> None:
    """RFC 9000 6.1: a server of version 1 alone says so to a client that begins in version 2."""
    (answer,) = make_pair(server={"quic_versions": ["1"]}).give_server(initial(version=0x6B3343CF))
    assert answer.endswith(b"\0\0\0\1")


def test_no_version_negotiation_where_it_must_not_be(pair: Pair) -> None:
    """RFC 9000 5.2.2, 6.1: not for short datagrams, not for version 0, not for version 1."""
    assert pair.give_server(initial(version=0x57414954, size=1199)) == []
    assert pair.give_server(initial(version=0)) == []
    assert pair.give_server(initial()) == []
    assert pair.counters()["version_negotiations_sent"] == 0


def test_stateless_replies_are_rate_limited(pair: Pair) -> None:
    """RFC 9000 21.11: a flood earns a bounded number of answers."""
    for _ in range(1500):
        pair.server.receive_udp_payload(0, initial(version=0x57414954), ("198.51.100.9", 9))
    counters = pair.counters()
    assert counters["version_negotiations_sent"] < 1400
    assert counters["rate_limited"] == 1500 - counters["version_negotiations_sent"]


def test_retry_always(make_pair: MakePair) -> None:
    """RFC 9000 8.1.2: with `enable_retry` every client proves its address first, and then gets through."""
    pair = make_pair(server={"enable_retry": True})
    connection = pair.connect()
    counters = pair.counters()
    assert counters["retries_sent"] >= 1  # one for each packet of the client's first flight
    assert (counters["accepted"], counters["retry_tokens_rejected"]) == (1, 0)
    assert pair.fetch(connection).body == b"Hello"


def test_retry_above_the_half_open_threshold(make_pair: MakePair) -> None:
    """With `half_open_retry_threshold` unfinished handshakes Retry is on by itself, and off again below."""
    pair = make_pair(server={"half_open_retry_threshold": 3})
    held = Pair(pair.certificate)  # lends its client: its handshakes never go on
    for _ in range(5):
        pair.give_server(first_flight(held)[0])
    counters = pair.counters()
    assert (counters["half_open"], counters["retries_sent"]) == (3, 2)
    pair.connect()
    retries = pair.counters()["retries_sent"]
    assert retries > 2
    pair.server.drop_all()
    pair.connect()
    assert pair.counters()["retries_sent"] == retries


def test_a_retry_is_smaller_than_what_it_answers(make_pair: MakePair) -> None:
    """RFC 9000 8.1: nothing is amplified, and no state is kept."""
    pair = make_pair(server={"enable_retry": True})
    (flight, *_) = first_flight(pair)
    (retry,) = pair.give_server(flight)
    assert len(retry) < len(flight)
    assert not pair.server.connections
    assert pair.server.deadline() is None


def test_a_client_closes_on_a_stateless_reset(make_pair: MakePair) -> None:
    """RFC 9000 10.3: a server that forgot the connection resets it with the token that it once gave out."""
    pair = make_pair(server={"secret_key": bytes(range(32))})
    connection = pair.connect()
    pair.new_server()
    connection.send_ping()
    pair.run(lambda: connection.closed, timeout=3)
    assert pair.counters()["stateless_resets_sent"] >= 1


def test_a_foreign_stateless_reset_changes_nothing(make_pair: MakePair) -> None:
    """RFC 9000 10.3: a server with another key cannot reset the connection."""
    pair = make_pair(server={"secret_key": bytes(range(32))})
    connection = pair.connect()
    server, socket = pair.server, pair.server_socket
    pair.server_config.secret_key = bytes(32)
    pair.new_server()
    connection.send_ping()
    pair.settle()
    assert pair.counters()["stateless_resets_sent"] >= 1
    pair.server, pair.server_socket = server, socket
    assert pair.fetch(connection).body == b"Hello"


def test_a_stateless_reset_is_shorter_than_its_cause(pair: Pair) -> None:
    """RFC 9000 10.3.3: two endpoints cannot reset each other for ever; nothing answers 21 bytes or less."""
    for size in (17, 20, 21, 22, 30, 43, 44, 1200):
        answers = pair.give_server(b"\x40" + bytes(size - 1))
        assert all(21 <= len(answer) < size for answer in answers)
        assert len(answers) == (size > 21)


def test_no_stateless_reset_when_switched_off(make_pair: MakePair) -> None:
    """`stateless_reset=False` keeps the server silent."""
    pair = make_pair(server={"stateless_reset": False})
    assert pair.give_server(b"\x40" + bytes(100)) == []


def test_amplification_limit(pair: Pair) -> None:
    """RFC 9000 8.1: before the address is proven at most three times the bytes received are sent."""
    (flight, *_) = first_flight(pair)
    source = ("198.51.100.9", 9999)
    sent = sum(map(len, pair.give_server(flight, source)))
    assert sent > 0
    until = pair.server.deadline()
    for _ in range(3):  # the probe timeouts must not go beyond it either
        until = pair.server.deadline()
        assert until is not None
        pair.wait(until / 1e9 + 0.001)
        pair.server.turn()
        sent += sum(len(payload) for payload, _, _ in pair.server_socket.take())
    assert sent <= 3 * len(flight)


# Coalesced packets


def test_what_follows_a_packet_without_keys_is_processed(pair: Pair) -> None:
    """RFC 9000 12.2: a client that has not heard yet that the handshake is over coalesces its first 1-RTT
    packets, and the datagrams in them, with packets whose keys the server has discarded."""
    connection = pair.connect()

    def coalesce(payload: bytes, source: Address, to: Address) -> bool:
        dcid = payload[1:17]
        pair.server.receive_udp_payload(0, initial(dcid) + payload, source, to)
        return False

    pair.up.hook = coalesce
    connection.context.send_datagram(b"the first")
    pair.step()
    assert pair.server_app.datagrams == [b"the first"]


def test_what_follows_a_damaged_packet_is_processed(pair: Pair) -> None:
    """RFC 9000 12.2: the Handshake packet behind an Initial packet that was damaged ends the handshake."""
    states: list[bool] = []

    def damage(payload: bytes, source: Address, to: Address) -> bool:
        if not pair.down.sent:
            return True
        assert payload[0] & 0xF0 == 0xC0
        pair.up.hook = None
        pair.server.receive_udp_payload(0, payload[:50] + bytes([payload[50] ^ 1]) + payload[51:], source, to)
        pair.server.turn()
        states.extend(c.established for c in pair.server.connections.values())
        return False

    pair.up.hook = damage
    pair.connect()
    assert states == [True]


# Deadlines


def test_handshake_timeout(make_pair: MakePair) -> None:
    """A client that stops in mid-handshake is dropped after `handshake_timeout_ms`, with few wake-ups."""
    pair = make_pair(server={"handshake_timeout_ms": 150})
    for payload in first_flight(pair):
        pair.up.send(payload, CLIENT, SERVER)
    pair.down.loss = 1.0
    pair.client.drop_all()
    pair.run(lambda: pair.counters()["accepted"])
    before = pair.turns
    pair.run(lambda: not pair.server.connections, timeout=2)
    counters = pair.counters()
    assert (counters["handshake_failed"], counters["half_open"]) == (1, 0)
    assert pair.turns - before < 30
    assert pair.server.deadline() is None


def test_client_connect_timeout(make_pair: MakePair) -> None:
    """A server that does not answer is given up after `connect_timeout_ms`, with few wake-ups."""
    pair = make_pair(client={"connect_timeout_ms": 150})
    pair.up.loss = 1.0
    connection = pair.client.connect(0, SERVER, "localhost")
    pair.run(lambda: connection.closed, timeout=2)
    assert pair.client_app.closed == [connection]
    assert connection.close_reason is not None
    assert connection.close_reason.reason == b"handshake timeout"
    assert pair.turns < 30


def test_idle_timeout(make_pair: MakePair) -> None:
    """RFC 9000 10.1: a silent connection goes by itself on both sides."""
    pair = make_pair(server={"idle_timeout_ms": 200})
    connection = pair.connect()
    pair.run(lambda: connection.closed and not pair.server.connections, timeout=3)
    assert pair.counters()["timed_out"] == 1
    reason = pair.server_app.closed[0].close_reason
    assert reason is not None
    assert reason.reason == b"idle timeout"


# Connection IDs and paths


def test_nat_rebinding(make_pair: MakePair) -> None:
    """RFC 9000 9.3: twenty changes of the client's address in one transfer, and the transfer goes on."""
    pair = make_pair()
    body = random.Random(4).randbytes(8 << 20)
    pair.server_app.answer_with(body)
    connection = pair.connect()
    handler = pair.request(connection)
    (accepted,) = pair.server_app.opened
    for i in range(20):
        pair.nat = (f"192.0.2.{10 + i}", 6000 + i)
        connection.send_ping()  # whoever says nothing from there cannot be found there
        pair.run(lambda: accepted.peer_address == pair.nat)
        pair.run_until_body(handler, len(body) * (i + 1) // 22)
    pair.run(lambda: handler.finished)
    assert handler.body == body
    assert pair.counters()["migrations"] == 20


def test_connection_ids_are_issued_and_freed(pair: Pair) -> None:
    """RFC 9000 5.1: as many as the peer takes while it lives, none when it is gone."""
    connection = pair.connect()
    pair.run(lambda: pair.counters()["cids"] == 9)  # eight, and the one that the client began with
    connection.close()
    pair.run(
        lambda: not pair.server.connections and not pair.client.connections
    )  # each drains for three PTOs
    assert pair.counters()["cids"] == 0
    assert pair.client.counters()[0]["connections"] == 0


# Ending


def test_close_codes_travel_both_ways(pair: Pair) -> None:
    """RFC 9000 19.19: code, kind and reason arrive as they were given."""
    for app, code, reason in ((True, 0x100, "bye"), (True, (1 << 62) - 1, b"\xff\xfe"), (False, 0x02, b"")):
        for by_server in (True, False):
            connection = pair.connect()
            accepted = pair.server_app.opened[-1]
            closing, other = (accepted, connection) if by_server else (connection, accepted)
            closing.close(code, reason, app=app)
            pair.run(lambda: not pair.server.connections and not pair.client.connections)
            text = reason.encode() if isinstance(reason, str) else reason
            for side, remote in ((closing, False), (other, True)):
                told = side.close_reason
                assert told is not None
                assert (told.app, told.code, told.reason, told.remote) == (app, code, text, remote)


def test_close_refuses_what_quiche_would_die_of(pair: Pair) -> None:
    """A code of 2^62 or more, or a reason that fits no packet, raises and changes nothing."""
    connection = pair.connect()
    for code in (-1, 1 << 62):
        with pytest.raises(ValueError, match="2\\*\\*62"):
            connection.close(code)
    with pytest.raises(ValueError, match="1,000 bytes"):
        connection.close(0x100, bytes(1001))
    assert pair.fetch(connection).body == b"Hello"


def test_close_all_and_drop_all(pair: Pair) -> None:
    """`close_all` tells the peers, `drop_all` does not; both free everything."""
    connections = [pair.connect() for _ in range(3)]
    pair.server.close_all(0x100, b"done")
    pair.run(lambda: all(c.closed for c in connections) and not pair.server.connections)
    assert connections[0].close_reason is not None
    assert connections[0].close_reason.reason == b"done"
    connections = [pair.connect() for _ in range(3)]
    pair.server.drop_all()
    assert not pair.server.connections
    assert pair.server.deadline() is None
    assert pair.counters()["cids"] == 0
    assert len(pair.server_app.closed) == 6
    pair.server.drop_all()


def test_a_connection_outlives_its_end_as_an_object(pair: Pair) -> None:
    """A program may keep a Connection: every attribute and method still answers, nothing is sent."""
    connection = pair.connect()
    accepted = pair.server_app.opened[0]
    connection.close(7)
    pair.run(lambda: accepted.closed and connection.closed)
    for side in (connection, accepted):
        assert side.alpn == side.server_name == ""
        assert side.peer_certificate is None
        assert not side.resumed
        assert not side.in_early_data
        assert side.stats() == {}
        assert "closed" in repr(side)
        assert side.close_reason is not None
        assert side.close_reason.code == 7
        side.close()
        side.send_ping()
    pair.client.mark_dirty(connection)
    pair.settle()


def test_an_endpoint_may_go_with_open_connections(pair: Pair) -> None:
    """Connections that outlive their endpoint are harmless."""
    client = Endpoint(EngineSettings(ClientConfig(verify=False)), App(False), server=False)
    client.add_socket(UdpSocket(memory=CLIENT))
    connection = client.connect(0, SERVER, "localhost")
    client.turn()
    del client
    connection.close()
    assert connection.alpn == ""


# Attacks


def test_garbage_changes_nothing(pair: Pair) -> None:
    """RFC 9000 21: random, truncated and mutated datagrams are counted, and the next request is served."""
    rng = random.Random(11)
    connection = pair.connect()
    recorded: list[bytes] = first_flight(pair)
    pair.up.record = True
    pair.fetch(connection)
    pair.connect()
    recorded += [payload for _, payload in pair.up.seen]
    source = ("198.51.100.9", 9999)
    for _ in range(400):
        kind = rng.randrange(4)
        packet = rng.choice(recorded)
        if kind == 0:
            payload = rng.randbytes(rng.randrange(1, 1500))
        elif kind == 1:
            payload = packet[: rng.randrange(1, len(packet) + 1)]
        elif kind == 2:
            at = rng.randrange(min(50, len(packet)))
            payload = packet[:at] + rng.randbytes(1) + packet[at + 1 :]
        else:
            payload = initial(rng.randbytes(8), size=1199)
        pair.give_server(payload, source if rng.random() < 0.7 else CLIENT)
    counters = pair.counters()
    for name in ("malformed_dropped", "short_initials_dropped", "unknown_dropped"):
        assert counters[name] > 0, name
    assert pair.fetch(connection).body == b"Hello"
    assert pair.fetch(pair.connect()).body == b"Hello"


def test_a_lossy_network(make_pair: MakePair) -> None:
    """RFC 9002: loss, reordering, duplication and corruption cost time, no bytes."""
    pair = make_pair(seed=5)
    for link in (pair.up, pair.down):
        link.loss = link.reorder = link.duplicate = link.corrupt = 0.05
    body = random.Random(6).randbytes(300_000)
    pair.server_app.answer_with(body)
    connection = pair.connect(timeout=20)
    handler = pair.request(connection)
    pair.run(lambda: handler.finished, timeout=20)
    assert handler.body == body


def test_a_close_while_a_probe_of_the_handshake_is_due(make_pair: MakePair) -> None:
    """RFC 9000 10.2: it goes out though nobody acknowledged the client's Finished, and is all that does."""
    pair = make_pair()
    connection = pair.client.connect(0, SERVER, "localhost")
    opened = pair.server_app.opened
    pair.down.hook = lambda *packet: not any(peer.established for peer in opened)
    pair.run(lambda: connection.established and opened[0].established)
    pair.settle()
    sent = pair.up.sent
    while time.monotonic_ns() < (pair.client.deadline() or 0):
        pair.wait((pair.client.deadline() or 0) / 1e9)
    connection.close(0x100, b"")
    pair.run(lambda: pair.server_app.closed)
    reason = opened[0].close_reason
    assert reason is not None
    assert reason.code == 0x100
    assert pair.up.sent < sent + 10
    assert pair.client.counters()[0]["runaways"] == 0


def test_events_before_the_turn(pair: Pair) -> None:
    """handle() calls handlers, sends nothing and asks for a turn: what is written before leaves with it."""
    connection = pair.connect()
    held: list[Stream] = []
    woken: list[bool] = []
    pair.server_app.on_request = held.append
    pair.server.set_wake(lambda: woken.append(True))
    pair.request(connection)
    pair.client.turn()
    for payload, source, to in pair.client_socket.take():
        pair.server.receive_udp_payload(0, payload, source, to)
    pair.server.handle()
    assert len(held) == 1
    assert list(pair.server_socket.take()) == []
    pair.server_app.answer(held[0])
    assert woken == [True]
    pair.server.turn()
    assert len(list(pair.server_socket.take())) == 1

    def nested(stream: Stream) -> None:
        with pytest.raises(RuntimeError):
            pair.server.handle()
        pair.server_app.answer(stream)

    pair.server_app.on_request = nested
    assert pair.fetch(connection).body == b"Hello"


def test_who_sends_little_sends_no_probe(pair: Pair) -> None:
    """RFC 8899: larger packets are looked for when there is use for them, not for one small request."""
    pair.down.record = True
    connection = pair.connect()
    assert pair.fetch(connection).body == b"Hello"
    assert max(len(payload) for _, payload in pair.down.seen) == 1200
    pair.server_app.answer_with(bytes(200_000))
    assert len(pair.fetch(connection).body) == 200_000
    assert max(len(payload) for _, payload in pair.down.seen) == 1350


def test_a_fork_in_a_handler(pair: Pair) -> None:
    """The child's turn ends by an error before it sends anything: each packet number once (RFC 9001 5.3)."""
    pids: list[int] = []

    def fork(stream: Stream) -> None:
        pids.append(os.fork())
        pair.server_app.answer(stream)

    pair.server_app.on_request = fork
    connection = pair.connect()
    handler = pair.request(connection)
    try:
        pair.run(lambda: handler.over)
    except RuntimeError:
        os._exit(0 if pids == [0] and not pair.server_socket.take() else 1)
    if pids == [0]:
        os._exit(2)
    assert handler.body == b"Hello"
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
