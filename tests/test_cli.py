"""The command line: what it prints, where its configuration comes from, how it ends."""

from __future__ import annotations

import base64
import hashlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

import quiche_h3
from quiche_h3 import ServerConfig, make_dev_certificate
from quiche_h3._options import read_toml
from quiche_h3.cli import cli
from quiche_h3.cli_progress import Progress, show_size

COMMAND = [sys.executable, "-m", "quiche_h3"]
EXAMPLES = Path(__file__).parents[1] / "examples"
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("QUICHE_H3_", "H3_"))}


def run(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=cwd,
        env={**CLEAN, **environment},
    )


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
        (["get", "https://nowhere.invalid/"], "nowhere.invalid has no address"),
        (["get", "https://127.0.0.1:9/", "--timeout", "0.1"], "no answer from 127.0.0.1 within 0.1 s"),
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


def test_get_verbose(server: Serving) -> None:
    """-v shows handshake, request and response on stderr, the body alone on stdout."""
    done = run("get", server.url + "/?a=1", "-k", "-v", "-H", "X-One: 1", "-H", "User-Agent: mine")
    assert (done.returncode, done.stdout) == (0, "<h1>Index</h1>\n")
    for line in (
        r"\* Connected to localhost \([\d.:]+\) port \d+",
        r"\* QUIC version 1, TLS 1\.3, ALPN h3, handshake in [\d.]+ ms",
        r"\* Certificate: CN=localhost",
        r"\*   NOT verified",
        r"> GET /\?a=1 HTTP/3",
        r"> x-one: 1",
        r"> user-agent: mine",
        r"< HTTP/3 200",
        r"< content-length: 15",
    ):
        assert re.search(f"^{line}", done.stderr, re.MULTILINE), line
    assert "quiche-h3/" not in done.stderr


def test_get_to_a_file(server: Serving, site: Path, tmp_path: Path) -> None:
    """-o writes the body to a file; without a terminal there is no progress bar."""
    done = run("get", server.url + "/large.bin", "-k", "-o", tmp_path / "got.bin")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "got.bin").read_bytes() == (site / "large.bin").read_bytes()
    done = run("get", server.url + "/", "-k", "-o", tmp_path / "none" / "got.bin")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_get_verifies(tmp_path: Path) -> None:
    """Without --insecure the certificate must be trusted, by --cacert for one; the error says how."""
    cert, key = make_dev_certificate()
    (tmp_path / "cert.pem").write_bytes(cert)
    (tmp_path / "key.pem").write_bytes(key)
    with serving(EXAMPLES / "hello.py", "--cert", "cert.pem", "--key", "key.pem", cwd=tmp_path) as server:
        done = run("get", server.url + "/hello")
        assert done.returncode == 2
        assert "unknown_ca" in done.stderr
        assert "--cacert" in done.stderr
        assert done.stderr.count("\n") == 1
        done = run("get", server.url + "/hello", "--cacert", tmp_path / "cert.pem", "-v")
        assert (done.returncode, done.stdout) == (0, "Hello, HTTP/3!\n")
        assert "*   verified for localhost" in done.stderr


def test_get_status(server: Serving) -> None:
    """A status of 400 or more is a response as any other, unless --fail says that it is an error."""
    done = run("get", server.url + "/nowhere", "-k")
    assert (done.returncode, done.stdout) == (0, "404 Not found\n")
    done = run("get", server.url + "/nowhere", "-k", "--fail")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "quiche-h3: the server answered with status 404\n"


def test_reader_that_stops(server: Serving) -> None:
    """`get | head -c 1` ends quietly."""
    command = f"{sys.executable} -m quiche_h3 get -k {server.url}/large.bin | head -c 1 | wc -c"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.strip(), done.stderr) == ("1", "")


def test_progress_bar_on_a_terminal(server: Serving, tmp_path: Path) -> None:
    """With stderr on a terminal the bar is drawn to 100%, in one line."""
    leader, follower = pty.openpty()
    command = [*COMMAND, "get", "-k", server.url + "/large.bin", "-o", str(tmp_path / "got.bin")]
    done = subprocess.run(command, stderr=follower, timeout=30, check=False, env={**CLEAN, "COLUMNS": "100"})
    os.close(follower)
    shown = b""
    end = time.monotonic() + 10
    while b"\n" not in shown and time.monotonic() < end and select.select([leader], [], [], 1)[0]:
        shown += os.read(leader, 65_536)
    os.close(leader)
    assert done.returncode == 0
    last = shown.decode().strip().rpartition("\r")[2]
    assert re.fullmatch(r"100% \[#{20,}\]  3\.0 MiB of 3\.0 MiB  [\d.]+ [KM]iB/s  0:0\d *", last), last


def test_progress_lines() -> None:
    """The line fits the terminal whatever its width, with the end in sight or not."""
    progress = Progress(sys.stderr, 200 << 20)
    progress._done = 50 << 20
    assert progress.line(5.0, 80) == (
        " 25% [########........................]  50.0 MiB of 200.0 MiB  10.0 MiB/s  0:15"
    )
    assert all(len(progress.line(5.0, width)) <= width for width in range(1, 200))
    unknown = Progress(sys.stderr, None)
    unknown._done = 1536
    assert unknown.line(1.0, 80) == "1.5 KiB  1.5 KiB/s"
    assert [show_size(n) for n in (0, 1023, 1024, 5 << 30)] == ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]
