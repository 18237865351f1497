"""Certificates by name, client certificates, reload, session tickets and early data."""

from __future__ import annotations

import gc
import os
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import wire
from conformance.peer import MemoryServer, Peer
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from server_support import logged

from quiche_h3 import ClientConfig, Server, ServerConfig, connect
from quiche_h3.dev_certificate import make_dev_certificate
from quiche_h3.errors import ConfigError, InvalidState, QuicheH3Error

KEY, NEXT_KEY = b"k" * 32, b"n" * 32


def write_pair(folder: Path, *names: str) -> tuple[str, str]:
    """A certificate for these names, in files."""
    cert, key = make_dev_certificate(names, ("127.0.0.1",))
    stem = names[0].replace("*", "any")
    paths = (folder / f"{stem}.pem", folder / f"{stem}.key")
    for path, pem in zip(paths, (cert, key), strict=True):
        path.write_bytes(pem)
    return str(paths[0]), str(paths[1])


def fingerprint(path: str) -> bytes:
    return x509.load_pem_x509_certificate(Path(path).read_bytes()).fingerprint(SHA256())


def certificate_of(peer: Peer) -> bytes:
    """The fingerprint of the certificate that a client was shown."""
    shown: Any = peer.quic.tls._peer_certificate
    return x509.load_der_x509_certificate(shown.public_bytes(Encoding.DER)).fingerprint(SHA256())


def make_server(**fields: Any) -> MemoryServer:
    server = MemoryServer(**fields)

    @server.get("/")
    def hello(req: Any) -> str:
        server.calls.append("GET")
        return "early" if req.early_data else "late"

    @server.post("/")
    def change(req: Any) -> str:
        server.calls.append("POST")
        return "changed"

    return server


# By name


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, tuple[str, str]]:
    return {name: write_pair(tmp_path, name) for name in ("default.test", "a.test", "*.b.test")}


def test_the_certificate_is_chosen_by_name(pairs: dict[str, tuple[str, str]]) -> None:
    """RFC 6066 3, RFC 6125 6.4: an exact name, a wildcard for one label, the default for all others."""
    cert, key = pairs["default.test"]
    more = [":".join(pairs["a.test"]), ":".join(pairs["*.b.test"])]
    with make_server(cert_path=cert, key_path=key, more_certificates=more) as server:
        for asked, given in (
            ("a.test", "a.test"),
            ("A.TEST", "a.test"),
            ("x.b.test", "*.b.test"),
            ("b.test", "default.test"),
            ("x.y.b.test", "default.test"),
            ("other.test", "default.test"),
            (None, "default.test"),
        ):
            peer = Peer(server, server_name=asked).open()
            assert certificate_of(peer) == fingerprint(pairs[given][0]), asked
            assert peer.fetch(wire.get()).body == b"late"


def test_more_certificates_are_checked(tmp_path: Path, pairs: dict[str, tuple[str, str]]) -> None:
    """No pair, a file that is missing, a key that belongs elsewhere: ConfigError, nothing is bound."""
    cert, key = pairs["a.test"]
    for entry, problem in (
        (cert, "no pair"),
        (f"{cert}:{tmp_path}/none", "cannot be read"),
        (f"{cert}:{pairs['default.test'][1]}", "not the key"),
        (f"{key}:{key}", "no usable certificate"),
    ):
        server = make_server(more_certificates=[entry])
        with pytest.raises(ConfigError, match=problem) as caught:
            server.open()
        assert caught.value.field == "more_certificates"


# Client certificates


def test_a_client_certificate_is_demanded_and_told(tmp_path: Path) -> None:
    """RFC 8446 4.4.2: without one, or with a stranger's, nothing is served; else the request has it."""
    cert, key = write_pair(tmp_path, "client.test")
    other, other_key = write_pair(tmp_path, "stranger.test")
    server = Server(
        ServerConfig(bind_addr="127.0.0.1", bind_port=0, dev_cert=True, verify_peer=True, cafile=cert)
    )

    @server.get("/")
    def who(req: Any) -> str:
        return x509.load_der_x509_certificate(req.client_certificate).fingerprint(SHA256()).hex()

    with server.running() as address:
        mine = ClientConfig(client_cert_path=cert, client_key_path=key)
        with connect(address.url, verify=False, config=mine) as client:
            for _ in range(2):
                assert client.get("/").text == fingerprint(cert).hex()
        for config in (ClientConfig(), ClientConfig(client_cert_path=other, client_key_path=other_key)):
            # The client is through before the server has seen its certificate (RFC 8446 4.4.2).
            with pytest.raises(QuicheH3Error), connect(address.url, verify=False, config=config) as client:
                client.get("/")


