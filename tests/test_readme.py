"""What the README shows works as it stands: its programs run, its commands and defaults are real."""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import quiche_h3
from quiche_h3 import ClientConnection, Server, ServerConfig
from quiche_h3.cli import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PROGRAMS = {
    match[1].partition("\n")[0].removeprefix("# "): match[1]
    for match in re.finditer(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
}


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs a program of the README as a module that is imported, in the clone."""
    monkeypatch.chdir(ROOT)
    namespace: dict[str, Any] = {"__name__": name.removesuffix(".py")}
    exec(compile(PROGRAMS[name], f"README.md:{name}", "exec"), namespace)
    return namespace


@contextmanager
def running(namespace: dict[str, Any]) -> Iterator[ClientConnection]:
    server: Server = namespace["server"]
    server.config.bind_addr, server.config.bind_port = "127.0.0.1", 0
    with server.running() as address, quiche_h3.connect(address.url, verify=False) as client:
        yield client


def test_every_program_is_run() -> None:
    """Each block of Python has its test below."""
    assert set(PROGRAMS) == {"app.py", "handlers.py", "sessions.py", "polling.py", "client.py"}


def test_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first server: text, JSON, errors, a tuple with headers, static files."""
    with running(load("app.py", monkeypatch)) as client:
        assert client.get("/hello").text == "Hello, HTTP/3!\n"
        assert client.get("/users/1").json() == {"name": "Ada"}
        assert client.get("/users/2").status == 404
        made = client.post("/users", json={"name": "Grace"})
        assert (made.status, made.headers["location"]) == (201, "/users/2")
        assert client.get("/users/2").json() == {"name": "Grace"}
        assert client.get("/static/LICENSE").text.startswith("BSD 2-Clause")
        assert client.request("OPTIONS", "/users").headers["allow"] == "OPTIONS, POST"


def test_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of handler in the table."""
    body = b"0123456789" * 100_000
    with running(load("handlers.py", monkeypatch)) as client:
        assert client.get("/count/3").text == "0\n1\n2\n"
        assert client.post("/echo", data=body).content == body
        assert client.get("/slow").text == "done\n"
        assert client.post("/sha256", data=body).text == hashlib.sha256(body).hexdigest() + "\n"
        response = client.get("/trailers")
        assert ([hint.status for hint in response.interim], response.text) == ([103], "body")
        assert response.trailers is not None
        assert response.trailers["x-checksum"] == "1234"


def test_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The WebTransport route sends back what comes, on streams and as datagrams."""
    server: Server = load("sessions.py", monkeypatch)["server"]
    server.config.bind_addr, server.config.bind_port = "127.0.0.1", 0
    with (
        server.running() as address,
        quiche_h3.connect_webtransport(f"{address.url}/echo/one", verify=False) as session,
    ):
        stream = session.open_bidi_stream()
        stream.write(b"hello")
        stream.finish()
        assert stream.read_all() == b"hello"
        session.send_datagram(b"there")
        assert next(iter(session.datagrams())) == b"there"


def test_polling() -> None:
    """The program that polls, as a program of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = PROGRAMS["polling.py"].replace("dev_cert=True", f"dev_cert=True, bind_port={port}")
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            end = time.monotonic() + 20
            while True:
                try:
                    client = quiche_h3.connect(f"https://127.0.0.1:{port}", verify=False)
                    break
                except quiche_h3.ConnectError:  # nobody listens there yet
                    assert time.monotonic() < end
                    time.sleep(0.05)
            with client:
                assert client.get("/some/where").text == "you asked for /some/where\n"
        finally:
            process.kill()


def test_client(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The client, against the first server."""
    with running(load("app.py", monkeypatch)) as client:
        url = f"https://localhost:{client.origin.port}"
        monkeypatch.setitem(
            PROGRAMS, "client.py", PROGRAMS["client.py"].replace("https://localhost:4433", url)
        )
        load("client.py", monkeypatch)
    size = (ROOT / "README.md").stat().st_size
    assert capsys.readouterr().out.splitlines() == [
        "200 text/plain; charset=utf-8 Hello, HTTP/3!",
        "",
        "[200, 404, 404]",
        f"{size} bytes",
        "/users/2",
    ]


def test_commands() -> None:
    """Each command line shown is one that the command knows."""
    shown = re.findall(r"^quiche-h3 (\S+)(.*?)(?:  #.*)?$", TEXT, re.MULTILINE)
    assert {name for name, _ in shown} == {"serve", "get", "check-config"}
    for name, options in shown:
        known = CliRunner().invoke(cli, [name, "--help"]).output
        for option in re.findall(r"(?<= )--?[\w-]+", options):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), f"{name} {option}"
    targets = set(re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([\w-]+)", TEXT, re.MULTILINE)) <= targets


def test_defaults() -> None:
    """The short table of the configuration gives the defaults there are."""
    defaults = ServerConfig().as_dict(secrets=True)
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]+) \|", TEXT, re.MULTILINE)
    assert len(rows) > 10
    for names, values in rows:
        given = [value.strip("` ") for value in values.split(",")]
        fields = re.findall(r"`(\w+)`", names)
        expected = ["none" if defaults[name] is None else str(defaults[name]) for name in fields]
        assert given == (expected if len(given) > 1 else expected[:1])


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md"])
def test_links(page: str) -> None:
    """Links to files of the project lead somewhere."""
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target
