"""Handlers of every style, through a real server: what they return, read, write, and raise."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from interop.aioquic_peer import AioquicClient, PeerReset
from server_support import KIB, MIB, client_of, logged, make_server, settled, talk, until

from quiche_h3 import H3ErrorCode, PayloadTooLarge, Request, Response, Server, StreamBlocked, StreamReset

Answer = tuple[int, bytes]

# Handlers of each style that answer with the request's path


def plain(req: Request, res: Response) -> str:
    return req.path


def generator(req: Request, res: Response) -> Iterator[str]:
    yield req.path[:3]
    yield req.path[3:]


async def coroutine(req: Request, res: Response) -> str:
    await asyncio.sleep(0)
    return req.path


async def async_generator(req: Request, res: Response) -> AsyncIterator[str]:
    yield req.path[:3]
    await asyncio.sleep(0)
    yield req.path[3:]


def blocking(req: Request, res: Response) -> str:
    assert threading.current_thread().name.startswith("quiche_h3-handler")
    return req.path


class Callable_:
    """A handler that is an object."""

    def __call__(self, req: Request) -> str:
        return req.path


class AsyncCallable:
    """A handler that is an object, to be awaited."""

    async def __call__(self, req: Request, res: Response) -> None:
        res.write_all(req.path)


STYLES: dict[str, tuple[Any, bool]] = {
    "plain": (plain, False),
    "generator": (generator, False),
    "coroutine": (coroutine, False),
    "async_generator": (async_generator, False),
    "blocking": (blocking, True),
    "blocking_returns_generator": (lambda req, res: generator(req, res), True),
    "object": (Callable_(), False),
    "async_object": (AsyncCallable(), False),
    "returns_generator": (lambda req, res: generator(req, res), False),
    "returns_coroutine": (lambda req, res: coroutine(req, res), False),
}
ASYNC = {"coroutine", "async_generator", "async_object", "returns_coroutine"}


def answer_of(server: Server, method: str, path: str, **options: Any) -> Answer:
    """Status and body of one request."""

    async def scenario(client: AioquicClient) -> Answer:
        done = await client.request(method, path, **options)
        return done.status, bytes(done.body)

    return talk(server, scenario)


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
@pytest.mark.parametrize("style", STYLES)
def test_style(style: str, backend: str) -> None:
    """Every style of handler answers, under libev (where it is not async) and under asyncio."""
    if style == "returns_coroutine" and backend == "auto":
        pytest.skip("a plain function that returns a coroutine does not select asyncio")
    handler, is_blocking = STYLES[style]
    server = make_server(event_backend=backend)
    server.get("/path", blocking=is_blocking)(handler)
    assert answer_of(server, "GET", "/path") == (200, b"/path")
    counted = server.export_metrics()["handlers"]
    assert (counted["started"], counted["finished"], counted["active"]) == (1, 1, 0)


@pytest.mark.parametrize("arity", range(3))
def test_arity(arity: int) -> None:
    """Handlers take the request and the response, the request, or nothing."""
    handlers: list[Callable[..., str]] = [lambda: "0", lambda req: "1", lambda req, res: "2"]
    server = make_server()
    server.get("/")(handlers[arity])
    assert answer_of(server, "GET", "/") == (200, str(arity).encode())


RESULTS: list[tuple[Any, int, bytes, str | None]] = [
    ("text é", 200, "text é".encode(), "text/plain; charset=utf-8"),
    (b"bytes", 200, b"bytes", "application/octet-stream"),
    ({"a": [1, "é"]}, 200, json.dumps({"a": [1, "é"]}, separators=(",", ":")).encode(), "application/json"),
    ([1, 2], 200, b"[1,2]", "application/json"),
    (None, 200, b"", None),
    ("", 200, b"", None),
    ((201, "made"), 201, b"made", "text/plain; charset=utf-8"),
    ((202, {"x-a": "1", "content-type": "text/x"}, b"body"), 202, b"body", "text/x"),
    ((203, [("x-a", "1")], {"k": None}), 203, b'{"k":null}', "application/json"),
    ((204, None), 204, b"", None),
    ((200, {}, iter([b"a", "b"])), 200, b"ab", None),
]


@pytest.mark.parametrize(("result", "status", "body", "content_type"), RESULTS)
def test_result(result: Any, status: int, body: bytes, content_type: str | None) -> None:
    """What a handler may return, with the type that goes with it and, for a whole body, its length."""
    server = make_server()
    server.get("/")(lambda: result)

    async def scenario(client: AioquicClient) -> None:
        done = await client.get("/")
        assert (done.status, bytes(done.body), done.header("content-type")) == (status, body, content_type)
        whole = status != 204 and not isinstance(result, tuple | None) or status in (201, 202, 203)
        assert done.header("content-length") == (str(len(body)) if whole or result is None else None)

    talk(server, scenario)


@pytest.mark.parametrize("result", [7, object(), (200,), ("a", "b"), (200, {}, "b", 1), (99, "x"), {1, 2}])
def test_result_that_says_nothing(result: Any) -> None:
    """A return value of no meaning is a 500 with its traceback in the log, not an empty 200."""
    server = make_server()
    server.get("/")(lambda: result)
    with logged() as records:
        assert answer_of(server, "GET", "/") == (500, b"500 Internal Server Error\n")
    assert [r.exc_info is not None for r in records if r.levelname == "ERROR"] == [True]


@pytest.mark.parametrize("style", ["generator", "async_generator", "blocking"])
def test_chunk_of_wrong_type(style: str) -> None:
    """A chunk that is neither text nor bytes is an error: bytes(5) would be five zeros."""
    server = make_server()

    async def async_chunks() -> AsyncIterator[Any]:
        yield 5

    def chunks() -> Iterator[Any]:
        yield 5

    handlers = {"generator": chunks, "async_generator": async_chunks, "blocking": lambda: chunks()}
    server.get("/", blocking=style == "blocking")(handlers[style])
    assert answer_of(server, "GET", "/")[0] == 500


# Bodies


def whole(req: Request) -> dict[str, Any]:
    body = req.body.read_all()
    return {"size": len(body), "read": req.body.bytes_read, "trailers": dict(req.trailers or {})}


def pieces(req: Request) -> Iterator[Any]:
    size = 0
    while not req.body.ended:
        for chunk in req.body:
            assert 0 < len(chunk) <= 65_536
            size += len(chunk)
        yield req.body
    yield json.dumps({"size": size, "read": req.body.bytes_read, "trailers": dict(req.trailers or {})})


async def awaited(req: Request) -> dict[str, Any]:
    size = 0
    while chunk := await req.body.read(10_000):
        assert len(chunk) <= 10_000
        size += len(chunk)
    assert req.body.ended
    return {"size": size, "read": req.body.bytes_read, "trailers": dict(req.trailers or {})}


async def awaited_whole(req: Request) -> dict[str, Any]:
    body = await req.body.read_all()
    return {"size": len(body), "read": req.body.bytes_read, "trailers": dict(req.trailers or {})}


def waited(req: Request) -> dict[str, Any]:
    size = 0
    while chunk := req.body.read(10_000):
        assert len(chunk) <= 10_000
        size += len(chunk)
    assert req.body.ended
    return {"size": size, "read": req.body.bytes_read, "trailers": dict(req.trailers or {})}


READERS: dict[str, tuple[Any, bool]] = {
    "plain": (whole, False),
    "generator": (pieces, False),
    "coroutine": (awaited, False),
    "coroutine, whole": (awaited_whole, False),
    "blocking": (waited, True),
    "blocking, whole": (whole, True),
}


@pytest.mark.parametrize("size", [0, 1, 300_000])
@pytest.mark.parametrize("reader", READERS)
def test_body_and_trailers(reader: str, size: int) -> None:
    """Each style reads the whole body, counts it, and then has the trailers (RFC 9114 4.1)."""
    handler, is_blocking = READERS[reader]
    server = make_server()
    server.post("/", blocking=is_blocking)(handler)
    status, body = answer_of(
        server, "POST", "/", body=[b"x" * 1000] * (size // 1000) or [b"x" * size], trailers=[(b"x-t", b"1")]
    )
    assert (status, json.loads(body)) == (200, {"size": size, "read": size, "trailers": {"x-t": "1"}})


@pytest.mark.parametrize("reader", READERS)
def test_body_in_many_small_pieces(reader: str) -> None:
    """A body that comes one byte at a time, as another turn of the loop each, is read to its end."""
    handler, is_blocking = READERS[reader]
    server = make_server()
    server.post("/", blocking=is_blocking)(handler)

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("POST", "/"), end_stream=False)
        for _ in range(20):
            await client.send_body(exchange.stream_id, [b"x"], False)
            await asyncio.sleep(0.002)
        await client.send_body(exchange.stream_id, [], True)
        await exchange.complete()
        assert json.loads(exchange.body)["size"] == 20

    talk(server, scenario)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("announced", [True, False])
def test_body_over_the_limit(reader: str, announced: bool) -> None:
    """413 for a body over max_request_body_size, by its content-length or by what came (spec 5.6)."""
    handler, is_blocking = READERS[reader]
    server = make_server(max_request_body_size=100_000, max_non_streaming_body_bytes=100_000)
    server.post("/", blocking=is_blocking)(handler)
    headers = [(b"content-length", b"200000")] if announced else []
    status, _ = answer_of(server, "POST", "/", headers=headers, body=[b"x" * 20_000] * 10)
    assert status == 413


def test_body_over_the_limit_of_whole_bodies() -> None:
    """max_non_streaming_body_bytes binds handlers that are given whole bodies, and no others."""
    server = make_server(max_non_streaming_body_bytes=10_000)
    server.post("/plain")(whole)
    server.post("/awaited")(awaited)

    async def scenario(client: AioquicClient) -> None:
        assert (await client.request("POST", "/plain", body=[b"x" * 10_001])).status == 413
        assert (await client.request("POST", "/plain", body=[b"x" * 10_000])).status == 200
        assert (await client.request("POST", "/awaited", body=[b"x" * 10_001])).status == 200

    talk(server, scenario)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("length", "sent"), [(10, 5), (5, 10), (5, 0)])
def test_body_of_another_length_than_announced(reader: str, length: int, sent: int) -> None:
    """A body of another length than content-length says makes a message malformed (RFC 9114 4.1.2)."""
    handler, is_blocking = READERS[reader]
    server = make_server()
    server.post("/", blocking=is_blocking)(handler)

    async def scenario(client: AioquicClient) -> None:
        fields = client.fields("POST", "/", [(b"content-length", str(length).encode())])
        exchange = client.start(fields, end_stream=not sent)
        if sent:
            await client.send_body(exchange.stream_id, [b"x" * sent], True)
        (outcome,) = await asyncio.gather(exchange.complete(), return_exceptions=True)
        if isinstance(outcome, PeerReset):
            assert outcome.code == H3ErrorCode.H3_MESSAGE_ERROR
        else:
            assert exchange.status == 400

    talk(server, scenario)


@pytest.mark.parametrize("reader", ["coroutine", "blocking", "generator"])
def test_client_resets_its_request(reader: str) -> None:
    """Whoever waits for a body that the client breaks off is told, and the connection goes on."""
    server = make_server()
    seen: list[str] = []

    async def awaits(req: Request) -> None:
        try:
            await req.body.read_all()
        except BaseException as exc:
            seen.append(type(exc).__name__)
            raise

    def waits(req: Request) -> None:
        try:
            req.body.read_all()
        except StreamReset as exc:
            seen.append(type(exc).__name__)
            assert exc.code == H3ErrorCode.H3_REQUEST_CANCELLED
            raise

    def yields(req: Request) -> Iterator[Any]:
        try:
            while True:
                yield req.body
                req.body.read()
        finally:
            seen.append("closed")

    handler: Any = {"coroutine": awaits, "blocking": waits, "generator": yields}[reader]
    server.post("/", blocking=reader == "blocking")(handler)
    server.get("/")(plain)

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("POST", "/"), end_stream=False)
        await client.send_body(exchange.stream_id, [b"part"], False)
        await until(lambda: server.export_metrics()["handlers"]["active"] == 1)
        client.reset(exchange.stream_id, H3ErrorCode.H3_REQUEST_CANCELLED)
        await until(lambda: seen)
        assert (await client.get("/")).status == 200
        await until(lambda: server.export_metrics()["handlers"]["active"] == 0)

    with logged() as records:
        talk(server, scenario)
    assert seen == [{"coroutine": "CancelledError", "blocking": "StreamReset", "generator": "closed"}[reader]]
    assert [r.getMessage() for r in records if r.levelname == "ERROR"] == []  # no fault of the program's


def test_unread_body_is_stopped() -> None:
    """A response that is complete before the request asks for no more of it: H3_NO_ERROR (RFC 9114 4.1)."""
    server = make_server()

    async def early(req: Request) -> str:
        return "enough"

    server.post("/")(early)

    async def scenario(client: AioquicClient) -> None:
        for path, status in (("/", 200), ("/nowhere", 404)):
            exchange = client.start(client.fields("POST", path), end_stream=False)
            await client.send_body(exchange.stream_id, [b"part"], False)
            await exchange.complete()
            assert exchange.status == status
            await until(lambda e=exchange: e.stop_sending is not None)
            assert exchange.stop_sending == H3ErrorCode.H3_NO_ERROR

    talk(server, scenario)


def test_json_body() -> None:
    """`json()` parses a body in each style; what is no JSON is the client's fault, a 400."""
    server = make_server()

    async def parse(req: Request) -> Any:
        return [await req.body.json()]

    server.post("/plain")(lambda req: [req.body.json()])
    server.post("/async")(parse)
    server.post("/blocking", blocking=True)(lambda req: [req.body.json()])

    async def scenario(client: AioquicClient) -> None:
        for path in ("/plain", "/async", "/blocking"):
            assert (await client.request("POST", path, body=[b'{"a": 1}'])).body == b'[{"a":1}]'
            assert (await client.request("POST", path, body=[b'{"a": '])).status == 400

    talk(server, scenario)


