"""The endpoint of the interop runner (`quiche_h3.interop`) against itself, behind a relay on the loopback."""

from __future__ import annotations

import filecmp
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from interop.matrix.chain import make_chain
from interop.matrix.wire import Facts, facts
from net.relay import Relay

from quiche_h3.interop.cases import CASES

UNSUPPORTED: Final = 127
ENDPOINT: Final = Path(__file__).resolve().parents[1] / "interop" / "run_endpoint.sh"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The runner's directories, below a root of our own."""
    for name in ("www", "downloads", "certs"):
        (tmp_path / name).mkdir()
    make_chain(tmp_path / "certs", 3)
    return tmp_path


def endpoint(root: Path, role: str, testcase: str, **env: str) -> subprocess.Popen[bytes]:
    """The endpoint as the runner's container starts it, but for the root."""
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ENDPOINT.parents[1]),
        "ROLE": role,
        "TESTCASE": testcase,
        "SSLKEYLOGFILE": str(root / role / "keys.log"),
        "QLOGDIR": str(root / role / "qlog"),
        **env,
    }
    return subprocess.Popen(
        [ENDPOINT, str(root)], env=environment, stderr=subprocess.PIPE if role == "server" else None
    )


def status(started: subprocess.Popen[bytes]) -> int:
    """The exit status of one that ends by itself."""
    try:
        started.communicate(timeout=30)
        return started.returncode
    finally:
        started.kill()


@contextmanager
def serving(root: Path, testcase: str, **env: str) -> Iterator[int]:
    """A server for the length of the block; it must end by SIGTERM with status 0. Yields its port."""
    server = endpoint(root, "server", testcase, PORT="0", **env)
    assert server.stderr is not None
    try:
        bound = re.search(rb"serving .*:(\d+)\n", server.stderr.readline())
        assert bound
        yield int(bound[1])
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.communicate()


def exchange(root: Path, client: str, server: str, sizes: list[int], name_length: int = 10) -> Facts:
    """Runs one case, compares all files byte for byte, and returns what the relay saw."""
    rng = random.Random(client)
    files = [root / "www" / "".join(rng.choices("abcdefgh", k=name_length)) for _ in sizes]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(rng.randbytes(size))
    host = str(socket.getaddrinfo("localhost", 443, type=socket.SOCK_DGRAM)[0][4][0])
    with serving(root, server) as port, Relay("simple-p2p --delay=2ms", upstream=(host, port)) as relay:
        urls = " ".join(f"https://localhost:{relay.port}/{file.name}" for file in files)
        assert status(endpoint(root, "client", client, REQUESTS=urls)) == 0
    assert {file.name for file in (root / "downloads").iterdir()} == {file.name for file in files}
    assert all(filecmp.cmp(file, root / "downloads" / file.name, shallow=False) for file in files)
    seen = facts(relay.log)
    assert seen.versions == {1}
    assert seen.negotiations == 0
    return seen


@pytest.mark.parametrize("role", ["server", "client"])
def test_unknown_cases_are_declined(root: Path, role: str) -> None:
    """Interop runner: before any run each role is started with a random TESTCASE and has to exit with 127."""
    assert status(endpoint(root, role, "x7d2k1")) == UNSUPPORTED


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.server is None])
def test_a_server_declines_what_it_cannot_do(root: Path, name: str) -> None:
    """Interop runner: 127 says "unsupported"; a failure would count against us."""
    assert status(endpoint(root, "server", name)) == UNSUPPORTED


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.client is None])
def test_a_client_declines_what_it_cannot_do(root: Path, name: str) -> None:
    """As the server; a client also leaves alone what it was to fetch."""
    assert status(endpoint(root, "client", name, REQUESTS="https://localhost/a")) == UNSUPPORTED
    assert list((root / "downloads").iterdir()) == []


def test_a_client_without_work_or_server_fails(root: Path) -> None:
    """Interop runner: 1 is a failure. No URL, no https URL, and a name that nobody has."""
    for requests in ("", "http://localhost/a", "https://nobody.invalid/a"):
        assert status(endpoint(root, "client", "transfer", REQUESTS=requests)) == 1


def test_a_refused_connection_is_a_failure(root: Path) -> None:
    """The server closes in an Initial (no common ALPN, RFC 9001 8.1): the client does not wait for more."""
    with serving(root, "http3") as port:
        url = f"https://localhost:{port}/a"
        assert status(endpoint(root, "client", "transfer", REQUESTS=url)) == 1


def test_a_missing_file_is_a_failure(root: Path) -> None:
    """HTTP/0.9 has no 404: the stream is reset, and nothing is taken for the file."""
    with serving(root, "transfer") as port:
        url = f"https://localhost:{port}/nothing"
        assert status(endpoint(root, "client", "transfer", REQUESTS=url)) == 1
    assert list((root / "downloads").iterdir()) == []


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        ("handshake", [1 << 10]),
        ("transfer", [2 << 20, 3 << 20, 5 << 20]),
        ("http3", [5 << 10, 10 << 10, 500 << 10]),
    ],
)
def test_files_over_one_connection(root: Path, case: str, sizes: list[int]) -> None:
    """Interop cases handshake, transfer, http3: files by one handshake, no Retry; keys and qlog written."""
    seen = exchange(root, case, case, sizes)
    assert len(seen.server_cids) == 1
    assert not seen.retry_tokens
    for role in ("server", "client"):
        assert "SERVER_HANDSHAKE_TRAFFIC_SECRET" in (root / role / "keys.log").read_text()
        assert len(list((root / role / "qlog").iterdir())) == 1


