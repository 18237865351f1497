"""`quiche-h3 get` with each of its options, against quic-go and aioquic."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cli_support import run
from net.relay import Relay

from . import pattern
from .certificates import Certificate
from .programs import Process

MIB = 1 << 20


def test_requests(server: Process, certificate: Certificate, tmp_path: Path) -> None:
    """-X, -H, -d, -T, -I, -L and --ca make the request that curl makes of them."""
    trust = ("--ca", certificate.certificate)

    def described(*arguments: str | Path) -> dict[str, Any]:
        done = run("get", *trust, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    url = f"{server.url}/describe"
    asked = described("-X", "DELETE", "-H", "X-One: 1", url)
    assert (asked["method"], asked["headers"]["x-one"]) == ("DELETE", "1")
    asked = described("-d", "a=1", "-d", "b=2", url)
    assert (asked["method"], asked["body"]) == ("POST", "a=1&b=2")
    (tmp_path / "file").write_text("of the file")
    asked = described("-T", tmp_path / "file", url)
    assert (asked["method"], asked["body"]) == ("PUT", "of the file")
    asked = described("-L", "-d", "x", f"{server.url}/redirect/3?code=303")
    assert (asked["method"], asked["body"]) == ("GET", "")
    asked = described("-L", "-d", "x", f"{server.url}/redirect/1?code=307")
    assert (asked["method"], asked["body"]) == ("POST", "x")
    done = run("get", *trust, "-I", "-L", f"{server.url}/redirect/2")
    assert re.findall(r"^HTTP/3 (\d+)$", done.stdout, re.MULTILINE) == ["302", "302", "200"]
    done = run("get", f"{server.url}/hello")
    assert (done.returncode, done.stdout) == (60, "")


def test_outputs(server: Process, certificate: Certificate, tmp_path: Path) -> None:
    """-o, -O and --parallel put bodies where they belong; -v and --timing tell what went on."""
    body = b"".join(pattern.chunks(MIB))
    trust = ("--ca", certificate.certificate)
    done = run("get", *trust, "-v", "--timing", "-o", "file", f"{server.url}/bytes/{MIB}", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "file").read_bytes()) == (0, body)
    for line in ("* Connected to 127.0.0.1", "*   verified for 127.0.0.1", "> GET /bytes/", "< HTTP/3 200"):
        assert line in done.stderr
    assert re.search(r"^\* .* handshake \(full\), .* in all: 1\.0 MiB at", done.stderr, re.MULTILINE)
    urls = [f"{server.url}/bytes/{MIB - n}" for n in range(30)]
    done = run("get", *trust, "--parallel", "-O", *urls, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert all((tmp_path / str(MIB - n)).read_bytes() == body[: MIB - n] for n in range(30))


def test_sessions_and_logs(server: Process, certificate: Certificate, tmp_path: Path) -> None:
    """--0rtt sends the second request at once; --key-log and --qlog have what happened."""
    link = "simple-p2p --delay=10ms --bandwidth=100Mbps --queue=100"
    files: tuple[str | Path, ...] = ("--key-log", tmp_path / "keys", "--qlog", tmp_path / "qlog")
    with Relay(link, upstream=("127.0.0.1", server.said["port"])) as relay:
        command = (
            "get",
            "--ca",
            certificate.certificate,
            "--0rtt",
            "--tickets",
            tmp_path / "tickets",
            *files,
        )
        early = [json.loads(run(*command, f"{relay.url}/describe").stdout)["early"] for _ in range(3)]
    assert early == [False, True, True]
    assert (tmp_path / "keys").read_text().count("CLIENT_TRAFFIC_SECRET_0 ") == 3
    assert len(list((tmp_path / "qlog").iterdir())) == 3