# Backpressure


class Producer:
    """Handlers of each style that send a large body in chunks and count what they were let go."""

    CHUNK = bytes(32 * KIB)
    COUNT = 1024

    def __init__(self) -> None:
        self.produced = 0

    def chunks(self) -> Iterator[bytes]:
        for _ in range(self.COUNT):
            self.produced += len(self.CHUNK)
            yield self.CHUNK

    def generator(self, req: Request, res: Response) -> Iterator[bytes]:
        yield from self.chunks()

    def returned(self, req: Request, res: Response) -> Iterator[bytes]:
        return self.chunks()

    async def coroutine(self, req: Request, res: Response) -> None:
        for chunk in self.chunks():
            await res.write_all(chunk)

    async def async_generator(self, req: Request, res: Response) -> AsyncIterator[bytes]:
        for chunk in self.chunks():
            yield chunk

    def blocking(self, req: Request, res: Response) -> None:
        for chunk in self.chunks():
            res.write_all(chunk)

    def callback(self, req: Request, res: Response) -> None:
        """Neither waits nor yields: writes what is taken, and goes on when it is called back."""
        res.defer()
        rest = b"".join(self.chunks())
        self.produced = 0

        def go_on() -> None:
            nonlocal rest
            try:
                while rest:
                    taken = res.write(rest[: 32 * KIB])
                    self.produced += taken
                    rest = rest[taken:]
            except StreamBlocked:
                res.when_drained(go_on)
            else:
                res.end()

        go_on()