def test_multiplexing(root: Path) -> None:
    """Interop case multiplexing: 1999 files of 32 bytes by one handshake, many more than its streams."""
    assert len(exchange(root, "transfer", "transfer", [32] * 1999).server_cids) == 1


def test_each_url_has_its_connection(root: Path) -> None:
    """TESTCASE multiconnect (interop cases handshakeloss, handshakecorruption): a handshake for each file."""
    assert len(exchange(root, "multiconnect", "multiconnect", [1 << 10] * 5).server_cids) == 5


def test_retry(root: Path) -> None:
    """Interop case retry: a Retry is sent, and its token comes back in an Initial (RFC 9000 8.1.2)."""
    seen = exchange(root, "retry", "retry", [10 << 10])
    assert seen.retry_tokens  # one for each datagram of the ClientHello
    assert seen.used_tokens
    assert all(any(sent.startswith(used) for sent in seen.retry_tokens) for used in seen.used_tokens)
    assert len(seen.server_cids) == 1


def test_resumption(root: Path) -> None:
    """Interop case resumption: two handshakes, no certificate in the second (RFC 8446 2.2)."""
    seen = exchange(root, "resumption", "resumption", [5 << 10, 10 << 10])
    first, second = (seen.first_flight[cid] for cid in seen.server_cids)
    assert second < first - 2000
    assert seen.early_bytes == 0


def test_early_data(root: Path) -> None:
    """Interop case zerortt: requests of the second connection go in 0-RTT packets, hardly any in others."""
    seen = exchange(root, "zerortt", "zerortt", [32] * 40, name_length=250)
    assert len(seen.server_cids) == 2
    assert seen.early_bytes > 40 * 250 / 2
    assert seen.client_short_bytes < 5000


WEBTRANSPORT_KINDS: Final = {
    "unidirectional": [100 << 10, 500 << 10, 250 << 10, 1 << 20, 2 << 20],
    "bidirectional": [100 << 10, 500 << 10, 250 << 10, 1 << 20, 2 << 20],
    "datagram": [600 + 2 * n for n in range(200)],
}


def one_session(root: Path, client: str, server: str, requests: str, asked: str, protocols: str = "") -> None:
    """Runs a WebTransport case: both end well, by one handshake. `requests` follow the server's name."""
    other = root / "client"
    other.mkdir(exist_ok=True)
    (other / "certs").symlink_to(root / "certs")
    with serving(root, server, REQUESTS=asked, PROTOCOLS=protocols and f"none {protocols}") as port:
        host = str(socket.getaddrinfo("localhost", 443, type=socket.SOCK_DGRAM)[0][4][0])
        with Relay("simple-p2p --delay=2ms", upstream=(host, port)) as relay:
            urls = " ".join(f"https://localhost:{relay.port}/{path}" for path in requests.split())
            assert status(endpoint(other, "client", client, REQUESTS=urls, PROTOCOLS=protocols)) == 0
        assert len(facts(relay.log).server_cids) == 1


def test_webtransport_handshake(root: Path) -> None:
    """WebTransport's handshake: both write down the client's first protocol that the server has."""
    (root / "www" / "endpoint").mkdir()
    one_session(root, "handshake", "handshake", "endpoint", "", "second first")
    for side in (root, root / "client"):
        assert (side / "downloads" / "negotiated_protocol.txt").read_text() == "second"


@pytest.mark.parametrize("kind", WEBTRANSPORT_KINDS)
@pytest.mark.parametrize("way", ["receive", "send"])
def test_webtransport_transfer(root: Path, way: str, kind: str) -> None:
    """Interop cases transfer-*-receive and -send: one side asks, the other answers; nothing is lost."""
    sender, receiver = (root, root / "client") if way == "receive" else (root / "client", root)
    source, target = sender / "www" / "endpoint", receiver / "downloads" / "endpoint"
    for folder in (root / "www" / "endpoint", source):
        folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(kind)
    names = [f"file{n}" for n in range(len(WEBTRANSPORT_KINDS[kind]))]
    for name, size in zip(names, WEBTRANSPORT_KINDS[kind], strict=True):
        (source / name).write_bytes(rng.randbytes(size))
    paths = " ".join(f"endpoint/{name}" for name in names)
    case = f"transfer-{kind}-{way}"
    if way == "receive":
        one_session(root, case, "transfer", paths, "", "any")
    else:
        one_session(root, "transfer", case, "endpoint", paths, "any")
    assert sorted(file.name for file in target.iterdir()) == sorted(names)
    assert all(filecmp.cmp(source / name, target / name, shallow=False) for name in names)


@pytest.mark.parametrize(("role", "case"), [("server", "transfer-datagram-receive"), ("client", "x7d2k1")])
def test_webtransport_cases_of_the_other_role_are_declined(root: Path, role: str, case: str) -> None:
    """Interop runner: 127 says "unsupported", in the WebTransport table too."""
    assert status(endpoint(root, role, case, PROTOCOLS="any")) == UNSUPPORTED
