"""Both roles against ngtcp2, which has a preferred address in both roles, and ECN with a log of it.

Debian has it as ngtcp2-client and ngtcp2-server; without them the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from client_support import MIB, eventually, free_port

import quiche_h3
from quiche_h3 import ClientConfig, ConnectError, Server

from .certificates import Certificate

PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin"
CLIENT, SERVER = (shutil.which(name, path=PLACES) for name in ("gtlsclient", "gtlsserver"))
QUIET = ("--no-quic-dump", "--no-http-dump")

pytestmark = pytest.mark.skipif(not (CLIENT and SERVER), reason="needs ngtcp2-client and ngtcp2-server")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory to serve, with one file in it."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www/file").write_bytes(os.urandom(3 * MIB))
    return tmp_path / "www"


@contextmanager
def ngtcp2_server(files: Path, certificate: Certificate, *options: str) -> Iterator[tuple[str, Path]]:
    """Its server for the length of the block: its URL, and where its log is written."""
    port, log = free_port(), files.parent / "server.log"
    key, chain = str(certificate.key), str(certificate.certificate)
    command = [str(SERVER), *QUIET, *options, "-d", str(files), "127.0.0.1", str(port), key, chain]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as popen:
        try:
            eventually(lambda: "document root" in log.read_text())
            yield f"https://127.0.0.1:{port}", log
        finally:
            popen.kill()


@contextmanager
def our_server(files: Path, certificate: Certificate, **options: Any) -> Iterator[Server]:
    """Our server of these files."""
    server = Server(certificate.server_config(**options))
    server.static("/", files)
    with server.running():
        yield server


def ngtcp2_get(server: Server, files: Path, *options: str) -> str:
    """Its client fetches the file, which has to be the right one. Returns the client's log."""
    port = str(server.address.port)
    (files.parent / "downloads").mkdir()
    command = [
        str(CLIENT),
        *QUIET,
        "--exit-on-all-streams-close",
        *options,
        f"--download={files.parent}/downloads",
    ]
    command += ["127.0.0.1", port, f"https://localhost:{port}/file"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (files.parent / "downloads/file").read_bytes() == (files / "file").read_bytes()
    return done.stderr


def test_client_goes_to_its_preferred_address(files: Path, certificate: Certificate) -> None:
    """RFC 9000 9.6: our client is told the address by ngtcp2, validates it, and goes on there."""
    preferred = free_port()
    with (
        ngtcp2_server(files, certificate, f"--preferred-ipv4-addr=127.0.0.1:{preferred}") as (url, log),
        quiche_h3.connect(url, verify=False) as client,
    ):
        end = time.monotonic() + 20
        while f"[127.0.0.1]:{preferred}, remote" not in (text := log.read_text()):
            assert client.get("/file").read_all() == (files / "file").read_bytes()
            assert time.monotonic() < end, "it never went there"
        assert f"local:[127.0.0.1]:{preferred}" in text
        assert client.get("/file").read_all() == (files / "file").read_bytes()


def test_its_client_goes_to_our_preferred_address(files: Path, certificate: Certificate) -> None:
    """RFC 9000 9.6: ngtcp2's client selects the address, validates the path, and fetches all the same."""
    preferred = free_port()
    with our_server(files, certificate, preferred_address_v4=f"127.0.0.1:{preferred}") as server:
        log = ngtcp2_get(server, files)
        assert f"selected server preferred_address is [127.0.0.1]:{preferred}" in log
        eventually(lambda: server.export_metrics()["connections"]["closed"] == 1)
        counted = server.export_metrics()["connections"]
        assert (counted["migrations"], counted["preferred_moves"]) == (1, 1)


def test_ecn(files: Path, certificate: Certificate) -> None:
    """RFC 9000 13.4: ngtcp2's client validates our counts, and sees our marks on each path."""
    with our_server(files, certificate, preferred_address_v4=f"127.0.0.1:{free_port()}") as server:
        log = ngtcp2_get(server, files)
        assert log.count("path is ECN capable") == 2
        assert "path is not ECN capable" not in log
        marks = {line.partition("ecn=")[2][:3] for line in log.splitlines() if "Received packet" in line}
        assert marks == {"0x2"}
        assert server.export_metrics()["connections"]["ecn_failed"] == 0
        assert server.export_metrics()["engine"]["ecn_received"] > 0


def test_ecn_of_our_client(files: Path, certificate: Certificate) -> None:
    """The other way: ngtcp2's counts bear out what our client has sent, and ours what its server has."""
    with (
        ngtcp2_server(files, certificate) as (url, log),
        quiche_h3.connect(url, verify=False) as client,
    ):
        assert client.get("/file").read_all() == (files / "file").read_bytes()
        assert client.stats()["ecn_failed"] == 0
        assert client.stats()["paths"] == 1
        assert "path is ECN capable" in log.read_text()


def test_chacha20(files: Path, certificate: Certificate, tmp_path: Path) -> None:
    """Our client offers one cipher suite: GnuTLS takes it, or refuses the handshake if it has only others."""
    config = ClientConfig(tls_cipher_suites=["TLS_CHACHA20_POLY1305_SHA256"], qlog_dir=str(tmp_path / "qlog"))
    with (
        ngtcp2_server(files, certificate) as (url, _),
        quiche_h3.connect(url, verify=False, config=config) as client,
    ):
        assert client.get("/file").read_all() == (files / "file").read_bytes()
    (qlog,) = (tmp_path / "qlog").iterdir()
    assert '"tls_cipher":"ChaCha20_Poly1305"' in qlog.read_text()
    others = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM"
    with (
        ngtcp2_server(files, certificate, f"--ciphers={others}") as (url, _),
        pytest.raises(ConnectError),
    ):
        quiche_h3.connect(url, verify=False, config=config)