@pytest.mark.parametrize(
    "style", ["generator", "returned", "coroutine", "async_generator", "blocking", "callback"]
)
def test_slow_download_and_a_fast_one(style: str) -> None:
    """A client that does not read stops its producer at window and queue, and nobody else's (spec 7)."""
    server = make_server()
    producers = {"/slow": Producer(), "/fast": Producer()}
    for path, producer in producers.items():
        server.get(path, blocking=style == "blocking")(getattr(producer, style))
    window = 128 * KIB
    total = Producer.COUNT * len(Producer.CHUNK)

    async def both(url: str) -> None:
        async with client_of(url, window) as slow, client_of(url) as fast:
            slow.stop_reading()
            held = slow.start(slow.fields("GET", "/slow"), keep_body=False)
            done = await fast.download("/fast")
            assert (done.status, done.size) == (200, total)
            produced = await settled(lambda: producers["/slow"].produced)
            assert produced <= window + server.config.max_response_queue_bytes + len(Producer.CHUNK)
            slow.send_stop(held.stream_id, H3ErrorCode.H3_REQUEST_CANCELLED)
            await until(lambda: server.export_metrics()["handlers"]["active"] == 0)
            assert (await fast.download("/fast")).size == total

    with server.running() as address:
        asyncio.run(both(address.url))


