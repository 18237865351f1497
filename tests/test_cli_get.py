"""`quiche-h3 get`: its options, what it shows on a terminal, what it says and how it ends when it fails."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import CLEAN, COMMAND, run
from client_support import MIB, Application, blocks, eventually, silence

from quiche_h3 import Request, Response, Server, ServerConfig, make_dev_certificate
from quiche_h3.cli_progress import Progress, show_size

SIZE = 3 * MIB
BODY = b"".join(blocks(SIZE))


class Site(Application):
    """The routes of the client's tests, and a few more, with a certificate that --ca may trust."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        cert, key = make_dev_certificate()
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(cert)
        self.server = Server(
            ServerConfig(
                cert_pem=cert, key_pem=key, bind_addr="127.0.0.1", bind_port=0, enable_early_data=True
            )
        )
        self.register(self.server)
        self.server.get("/moved")(self.moved)
        self.server.get("/loop")(lambda req, res: res.redirect("/loop", 302))
        self.server.get("/to-http")(lambda req, res: res.redirect("http://localhost/", 302))
        self.server.get("/binary")(lambda: b"\0\1\2")
        self.server.put("/files/:name", blocking=True)(self.put)
        self.server.get("/unknown-size")(lambda: blocks(SIZE))

    def moved(self, req: Request, res: Response) -> str:
        res.status(302)
        res.header("location", "/hello")
        return "look there"

    def put(self, req: Request, res: Response) -> dict[str, Any]:
        body = req.body.read_all()
        return {
            "name": req.params["name"],
            "whole": body == BODY,
            "length": req.headers.get("content-length"),
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    with site.server.running():
        yield site


@pytest.fixture(scope="module")
def url(site: Site) -> str:
    return f"https://localhost:{site.server.address.port}"


def described(*arguments: str | Path) -> dict[str, Any]:
    """What the server was asked."""
    done = run("get", "-k", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def on_terminal(*arguments: str | Path, shown: int = 3, cwd: Path | None = None) -> tuple[int, str]:
    """Exit code, and what a terminal shows that is stdout and stderr; or stderr alone, with `shown=2`."""
    leader, follower = pty.openpty()
    command = [*COMMAND, "get", "-k", *map(str, arguments)]
    stdout = follower if shown == 3 else subprocess.DEVNULL
    environment = {**CLEAN, "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=stdout, stderr=follower, cwd=cwd, env=environment) as process:
        os.close(follower)
        text = b""
        try:
            while piece := os.read(leader, 65_536):
                text += piece
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(leader)
    return process.returncode, text.decode().replace("\r\n", "\n")


# The request


def test_method_and_fields(url: str) -> None:
    """-X and -H take the place of the method and the fields that are ours."""
    asked = described("-X", "DELETE", "-H", "Accept: text/html", "-H", "x-empty;", f"{url}/describe")
    assert (asked["method"], asked["body"]) == ("DELETE", "")
    assert asked["headers"]["accept"] == "text/html"
    assert asked["headers"]["x-empty"] == ""
    assert asked["headers"]["user-agent"].startswith("quiche-h3/")
    asked = described("-H", "User-Agent:", "-H", "x-nothing:", "-H", "Host: other.example", f"{url}/describe")
    assert not {"user-agent", "x-nothing", "host"} & set(asked["headers"])
    assert asked["authority"] == "other.example"


def test_data(url: str, tmp_path: Path) -> None:
    """-d makes a POST of a form; several are joined by &, @FILE and @- stand for contents, without line ends;
    --data-binary has them as they are."""
    (tmp_path / "text").write_bytes(b"one\r\nline\n")
    asked = described("-d", "a=1\n", "-d", f"@{tmp_path}/text", f"{url}/describe")
    assert (asked["method"], asked["body"]) == ("POST", "a=1\n&oneline")
    asked = described("--data-binary", f"@{tmp_path}/text", f"{url}/describe")
    assert (asked["method"], asked["body"]) == ("POST", "one\r\nline\n")
    assert asked["headers"]["content-type"] == "application/x-www-form-urlencoded"
    asked = described("-X", "PUT", "-H", "Content-Type: text/plain", "-d", "x", f"{url}/describe")
    assert (asked["method"], asked["headers"]["content-type"]) == ("PUT", "text/plain")
    done = subprocess.run(
        [*COMMAND, "get", "-k", "-d", "@-", f"{url}/echo"],
        input=b"from stdin",
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"from stdin"


def test_upload(url: str, tmp_path: Path) -> None:
    """-T sends a file with its length, - stdin without one; a URL that ends with / gets the file's name."""
    file = tmp_path / "a file"
    file.write_bytes(BODY)
    assert described("-T", file, f"{url}/files/") == {"name": "a file", "whole": True, "length": str(SIZE)}
    assert described("-T", file, f"{url}/files/b")["name"] == "b"
    done = subprocess.run(
        [*COMMAND, "get", "-k", "-T", "-", f"{url}/files/c"], input=BODY, capture_output=True, check=True
    )
    assert json.loads(done.stdout) == {"name": "c", "whole": True, "length": None}


def test_head(url: str, tmp_path: Path) -> None:
    """-I writes status and fields, also the length of the body that is not sent; with -L of each."""
    done = run("get", "-k", "-I", f"{url}/hello")
    head = r"HTTP/3 200\ncontent-type: text/plain; charset=utf-8\ncontent-length: 15\ndate: .*\n\n"
    assert done.returncode == 0
    assert re.fullmatch(head, done.stdout)
    done = run("get", "-k", "-I", "-L", "-o", "head", f"{url}/moved", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(r"HTTP/3 302\n(.+\n)+\n" + head, (tmp_path / "head").read_text())


def test_location(url: str) -> None:
    """Redirects are followed with -L alone."""
    assert run("get", "-k", f"{url}/moved").stdout == "look there"
    done = run("get", "-k", "-L", "-v", f"{url}/moved")
    assert done.stdout == "Hello, HTTP/3!\n"
    assert (
        done.stderr.index("HTTP/3 302") < done.stderr.index("> GET /hello") < done.stderr.index("HTTP/3 200")
    )


# Where bodies go


def test_files(url: str, tmp_path: Path) -> None:
    """-o names a file for each URL in turn, -O takes the URL's name; the others go to stdout."""
    done = run("get", "-k", "-o", "one", f"{url}/hello", f"{url}/moved", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "look there", "")
    assert (tmp_path / "one").read_text() == "Hello, HTTP/3!\n"
    done = run("get", "-k", "-O", f"{url}/bytes/{SIZE}?a=b/c", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / str(SIZE)).read_bytes() == BODY
    done = run("get", "-k", "-O", f"{url}/", cwd=tmp_path)
    assert done.returncode == 2
    assert "ends with no file name" in done.stderr


def test_parallel(url: str, tmp_path: Path) -> None:
    """--parallel gets all over one connection; what fails is named, and the rest comes all the same."""
    names = [f"bytes/{SIZE - n}" for n in range(20)]
    done = run("get", "-k", "--parallel", "-O", "-v", *(f"{url}/{name}" for name in names), cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("* Connected to localhost") == 1
    for name in names:
        size = int(name.removeprefix("bytes/"))
        assert (tmp_path / str(size)).read_bytes() == BODY[:size]
    done = run("get", "-k", "-Z", "-f", f"{url}/nowhere", f"{url}/hello", f"{url}/reset")
    assert (done.returncode, done.stdout) == (56, "Hello, HTTP/3!\n")  # as the last that failed
    assert done.stderr.splitlines() == [
        f"quiche-h3: {url}/nowhere: the server answered with status 404",
        f"quiche-h3: {url}/reset: stream reset by the peer: H3_REQUEST_REJECTED (0x10b)",
    ]


# What is shown


def test_verbose(url: str) -> None:
    """-v shows handshake, request, interim and final response, trailers and timing on stderr."""
    done = run("get", "-k", "-v", "-H", "X-One: 1", "-H", "User-Agent: mine", f"{url}/interim")
    assert (done.returncode, done.stdout) == (0, "after the hints")
    for line in (
        r"\* Connected to localhost \([\d.:]+\) port \d+",
        r"\* QUIC version 1, TLS 1\.3, ALPN h3, handshake in [\d.]+ ms",
        r"\* Certificate: CN=localhost",
        r"\*   NOT verified",
        r"> GET /interim HTTP/3",
        r"> x-one: 1",
        r"> user-agent: mine",
        r"< HTTP/3 103",
        r"< link: </style\.css>; rel=preload",
        r"< HTTP/3 200",
        r"< content-length: 15",
    ):
        assert re.search(f"^{line}", done.stderr, re.MULTILINE), line
    assert "quiche-h3/" not in done.stderr
    done = run("get", "-k", "-v", f"{url}/trailers")
    assert (done.returncode, done.stdout) == (0, "body")
    assert "< x-checksum: 1234\n" in done.stderr


def test_timing(url: str) -> None:
    """--timing is one line on stderr: lookup, handshake, first answer, all, and the rate of a large body."""
    time = r"[\d.]+ m?s"
    phases = rf"\* {time} lookup, {time} handshake \(full\), {time} to the response, {time} in all"
    done = run("get", "-k", "--timing", f"{url}/hello")
    assert done.stdout == "Hello, HTTP/3!\n"
    assert re.fullmatch(rf"{phases}: 15 B\n", done.stderr)
    done = run("get", "-k", "--timing", "-o", "/dev/null", f"{url}/bytes/{SIZE}")
    assert re.fullmatch(rf"{phases}: 3\.0 MiB at [\d.]+ MiB/s\n", done.stderr)


def test_progress_bar(url: str, tmp_path: Path) -> None:
    """With stderr on a terminal the bar is drawn to 100 %: a line for a body, or for all of --parallel."""
    file, upload = tmp_path / "got", tmp_path / "upload"
    upload.write_bytes(BODY)
    bar = r"100% \[#{20,}\]  3\.0 MiB of 3\.0 MiB  [\d.]+ [KM]iB/s  0:0\d *"
    parallel = bar.replace(r"3\.0 MiB", r"6\.0 MiB")
    line = r"3\.0 MiB  [\d.]+ [KM]iB/s  0:0\d *"
    body = f"{url}/bytes/{SIZE}"
    cases: list[tuple[list[str | Path], str]] = [
        (["-o", file, body], bar),
        (["-T", upload, "-o", file, f"{url}/files/x"], bar),
        (["-o", file, f"{url}/unknown-size"], line),
        (["-Z", "-o", file, "-o", tmp_path / "other", body, body], parallel),
    ]
    for arguments, pattern in cases:
        code, shown = on_terminal(*arguments)
        assert code == 0, shown
        last = shown.rstrip("\n").rpartition("\r")[2]
        assert re.fullmatch(pattern, last), last
        assert shown.count("\n") == 1
    assert file.read_bytes() == BODY
    code, shown = on_terminal(body, shown=2)
    assert (code, shown.count("100%")) == (0, 1)


def test_body_on_a_terminal(url: str) -> None:
    """A body without a newline at its end does not run into what comes next; there is no bar in between."""
    code, shown = on_terminal("--timing", f"{url}/interim")
    assert code == 0
    assert re.fullmatch(r"after the hints\n\* .* in all: 15 B\n", shown)
    code, shown = on_terminal(f"{url}/short")
    assert code == 56
    assert re.fullmatch(r"only 6\nquiche-h3: the message is malformed: .*\n", shown)


def test_binary_body_on_a_terminal(url: str) -> None:
    """What is no text does not go to a terminal, unless that is asked for."""
    code, shown = on_terminal(f"{url}/binary")
    assert (code, shown) == (23, "quiche-h3: the body is binary: give -o FILE, or -o - for the terminal\n")
    assert on_terminal("-o", "-", f"{url}/binary") == (0, "\0\1\2\n")


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
    assert unknown.line(61.0, 80) == "1.5 KiB  25 B/s  1:01"
    assert [show_size(n) for n in (0, 1023, 1024, 5 << 30)] == ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]


# Trust, sessions, logs


def test_trust(site: Site, url: str) -> None:
    """Without --insecure the certificate must be trusted, by --ca for one; the error says how."""
    done = run("get", f"{url}/hello")
    assert done.returncode == 60
    assert "unknown_ca" in done.stderr
    assert "--cacert" in done.stderr
    assert done.stderr.count("\n") == 1
    for option in ("--ca", "--cacert"):
        done = run("get", f"{url}/hello", option, site.ca, "-v")
        assert (done.returncode, done.stdout) == (0, "Hello, HTTP/3!\n")
        assert "*   verified for localhost" in done.stderr


def test_resumption_and_0rtt(site: Site, url: str, tmp_path: Path) -> None:
    """--tickets keeps sessions between calls, in a private file; with --0rtt the request goes out at once."""
    command: list[str | Path] = [
        "get",
        "--ca",
        site.ca,
        "--timing",
        "--tickets",
        tmp_path / "tickets",
        f"{url}/hello",
    ]
    for expected in (r"handshake \(full\)", r"handshake \(resumed\)", r"handshake \(resumed\)"):
        assert re.search(expected, run(*command).stderr)
    assert stat.S_IMODE((tmp_path / "tickets").stat().st_mode) == 0o600
    done = run(*command, "--0rtt")
    assert (done.returncode, done.stdout) == (0, "Hello, HTTP/3!\n")
    assert "handshake (resumed, 0-RTT)" in done.stderr
    cache = tmp_path / "cache"
    for expected in ("(full)", "(resumed, 0-RTT)"):
        done = run("get", "-k", "--0rtt", "--timing", f"{url}/hello", XDG_CACHE_HOME=str(cache))
        assert expected in done.stderr
    assert stat.S_IMODE((cache / "quiche-h3").stat().st_mode) == 0o700


def test_logs(url: str, tmp_path: Path) -> None:
    """--key-log appends secrets to a file of one's own, --qlog writes a file per connection."""
    keys, logs = tmp_path / "keys", tmp_path / "qlog"
    for count in (1, 2):
        assert run("get", "-k", f"{url}/hello", "--key-log", keys, "--qlog", logs).returncode == 0
        assert keys.read_text().count("CLIENT_TRAFFIC_SECRET_0 ") == count
        assert len(list(logs.iterdir())) == count
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600


# Failures


def test_status(url: str) -> None:
    """A status of 400 or more is a response as any other, unless --fail says that it is an error."""
    done = run("get", f"{url}/nowhere", "-k")
    assert (done.returncode, done.stdout) == (0, "404 Not found\n")
    done = run("get", f"{url}/nowhere", "-k", "--fail")
    assert (done.returncode, done.stdout) == (22, "")
    assert done.stderr == "quiche-h3: the server answered with status 404\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["/short"], 56, "the message is malformed: the body has 6 bytes, its content-length is 10"),
        (["/reset"], 56, "stream reset by the peer: H3_REQUEST_REJECTED (0x10b)"),
        (["/hold", "--timeout", "0.2"], 28, "localhost:PORT did not answer within 0.2 s"),
        (["/loop", "-L"], 47, "more than 10 redirects, the last one to https://localhost:PORT/loop"),
        (["/to-http", "-L"], 47, "a redirect leads to http://localhost/, which is not https"),
        (["/hello", "-o", "none/file"], 23, "none/file: No such file or directory"),
        (["/hello", "-o", "/dev/full"], 23, "No space left on device"),
        (["/echo", "-T", "none"], 26, "none: No such file or directory"),
        (["/echo", "-T", "."], 26, ".: Is a directory"),
        (["/echo", "-d", "@none"], 26, "none: No such file or directory"),
        (["/echo", "-d", "a", "-T", "b"], 2, "give -d or -T, not both"),
        (["/echo", "-d", "a", "--data-binary", "b"], 2, "give -d or --data-binary, not both"),
        (["/echo", "-d", "a", "-I"], 2, "give -d or -I, not both"),
        (["/hello", "-H", "no colon"], 2, "-H 'no colon': write -H 'NAME: VALUE'"),
        (["/hello", "--key-log", "none/keys"], 2, "keylog_path: 'none/keys' is not a file one may write to"),
        (["/hello", "-X", "BAD METHOD"], 2, "'BAD METHOD' is not a method"),
    ],
)
def test_failures(
    site: Site, url: str, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    """What goes wrong is one line on stderr, without a traceback, and an exit code: curl's, or 2."""
    site.release.clear()
    path, *rest = arguments
    done = run("get", "-k", url + path, *rest, cwd=tmp_path)
    site.release.set()
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert done.stderr.startswith(f"quiche-h3: {message.replace('PORT', url.rpartition(':')[2])}")


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("https://name.invalid/", 6, "the name name.invalid has no address"),
        ("https://127.0.0.1:9/", 7, "no connection to 127.0.0.1:9: nobody listens there"),
        ("http://localhost/", 2, "'http://localhost/' is not a URL that starts with https://"),
        ("localhost", 2, "'localhost' is not a URL that starts with https://"),
    ],
)
def test_nobody_there(url: str, code: int, message: str) -> None:
    """A server that cannot be reached is named with the reason."""
    done = run("get", url, QUICHE_H3_CONNECT_TIMEOUT_MS="300")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert message in done.stderr


def test_no_answer() -> None:
    """Nor one that says nothing."""
    with silence() as silent:
        done = run("get", silent, QUICHE_H3_CONNECT_TIMEOUT_MS="300")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (28, "", 1)
    assert "no answer from 127.0.0.1 within 0.3 s" in done.stderr


def test_full_stdout(url: str) -> None:
    """A disk that is full under stdout is one line, and no more of Python's at its exit."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "get", "-k", f"{url}/hello"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (23, b"quiche-h3: No space left on device\n")


def test_interrupt(site: Site, url: str) -> None:
    """Ctrl-C ends at once, with 130 as a shell expects, whatever a server is still to say."""
    site.release.clear()
    site.held.clear()
    command = [*COMMAND, "get", "-k", "--parallel", f"{url}/hold", f"{url}/bytes/{1 << 40}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=pipe, env=CLEAN) as process:
        eventually(lambda: site.held.is_set() and site.produced > MIB)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    site.release.set()
    assert (process.returncode, errors.strip()) == (130, b"")


def test_reader_that_stops(url: str) -> None:
    """`get | head -c 1` ends quietly."""
    command = f"{sys.executable} -m quiche_h3 get -k {url}/bytes/{SIZE} | head -c 1 | wc -c"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.strip(), done.stderr) == ("1", "")