# Reload


def test_reload_takes_new_files_and_keeps_connections(tmp_path: Path) -> None:
    """New connections see the new certificate, connections that are there notice nothing."""
    cert, key = write_pair(tmp_path, "localhost")
    with make_server(cert_path=cert, key_path=key) as server:
        before = fingerprint(cert)
        old = Peer(server).open()
        assert certificate_of(old) == before
        write_pair(tmp_path, "localhost")
        server.reload()
        assert server.certificate_sha256 == fingerprint(cert) != before
        assert certificate_of(Peer(server).open()) == fingerprint(cert)
        assert old.fetch(wire.get()).body == b"late"
        assert old.closed is None


def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    """The error names what is wrong; the certificate that is there goes on."""
    cert, key = write_pair(tmp_path, "localhost")
    with make_server(cert_path=cert, key_path=key) as server:
        before = fingerprint(cert)
        for path in (cert, key):
            good = Path(path).read_bytes()
            Path(path).write_bytes(good[:100])
            with pytest.raises(ConfigError):
                server.reload()
            Path(path).unlink()
            with pytest.raises(ConfigError):
                server.reload()
            Path(path).write_bytes(good)
        assert certificate_of(Peer(server).open()) == before
        server.reload()
        assert certificate_of(Peer(server).open()) == before


def test_a_handshake_that_goes_on_over_a_reload(tmp_path: Path) -> None:
    """Whoever has begun with the old certificate ends with it."""
    cert, key = write_pair(tmp_path, "localhost")
    with make_server(cert_path=cert, key_path=key) as server:
        before = fingerprint(cert)
        peer = Peer(server).start()
        for payload, _ in peer.quic.datagrams_to_send(time.monotonic()):
            server.give(payload, peer.address)
        server.turn()
        write_pair(tmp_path, "localhost")
        server.reload()
        peer.pump()
        assert certificate_of(peer) == before
        peer.send(2, wire.varint(wire.CONTROL) + wire.settings())
        assert peer.fetch(wire.get()).body == b"late"


def test_reload_needs_a_server() -> None:
    """Before it is bound there is nothing to reload."""
    with pytest.raises(InvalidState):
        make_server().reload()


def test_sighup_reloads(tmp_path: Path) -> None:
    """SIGHUP does what `reload()` does; with a bad file it logs one error, and the server goes on."""
    cert, key = write_pair(tmp_path, "localhost")
    config = ServerConfig(bind_addr="127.0.0.1", bind_port=0, cert_path=cert, key_path=key)
    server = Server(config)
    server.get("/")(lambda: "Hello")
    seen: list[Any] = []

    def client() -> None:
        try:
            before = server.certificate_sha256
            write_pair(tmp_path, "localhost")
            while signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
                time.sleep(0.005)  # until then it would end us
            os.kill(os.getpid(), signal.SIGHUP)
            end = time.monotonic() + 10
            while server.certificate_sha256 == before and time.monotonic() < end:
                time.sleep(0.01)
            seen.append(server.certificate_sha256 == fingerprint(cert))
            Path(cert).write_text("nothing")
            os.kill(os.getpid(), signal.SIGHUP)
            while not any(r.levelname == "ERROR" for r in errors) and time.monotonic() < end:
                time.sleep(0.01)
            with connect(server.address.url, verify=False) as c:
                seen.append(c.get("/").text)
        finally:
            server.stop()

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    try:
        with logged() as errors:
            errors.clear()
            thread = threading.Thread(target=client)
            server.on_startup(thread.start)
            server.run()
            thread.join()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [True, "Hello"]
    assert next(r for r in errors if r.levelname == "ERROR").getMessage().startswith("SIGHUP")


# Session tickets


