"""Requests as handlers see them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aioquic.buffer import encode_uint_var
from interop.aioquic_peer import AioquicClient, PeerReset
from server_support import make_server, talk, until

from quiche_h3 import H3ErrorCode, HandlerError, Priority, Request, Response


def test_everything_of_a_request() -> None:
    """Each part of a request, as it came and as it is meant."""
    server = make_server()
    seen: dict[str, Any] = {}

    @server.get("/items/:kind/{id}")
    def handler(req: Request) -> None:
        seen.update(
            method=req.method, scheme=req.scheme, authority=req.authority, raw_path=req.raw_path,
            path=req.path, query_string=req.query_string, query=req.query, lists=req.query_lists,
            params=req.params, stream_id=req.stream_id, conn_id=req.conn_id, early=req.early_data,
            length=req.content_length,
            priority=req.priority, peer=req.peer_address, local=req.local_address, repr=repr(req),
        )  # fmt: skip
        assert req.connection.id == req.conn_id
        assert req.body.read_all() == b""
        assert req.trailers is None
        assert req.headers["X-A"] == "1, 2"  # RFC 9110 5.2
        assert req.headers.getlist("x-a") == ["1", "2"]
        assert (b"x-raw", b"\xff") in req.headers.raw
        assert "cookie" in req.headers

    async def scenario(client: AioquicClient) -> None:
        headers = [
            (b"x-a", b"1"), (b"x-a", b"2"), (b"x-raw", b"\xff"), (b"cookie", b"a=b"), (b"cookie", b"c=d"),
            (b"priority", b"u=1, i"),
        ]  # fmt: skip
        done = await client.get("/items/a%20b/%C3%A9?x=1&x=2&y=%26&z", headers=headers)
        assert done.status == 200, done.body
        assert client._transport is not None
        seen["client"] = client._transport.get_extra_info("sockname")[1]

    talk(server, scenario)
    address = server.address
    assert seen.pop("local") == tuple(address)
    assert seen["peer"][1] == seen.pop("client")
    assert seen.pop("peer")[0].endswith("127.0.0.1")
    assert seen.pop("repr").startswith("<Request GET /items/")
    assert seen == {
        "method": "GET", "scheme": "https", "authority": f"127.0.0.1:{address.port}",
        "raw_path": b"/items/a%20b/%C3%A9?x=1&x=2&y=%26&z", "path": "/items/a b/é",
        "query_string": "x=1&x=2&y=%26&z", "query": {"x": "1", "y": "&", "z": ""},
        "lists": {"x": ["1", "2"], "y": ["&"], "z": [""]}, "params": {"kind": "a b", "id": "é"},
        "stream_id": 0, "conn_id": 1, "early": False, "length": None, "priority": Priority(1, True),
    }  # fmt: skip


def test_cookies_of_several_lines() -> None:
    """Cookie lines that a client has split are one again (RFC 9114 4.2.1)."""
    server = make_server()
    server.get("/")(lambda req: req.headers["cookie"])

    async def scenario(client: AioquicClient) -> None:
        done = await client.get("/", headers=[(b"cookie", b"a=b"), (b"cookie", b"c=d")])
        assert done.body == b"a=b; c=d"

    talk(server, scenario)


@pytest.mark.parametrize(
    ("value", "priority"),
    [("", (3, False)), ("u=0", (0, False)), ("i", (3, True)), ("u=7,i=?1", (7, True)),
     ("i=?0, u=2", (2, False)), ("u=8", (3, False)), ("u=x, i=1", (3, False)), ("x=1;u=1", (3, False))],
)  # fmt: skip
def test_priority(value: str, priority: tuple[int, bool]) -> None:
    """The Priority field; what cannot be understood keeps its default (RFC 9218 4)."""
    assert Priority.parse(value) == priority


def test_priority_of_a_request() -> None:
    """RFC 9218 7: a PRIORITY_UPDATE counts more than the field, also one that comes before its request."""
    server = make_server()

    @server.get("/:when")
    async def handler(req: Request, res: Response) -> list[Any]:
        before = req.priority
        await until(lambda: req.params["when"] == "now" or req.priority != before)
        res.set_priority(0)
        with pytest.raises(ValueError, match="urgency"):
            res.set_priority(8)
        return [before, req.priority, req.take_last_priority_update(), req.take_last_priority_update()]

    def update(client: AioquicClient, stream_id: int, value: bytes) -> None:
        payload = encode_uint_var(stream_id) + value
        frame = encode_uint_var(0xF0700) + encode_uint_var(len(payload)) + payload
        assert client.http._local_control_stream_id is not None
        client._quic.send_stream_data(client.http._local_control_stream_id, frame)
        client.transmit()

    async def scenario(client: AioquicClient) -> None:
        update(client, 0, b"u=1,i")
        update(client, 4, b"u=6")
        field = [(b"priority", b"u=5")]
        assert json.loads((await client.get("/now", headers=field)).body) == [
            [1, True],
            [1, True],
            "u=1,i",
            None,
        ]
        waiting = asyncio.ensure_future(client.get("/later", headers=field))
        await until(lambda: server.export_metrics()["handlers"]["active"] == 1)
        update(client, 4, b"u=2")
        assert json.loads((await waiting).body) == [[6, False], [2, False], "u=2", None]
        assert json.loads((await client.get("/now", headers=field)).body) == [
            [5, False],
            [5, False],
            None,
            None,
        ]

    talk(server, scenario)


def test_numbers_of_connections_and_streams() -> None:
    """Connections are numbered, and streams as QUIC does: 0, 4, 8 (RFC 9000 2.1)."""
    server = make_server()
    server.get("/")(lambda req: [req.conn_id, req.stream_id])

    async def scenario(client: AioquicClient) -> None:
        assert [(await client.get("/")).body for _ in range(3)] == [b"[1,0]", b"[1,4]", b"[1,8]"]

    talk(server, scenario)


# Routing, end to end


def test_methods() -> None:
    """405 with Allow, HEAD from GET, OPTIONS by itself, 404 (RFC 9110 15.5.6, 9.3.2, 9.3.7)."""
    server = make_server()
    server.get("/a")(lambda: "get")
    server.add(["POST", "PUT"], "/a", lambda req: req.method)
    server.get("/files/*")(lambda req: req.params["*"])

    async def scenario(client: AioquicClient) -> None:
        done = await client.request("DELETE", "/a")
        allow = {name.strip() for name in (done.header("allow") or "").split(",")}
        assert (done.status, allow) == (405, {"GET", "HEAD", "POST", "PUT", "OPTIONS"})
        done = await client.request("OPTIONS", "/a")
        assert (done.status, done.body) == (204, b"")
        assert {name.strip() for name in (done.header("allow") or "").split(",")} == allow
        head = await client.request("HEAD", "/a")
        assert (head.status, head.header("content-length"), head.body) == (200, "3", b"")
        assert (await client.request("PUT", "/a")).body == b"PUT"
        assert (await client.get("/files/x/y%20z")).body == b"x/y z"
        for path in ("/", "/A", "/a/", "/b"):
            assert (await client.get(path)).status == 404, path
        assert (await client.get("/a?query")).body == b"get"

    talk(server, scenario)
    counted = server.export_metrics()["handlers"]
    assert (counted["active"], counted["failed"]) == (0, 0)


def test_options_with_a_body() -> None:
    """A body that comes with an automatic answer is not waited for."""
    server = make_server()
    server.get("/")(lambda: "hello")

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("OPTIONS", "/"), end_stream=False)
        await client.send_body(exchange.stream_id, [b"part"], False)
        await exchange.complete()
        await until(lambda: exchange.stop_sending is not None)
        assert (exchange.status, exchange.stop_sending) == (204, H3ErrorCode.H3_NO_ERROR)

    talk(server, scenario)


# Limits and syntax (spec 5.6)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/" + "a" * 100, [], 414),
        ("/?" + "a" * 100, [], 414),
        ("/", [(b"x-a", b"b" * 1001)], 431),
        ("/", [(b"x" * 65, b"b")], 431),
        ("/", [(b"x-%d" % i, b"b") for i in range(30)], 431),
        ("/", [(b"x-%d" % i, b"b" * 900) for i in range(10)], 431),
        ("/%zz", [], 400),
        ("/%ff", [], 400),
        ("no-slash", [], 400),
        ("/", [(b"content-length", b"1x")], 400),
        ("/", [(b"content-length", b"-1")], 400),
        ("/", [(b"content-length", b"1"), (b"content-length", b"2")], 400),
        ("/", [(b"te", b"gzip")], 400),
        ("/", [(b"X-Upper", b"1")], 400),
        ("/", [(b"x-a", b"b\0c")], 400),
        ("/", [(b"connection", b"close")], 400),
        ("/", [(b":path", b"/")], 400),
        ("/", [(b":unknown", b"1")], 400),
    ],
)
def test_limits_and_syntax(path: str, headers: list[tuple[bytes, bytes]], status: int) -> None:
    """414, 431 and 400, each before any handler; the connection goes on (RFC 9114 4.1.2, 4.2)."""
    server = make_server(
        max_path_length=80, max_header_count=20, max_header_name_length=64, max_header_value_length=1000,
        max_request_headers_size=4096,
    )  # fmt: skip
    called: list[str] = []

    @server.get("/")
    def handler(req: Request) -> str:
        called.append(req.path)
        return "well"

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("GET", path, headers))
        (outcome,) = await asyncio.gather(exchange.complete(), return_exceptions=True)
        if isinstance(outcome, PeerReset):
            assert (outcome.code, status) == (H3ErrorCode.H3_MESSAGE_ERROR, 400)
        else:
            assert exchange.status == status
        assert called == []
        assert (await client.get("/")).body == b"well"

    talk(server, scenario)


@pytest.mark.parametrize("method", ["get", "GET", "BREW", "x" * 40])
def test_methods_that_nobody_knows(method: str) -> None:
    """Methods are case-sensitive; one that is registered nowhere is a 405."""
    server = make_server()
    server.get("/")(lambda: "hello")

    async def scenario(client: AioquicClient) -> None:
        assert (await client.request(method, "/")).status == (200 if method == "GET" else 405)

    talk(server, scenario)


@pytest.mark.parametrize("missing", [b":method", b":scheme", b":path", b":authority"])
def test_missing_pseudo_field(missing: bytes) -> None:
    """A request without one of its pseudo-header fields is malformed (RFC 9114 4.3.1)."""
    server = make_server()
    server.get("/")(lambda: "hello")

    async def scenario(client: AioquicClient) -> None:
        fields = [pair for pair in client.fields("GET", "/") if pair[0] != missing]
        exchange = client.start(fields)
        (outcome,) = await asyncio.gather(exchange.complete(), return_exceptions=True)
        if isinstance(outcome, PeerReset):
            assert outcome.code == H3ErrorCode.H3_MESSAGE_ERROR
        else:
            assert exchange.status == 400
        assert (await client.get("/")).body == b"hello"

    talk(server, scenario)


def test_malformed_trailers() -> None:
    """Pseudo-header fields in trailers make the request malformed (RFC 9114 4.3)."""
    server = make_server()

    async def read(req: Request) -> str:
        await req.body.read_all()
        return "whole"

    server.post("/")(read)

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("POST", "/"), end_stream=False)
        await client.send_body(exchange.stream_id, [b"part"], False)
        client.http.send_headers(exchange.stream_id, [(b":path", b"/")], True)
        client.transmit()
        with pytest.raises(PeerReset) as caught:
            await exchange.complete()
        assert caught.value.code == H3ErrorCode.H3_MESSAGE_ERROR

    talk(server, scenario)


def test_ranges() -> None:
    """Specification 4.1: a handler sees what is wrong with a Range by its type, or has it answered by it."""
    server = make_server()

    @server.get("/caught")
    def caught(req: Request) -> str:
        try:
            return str(req.ranges(100))
        except HandlerError as error:
            return type(error).__name__

    server.get("/passed")(lambda req: str(req.ranges(100)))
    values = {
        "bytes=0-9, -1": ("[(0, 10), (99, 1)]", 200),
        "bytes=9-0": ("InvalidRange", 416),
        "bytes=100-": ("Unsatisfiable", 416),
        "bytes=" + "0-," * 17: ("MultiRange", 400),
        "bytes=0-,0-": ("MultiRange", 400),
        "lines=0-9": ("NonBytesUnit", 400),
        "bytes=x": ("Malformed", 400),
    }

    async def scenario(client: AioquicClient) -> None:
        assert (await client.get("/caught")).body == b"[]"
        for value, (answer, status) in values.items():
            headers = [(b"range", value.encode())]
            assert (await client.get("/caught", headers=headers)).body == answer.encode(), value
            assert (await client.get("/passed", headers=headers)).status == status, value

    talk(server, scenario)
