"""A small REST client in httpx over HTTP/3: against this library's server, quic-go and aioquic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from client_support import silence

import quiche_h3
from quiche_h3 import AsyncHTTPX3Transport, HTTPX3Transport, Request, Response, Server

from . import pattern
from .certificates import Certificate
from .programs import AioquicPeer, GoPeer, started

MIB = 1 << 20


def own_server(certificate: Certificate) -> Server:
    """The routes of the peers that are needed here."""
    server = Server(certificate.server_config())
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]

    @server.route(methods, "/describe")
    def describe(req: Request) -> dict[str, Any]:
        body = req.body.read_all().decode()
        return {
            "method": req.method,
            "path": req.raw_path.decode(),
            "headers": dict(req.headers),
            "body": body,
        }

    @server.get("/bytes/:size")
    def download(req: Request, res: Response) -> Iterator[bytes]:
        res.header("content-length", req.params["size"])
        yield from pattern.chunks(int(req.params["size"]))

    @server.post("/upload", blocking=True)
    def upload(req: Request) -> dict[str, Any]:
        return {"bytes": sum(len(chunk) for chunk in req.body)}

    @server.get("/cookie/set")
    def cookies(req: Request, res: Response) -> None:
        res.status(204).header("set-cookie", "a=1").header("set-cookie", "b=2")

    @server.get("/trailers", blocking=True)
    def trailers(req: Request, res: Response) -> None:
        res.write_all(b"body before trailers")
        res.send_trailers([("x-trailer", "after the body")])

    @server.get("/interim")
    def interim(req: Request, res: Response) -> str:
        res.inform(103, {"link": "</a.css>"})
        res.inform(102)
        return "after two"

    @server.get("/slow")
    async def slow(req: Request) -> None:
        await asyncio.sleep(3600)

    @server.route(methods, "/redirect/:n")
    def redirect(req: Request, res: Response) -> None:
        number = int(req.params["n"])
        target = "/describe" if number == 1 else f"/redirect/{number - 1}"
        res.redirect(target, int(req.query.get("code", "302")))

    @server.get("/status/:code")
    def status(req: Request, res: Response) -> str:
        res.status(int(req.params["code"]))
        return f"status {req.params['code']}"

    return server


@pytest.fixture(scope="module", params=["own", "quic-go", "aioquic"])
def url(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[str]:
    if request.param == "own":
        with own_server(certificate).running() as address:
            yield address.url
        return
    fixture = "go_peer" if request.param == "quic-go" else "aioquic_peer"
    peer: GoPeer | AioquicPeer = request.getfixturevalue(fixture)
    with started(peer.serve(*certificate)) as process:
        yield process.url


@pytest.fixture
def client(url: str, certificate: Certificate) -> Iterator[httpx.Client]:
    transport = HTTPX3Transport(cafile=str(certificate.certificate))
    with httpx.Client(transport=transport, base_url=url, follow_redirects=True) as client:
        yield client


def test_methods_and_bodies(client: httpx.Client) -> None:
    """GET, JSON, forms, text, streams by every method; fields of HTTP/1.1 stay behind (RFC 9114 4.2)."""
    response = client.get("/describe", params={"a": "1 2"}, headers={"X-One": "1"})
    answer = response.json()
    assert (response.http_version, response.status_code) == ("HTTP/3", 200)
    assert (answer["path"], answer["headers"]["x-one"]) == ("/describe?a=1+2", "1")
    assert not {"connection", "transfer-encoding", "host"} & set(answer["headers"])
    answer = client.post("/describe", json={"a": [1]}).json()
    assert json.loads(answer["body"]) == {"a": [1]}
    assert answer["headers"]["content-type"] == "application/json"
    assert client.put("/describe", data={"a": "1"}).json()["body"] == "a=1"
    for method in ("PATCH", "DELETE"):
        answer = client.request(method, "/describe", content=iter([b"piece ", b"by piece"])).json()
        assert (answer["method"], answer["body"]) == (method, "piece by piece")


def test_streams(client: httpx.Client) -> None:
    """4 MiB come and go in pieces; one that is closed half-way does no harm."""
    size = 4 * MIB
    with client.stream("GET", f"/bytes/{size}") as response:
        assert b"".join(response.iter_bytes()) == b"".join(pattern.chunks(size))
    with client.stream("GET", f"/bytes/{size}") as response:
        next(response.iter_bytes())
    assert client.post("/upload", content=pattern.chunks(size)).json()["bytes"] == size


def test_redirects_cookies_and_statuses(client: httpx.Client) -> None:
    """What httpx does by itself works over the transport."""
    response = client.post("/redirect/2?code=303", content=b"x")
    assert (len(response.history), response.json()["method"]) == (2, "GET")
    with pytest.raises(httpx.TooManyRedirects):
        client.get("/redirect/30")
    client.get("/cookie/set")
    assert dict(client.cookies) == {"a": "1", "b": "2"}
    client.cookies.set("c", "3")
    assert client.get("/describe").json()["headers"]["cookie"] == "c=3"  # the others are for /cookie
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        client.get("/status/404").raise_for_status()


def test_errors(client: httpx.Client, url: str, certificate: Certificate) -> None:
    """Failures are httpx's exceptions: each timeout, no connection, no trust, another scheme."""
    with pytest.raises(httpx.ReadTimeout):
        client.get("/slow", timeout=httpx.Timeout(5, read=0.1))
    assert client.get("/status/200").text == "status 200"
    with pytest.raises(httpx.UnsupportedProtocol):
        client.get(url.replace("https", "http"))
    with silence() as silent, pytest.raises(httpx.ConnectTimeout):
        client.get(silent, timeout=0.1)
    with pytest.raises(httpx.ConnectError, match="nobody listens there"):
        client.get("https://127.0.0.1:9/", timeout=30)
    with (
        httpx.Client(transport=HTTPX3Transport()) as stranger,
        pytest.raises(httpx.ConnectError, match="certif"),
    ):
        stranger.get(url)
    config = quiche_h3.ClientConfig(max_connections=1)
    transport = HTTPX3Transport(cafile=str(certificate.certificate), config=config)
    with httpx.Client(transport=transport) as one:
        with one.stream("GET", f"{url}/bytes/{16 * MIB}"), pytest.raises(httpx.PoolTimeout):
            one.get("https://127.0.0.2:9/", timeout=httpx.Timeout(5, pool=0.1))
        with pytest.raises(httpx.LocalProtocolError):
            one.get(f"{url}/describe", headers=[("x", str(n)) for n in range(300)])

    for method in ("BAD METHOD", "CONNECT"):
        with pytest.raises(httpx.LocalProtocolError):
            client.request(method, url)
    with pytest.raises(httpx.ReadTimeout):
        client.get("/slow", timeout=httpx.Timeout(5, read=0))

    def broken() -> Iterator[bytes]:
        yield b"a beginning"
        raise LookupError("no more of it")

    with pytest.raises(LookupError):
        client.post("/upload", content=broken())


