"""Middleware and error handlers around the handlers of WebTransport sessions, of every kind."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from server_support import logged, make_server, until
from webtransport_peer import WebTransportClient, soon, talk

from quiche_h3 import (
    BlockingServerSession,
    HeadersAlreadySent,
    ResponseEnded,
    RouteError,
    Router,
    Server,
    ServerSession,
    Unauthorized,
)
from quiche_h3.webtransport_answer import UnansweredStream

KINDS = ["coroutine", "plain", "blocking"]


def site(kind: str, pattern: str = "/wt", router: Router | None = None, **fields: Any) -> Server:
    """A server that echoes datagrams, by a handler of that kind."""
    server = make_server(drain_timeout_ms=200, **fields)
    where = server if router is None else router

    if kind == "coroutine":

        @where.webtransport(pattern)
        async def echo(session: ServerSession) -> None:
            async for payload in session.datagrams():
                session.send_datagram(payload)

    elif kind == "plain":

        @where.webtransport(pattern)
        def echo_by_callbacks(session: ServerSession) -> None:
            session.on_datagram = session.send_datagram

    else:

        @where.webtransport(pattern, blocking=True)
        def echo_in_a_thread(session: BlockingServerSession) -> None:
            session.accept()
            for payload in session.datagrams():
                session.send_datagram(payload)

    return server


def around(server: Server | Router, kind: str, wrap: Callable[[Any, Any, Any], Any]) -> None:
    """Puts a middleware around it: `wrap` is a generator that yields where the handler has its turn.

    What it returns is returned; it is `async def` where the handler is.
    """

    def plain(req: Any, res: Any, call_next: Any) -> object:
        steps = wrap(req, res, call_next)
        try:
            next(steps)
            result = call_next(req, res)
            steps.send(result)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it yields once")

    async def waiting(req: Any, res: Any, call_next: Any) -> object:
        steps = wrap(req, res, call_next)
        try:
            next(steps)
            result = await call_next(req, res)
            steps.send(result)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it yields once")

    server.middleware(waiting if kind == "coroutine" else plain)


def by_exception(req: Any, res: Any) -> Any:
    """Refuses."""
    raise Unauthorized("who are you?")


def by_result(req: Any, res: Any) -> Any:
    """Refuses."""
    return 401, {"www-authenticate": "Bearer"}, "who are you?"


def by_end(req: Any, res: Any) -> Any:
    """Refuses."""
    res.status(401).header("www-authenticate", "Bearer").end("who are you?")


def by_pieces(req: Any, res: Any) -> Any:
    """Refuses."""
    res.status(401)
    res.write_all("who are ")
    res.write_all("you?")


@pytest.mark.parametrize("kind", KINDS)
def test_what_reaches_the_stream_does_so_in_the_loop(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """QUIC state belongs to the loop's thread, wherever a middleware runs: priority, trailers, reset."""
    server = site(kind)
    threads: list[tuple[str, int]] = []
    loop: list[int] = []

    @server.get("/loop")
    def tell() -> str:
        loop.append(threading.get_ident())
        return "told"

    def noted(name: str) -> None:
        before = getattr(UnansweredStream, name)

        def method(*args: Any) -> object:
            threads.append((name, threading.get_ident()))
            return before(*args)

        monkeypatch.setattr(UnansweredStream, name, method)

    for name in ("send_headers", "set_priority", "reset"):
        noted(name)

    def break_off(req: Any, res: Any, call_next: Any) -> Any:
        if req.path == "/wt":
            res.set_priority(1)
            res.inform(103, {"link": "</a.css>"})
            res.reset(0x10C)
            return None
        result = yield
        return result

    around(server, kind, break_off)

    async def scenario(client: WebTransportClient) -> None:
        session = client.connect_session("/wt")
        assert await soon(session.reset_code) == 0x10C
        request = client.connect_session("/loop", head={b":method": b"GET", b":protocol": None})
        assert await request.status() == 200

    talk(server, scenario)
    assert threads == [(name, loop[0]) for name in ("set_priority", "send_headers", "reset")]


