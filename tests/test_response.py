"""Responses as handlers make them: the order of their steps, and what arrives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interop.aioquic_peer import AioquicClient, PeerReset
from server_support import KIB, make_server, talk, until

from quiche_h3 import (
    H3ErrorCode,
    HeaderInvalid,
    HeadersAlreadySent,
    InvalidRedirectStatus,
    InvalidState,
    Request,
    Response,
    ResponseEnded,
    Server,
    StreamBlocked,
)

Handler = Callable[[Request, Response], Any]


def respond(handler: Handler, method: str = "GET", **options: Any) -> Any:
    """The exchange of one request to a handler; an assertion that fails in the handler fails here."""
    failures: list[BaseException] = []

    def checked(req: Request, res: Response) -> Any:
        try:
            return handler(req, res)
        except AssertionError as failure:
            failures.append(failure)
            raise

    server = make_server(date_header=False)
    server.add(method, "/", checked)

    async def scenario(client: AioquicClient) -> Any:
        return await client.request(method, "/", **options)

    done = talk(server, scenario)
    if failures:
        raise failures[0]
    return done


# Order (spec 4.1)


def test_after_the_fields() -> None:
    """Status and fields are fixed once they are out: HeadersAlreadySent, and the response goes on."""

    def handler(req: Request, res: Response) -> None:
        res.write_all("a")
        assert res.headers_sent
        steps: list[Callable[[], object]] = [
            lambda: res.status(404),
            lambda: res.header("x-late", "1"),
            lambda: res.redirect("/"),
            lambda: res.send_file(__file__),
            lambda: res.inform(103),
            lambda: res.produce(iter(())),
            lambda: res.json({}, status=201),
        ]
        for step in steps:
            with pytest.raises(HeadersAlreadySent):
                step()
        res.end("b")

    done = respond(handler)
    assert (done.status, done.body, done.header("x-late")) == (200, b"ab", None)


def test_after_the_end() -> None:
    """After the end nothing can be sent: ResponseEnded, and what was sent stays whole."""

    def handler(req: Request, res: Response) -> None:
        res.end("all")
        assert res.ended
        steps: list[Callable[[], object]] = [
            lambda: res.end(),
            lambda: res.write("b"),
            lambda: res.write_all("b"),
            lambda: res.send_trailers({"x-t": "1"}),
            lambda: res.status(404),
            lambda: res.header("x-late", "1"),
            lambda: res.json({}),
            lambda: res.inform(103),
        ]
        for step in steps:
            with pytest.raises(ResponseEnded):
                step()

    done = respond(handler)
    assert (done.status, done.body, done.trailers) == (200, b"all", [])


def test_trailers() -> None:
    """Trailers come after the body and end the response (RFC 9114 4.1)."""

    def handler(req: Request, res: Response) -> None:
        res.write_all("body")
        res.send_trailers([("x-t", "1"), ("x-t", "2")])
        assert res.ended

    done = respond(handler)
    assert (done.body, done.trailers) == (b"body", [(b"x-t", b"1"), (b"x-t", b"2")])


def test_trailers_without_body() -> None:
    """Trailers may follow the fields at once; no trailers are none."""
    done = respond(lambda req, res: res.send_trailers({"x-t": "1"}))
    assert (done.status, done.body, done.trailers) == (200, b"", [(b"x-t", b"1")])
    done = respond(lambda req, res: res.send_trailers({}))
    assert (done.status, done.body, done.trailers) == (200, b"", [])


def test_trailers_after_a_large_body() -> None:
    """Trailers wait for what is queued before them."""

    def handler(req: Request, res: Response) -> None:
        res.write_all(bytes(4 << 20))
        res.send_trailers({"x-t": "1"})

    done = respond(handler)
    assert (len(done.body), done.trailers) == (4 << 20, [(b"x-t", b"1")])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-a", "b\r\nx-evil: 1"), ("x-a", "b\nc"), ("x-a", "b\0c"), ("x-a", " b"), ("x-a", "b\t"),
        ("x a", "b"), ("x:a", "b"), ("", "b"), ("x\n", "b"), ("connection", "close"),
        ("transfer-encoding", "chunked"),
        (":status", "200"), ("x-é", "b"),
    ],
)  # fmt: skip
def test_field_injection(name: str, value: str) -> None:
    """CR, LF, NUL and bad tokens in an own field raise wherever it is given, and send nothing (spec 5.6)."""

    def handler(req: Request, res: Response) -> str:
        for step in (
            lambda: res.header(name, value),
            lambda: res.inform(103, [(name, value)]),
            lambda: res.send_trailers([(name, value)]),
        ):
            with pytest.raises(HeaderInvalid):
                step()
        assert not res.headers_sent
        return "nothing came of it"

    done = respond(handler)
    names = {n for n, _ in done.headers}
    assert names == {b":status", b"content-type", b"content-length"}
    assert (done.body, done.interim) == (b"nothing came of it", [])


def test_field_injection_by_return_value() -> None:
    """A bad field in a returned tuple is a 500."""
    assert respond(lambda req, res: (200, {"x-a": "b\r\nc"}, "body")).status == 500
    assert respond(lambda req, res: res.redirect("/\r\nx-evil: 1")).status == 500


@pytest.mark.parametrize("status", [0, 99, 100, 103, 199, 600, 1000, -1])
def test_status_that_is_none(status: int) -> None:
    """A final status is 200 to 599."""

    def handler(req: Request, res: Response) -> None:
        with pytest.raises(InvalidState):
            res.status(status)

    assert respond(handler).status == 200


@pytest.mark.parametrize("status", [204, 205, 304])
def test_status_without_body(status: int) -> None:
    """Responses that have no body get none, and no length (RFC 9110 8.6, 15.3.5)."""

    def handler(req: Request, res: Response) -> None:
        res.status(status)
        for step in (lambda: res.write("b"), lambda: res.write_all("b"), lambda: res.end("b")):
            with pytest.raises(InvalidState):
                step()
        assert not res.headers_sent

    done = respond(handler)
    assert (done.status, done.body, done.header("content-length")) == (status, b"", None)


# Writing


def test_chaining_and_fields() -> None:
    """`status` and `header` give the response back; a name given twice is two lines."""

    def handler(req: Request, res: Response) -> None:
        res.status(201).header("X-A", "1").header("x-a", 2).header(b"x-b", b"\xff").end(bytearray(b"c"))
        assert res.status_code == 201
        assert res.has_header("X-a")
        assert not res.has_header("x-c")

    done = respond(handler)
    assert [v for n, v in done.headers if n in (b"x-a", b"x-b")] == [b"1", b"2", b"\xff"]
    assert (done.status, done.body) == (201, b"c")


def test_data_of_each_type() -> None:
    """Text, bytes, bytearray and memoryview can be written; anything else is a TypeError."""

    def handler(req: Request, res: Response) -> None:
        for data in ("é", b"b", bytearray(b"c"), memoryview(b"d")):
            res.write_all(data)
        for bad in (5, None, [1], 1.5):
            with pytest.raises(TypeError):
                res.write_all(bad)  # type: ignore[arg-type]

    assert respond(handler).body == "ébcd".encode()


def test_empty_writes() -> None:
    """Writing nothing sends the fields and is no end."""

    def handler(req: Request, res: Response) -> None:
        assert res.write(b"") == 0
        assert res.headers_sent
        res.write_all(b"")
        res.write_all(b"x")

    assert respond(handler).body == b"x"


def test_write_takes_what_fits() -> None:
    """`write` tells how much was taken, then raises StreamBlocked and queues nothing (spec 4.1)."""
    taken = 0

    def handler(req: Request, res: Response) -> None:
        nonlocal taken
        chunk = bytes(64 * KIB)
        with pytest.raises(StreamBlocked):  # noqa: PT012 - how often it goes well is not known
            for _ in range(10_000):
                taken += res.write(chunk)
        with pytest.raises(StreamBlocked):
            res.write(b"x")
        assert res.bytes_sent == taken
        assert not res.queue_full
        res.end(b"end")

    done = respond(handler)
    assert (len(done.body), done.body[-3:]) == (taken + 3, b"end")
    assert 0 < taken < 64 << 20


def test_write_all_in_a_plain_handler() -> None:
    """`write_all` takes one piece of any size; with a full queue behind it the next is StreamBlocked."""

    def handler(req: Request, res: Response) -> None:
        res.write_all(bytes(4 << 20))
        assert res.queue_full
        with pytest.raises(StreamBlocked):
            res.write_all(b"more")
        res.end(b"end")

    done = respond(handler)
    assert (len(done.body), done.body[-3:]) == ((4 << 20) + 3, b"end")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 1 << 20])
def test_length_of_a_whole_body(size: int) -> None:
    """A body that is given whole has its length announced; HEAD has the same fields and no body."""

    def handler(req: Request, res: Response) -> bytes:
        return bytes(size)

    got, head = respond(handler), respond(handler, "HEAD")
    assert (len(got.body), got.header("content-length")) == (size, str(size))
    assert (head.body, head.headers) == (b"", got.headers)


def test_head_of_a_handler_that_writes() -> None:
    """HEAD of a GET handler that writes step by step ends with the fields, trailers left out."""
    server = make_server()

    @server.get("/")
    def handler(req: Request, res: Response) -> None:
        res.header("x-a", "1").write_all("body")
        assert res.write("more") == 4
        res.send_trailers({"x-t": "1"})

    async def scenario(client: AioquicClient) -> None:
        done = await client.request("HEAD", "/")
        assert (done.status, done.header("x-a"), done.body, done.trailers) == (200, "1", b"", [])

    talk(server, scenario)


def test_inform() -> None:
    """103 Early Hints, and other interim responses, go before the final one (RFC 9114 4.1)."""

    def handler(req: Request, res: Response) -> str:
        res.inform(103, {"link": "</style.css>; rel=preload"})
        res.inform(102)
        for code in (101, 99, 200):
            with pytest.raises(InvalidState):
                res.inform(code)
        return "final"

    done = respond(handler)
    assert done.interim == [
        [(b":status", b"103"), (b"link", b"</style.css>; rel=preload")], [(b":status", b"102")],
    ]  # fmt: skip
    assert (done.status, done.body) == (200, b"final")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
def test_redirect(status: int) -> None:
    """Redirects say where to."""
    done = respond(lambda req, res: res.redirect("/there?a=b", status))
    assert (done.status, done.header("location"), done.body) == (status, "/there?a=b", b"")


@pytest.mark.parametrize("status", [200, 304, 306, 404])
def test_redirect_that_is_none(status: int) -> None:
    """A status that redirects nowhere is refused, and sends nothing (spec 4.1)."""

    def handler(req: Request, res: Response) -> str:
        with pytest.raises(InvalidRedirectStatus):
            res.redirect("/", status)
        return "stayed"

    assert respond(handler).body == b"stayed"


def test_json() -> None:
    """`json` sets the type, unless the handler did, and perhaps the status."""
    done = respond(lambda req, res: res.json({"a": "é"}, status=201))
    assert (done.status, done.header("content-type")) == (201, "application/json")
    assert done.body == b'{"a":"\\u00e9"}'
    done = respond(lambda req, res: res.header("content-type", "application/problem+json").json([]))
    assert [v for n, v in done.headers if n == b"content-type"] == [b"application/problem+json"]


def test_reset() -> None:
    """`reset` breaks off with a code of the handler's own."""
    server = make_server()

    @server.get("/")
    def handler(req: Request, res: Response) -> None:
        res.write_all("part")
        res.reset(H3ErrorCode.H3_REQUEST_CANCELLED)

    async def scenario(client: AioquicClient) -> None:
        with pytest.raises(PeerReset) as caught:
            await client.get("/")
        assert caught.value.code == H3ErrorCode.H3_REQUEST_CANCELLED

    talk(server, scenario)


