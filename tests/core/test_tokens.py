"""Retry and reset tokens: bound to address and connection ID, authenticated (RFC 9000 8.1, 10.3)."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from quiche_h3._core.stateless import reset_token
from quiche_h3._core.tokens import TokenKeys

from .pair import CLIENT, SERVER, Pair, initial

ADDRESS, ODCID, SCID = b"\x02\x00\x13\x88\xc0\x00\x02\x02" + bytes(8), bytes(range(8)), bytes(range(16))


def test_a_token_opens_for_whom_it_was_sealed() -> None:
    """RFC 9000 8.1.2: it gives back the original connection ID, of any length."""
    keys = TokenKeys()
    for odcid in (ODCID, bytes(20), b"\xff" * 13):
        token = keys.seal_retry(ADDRESS, odcid, SCID)
        assert keys.open_retry(token, ADDRESS, SCID) == odcid


def test_a_token_opens_for_nobody_else() -> None:
    """RFC 9000 8.1.4: another address, connection ID or key, and any changed or missing byte, are refused."""
    keys = TokenKeys()
    token = keys.seal_retry(ADDRESS, ODCID, SCID)
    assert keys.open_retry(token, b"\x02\x00\x13\x89" + ADDRESS[4:], SCID) is None
    assert keys.open_retry(token, ADDRESS[:8], SCID) is None
    assert keys.open_retry(token, ADDRESS, SCID[::-1]) is None
    assert keys.open_retry(token, ADDRESS, SCID[:-1]) is None
    assert TokenKeys().open_retry(token, ADDRESS, SCID) is None
    for i in range(len(token)):
        assert keys.open_retry(token[:i], ADDRESS, SCID) is None
        changed = token[:i] + bytes([token[i] ^ 1]) + token[i + 1 :]
        assert keys.open_retry(changed, ADDRESS, SCID) is None
    assert keys.open_retry(token + b"\0", ADDRESS, SCID) is None
    assert keys.open_retry(bytes(1000), ADDRESS, SCID) is None
    assert keys.open_retry(b"\xff" * 1000, ADDRESS, SCID) is None


def test_nothing_can_be_moved_between_the_parts_of_a_token() -> None:
    """The lengths are authenticated: an address that ends as the connection ID begins gives another token."""
    keys = TokenKeys()
    token = keys.seal_retry(ADDRESS, ODCID, SCID)
    assert keys.open_retry(token, ADDRESS + SCID[:1], SCID[1:]) is None


class Clock:
    """The clocks of one machine, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.uptime = 1_700_000_000.0, 5_000.0
        monkeypatch.setattr("time.time", lambda: self.wall)
        monkeypatch.setattr("time.monotonic", lambda: self.uptime)

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds


def test_a_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9000 8.1.3: after the lifetime that was configured."""
    clock = Clock(monkeypatch)
    keys = TokenKeys(retry_lifetime_ms=1000)
    token = keys.seal_retry(ADDRESS, ODCID, SCID)
    clock.go(0.9)
    assert keys.open_retry(token, ADDRESS, SCID) == ODCID
    clock.go(0.2)
    assert keys.open_retry(token, ADDRESS, SCID) is None


def test_a_jump_of_the_clock_refuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is set while a client answers, by a day or two, does not make its token old."""
    clock = Clock(monkeypatch)
    keys = TokenKeys(bytes(32), 1000)
    for jump in (86_400, -2 * 86_400):
        token = keys.seal_retry(ADDRESS, ODCID, SCID)
        clock.wall += jump
        clock.go(0.5)
        if jump > 0:
            assert keys.open_retry(token, ADDRESS, SCID) == ODCID
        after = keys.seal_retry(ADDRESS, ODCID, SCID)
        assert keys.open_retry(after, ADDRESS, SCID) == ODCID
        assert TokenKeys(bytes(32), 1000).open_retry(after, ADDRESS, SCID) == ODCID


