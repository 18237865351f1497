"""The command line but for `get`: what it prints, where its configuration comes from, how it ends."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_support import CLEAN, COMMAND, run
from click.testing import CliRunner

import quiche_h3
from quiche_h3 import ServerConfig, make_dev_certificate
from quiche_h3._options import read_toml
from quiche_h3.cli import cli

EXAMPLES = Path(__file__).parents[1] / "examples"


class Serving:
    """A running `serve`, and what it has said."""

    def __init__(self, process: subprocess.Popen[str], end: str) -> None:
        self.process = process
        assert process.stdout is not None
        self.stdout = process.stdout
        self.banner = ""
        while not self.banner.endswith(end):
            line = self.stdout.readline()
            assert line, f"serve ended: {process.stderr and process.stderr.read()}"
            self.banner += line
        found = re.search(r"https://\S+", self.banner)
        assert found is not None
        self.url = found[0].rstrip("/")


@contextmanager
def serving(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Iterator[Serving]:
    command = [*COMMAND, "serve", *map(str, arguments), "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env={**CLEAN, **environment}
    ) as process:
        try:
            yield Serving(process, "/\n\n" if "--dev-cert" in arguments else "-v\n\n")
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<h1>Index</h1>\n")
    (folder / "large.bin").write_bytes(os.urandom(3 << 20))
    return folder


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[Serving]:
    with serving("--directory", site, "--dev-cert") as server:
        yield server


def test_help() -> None:
    """Every command has a help that fits 80 columns, with examples; the version is the package's."""
    runner = CliRunner()
    for arguments in ([], ["serve"], ["get"], ["check-config"]):
        result = runner.invoke(cli, [*arguments, "--help"])
        assert result.exit_code == 0
        lines = result.output.splitlines()
        assert lines[0].startswith("Usage: ")
        prose = [line for line in lines if not line.startswith("    quiche-h3 ")]
        assert max(map(len, prose)) <= 80
    assert run("--version").stdout == f"quiche-h3 {quiche_h3.__version__}\n"
    assert run().stdout == run("--help").stdout


def test_hello_as_promised() -> None:
    """`serve examples/hello.py` and `get URL --insecure` print `Hello, HTTP/3!`, and a log line."""
    with serving(EXAMPLES / "hello.py:server", "--dev-cert") as server:
        done = run("get", f"{server.url}/hello", "--insecure")
        assert (done.returncode, done.stdout, done.stderr) == (0, "Hello, HTTP/3!\n", "")
        assert '"GET /hello" 200 15 ' in server.stdout.readline()