def test_slow_upload_and_a_fast_one() -> None:
    """An upload that its handlers do not read stops at the window, whatever the style; others go on."""
    server = make_server()
    go = threading.Event()
    window = server.config.initial_max_stream_data_bidi_remote

    async def sleeps(req: Request) -> dict[str, Any]:
        while not go.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        return await awaited(req)

    def blocks(req: Request) -> dict[str, Any]:
        go.wait(30)
        return waited(req)

    server.post("/coroutine")(sleeps)
    server.post("/blocking", blocking=True)(blocks)
    server.post("/fast")(awaited)

    async def one(url: str, path: str) -> None:
        async with client_of(url) as slow, client_of(url) as fast:
            uploading = asyncio.ensure_future(slow.upload(path, 4 * MIB))
            await until(lambda: slow.exchanges)
            assert window - 16 * KIB < await settled(lambda: slow.sent(0)) <= window
            assert json.loads((await fast.upload("/fast", 2 * MIB)).body)["size"] == 2 * MIB
            assert not uploading.done()
            go.set()
            assert json.loads((await uploading).body)["size"] == 4 * MIB
            go.clear()

    with server.running() as address:
        for path in ("/coroutine", "/blocking"):
            asyncio.run(one(address.url, path))


@pytest.mark.parametrize("style", ["generator", "async_generator", "blocking"])
def test_head_does_not_pull_the_body(style: str) -> None:
    """HEAD ends with the fields: a body that never ends is not waited for (RFC 9110 9.3.2)."""
    server = make_server()
    pulled = 0

    def endless(req: Request, res: Response) -> Iterator[bytes]:
        nonlocal pulled
        res.header("x-a", "1")
        while True:
            pulled += 1
            yield b"x"

    async def async_endless(req: Request, res: Response) -> AsyncIterator[bytes]:
        for chunk in endless(req, res):
            yield chunk

    handlers: dict[str, Any] = {
        "generator": endless,
        "async_generator": async_endless,
        "blocking": lambda req, res: endless(req, res),
    }
    server.get("/", blocking=style == "blocking")(handlers[style])

    async def scenario(client: AioquicClient) -> None:
        done = await client.request("HEAD", "/")
        assert (done.status, done.header("x-a"), done.body) == (200, "1", b"")

    talk(server, scenario)
    assert pulled <= 1


