"""Messages by the rules of HTTP: lengths, interim responses, the date, CONNECT, malformed ones."""

from __future__ import annotations

import pickle
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from interop.aioquic_peer import AioquicClient, PeerReset
from server_support import logged, make_server, talk

import quiche_h3
from quiche_h3 import (
    ClientConnection,
    HeaderInvalid,
    InvalidState,
    MalformedMessage,
    Request,
    Response,
    Server,
    StreamReset,
)

INTERNAL_ERROR, MESSAGE_ERROR = 0x102, 0x10E


@contextmanager
def connected(server: Server) -> Iterator[ClientConnection]:
    """The client of a server that runs meanwhile."""
    with server.running() as address, quiche_h3.connect(address.url, verify=False, timeout=10) as client:
        yield client


# Lengths


def longer_at_once(req: Request, res: Response) -> None:
    res.header("content-length", 3)
    res.end(b"four")


def shorter_at_once(req: Request, res: Response) -> bytes:
    res.header("content-length", 5)
    return b"four"


def nothing(req: Request, res: Response) -> None:
    res.header("content-length", 5)


def no_number(req: Request, res: Response) -> bytes:
    res.header("content-length", "+4")
    return b"four"


@pytest.mark.parametrize("handler", [longer_at_once, shorter_at_once, nothing, no_number])
def test_a_whole_body_of_another_length(handler: Callable[..., object]) -> None:
    """RFC 9114 4.1.2: what a handler announces is held against its body: a 500 before anything is sent."""
    server = make_server()
    server.get("/")(handler)
    with logged() as records, connected(server) as client:
        response = client.get("/")
        assert response.status == 500
        assert "content-length" in client.get("/").headers
    errors = [r.exc_info[1] for r in records if r.exc_info]
    assert len(errors) == 2
    assert all(isinstance(error, InvalidState) for error in errors)


def longer(req: Request, res: Response) -> Iterator[bytes]:
    res.header("content-length", 6)
    yield b"1234"
    yield b"5678"


def shorter(req: Request, res: Response) -> Iterator[bytes]:
    res.header("content-length", 6)
    yield b"1234"


async def longer_written(req: Request, res: Response) -> None:
    res.header("content-length", 6)
    await res.write_all(b"1234")
    res.write(b"5678")


def with_trailers(req: Request, res: Response) -> None:
    res.header("content-length", 6)
    res.write_all(b"1234")
    res.send_trailers({"x": "y"})


@pytest.mark.parametrize("handler", [longer, shorter, longer_written, with_trailers])
def test_a_streamed_body_of_another_length(handler: Callable[..., object]) -> None:
    """RFC 9114 4.1.2: once the response has begun it is reset, and no byte beyond the length is sent."""
    server = make_server()
    server.get("/")(handler)
    with logged() as records, connected(server) as client:
        received = b""
        with pytest.raises(StreamReset) as caught:  # noqa: PT012 - as much as comes
            response = client.get("/")
            while chunk := response.read():
                received += chunk
        assert caught.value.code == INTERNAL_ERROR
        assert received in (b"", b"1234")
    assert any(r.exc_info and isinstance(r.exc_info[1], InvalidState) for r in records)


def test_lengths_without_a_body() -> None:
    """RFC 9110 8.6: HEAD and 304 may tell the length of what is not sent, 204 has none."""
    server = make_server()

    @server.get("/:status")
    def handler(req: Request, res: Response) -> None:
        res.status(int(req.params["status"])).header("content-length", 5)
        if req.params["status"] == "200":
            res.end(b"12345")

    with connected(server) as client:
        for method, status, length in (
            ("GET", 200, "5"),
            ("HEAD", 200, "5"),
            ("GET", 304, "5"),
            ("HEAD", 304, "5"),
            ("GET", 204, None),
        ):
            response = client.request(method, f"/{status}")
            assert (response.status, response.headers.get("content-length")) == (status, length)
            assert response.content == (b"12345" if (method, status) == ("GET", 200) else b"")


def test_requests_of_another_length() -> None:
    """A client's program that announces another length than it sends is told so; nothing wrong is sent."""
    server = make_server()
    server.post("/")(lambda req: req.body.read_all())
    with connected(server) as client:
        with pytest.raises(InvalidState):
            client.post("/", headers={"content-length": "5"}, data=b"four")
        with client.open("POST", "/", headers={"content-length": "5"}) as request:
            request.write(b"1234")
            with pytest.raises(InvalidState):
                request.write(b"56")
            with pytest.raises(InvalidState):
                request.end()
            request.end(b"5")
            assert request.response().content == b"12345"