def test_banner(server: Serving) -> None:
    """It says the URL, the hashes a browser wants, Chrome's flags, and a command that works as it stands."""
    with quiche_h3.connect(server.url, verify=False) as client:
        certificate = client.info.certificate
    fingerprint = base64.b64encode(hashlib.sha256(certificate).digest()).decode()
    assert fingerprint in server.banner
    origin = server.url.removeprefix("https://")
    assert f"--origin-to-force-quic-on={origin}" in server.banner
    key = subprocess.run(
        "openssl x509 -inform der -pubkey -noout | openssl pkey -pubin -outform der"
        " | openssl dgst -sha256 -binary | openssl base64 -A",
        shell=True,
        input=certificate,
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert f"--ignore-certificate-errors-spki-list={key} " in server.banner
    command = re.search(r"quiche-h3 (get .*)", server.banner)
    assert command is not None
    assert run(*command[1].split()).stdout == "<h1>Index</h1>\n"


def test_directory(server: Serving, site: Path) -> None:
    """--directory serves files and index.html, lists nothing, and has nothing outside."""
    (site / "sub").mkdir(exist_ok=True)
    with quiche_h3.connect(server.url, verify=False) as client:
        assert client.get("/").text == "<h1>Index</h1>\n"
        assert client.get("/large.bin").content == (site / "large.bin").read_bytes()
        assert client.get("/sub/").status == 404
        assert client.get("/%2e%2e/etc/passwd").status in (400, 403, 404)


def test_where_configuration_comes_from(tmp_path: Path) -> None:
    """Program < file < environment < command line, for whichever field."""
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
            from quiche_h3 import Server, ServerConfig
            server = Server(ServerConfig(
                idle_timeout_ms=1, max_header_count=2, max_path_length=3, recv_batch=4, bind_addr="127.0.0.1",
                dev_cert=True, drain_timeout_ms=0))
            FIELDS = ("idle_timeout_ms", "max_header_count", "max_path_length", "recv_batch", "dev_cert")
            server.get("/")(lambda: {name: getattr(server.config, name) for name in FIELDS})
        """)
    )
    cert, key = make_dev_certificate()
    (tmp_path / "cert.pem").write_bytes(cert)
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "h3.toml").write_text("max_header_count = 20\nmax_path_length = 30\nrecv_batch = 40\n")
    arguments = ["--config", "h3.toml", "--set", "recv_batch=60", "--set", "idle_timeout_ms=10000"]
    arguments += ["--cert", "cert.pem", "--key", "key.pem"]
    for app in ("app.py:server", "app:server", "app"):
        with (
            serving(
                app, *arguments, cwd=tmp_path, QUICHE_H3_MAX_PATH_LENGTH="50", QUICHE_H3_RECV_BATCH="51"
            ) as server,
            quiche_h3.connect(server.url, cafile=str(tmp_path / "cert.pem")) as client,
        ):
            assert client.get("/").json() == {
                "idle_timeout_ms": 10_000,
                "max_header_count": 20,
                "max_path_length": 50,
                "recv_batch": 60,
                "dev_cert": False,
            }


def test_access_log_can_be_turned_off(site: Path) -> None:
    """--no-access-log is silent; the certificate may come from the program's own Server()."""
    with serving("--directory", site, "--dev-cert", "--no-access-log") as server:
        assert run("get", server.url + "/", "-k").returncode == 0
        server.process.send_signal(signal.SIGINT)
        assert server.stdout.read() == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["serve"], "give either APP"),
        (["serve", "app.py:server", "--directory", "."], "give either APP"),
        (["serve", "none.py:server", "--dev-cert"], "none.py is not a file"),
        (["serve", "nomodule:server", "--dev-cert"], "No module named 'nomodule'"),
        (["serve", "broken.py:server", "--dev-cert"], r"ZeroDivisionError: .*broken\.py, line 3"),
        (["serve", "syntax.py:server", "--dev-cert"], "SyntaxError"),
        (["serve", "app.py:missing", "--dev-cert"], "has no missing"),
        (["serve", "app.py:number", "--dev-cert"], "of type int, not a quiche_h3.Server"),
        (["serve", "app.py:server"], "no certificate: give --cert and --key, or --dev-cert"),
        (
            ["serve", "app.py:server", "--cert", "none.pem", "--key", "none.pem"],
            "cert_path: .*cannot be read",
        ),
        (["serve", "app.py:server", "--cert", "app.py"], "key_path: is missing"),
        (["serve", "app.py:server", "--dev-cert", "--port", "70000"], "bind_port: 70000"),
        (["serve", "app.py:server", "--dev-cert", "--host", "example.com"], "bind_addr: 'example.com'"),
        (["serve", "app.py:server", "--dev-cert", "--host", "192.0.2.1"], "not an address of this machine"),
        (["serve", "app.py:server", "--dev-cert", "--set", "idle_timeout=1"], "did you mean idle_timeout_ms"),
        (["serve", "app.py:server", "--dev-cert", "--set", "idle"], "--set FIELD=VALUE"),
        (["serve", "app.py:server", "--dev-cert", "--config", "none.toml"], "none.toml: cannot be read"),
        (["serve", "app.py:server", "--dev-cert", "--log-level", "loud"], "log_level: 'loud'"),
        (["serve", "--directory", "nowhere", "--dev-cert"], "nowhere is not a directory"),
        (["serve", "app.py:server", "--nonsense"], "(?i)no such option"),
        (["nonsense"], "No such command"),
        (["check-config", "--config", "none.toml"], "none.toml: cannot be read"),
        (["check-config", "--set", "cc_algorithm=fast"], "cc_algorithm: 'fast'"),
        (["get"], "(?i)missing argument"),
        (["get", "localhost/hello"], "starts with https://"),
        (["get", "https://127.0.0.1:9/", "--timeout", "0"], "timeout: 0.0 is not above 0"),
        (["get", "https://127.0.0.1:9/", "--cacert", "none.pem"], "cafile: 'none.pem'"),
        (["get", "https://127.0.0.1:9/", "-H", "no colon"], "NAME: VALUE"),
        (["get", "https://127.0.0.1:9/", "-H", "bad name: 1"], "not a header name"),
    ],
)
def test_errors(tmp_path: Path, arguments: list[str], text: str) -> None:
    """Every error of the user's is one line on stderr that names it, and exit code 2."""
    (tmp_path / "app.py").write_text("from quiche_h3 import Server\nserver = Server()\nnumber = 1\n")
    (tmp_path / "broken.py").write_text("from quiche_h3 import Server\n\nserver = 1 / 0\n")
    (tmp_path / "syntax.py").write_text("server = (\n")
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("quiche-h3: ")
    assert done.stderr.count("\n") == 1
    assert re.search(text, done.stderr), done.stderr


def test_port_in_use(server: Serving, site: Path) -> None:
    """A port that somebody has is an error that says so."""
    port = server.url.rpartition(":")[2]
    done = run("serve", "--directory", site, "--dev-cert", "--port", port)
    assert done.returncode == 2
    assert done.stderr.startswith(f"quiche-h3: bind_port: {port} is in use on ")
    assert done.stderr.count("\n") == 1


def test_check_config(tmp_path: Path) -> None:
    """check-config prints every value as TOML that it reads again; it reads what the configuration names."""
    cert, key = make_dev_certificate()
    (tmp_path / "cert.pem").write_bytes(cert)
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "h3.toml").write_text('bind_addr = ["127.0.0.1", "::1"]\nserver_header = "a \\\\ b"\n')
    arguments = ("check-config", "--cert", "cert.pem", "--key", "key.pem")
    done = run(*arguments, "--config", "h3.toml", cwd=tmp_path, QUICHE_H3_IDLE_TIMEOUT_MS="1234")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "again.toml").write_text(done.stdout)
    values = read_toml(tmp_path / "again.toml")
    assert values["bind_addr"] == ["127.0.0.1", "::1"]
    assert (values["server_header"], values["idle_timeout_ms"]) == ("a \\ b", 1234)
    assert run("check-config", "--config", "again.toml", cwd=tmp_path).stdout == done.stdout
    (tmp_path / "key.pem").write_bytes(make_dev_certificate()[1])
    assert "not the key of the certificate" in run(*arguments, cwd=tmp_path).stderr


def test_check_config_without_certificate() -> None:
    """With nothing given the defaults are shown, with a note that `serve` will need a certificate."""
    done = run("check-config")
    assert done.returncode == 0
    assert f"bind_port = {ServerConfig().bind_port}\n" in done.stdout
    assert "no certificate is given" in done.stderr