def test_defer() -> None:
    """A deferred response is ended later, by the loop's thread, after the handler returned."""
    server = make_server()
    waiting: list[Response] = []

    @server.get("/")
    def handler(req: Request, res: Response) -> None:
        res.defer()
        waiting.append(res)

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("GET", "/"))
        await until(lambda: waiting)
        await asyncio.sleep(0.05)
        assert not exchange.answered.done()
        server.call_soon_threadsafe(waiting[0].end, "later")
        assert (await exchange.complete()).body == b"later"

    talk(server, scenario)


def test_deferred_response_whose_client_went_away() -> None:
    """`when_drained` calls back too when there is nothing more to wait for."""
    server = make_server()
    waiting: list[Response] = []
    called: list[str] = []

    @server.get("/")
    def handler(req: Request, res: Response) -> None:
        res.defer()
        res.write_all(bytes(8 << 20))
        res.when_drained(lambda: called.append("back"))
        waiting.append(res)

    async def scenario(client: AioquicClient) -> None:
        client.stop_reading()
        exchange = client.start(client.fields("GET", "/"), keep_body=False)
        await exchange.response()
        client.close()
        await until(lambda: called)

    talk(server, scenario)
    assert waiting[0].stream.connection_closed


# Files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.txt"
    path.write_bytes(bytes(range(256)) * 1024)
    return path