# Trailers and interim responses


def test_trailers_that_are_none() -> None:
    """RFC 9110 6.5.1: what frames or routes a message is no trailer."""
    server = make_server()

    @server.get("/")
    def handler(req: Request, res: Response) -> None:
        for name in ("content-length", "Host", "te", "trailer"):
            with pytest.raises(HeaderInvalid):
                res.send_trailers({name: "trailers"})
        res.end("good")

    with connected(server) as client:
        assert client.get("/").content == b"good"


@pytest.mark.parametrize("trailer", [(b":path", b"/"), (b"Upper", b"x"), (b"content-length", b"4")])
def test_malformed_trailers_of_a_request(trailer: tuple[bytes, bytes]) -> None:
    """RFC 9114 4.3: a handler that reads the body is told that its message is malformed."""
    server = make_server()
    problems: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    @server.post("/", blocking=True)
    def handler(req: Request, res: Response) -> None:
        try:
            req.body.read_all()
        except StreamReset as exc:
            problems.put(exc)
            raise

    async def scenario(client: AioquicClient) -> None:
        with pytest.raises(PeerReset) as caught:
            await client.request("POST", "/", body=[b"four"], trailers=[trailer])
        assert caught.value.code == MESSAGE_ERROR

    talk(server, scenario)
    problem = problems.get(timeout=10)
    assert isinstance(problem, MalformedMessage)
    assert (problem.code, problem.remote) == (MESSAGE_ERROR, False)
    assert str(pickle.loads(pickle.dumps(problem))) == str(problem)


def test_expect_continue() -> None:
    """RFC 9110 10.1.1: 100 (Continue) when the handler wants the body, and not when it answers without."""
    server = make_server(max_request_body_size=100)

    async def read(req: Request) -> bytes:
        data: bytes = await req.body.read_all()
        return data

    server.post("/async")(read)
    server.post("/plain")(lambda req: req.body.read_all())
    server.post("/blocking", blocking=True)(lambda req: req.body.read_all())

    @server.post("/refuse")
    async def refuse(req: Request, res: Response) -> tuple[int, str]:
        return 403, "no"

    expect = {"expect": "100-Continue"}
    with connected(server) as client:
        for path in ("/async", "/plain", "/blocking"):
            with client.open("POST", path, headers=expect) as request:
                while not request._stream.exchange.interim:
                    time.sleep(0.005)  # its event is the client's own
                request.end(b"body")
                response = request.response()
                assert [hint.status for hint in response.interim] == [100]
                assert response.content == b"body"
        for path, headers, status in (
            ("/refuse", expect, 403),
            ("/plain", {**expect, "content-length": "101"}, 413),
        ):
            with client.open("POST", path, headers=headers) as request:
                response = request.response()
                assert (response.status, response.interim) == (status, ())
        assert client.post("/plain", headers={"expect": "something-else"}, data=b"x").interim == ()


# The fields of every response


def test_date() -> None:
    """RFC 9110 6.6.1: every response has one date; a handler may give its own, a program have none."""
    server = make_server()
    server.get("/")(lambda: "hello")
    own = "Tue, 15 Nov 1994 08:12:31 GMT"

    @server.get("/own")
    def handler(req: Request, res: Response) -> str:
        res.inform(103, {"link": "<x>"})
        res.header("date", own)
        return ""

    with connected(server) as client:
        for path in ("/", "/nowhere"):
            dates = client.get(path).headers.getlist("date")
            assert len(dates) == 1
            assert abs(parsedate_to_datetime(dates[0]).timestamp() - time.time()) < 5
        response = client.get("/own")
        assert response.headers.getlist("date") == [own]
        assert "date" not in response.interim[0].headers
    server = make_server(date_header=False, server_header="here")
    with connected(server) as client:
        headers = client.get("/").headers
        assert "date" not in headers
        assert headers["server"] == "here"


# CONNECT


