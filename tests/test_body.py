"""Request bodies, in every style of handler: whole, in pieces, too large, broken off, unread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from interop.aioquic_peer import AioquicClient, PeerReset
from server_support import answer_of, logged, make_server, talk, until

from quiche_h3 import H3ErrorCode, Request, StreamReset


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
@pytest.mark.parametrize("gap", [0.0, 0.05])
def test_trailers_behind_an_empty_data_frame(reader: str, gap: float) -> None:
    """RFC 9114 7.2.1: an empty DATA frame hides nothing that follows it, in one packet or in several."""
    handler, is_blocking = READERS[reader]
    server = make_server()
    server.post("/", blocking=is_blocking)(handler)

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("POST", "/"), end_stream=False)
        client.http.send_data(exchange.stream_id, b"", False)
        client.transmit()
        await asyncio.sleep(gap)  # the frames' distance is what is tested
        client.http.send_headers(exchange.stream_id, [(b"x-t", b"1")], True)
        client.transmit()
        await exchange.complete(10)
        assert json.loads(exchange.body) == {"size": 0, "read": 0, "trailers": {"x-t": "1"}}

    talk(server, scenario)


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
    code: list[int] = []

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
            code.append(exc.code)
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
    server.get("/")(lambda: "well")

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
    assert code == ([H3ErrorCode.H3_REQUEST_CANCELLED] if reader == "blocking" else [])
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
            await until(partial(getattr, exchange, "stop_sending"))
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