def file_server(file: Path, **fields: Any) -> Server:
    server = make_server(**fields)
    server.get("/file")(lambda req, res: res.send_file(file))
    server.get("/blocking", blocking=True)(lambda req, res: res.send_file(file))

    async def send(req: Request, res: Response) -> None:
        res.send_file(file)

    server.get("/async")(send)
    server.static("/static", file.parent)
    return server


@pytest.mark.parametrize("path", ["/file", "/blocking", "/async", "/static/file.txt"])
def test_file(file: Path, path: str) -> None:
    """A file with its type, length and validators; again when it is known; a part; HEAD; each counted."""
    content = file.read_bytes()
    server = file_server(file)

    async def scenario(client: AioquicClient) -> None:
        done = await client.get(path)
        assert (done.status, done.body) == (200, content)
        assert done.header("content-length") == str(len(content))
        assert (done.header("content-type") or "").startswith("text/plain")
        etag = done.header("etag")
        assert etag is not None
        again = await client.get(path, headers=[(b"if-none-match", etag.encode())])
        assert (again.status, again.body) == (304, b"")
        part = await client.get(path, headers=[(b"range", b"bytes=100-299")])
        assert (part.status, part.body) == (206, content[100:300])
        assert part.header("content-range") == f"bytes 100-299/{len(content)}"
        beyond = await client.get(path, headers=[(b"range", b"bytes=9999999-")])
        assert (beyond.status, beyond.header("content-range")) == (416, f"bytes */{len(content)}")
        head = await client.request("HEAD", path)
        assert (head.status, head.body, head.header("content-length")) == (200, b"", str(len(content)))

    talk(server, scenario)
    counted = server.export_metrics()["handlers"]
    assert (counted["started"], counted["finished"], counted["active"]) == (5, 5, 0)