def test_machines_share_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with another uptime, and a clock a little off, takes the token; not one of the future."""
    clock = Clock(monkeypatch)
    token = TokenKeys(bytes(32), 1000).seal_retry(ADDRESS, ODCID, SCID)
    clock.uptime = 70.0
    for skew, taken in ((-3, True), (0.9, True), (-20, False), (20, False)):
        clock.wall += skew
        assert (TokenKeys(bytes(32), 1000).open_retry(token, ADDRESS, SCID) is not None) is taken
        clock.wall -= skew


def test_the_key_before_is_kept_for_one_period() -> None:
    """Rotation: tokens of the old secret are taken until the next comes; new ones are sealed with the new."""
    old, new, newest = b"o" * 32, b"n" * 32, b"p" * 32
    keys = TokenKeys(old)
    token = keys.seal_retry(ADDRESS, ODCID, SCID)
    keys = keys.renewed(new, 15_000, None)
    assert keys.open_retry(token, ADDRESS, SCID) == ODCID
    assert TokenKeys(new).open_retry(keys.seal_retry(ADDRESS, ODCID, SCID), ADDRESS, SCID) == ODCID
    assert keys.ticket_keys() == [*TokenKeys(new).ticket_keys(), *TokenKeys(old).ticket_keys()]
    keys = keys.renewed(None, 15_000, None)  # nothing new is given: nothing changes
    assert keys.open_retry(token, ADDRESS, SCID) == ODCID
    assert keys.renewed(newest, 15_000, None).open_retry(token, ADDRESS, SCID) is None
    assert TokenKeys(new, previous=old).open_retry(token, ADDRESS, SCID) == ODCID


def test_reset_tokens() -> None:
    """RFC 9000 10.3.2: one token for a key and a connection ID, by the function that is specified for it."""
    key = TokenKeys(bytes(32)).reset_key
    token = reset_token(key, SCID)
    assert len(token) == 16
    assert token[:8] != token[8:]
    others = [
        reset_token(key, SCID[:-1]),
        reset_token(key[:-1] + b"x", SCID),
        reset_token(b"x" + key[1:], SCID),
    ]
    assert token not in others
    # The test vector of SipHash's authors, once for each half.
    words = bytes(range(16))
    assert reset_token(words + words, words[:15]) == 2 * 0xA129CA6149BE45E5.to_bytes(8, "little")
    with pytest.raises(ValueError, match="32 bytes"):
        reset_token(key[:31], SCID)


def test_processes_with_one_secret_know_each_others_tokens() -> None:
    """One secret gives the same reset tokens and opens the same Retry tokens; two uses never share a key."""
    one, two = TokenKeys(bytes(32)), TokenKeys(bytes(32))
    assert one.reset_key == two.reset_key != TokenKeys(b"\1" * 32).reset_key
    assert two.open_retry(one.seal_retry(ADDRESS, ODCID, SCID), ADDRESS, SCID) == ODCID


def test_retry_tokens_on_the_wire(make_pair: Callable[..., Pair]) -> None:
    """A client's own token lets it in; from another address or with another connection ID it does not."""
    pair = make_pair(server={"enable_retry": True})
    connection = pair.client.connect(0, SERVER, "localhost")
    pair.client.turn()
    for payload, _, _ in pair.client_socket.take():
        pair.server.receive_udp_payload(0, payload, CLIENT)
    for payload, source, _ in pair.server_socket.take():
        pair.client.receive_udp_payload(0, payload, source)
    pair.client.turn()
    (flight, *_) = [payload for payload, _, _ in pair.client_socket.take()]

    def rejected() -> int:
        return pair.counters()["retry_tokens_rejected"]

    pair.server.receive_udp_payload(0, flight, (CLIENT[0], CLIENT[1] + 1))
    pair.server.receive_udp_payload(0, flight, ("192.0.2.99", CLIENT[1]))
    assert rejected() == 2
    dcid_len = flight[5]
    moved = flight[:6] + bytes(dcid_len) + flight[6 + dcid_len :]
    pair.server.receive_udp_payload(0, moved, CLIENT)
    assert rejected() == 3
    assert pair.counters()["accepted"] == 0
    pair.server_socket.take()
    pair.server.receive_udp_payload(0, flight, CLIENT)
    assert (pair.counters()["accepted"], rejected()) == (1, 3)
    pair.run(lambda: connection.established)


def test_forged_tokens_earn_a_retry_and_no_state(make_pair: Callable[..., Pair]) -> None:
    """RFC 9000 8.1.2: hundreds of forged tokens of all lengths make nobody known and nothing bigger."""
    pair = make_pair(server={"enable_retry": True})
    rng = random.Random(3)
    for i in range(300):
        packet = initial(rng.randbytes(8), rng.randbytes(8), token=rng.randbytes(1 + i * 3))
        answers = pair.give_server(packet)
        assert sum(map(len, answers)) < len(packet)
    counters = pair.counters()
    assert counters["retry_tokens_rejected"] == counters["retries_sent"] == 300
    assert (counters["accepted"], counters["connections"], counters["cids"]) == (0, 0, 0)
    pair.connect()