# Errors


ERRORS = {
    "BadRequest": 400, "Malformed": 400, "MultiRange": 400, "NonBytesUnit": 400, "Unauthorized": 401,
    "Forbidden": 403, "NotFound": 404, "MethodNotAllowed": 405, "RequestTimeout": 408, "PayloadTooLarge": 413,
    "UriTooLong": 414, "RangeNotSatisfiable": 416, "InvalidRange": 416, "Unsatisfiable": 416,
    "TooManyRequests": 429, "RequestHeaderFieldsTooLarge": 431, "InternalServerError": 500, "OutOfMemory": 500,
    "InvalidRedirectStatus": 500, "HeadersAlreadySent": 500, "ResponseEnded": 500, "InvalidState": 500,
    "StreamBlocked": 503, "WouldBlock": 503, "Done": 503, "ServiceUnavailable": 503, "EndOfStream": 500,
    "ReadError": 500, "DatagramTooLarge": 500, "SessionClosed": 500, "FlowControl": 500, "StreamClosed": 500,
}  # fmt: skip


def test_errors_become_their_status() -> None:
    """Every error of spec 4.1 that a handler raises is answered with the status `error_to_status` gives."""
    import quiche_h3

    server = make_server()

    def raises(req: Request) -> None:
        raise getattr(quiche_h3, req.params["name"])("why")

    async def raises_async(req: Request) -> None:
        raises(req)

    server.get("/plain/:name")(raises)
    server.get("/async/:name")(raises_async)
    server.get("/blocking/:name", blocking=True)(raises)

    async def scenario(client: AioquicClient) -> None:
        for style in ("plain", "async", "blocking"):
            got = await asyncio.gather(*(client.get(f"/{style}/{name}") for name in ERRORS))
            assert {name: done.status for name, done in zip(ERRORS, got, strict=True)} == ERRORS

    with logged() as records:
        talk(server, scenario)
    # The program's faults are in the log with their tracebacks, the client's are not.
    faults = [r for r in records if r.levelname == "ERROR"]
    assert len(faults) == 3 * sum(s >= 500 and n != "ServiceUnavailable" for n, s in ERRORS.items())
    assert all(r.exc_info for r in faults)


