"""How much one key encrypts, and how long one key seals session tickets."""

from __future__ import annotations

import hashlib
from typing import Any
from unittest import mock

from aioquic.quic import crypto
from conformance import wire
from conformance.peer import Peer

from .support import MIB, is_well, make_server, metrics, wait

LIMIT = 1000
"""The least that `max_packets_per_key` may be."""


def test_a_transfer_goes_on_over_key_updates() -> None:
    """RFC 9001 6.6, attack row 39: the next key takes over at half the limit, and aioquic follows."""
    body = hashlib.shake_256(b"key update").digest(18 * MIB)
    followed = 0

    def follow(pair: Any, trigger: str) -> None:
        nonlocal followed
        followed += 1
        update(pair, trigger)

    update = crypto.CryptoPair._update_key
    with (
        make_server(
            max_packets_per_key=4 * LIMIT
        ) as server,  # more than aioquic takes until an update is over
        mock.patch.object(crypto.CryptoPair, "_update_key", follow),
    ):
        server.get("/long")(lambda: body)
        peer = Peer(server, max_data=2 * len(body), max_stream_data=2 * len(body)).open()
        peer.send(0, wire.get(b"/long"), True)

        def ended() -> bool:
            peer.pump()
            return peer.answer().fin or peer.closed is not None

        wait(server, ended, 60)
        assert peer.answer().body == body
        counted = metrics(server, "connections")
        assert counted["key_updates"] == followed >= 3
        assert counted["packet_limit_closes"] == metrics(server, "http3")["left_by_packets"] == 0
        is_well(server)


def test_a_peer_that_does_not_follow_key_updates() -> None:
    """RFC 9001 6.6, attack row 39: GOAWAY at seven eighths of the limit of one key, a close at the limit."""
    with (
        make_server(max_packets_per_key=LIMIT, body_grace_ms=40) as server,
        mock.patch.object(crypto, "next_key_phase", side_effect=crypto.KeyUnavailableError),
    ):
        peer = Peer(server).open()
        stream_id = 0
        while server.connections and stream_id < 20_000:
            peer.send(stream_id, wire.get(), True)
            stream_id += 4
            peer.quic.send_ping(1)
            peer.pump()
            wait(server, lambda: True)
        counted = metrics(server, "connections")
        assert counted["key_updates"] == 1
        assert metrics(server, "http3")["left_by_packets"] == 1
        assert LIMIT < counted["packets_sent"] <= LIMIT // 2 + LIMIT + 10
    with make_server() as server:
        is_well(server)