def test_static_paths(file: Path) -> None:
    """Nothing outside of the directory is served; what is not there is a 404."""
    (file.parent.parent / "secret.txt").write_text("secret")
    server = file_server(file)

    async def scenario(client: AioquicClient) -> None:
        for path in (
            "nothing.txt",
            "../secret.txt",
            "%2e%2e/secret.txt",
            "..%2fsecret.txt",
            "a/../../secret.txt",
        ):
            done = await client.get("/static/" + path)
            assert done.status in (400, 403, 404), path
            assert b"secret\n" not in done.body
        assert (await client.request("POST", "/static/file.txt")).status == 405

    talk(server, scenario)


def test_precompressed_sibling(file: Path) -> None:
    """`send_file(precompressed=True)`: a packed sibling for who takes it (RFC 9110 12.5.3)."""
    file.with_name("file.txt.br").write_bytes(b"packed")
    server = make_server()
    server.get("/")(lambda req, res: res.send_file(file, precompressed=True))
    server.get("/plain")(lambda req, res: res.send_file(file))
    content = file.read_bytes()

    async def scenario(client: AioquicClient) -> None:
        accept = [(b"accept-encoding", b"br, gzip")]
        packed = await client.get("/", headers=accept)
        assert (packed.body, packed.header("content-encoding")) == (b"packed", "br")
        assert (packed.header("content-type") or "").startswith("text/plain")
        assert packed.header("vary") == "accept-encoding"
        for done in (await client.get("/"), await client.get("/plain", headers=accept)):
            assert (done.body, done.header("content-encoding")) == (content, None)

    talk(server, scenario)