def ticket_from(server: MemoryServer) -> Any:
    peer = Peer(server).open()
    assert peer.fetch(wire.get()).body == b"late"
    peer.pump(lambda: peer.tickets)
    return peer.tickets[-1]


def resumed(server: MemoryServer, ticket: Any) -> bool:
    peer = Peer(server, session_ticket=ticket).open()
    assert peer.fetch(wire.get()).body == b"late"
    return bool(peer.quic.tls.session_resumed)


def test_tickets_are_of_the_secret_not_of_the_process() -> None:
    """Attack row 10: any server with the key resumes, after a rotation too, and no other one."""
    with make_server(secret_key=KEY) as server:
        ticket = ticket_from(server)
        assert resumed(server, ticket)
    with make_server(secret_key=KEY) as server:
        assert resumed(server, ticket)
    with make_server(secret_key=NEXT_KEY, previous_secret_key=KEY) as server:
        assert resumed(server, ticket)
    with make_server(secret_key=NEXT_KEY) as server:
        assert not resumed(server, ticket)
    with make_server() as server:
        assert not resumed(server, ticket)


def test_a_rotation_by_reload_keeps_the_key_before() -> None:
    """One period: the first rotation still takes the ticket, the second does not."""
    with make_server(secret_key=KEY) as server:
        ticket = ticket_from(server)
        config = ServerConfig(dev_cert=True, secret_key=NEXT_KEY)
        server.reload(config)
        assert resumed(server, ticket)
        server.reload(config)  # the same key again is no rotation
        assert resumed(server, ticket)
        server.reload(ServerConfig(dev_cert=True, secret_key=b"3" * 32))
        assert not resumed(server, ticket)


def test_a_key_made_at_start_rotates_by_itself() -> None:
    """Attack row 10: after a period a new key seals and the old one still opens; after two it is gone.

    A reload begins no new period, and a secret that was given does not rotate.
    """
    with make_server(ticket_key_period_ms=60_000) as server, make_server(secret_key=KEY) as given:

        def keys() -> Any:
            assert server._credentials is not None
            return server._credentials.settings.keys

        def pass_time(periods: int) -> None:
            keys()._ticket_keys_since -= periods * 60 * 1_000_000_000
            server.reload()  # which looks at the time anew

        (first,) = keys().ticket_keys()
        ticket, other = ticket_from(server), ticket_from(given)
        pass_time(0)
        assert resumed(server, ticket)
        assert keys().ticket_keys() == [first]
        pass_time(1)
        assert resumed(server, ticket)
        assert keys().ticket_keys()[0] != keys().ticket_keys()[1] == first
        renewed = ticket_from(server)
        pass_time(1)
        assert not resumed(server, ticket)
        assert resumed(server, renewed)
        pass_time(5)
        assert not resumed(server, renewed)
        assert resumed(given, other)


# Early data


@pytest.fixture
def early() -> Iterator[MemoryServer]:
    with make_server(enable_early_data=True, secret_key=KEY) as server:
        yield server


def early_flight(server: MemoryServer, ticket: Any, request: bytes) -> tuple[Peer, list[bytes]]:
    """A client's first datagrams, with a request in 0-RTT; they are not delivered."""
    peer = Peer(server, session_ticket=ticket)
    peer.start()
    peer.send(2, wire.varint(wire.CONTROL) + wire.settings())
    peer.send(0, request, True)
    return peer, [payload for payload, _ in peer.quic.datagrams_to_send(time.monotonic())]


def deliver(server: MemoryServer, peer: Peer, flight: list[bytes]) -> None:
    for payload in flight:
        server.give(payload, peer.address)
    peer.turn()


def test_early_data_is_off_by_default() -> None:
    """Attack row 9: without `enable_early_data` a ticket allows none."""
    with make_server(secret_key=KEY) as server:
        assert not ticket_from(server).max_early_data_size


def test_a_safe_request_runs_early(early: MemoryServer) -> None:
    """RFC 8470 3: GET is answered before the handshake is complete, and the handler is told."""
    ticket = ticket_from(early)
    early.calls.clear()
    peer, flight = early_flight(early, ticket, wire.get())
    deliver(early, peer, flight)
    assert early.calls == ["GET"]
    peer.pump()
    assert peer.answer(0).body == b"early"