@pytest.mark.parametrize("enabled", [True, False])
def test_extended_connect_for_other_protocols(enabled: bool) -> None:
    """RFC 9220: announced on demand alone; a CONNECT route sees the protocol, and is a tunnel both ways."""
    server = make_server(enable_extended_connect=enabled)
    seen = list[str | None]()

    @server.route("CONNECT", "/tunnel")
    def tunnel(req: Request, res: Response) -> Iterator[object]:
        seen.append(req.protocol)
        while not req.body.ended:
            yield req.body
            yield req.body.read()

    async def scenario(client: AioquicClient) -> None:
        fields = [(b":method", b"CONNECT"), (b":scheme", b"https"), (b":authority", b"x")]
        fields += [(b":path", b"/tunnel"), (b":protocol", b"websocket")]
        exchange = client.start(fields, end_stream=False)
        if not enabled:
            assert (await exchange.response()).status == 400
            return
        await client.send_body(exchange.stream_id, [b"ping"], True)
        answer = await exchange.complete()
        assert (answer.status, answer.body) == (200, b"ping")

    talk(server, scenario, datagrams=True)
    assert seen == (["websocket"] if enabled else [])


def test_connect() -> None:
    """RFC 9220 3, RFC 8441 4: 501 for a protocol that no route speaks; other CONNECTs need a route."""
    server = make_server()
    server.get("/")(lambda: "hello")
    server.webtransport("/session")(lambda session: None)

    async def scenario(client: AioquicClient) -> None:
        async def answer(path: bytes, protocol: bytes) -> int:
            fields = [(b":method", b"CONNECT"), (b":scheme", b"https"), (b":authority", b"x")]
            exchange = client.start([*fields, (b":path", path), (b":protocol", protocol)], end_stream=False)
            return (await exchange.response()).status

        assert await answer(b"/", b"websocket") == 501
        assert await answer(b"/nowhere", b"connect-udp") == 501
        assert await answer(b"/session", b"websocket") == 501
        assert await answer(b"/nowhere", b"webtransport") == 404
        exchange = client.start([(b":method", b"CONNECT"), (b":authority", b"x:443")], end_stream=False)
        assert (await exchange.response()).status == 405

    talk(server, scenario, datagrams=True)


# Responses that are malformed


def lie(res: Response) -> Any:
    """The stream of a response, which may be told to send anything."""
    res.defer()
    res.stream.http3.keeps_lengths = False
    return res.stream


BAD_RESPONSES: dict[str, tuple[list[list[tuple[bytes, bytes]]], bytes]] = {
    "no status": ([[(b"x", b"y")]], b""),
    "two statuses": ([[(b":status", b"200"), (b":status", b"200")]], b""),
    "a status that is none": ([[(b":status", b"20")]], b""),
    "a request's field": ([[(b":status", b"200"), (b":path", b"/")]], b""),
    "a field of connections": ([[(b":status", b"200"), (b"connection", b"close")]], b""),
    "a line feed": ([[(b":status", b"200"), (b"x", b"a\nb")]], b""),
    "two lengths": ([[(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2")]], b"1"),
    "too long": ([[(b":status", b"200"), (b"content-length", b"3")]], b"four"),
    "too short": ([[(b":status", b"200"), (b"content-length", b"5")]], b"four"),
    "a 204 with a body": ([[(b":status", b"204")]], b"four"),
    "101": ([[(b":status", b"101")], [(b":status", b"200")]], b""),
    "no final response": ([[(b":status", b"103")]], b""),
}


@pytest.mark.parametrize("name", BAD_RESPONSES)
def test_malformed_responses(name: str) -> None:
    """RFC 9114 4.1.2: the client's program is told that the response is malformed; the connection goes on."""
    heads, body = BAD_RESPONSES[name]
    server = make_server()
    server.get("/good")(lambda: "good")

    @server.get("/")
    def handler(req: Request, res: Response) -> None:
        stream = lie(res)
        for number, head in enumerate(heads, 1):
            stream.send_headers(head, number == len(heads) and not body)
        if body:
            stream.enqueue(body, True)

    with connected(server) as client:
        with pytest.raises(MalformedMessage) as caught:
            client.get("/").read_all()
        assert (caught.value.code, caught.value.remote) == (MESSAGE_ERROR, False)
        assert client.get("/good").content == b"good"


def test_too_many_interim_responses() -> None:
    """RFC 9114 10.5: interim responses without end are given up, not kept."""
    server = make_server()

    @server.get("/")
    def handler(req: Request, res: Response) -> str:
        for _ in range(101):
            res.inform(103)
        return ""

    with connected(server) as client, pytest.raises(StreamReset) as caught:
        client.get("/")
    assert caught.value.code == 0x107