def test_missing_file_is_a_404(tmp_path: Path) -> None:
    """`send_file` of what is not there is a 404, not a 500."""
    assert respond(lambda req, res: res.send_file(tmp_path / "nothing")).status == 404


def test_descriptor_of_a_broken_download(file: Path) -> None:
    """A file whose client goes away is closed."""
    with file.open("ab") as out:
        out.truncate(64 << 20)
    server = file_server(file)

    async def scenario(client: AioquicClient) -> None:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for path in ("/file", "/async", "/static/file.txt"):
            exchange = client.start(client.fields("GET", path), keep_body=False)
            await exchange.response()
            client.send_stop(exchange.stream_id, H3ErrorCode.H3_REQUEST_CANCELLED)
            await until(lambda: len(os.listdir("/proc/self/fd")) == before)  # noqa: PTH208

    talk(server, scenario)


def test_file_cut_short_in_a_download(file: Path) -> None:
    """What was announced and is not there any more breaks the response off (RFC 9114 4.1.2), nothing else."""
    server = file_server(file)
    server.get("/hello")(lambda: "hello")

    async def scenario(client: AioquicClient) -> None:
        for path in ("/file", "/blocking", "/async", "/static/file.txt"):
            os.truncate(file, 8 << 20)
            client.stop_reading()
            exchange = client.start(client.fields("GET", path))
            await exchange.response()
            os.truncate(file, 1 << 20)
            client.read_on()
            with pytest.raises(PeerReset) as caught:
                await exchange.complete()
            assert caught.value.code == H3ErrorCode.H3_INTERNAL_ERROR, path
            assert (await client.get("/hello")).status == 200

    talk(server, scenario, window=128 * KIB)


def test_downloads_at_once(file: Path) -> None:
    """More files on one connection than max_active_downloads_per_conn are a 503; others go on (spec 5.6)."""
    with file.open("ab") as out:
        out.truncate(64 << 20)
    server = file_server(file, max_active_downloads_per_conn=1)
    server.get("/hello")(lambda: "hello")

    async def scenario(client: AioquicClient) -> None:
        client.stop_reading()
        exchange = client.start(client.fields("GET", "/file"), keep_body=False)
        await exchange.response()
        assert (await client.get("/file")).status == 503
        assert (await client.get("/hello")).status == 200
        client.send_stop(exchange.stream_id, H3ErrorCode.H3_REQUEST_CANCELLED)
        await until(lambda: server.export_metrics()["handlers"]["active"] == 0)
        assert (await client.get("/file", headers=[(b"range", b"bytes=0-1")])).status == 206

    talk(server, scenario, window=128 * KIB)


def test_server_header() -> None:
    """`server_header` is in every response, errors included, and once."""
    server = make_server(server_header="here")
    server.get("/")(lambda: "hello")
    server.get("/blocking", blocking=True)(lambda: "hello")

    async def scenario(client: AioquicClient) -> None:
        for path in ("/", "/blocking", "/nowhere"):
            done = await client.get(path)
            assert [v for n, v in done.headers if n == b"server"] == [b"here"], path

    talk(server, scenario)