def test_wrong_answers(aioquic_peer: AioquicPeer, certificate: Certificate) -> None:
    """What the server breaks off or gets wrong is httpx.RemoteProtocolError, in the head and in the body."""
    kinds = {
        "/wrong/no-status": "malformed",
        "/wrong/short": "content-length is 10",
        "/wrong/data-before-headers": "H3_FRAME_UNEXPECTED",
        "/break/reset": "H3_INTERNAL_ERROR",
        "/break/close": "going down",
    }

    async def run(url: str) -> None:
        transport = AsyncHTTPX3Transport(cafile=str(certificate.certificate))
        async with httpx.AsyncClient(transport=transport, base_url=url) as client:
            for path, text in kinds.items():
                with pytest.raises(httpx.RemoteProtocolError, match=text):
                    await client.get(path)

    with started(aioquic_peer.serve(*certificate)) as process:
        transport = HTTPX3Transport(cafile=str(certificate.certificate))
        with httpx.Client(transport=transport, base_url=process.url) as client:
            for path, text in kinds.items():
                with pytest.raises(httpx.RemoteProtocolError, match=text):
                    client.get(path)
        asyncio.run(run(process.url))


def test_what_is_beyond_httpx(client: httpx.Client) -> None:
    """Trailers and interim responses are in the extension; multipart forms and many threads are as ever."""
    response = client.get("/trailers").extensions["quiche_h3_response"]
    assert response.trailers["x-trailer"] == "after the body"
    response = client.get("/interim").extensions["quiche_h3_response"]
    assert [hint.status for hint in response.interim] == [103, 102]
    body = client.post("/describe", files={"file": ("name.txt", b"its content")}).json()["body"]
    assert "its content" in body
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(lambda n: client.get(f"/describe?n={n}").json()["path"], range(64))
        assert list(answers) == [f"/describe?n={n}" for n in range(64)]


def test_async(url: str, certificate: Certificate) -> None:
    """The same in asyncio: 30 requests at once, streams both ways, timeouts, a cancelled task."""

    async def pieces() -> AsyncIterator[bytes]:
        for chunk in pattern.chunks(MIB):
            yield chunk

    async def run() -> None:
        transport = AsyncHTTPX3Transport(cafile=str(certificate.certificate))
        async with httpx.AsyncClient(transport=transport, base_url=url) as client:
            answers = await asyncio.gather(*(client.get(f"/describe?n={n}") for n in range(30)))
            assert [a.json()["path"] for a in answers] == [f"/describe?n={n}" for n in range(30)]
            assert (await client.post("/upload", content=pieces())).json()["bytes"] == MIB
            async with client.stream("GET", f"/bytes/{MIB}") as response:
                body = b"".join([chunk async for chunk in response.aiter_bytes()])
            assert body == b"".join(pattern.chunks(MIB))
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/slow", timeout=0.1)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.get("/slow"), 0.1)
            assert (await client.get("/status/200")).text == "status 200"

    asyncio.run(run())