@pytest.mark.parametrize("refuse", [by_exception, by_result, by_end, by_pieces])
@pytest.mark.parametrize("kind", KINDS)
def test_who_may_come_in(kind: str, refuse: Callable[[Any, Any], Any]) -> None:
    """A middleware that asks for a token refuses sessions as it does requests, and lets others pass."""
    server = site(kind)

    def check(req: Any, res: Any, call_next: Any) -> Any:
        if req.headers.get("authorization") != "Bearer mine":
            return refuse(req, res)
        result = yield
        return result

    around(server, kind, check)

    async def scenario(client: WebTransportClient) -> None:
        stranger = client.connect_session("/wt")
        assert await stranger.status() == 401
        await soon(stranger.ended)
        friend = await client.session("/wt", fields=[(b"authorization", b"Bearer mine")])
        friend.datagram(b"hello")
        assert await soon(friend.datagrams.get()) == b"hello"
        friend.close(0, "")
        await friend.closed()
        await until(lambda: server.export_metrics()["handlers"]["active"] == 0)

    talk(server, scenario)
    metrics = server.export_metrics()
    assert (metrics["webtransport"]["sessions"], metrics["webtransport"]["sessions_rejected"]) == (1, 1)
    assert (metrics["handlers"]["finished"], metrics["handlers"]["failed"]) == (2, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_and_state_from_outside(kind: str) -> None:
    """Fields that a middleware adds go with the answer, accepted or not; after it there is no more to say."""
    router = Router()
    server = site(kind, "/room/:name", router)
    late: list[str] = []

    def outer(req: Any, res: Any, call_next: Any) -> Any:
        res.header("x-request", req.params["name"])
        result = yield
        if res.headers_sent:
            with pytest.raises((HeadersAlreadySent, ResponseEnded)):
                res.header("x-late", "1")
            with pytest.raises(ResponseEnded):
                res.end()
            late.append(req.params["name"])
        return result

    def inner(req: Any, res: Any, call_next: Any) -> Any:
        assert req.stream_id == res.session.session_id
        if req.params["name"] == "closed":
            return 403, "closed"
        result = yield
        return result

    around(router, kind, inner)
    server.mount("/api", router)
    around(server, kind, outer)

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/api/room/red")
        assert (await session.answer)[b"x-request"] == b"red"
        refused = client.connect_session("/api/room/closed")
        assert await refused.status() == 403
        assert (await refused.answer)[b"x-request"] == b"closed"
        session.close(0, "")
        await session.closed()
        await until(lambda: server.export_metrics()["handlers"]["active"] == 0)

    talk(server, scenario)
    assert late == ([] if kind == "plain" else ["red"])  # a plain handler returns before it is accepted


@pytest.mark.parametrize("kind", ["coroutine", "blocking"])
def test_it_stands_around_the_whole_session(kind: str) -> None:
    """`call_next` returns when the handler does, with what the session has come to; outermost first."""
    server = site(kind)
    seen: list[object] = []

    def named(name: str) -> Any:
        def watch(req: Any, res: Any, call_next: Any) -> Any:
            seen.append(name)
            yield
            seen.append((name, res.session.close_info.code, res.session.stats["datagrams_received"]))

        return watch

    for name in ("outer", "inner"):
        around(server, kind, named(name))

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        session.datagram(b"one")
        await soon(session.datagrams.get())
        assert seen == ["outer", "inner"]
        session.close(7, "")
        await session.closed()
        await until(lambda: len(seen) == 4)

    talk(server, scenario)
    assert seen[2:] == [("inner", 7, 1), ("outer", 7, 1)]


def test_an_async_middleware_around_a_plain_handler() -> None:
    """The session outlives both, as it does the handler alone."""
    server = site("plain")

    @server.middleware
    async def wait_first(req: Any, res: Any, call_next: Any) -> object:
        await asyncio.sleep(0)
        return await call_next(req, res)

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        for _ in range(3):
            session.datagram(b"x")
            assert await soon(session.datagrams.get()) == b"x"
        assert not session.ended.done()

    talk(server, scenario)


def test_what_does_not_fit_together() -> None:
    """The rules of requests: `async def` around blocking, plain around `async def`."""
    for kind, other in (("blocking", "coroutine"), ("coroutine", "plain")):
        server = site(kind)
        around(server, other, lambda req, res, call_next: (yield))
        with pytest.raises(RouteError):
            server.compile()
    with pytest.raises(RouteError, match="plain functions"):
        Router().webtransport("/", blocking=True)(_coroutine)


async def _coroutine(session: ServerSession) -> None:
    """No handler for a thread."""


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_handler_accepts(kind: str) -> None:
    """A middleware that answers a CONNECT with 200 would open a session without a handler: 500, and a log."""
    server = site(kind)

    def cached(req: Any, res: Any, call_next: Any) -> Any:
        return "from the cache"
        yield

    around(server, kind, cached)

    async def scenario(client: WebTransportClient) -> None:
        with logged("quiche_h3", logging.ERROR) as records:
            assert await client.connect_session("/wt").status() == 500
        assert "would open the session" in str(records[0].exc_info)

    talk(server, scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_exceptions_on_their_way_out(kind: str) -> None:
    """A middleware may turn an exception into an answer; `on_error` answers what none of them did."""
    server = make_server(drain_timeout_ms=200)

    def fail(request: Any, session: Any) -> None:
        if request.path == "/late":
            session.accept()
        raise LookupError(request.path)

    async def fail_in_a_task(request: Any, session: Any) -> None:
        fail(request, session)

    for path in ("/middleware", "/handler", "/late"):
        handler = fail_in_a_task if kind == "coroutine" else fail
        server.webtransport(path, blocking=kind == "blocking")(handler)

    @server.on_error(LookupError)
    def missing(req: Any, res: Any, exc: LookupError) -> object:
        return 410, f"no {exc.args[0]}"

    def plain(req: Any, res: Any, call_next: Any) -> object:
        try:
            return call_next(req, res)
        except LookupError:
            if req.path != "/middleware":
                raise
            return 418, "short and stout"

    async def waiting(req: Any, res: Any, call_next: Any) -> object:
        try:
            return await call_next(req, res)
        except LookupError:
            if req.path != "/middleware":
                raise
            return 418, "short and stout"

    server.middleware(waiting if kind == "coroutine" else plain)

    async def scenario(client: WebTransportClient) -> None:
        assert await client.connect_session("/handler").status() == 410
        late = client.connect_session("/late")
        assert await soon(late.reset_code) == 0x102
        assert await client.connect_session("/middleware").status() == 418

    talk(server, scenario)


def test_the_access_log() -> None:
    """A session has its line when it is over, one that is refused at once."""
    server = site("coroutine", access_log=True)

    def check(req: Any, res: Any, call_next: Any) -> Any:
        if req.query_string:
            return 403, "no"
        yield

    around(server, "coroutine", check)

    async def scenario(client: WebTransportClient) -> None:
        with logged("quiche_h3.access") as records:
            assert await client.connect_session("/wt?1").status() == 403
            await until(lambda: records)
            session = await client.session("/wt")
            session.datagram(b"x")
            await soon(session.datagrams.get())
            assert len(records) == 1
            session.close(0, "")
            await session.closed()
            await until(lambda: len(records) == 2)
            foreign = client.connect_session("/wt", fields=[(b"origin", b"https://elsewhere.example")])
            assert await foreign.status() == 403
            await until(lambda: len(records) == 3)
        lines: list[Any] = [record.args for record in records]
        assert [(line["path"], line["status"]) for line in lines] == [
            ("/wt?1", 403),
            ("/wt", 200),
            ("/wt", 403),
        ]
        assert lines[1]["method"] == "CONNECT"

    talk(server, scenario)