STYLES_OF_FAILURE = ["plain", "generator", "coroutine", "async_generator", "blocking"]


def failing(style: str, before: list[bytes], error: Exception) -> Any:
    """A handler that sends `before` and raises."""

    def plain_failing(req: Request, res: Response) -> None:
        for chunk in before:
            res.write_all(chunk)
        raise error

    def generator_failing(req: Request, res: Response) -> Iterator[bytes]:
        res.header("x-own", "1")
        yield from before
        raise error

    async def coroutine_failing(req: Request, res: Response) -> None:
        await asyncio.sleep(0)
        for chunk in before:
            await res.write_all(chunk)
        raise error

    async def async_generator_failing(req: Request, res: Response) -> AsyncIterator[bytes]:
        for chunk in before:
            yield chunk
        raise error

    return {
        "plain": plain_failing, "generator": generator_failing, "coroutine": coroutine_failing,
        "async_generator": async_generator_failing, "blocking": plain_failing,
    }[style]  # fmt: skip


@pytest.mark.parametrize("style", STYLES_OF_FAILURE)
def test_exception_before_the_fields(style: str) -> None:
    """An exception before anything was sent is a 500 that tells the client nothing; the log has it once."""
    server = make_server()
    server.get("/", blocking=style == "blocking")(failing(style, [], KeyError("secret")))
    with logged() as records:
        assert answer_of(server, "GET", "/") == (500, b"500 Internal Server Error\n")
    (record,) = [r for r in records if r.levelname == "ERROR"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    counted = server.export_metrics()["handlers"]
    assert (counted["started"], counted["failed"], counted["active"]) == (1, 1, 0)


@pytest.mark.parametrize("error", [KeyError("secret"), PayloadTooLarge("late")])
@pytest.mark.parametrize("style", STYLES_OF_FAILURE)
def test_exception_after_the_fields(style: str, error: Exception) -> None:
    """An exception after the fields resets the stream with H3_INTERNAL_ERROR: no one takes it for whole."""
    server = make_server()
    server.get("/", blocking=style == "blocking")(failing(style, [b"part"], error))
    server.get("/well")(plain)

    async def scenario(client: AioquicClient) -> None:
        with pytest.raises(PeerReset) as caught:
            await client.get("/")
        assert caught.value.code == H3ErrorCode.H3_INTERNAL_ERROR
        assert (await client.get("/well")).status == 200

    with logged() as records:
        talk(server, scenario)
    assert len([r for r in records if r.levelname == "ERROR"]) == 1


class Teapot(Exception):
    """An error of the program's own."""


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("style", STYLES_OF_FAILURE)
def test_error_handler(style: str, kind: str, backend: str) -> None:
    """`on_error` answers for an exception and its subclasses, in place of what the handler had set."""
    server = make_server(event_backend=backend)

    class Small(Teapot):
        pass

    def answer(req: Request, res: Response, exc: Exception) -> tuple[int, str]:
        assert not res.has_header("x-own")
        return 418, type(exc).__name__

    async def answer_async(req: Request, res: Response, exc: Exception) -> tuple[int, str]:
        await asyncio.sleep(0)
        return answer(req, res, exc)

    server.on_error(Teapot)(answer if kind == "plain" else answer_async)
    server.get("/", blocking=style == "blocking")(failing(style, [], Small()))
    with logged() as records:
        assert answer_of(server, "GET", "/") == (418, b"Small")
    assert [r for r in records if r.levelname == "ERROR"] == []


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_error_handler_that_fails(kind: str) -> None:
    """An exception of an error handler is a 500."""
    server = make_server()

    def answer(req: Request, res: Response, exc: Exception) -> None:
        raise ValueError("worse")

    async def answer_async(req: Request, res: Response, exc: Exception) -> None:
        raise ValueError("worse")

    server.on_error(Teapot)(answer if kind == "plain" else answer_async)
    server.get("/")(failing("plain", [], Teapot()))
    assert answer_of(server, "GET", "/")[0] == 500


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_error_handler_for_a_route_that_is_not_there(kind: str) -> None:
    """A 404 page of the program's own, also for a request with a body, which is not waited for."""
    server = make_server()

    def answer(req: Request, res: Response, exc: Exception) -> str:
        return "nothing here"

    async def answer_async(req: Request, res: Response, exc: Exception) -> str:
        await asyncio.sleep(0)
        return "nothing here"

    from quiche_h3 import NotFound

    server.on_error(NotFound)(answer if kind == "plain" else answer_async)

    async def scenario(client: AioquicClient) -> None:
        done = await client.get("/nowhere")
        assert (done.status, done.body) == (404, b"nothing here")
        exchange = client.start(client.fields("POST", "/nowhere"), end_stream=False)
        await client.send_body(exchange.stream_id, [b"part"], False)
        await exchange.complete()
        assert exchange.status == 404
        await until(lambda: exchange.stop_sending is not None)
        counted = server.export_metrics()
        assert counted["handlers"]["active"] == 0

    talk(server, scenario)


def test_error_of_a_client_that_went_away_is_quiet() -> None:
    """Handlers that fail because the client has gone are no news: nothing in the error log."""
    server = make_server()
    started = threading.Event()

    def endless(req: Request, res: Response) -> None:
        started.set()
        while True:
            res.write_all(bytes(32 * KIB))

    server.get("/", blocking=True)(endless)

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("GET", "/"), keep_body=False)
        await exchange.response()
        client.send_stop(exchange.stream_id, H3ErrorCode.H3_REQUEST_CANCELLED)
        await until(lambda: server.export_metrics()["handlers"]["active"] == 0)
        exchange = client.start(client.fields("GET", "/"), keep_body=False)
        await exchange.response()  # and now the connection goes

    with logged() as records:
        talk(server, scenario)
    assert [r.getMessage() for r in records if r.levelname == "ERROR"] == []


