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
from server_support import KIB, answer_of, logged, make_server, talk, until

from quiche_h3 import H3ErrorCode, PayloadTooLarge, Request, Response

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
        assert (done.status, done.body, done.header("content-type")) == (status, body, content_type)
        whole = (status != 204 and not isinstance(result, tuple | None)) or status in (201, 202, 203)
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
    "TooManyRequests": 429, "RequestHeaderFieldsTooLarge": 431, "InternalServerError": 500,
    "OutOfMemory": 500, "InvalidRedirectStatus": 500, "HeadersAlreadySent": 500, "ResponseEnded": 500,
    "InvalidState": 500, "StreamBlocked": 503, "WouldBlock": 503, "Done": 503, "ServiceUnavailable": 503,
    "EndOfStream": 500,
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
    """Middleware wraps handlers of its kind: plain around plain, generator, blocking; async around async."""
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