def test_an_unsafe_request_is_too_early(early: MemoryServer) -> None:
    """RFC 8470 5.2: POST in 0-RTT gets 425 and its handler does not run; after the handshake it does."""
    ticket = ticket_from(early)
    early.calls.clear()
    peer, flight = early_flight(early, ticket, wire.headers(wire.request(b"/", b"POST")))
    deliver(early, peer, flight)
    peer.pump()
    assert peer.answer(0).status == 425
    assert early.calls == []
    assert peer.fetch(wire.headers(wire.request(b"/", b"POST")), 4).body == b"changed"


def test_a_replay_runs_nothing(early: MemoryServer) -> None:
    """Attack row 9: the same datagrams again, from anywhere, reach no handler."""
    ticket = ticket_from(early)
    early.calls.clear()
    peer, flight = early_flight(early, ticket, wire.get())
    deliver(early, peer, flight)
    assert early.calls == ["GET"]
    for i in range(3):
        for payload in flight:
            early.give(payload, ("192.0.2.77", 4000 + i))
        early.turn()
    assert early.calls == ["GET"]


def test_a_replay_to_a_server_started_anew_runs_nothing() -> None:
    """Another process that has the key cannot know what was used: it resumes, without early data."""
    with make_server(enable_early_data=True, secret_key=KEY) as server:
        ticket = ticket_from(server)
        _, flight = early_flight(server, ticket, wire.get())
    del server, _
    gc.collect()  # the register of used tickets goes with the last server that has the key
    with make_server(enable_early_data=True, secret_key=KEY) as second:
        for payload in flight:
            second.give(payload, ("192.0.2.78", 4000))
        second.turn()
        assert second.calls == []
        assert resumed(second, ticket)


def test_a_ticket_brings_early_data_once(early: MemoryServer) -> None:
    """Single use: the second connection with a ticket resumes; its request waits for the handshake."""
    ticket = ticket_from(early)
    for expected in (b"early", b"late"):
        peer, flight = early_flight(early, ticket, wire.get())
        deliver(early, peer, flight)
        peer.pump()
        if not peer.answer(0).fin:  # 0-RTT was rejected: aioquic sends nothing of it again
            assert expected == b"late"
            assert peer.fetch(wire.get(), 4).body == expected
        else:
            assert peer.answer(0).body == expected
        assert peer.quic.tls.session_resumed


def test_the_register_is_bounded() -> None:
    """`early_data_register_size`: what is forgotten is refused, so that no ticket is ever taken twice."""
    with make_server(enable_early_data=True, secret_key=KEY, early_data_register_size=1) as server:
        used = []
        for _ in range(4):
            ticket = ticket_from(server)
            peer, flight = early_flight(server, ticket, wire.get())
            deliver(server, peer, flight)
            used.append(flight)
        server.calls.clear()
        for i, flight in enumerate(used):
            for payload in flight:
                server.give(payload, ("192.0.2.79", 5000 + i))
            server.turn()
        assert server.calls == []


def test_the_early_data_field_of_a_gateway_is_honoured() -> None:
    """RFC 8470 5.1: what a gateway marks may be a replay, too: 425 for POST; GET tells its handler."""
    with make_server() as server:
        peer = Peer(server).open()
        mark = (b"early-data", b"1")
        assert peer.fetch(wire.headers(wire.request(b"/", b"POST", mark))).status == 425
        assert peer.fetch(wire.headers(wire.request(b"/", b"GET", mark)), 4).body == b"early"
        assert peer.fetch(wire.headers(wire.request(b"/", b"POST")), 8).body == b"changed"


def test_no_session_of_one_trust_is_resumed_under_another(tmp_path: Path) -> None:
    """With one key, a session made without a client certificate does not pass where one is demanded."""
    cert, _ = write_pair(tmp_path, "client.test")
    with make_server(secret_key=KEY) as server:
        ticket = ticket_from(server)
    with make_server(secret_key=KEY, verify_peer=True, cafile=cert) as server:
        peer = Peer(server, session_ticket=ticket).connect()
        assert peer.closed is not None
        assert peer.configuration.verify_mode == ssl.CERT_NONE
        assert server.calls == []