# Middleware


def test_middleware_of_each_kind() -> None:
    """Middleware wraps handlers of its kind: plain around plain, generator and blocking, async around async."""
    server = make_server()

    @server.middleware
    def mark(req: Request, res: Response, call_next: Callable[..., Any]) -> Any:
        req.state = "seen"
        res.header("x-mark", "1")
        return call_next(req, res)

    app = make_server()

    @app.middleware
    async def mark_async(req: Request, res: Response, call_next: Callable[..., Awaitable[Any]]) -> Any:
        req.state = "seen"
        res.header("x-mark", "1")
        return await call_next(req, res)

    async def seen(req: Request) -> str:
        return str(req.state)

    server.get("/plain")(lambda req: req.state)
    server.get("/blocking", blocking=True)(lambda req: req.state)
    server.get("/generator")(generator)
    app.get("/async")(seen)

    async def scenario(client: AioquicClient) -> None:
        for path in ("/plain", "/blocking"):
            done = await client.get(path)
            assert (done.body, done.header("x-mark")) == (b"seen", "1")
        done = await client.get("/generator")
        assert (done.body, done.header("x-mark")) == (b"/generator", "1")

    async def async_scenario(client: AioquicClient) -> None:
        done = await client.get("/async")
        assert (done.body, done.header("x-mark")) == (b"seen", "1")

    talk(server, scenario)
    talk(app, async_scenario)


