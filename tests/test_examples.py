"""Each example, served by the command line as its first lines say, does what they promise."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import quiche_h3
from quiche_h3 import ClientConnection, StreamReset

EXAMPLES = Path(__file__).parents[1] / "examples"


@contextmanager
def serving(name: str, *options: str, **environment: str) -> Iterator[ClientConnection]:
    """A client of an example that runs under `quiche-h3 serve`, which must end with exit code 0."""
    command = [sys.executable, "-m", "quiche_h3", "serve", f"{EXAMPLES / name}:server", "--dev-cert"]
    command += ["--port", "0", "--host", "127.0.0.1", "--no-access-log", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        assert process.stdout is not None
        found = re.search(r"https://\S+", process.stdout.readline())
        assert found is not None
        try:
            with quiche_h3.connect(found[0], verify=False) as client:
                yield client
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
    assert process.returncode == 0


def test_every_example_is_tested() -> None:
    """No example is forgotten here."""
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tests


def test_hello() -> None:
    """hello.py greets, by name too."""
    with serving("hello.py") as client:
        assert client.get("/hello").text == "Hello, HTTP/3!\n"
        assert client.get("/hello/J%C3%BCrgen").text == "Hello, Jürgen!\n"
        assert client.get("/nowhere").status == 404


def test_datagrams() -> None:
    """datagrams.py echoes datagrams, raw and of a request, and adds up those of another."""
    with serving("datagrams.py") as client:
        raw: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        client.on_datagram(raw.put)
        client.send_datagram(b"raw")
        assert raw.get(timeout=10) == b"raw"
        with client.open("POST", "/sum") as request:
            response = request.response()
            request.send_datagram(b"40")
            request.send_datagram(b"2")
            request.end()
            assert response.text == "2 numbers, 42 in all\n"
        command = [sys.executable, str(EXAMPLES / "datagrams.py"), f"https://{client.origin.authority}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        assert "100 round trips" in done.stdout


def test_files(tmp_path: Path) -> None:
    """files.py serves a directory, with ranges, and nothing beside it."""
    (tmp_path / "a.txt").write_text("0123456789")
    (tmp_path / "index.html").write_text("<h1>Index</h1>")
    with serving("files.py", FILES=str(tmp_path)) as client:
        assert client.get("/files/a.txt").text == "0123456789"
        part = client.get("/files/a.txt", headers={"range": "bytes=2-4"})
        assert (part.status, part.text) == (206, "234")
        assert client.get("/files/").text == "<h1>Index</h1>"
        assert client.get("/files/..%2f..%2fetc/passwd").status in (400, 403, 404)
        download = client.get("/source")
        assert download.headers["content-disposition"].startswith("attachment")
        assert download.content == (EXAMPLES / "files.py").read_bytes()


def test_upload(tmp_path: Path) -> None:
    """upload.py keeps what was sent, whole and under its name, and nothing of what broke off."""
    body = os.urandom(3_000_000)
    with serving("upload.py", UPLOADS=str(tmp_path)) as client:
        answer = client.put("/uploads/a.bin", data=iter([body[:1_000_000], body[1_000_000:]]))
        assert answer.status == 201
        assert answer.json() == {
            "name": "a.bin",
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        assert client.get("/uploads/a.bin").content == body
        assert client.put("/uploads/..%2fb.bin", data=b"x").status == 400
        with client.open("PUT", "/uploads/c.bin") as request:
            request.write(body)
            request.cancel()
            with pytest.raises(StreamReset):
                request.response()
        assert client.delete("/uploads/a.bin").status == 204
        assert client.get("/uploads/a.bin").status == 404
        assert client.delete("/uploads/a.bin").status == 404
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_streaming() -> None:
    """streaming.py sends each event when it happens, and survives a client that goes away."""
    with serving("streaming.py") as client:
        response = client.get("/events?count=3&interval=0.01")
        assert response.headers["content-type"] == "text/event-stream"
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
        assert [event["number"] for event in events] == [0, 1, 2]
        with client.get("/events?interval=3600") as endless:
            assert endless.read().startswith(b"id: 0\n")
        assert client.get("/events?count=many").status == 400
        assert "EventSource" in client.get("/").text


def test_json_api() -> None:
    """json_api.py makes, shows, changes, lists and removes; errors are JSON as well."""
    with serving("json_api.py") as client:
        made = client.post("/todos", json={"title": "write tests"})
        assert (made.status, made.headers["location"]) == (201, "/todos/1")
        assert client.get("/todos/1").json() == {"id": 1, "done": False, "title": "write tests"}
        changed = client.request("PATCH", "/todos/1", json={"done": True})
        assert changed.json()["done"] is True
        assert [todo["id"] for todo in client.get("/todos?done=true").json()] == [1]
        assert client.get("/todos?done=false").json() == []
        assert client.delete("/todos/1").status == 204
        missing = client.get("/todos/1")
        assert (missing.status, missing.json()) == (404, {"error": "no such todo", "status": 404})
        for body in (b"{", b"[]", b'{"title": 3}', b"{}"):
            refused = client.post("/todos", data=body)
            assert (refused.status, refused.json()["status"]) == (400, 400)


def against_hello(name: str) -> str:
    """What an example of the client prints about a server's page."""
    with serving("hello.py") as client:
        url = client.get("/hello").url
        command = [sys.executable, str(EXAMPLES / name), url, "--insecure"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_client_sync() -> None:
    """client_sync.py shows status, type and the pieces of the body."""
    assert against_hello("client_sync.py") == "200 text/plain; charset=utf-8\n15 bytes\n"


def test_client_async() -> None:
    """client_async.py sends ten requests at once."""
    assert against_hello("client_async.py") == f"{[15] * 10}\n"


def test_client_httpx() -> None:
    """client_httpx.py is httpx, over HTTP/3."""
    assert against_hello("client_httpx.py") == "HTTP/3 200 15\n"