# Caps


def test_requests_at_once() -> None:
    """More requests at work on one connection than max_active_requests_per_conn are a 503 (spec 5.6)."""
    server = make_server(max_active_requests_per_conn=2)
    go = threading.Event()

    async def waits(req: Request) -> str:
        while not go.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        return "done"

    server.get("/")(waits)

    async def scenario(client: AioquicClient) -> None:
        running = [asyncio.ensure_future(client.get("/")) for _ in range(2)]
        await until(lambda: server.export_metrics()["handlers"]["active"] == 2)
        assert (await client.get("/")).status == 503
        assert server.export_metrics()["handlers"]["rejected_503"] == 1
        go.set()
        assert [(await r).status for r in running] == [200, 200]
        assert (await client.get("/")).status == 200

    talk(server, scenario)


def test_threads_and_their_queue() -> None:
    """Blocking requests wait for one of handler_threads, so many as blocking_queue_limit; then 503."""
    server = make_server(handler_threads=2, blocking_queue_limit=1)
    go, running = threading.Event(), threading.Semaphore(0)

    def waits(req: Request) -> str:
        running.release()
        go.wait(30)
        return "done"

    server.get("/", blocking=True)(waits)

    async def scenario(client: AioquicClient) -> None:
        waiting = [asyncio.ensure_future(client.get("/")) for _ in range(3)]
        await until(lambda: server.export_metrics()["handlers"]["active"] == 3)
        counted = server.export_metrics()["handlers"]
        assert (counted["blocking_active"], counted["blocking_queued"]) == (2, 1)
        assert (await client.get("/")).status == 503
        go.set()
        assert [(await r).status for r in waiting] == [200] * 3

    talk(server, scenario)


@pytest.mark.parametrize("style", ["coroutine", "blocking", "generator"])
def test_stop_with_handlers_at_work(style: str) -> None:
    """A server that stops at once leaves no handler behind that waits for ever."""
    server = make_server(drain_timeout_ms=0)
    ended = threading.Event()
    started = threading.Event()

    async def sleeps(req: Request) -> None:
        started.set()
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    def blocks(req: Request, res: Response) -> None:
        started.set()
        try:
            while True:
                res.write_all(b"x" * 1000)
                time.sleep(0.001)
        finally:
            ended.set()

    def yields(req: Request) -> Iterator[Any]:
        started.set()
        try:
            while True:
                yield req.body
        finally:
            ended.set()

    handler: Any = {"coroutine": sleeps, "blocking": blocks, "generator": yields}[style]
    server.post("/", blocking=style == "blocking")(handler)

    async def scenario(client: AioquicClient) -> None:
        client.start(client.fields("POST", "/"), end_stream=False)
        await until(started.is_set)
        await asyncio.get_running_loop().run_in_executor(None, server.stop)
        assert (await client.closed()).code == H3ErrorCode.H3_NO_ERROR

    talk(server, scenario)
    assert ended.wait(10)
