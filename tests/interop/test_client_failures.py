"""What the client makes of servers that answer wrongly, break off, fall silent or come back as strangers.

Sync and async, against servers that it shares no code with.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
from server_support import until

import quiche_h3
from quiche_h3 import (
    AsyncClient,
    Client,
    ClientConfig,
    ClientRequest,
    ConnectionClosed,
    H3ErrorCode,
    MalformedMessage,
    StreamClosed,
    StreamReset,
    TimedOut,
    Timeouts,
)

from . import pattern, wrong_answers
from .certificates import Certificate
from .programs import GoPeer, Peer, Process, started

MIB = 1 << 20

Ask = Callable[..., tuple[int, bytes]]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, cafile: str) -> Iterator[Ask]:
    """Status and body of a request, by one client for the length of a test."""
    if request.param == "sync":
        with Client(cafile=cafile) as client:

            def ask(method: str, url: str, **options: Any) -> tuple[int, bytes]:
                response = client.request(method, url, **options)
                return response.status, response.content

            yield ask
        return
    loop = asyncio.new_event_loop()
    async_client = AsyncClient(cafile=cafile)

    async def request_it(method: str, url: str, **options: Any) -> tuple[int, bytes]:
        response = await async_client.request(method, url, **options)
        return response.status, await response.content()

    yield lambda *args, **options: loop.run_until_complete(request_it(*args, **options))
    loop.run_until_complete(async_client.close())
    loop.close()


def write_for_ever(request: ClientRequest) -> None:
    while True:
        request.write(bytes(65_536))


# Wrong answers


@pytest.mark.parametrize("name", wrong_answers.MALFORMED)
def test_malformed_response(aioquic: Process, ask: Ask, name: str) -> None:
    """RFC 9114 4.1.2: an error of its own that says what is wrong, by our doing; the connection goes on."""
    with pytest.raises(MalformedMessage) as caught:
        ask("GET", f"{aioquic.url}/wrong/{name}")
    assert (caught.value.code, caught.value.remote) == (H3ErrorCode.H3_MESSAGE_ERROR, False)
    assert str(caught.value) == f"the message is malformed: {caught.value.problem}"
    assert ask("GET", f"{aioquic.url}/hello") == (200, b"Hello, HTTP/3!")


def test_body_that_no_response_has(aioquic: Process, ask: Ask) -> None:
    """RFC 9110 9.3.2: a response to HEAD has no body, and a length that is not kept is fine."""
    assert ask("HEAD", f"{aioquic.url}/wrong/no-body") == (200, b"")
    with pytest.raises(MalformedMessage, match="a body that its status or method does not allow"):
        ask("HEAD", f"{aioquic.url}/wrong/short")


@pytest.mark.parametrize("name", wrong_answers.FORBIDDEN)
def test_forbidden_frames(aioquic: Process, ask: Ask, name: str) -> None:
    """RFC 9114 8: what may not be said at all ends the connection with its code; then there is another."""
    with pytest.raises(ConnectionClosed) as caught:
        ask("GET", f"{aioquic.url}/wrong/{name}")
    assert (caught.value.app, caught.value.code, caught.value.remote) == (
        True,
        wrong_answers.FORBIDDEN[name][0],
        False,
    )
    assert ask("GET", f"{aioquic.url}/hello") == (200, b"Hello, HTTP/3!")


# Answers that end early


def test_answer_before_the_body(server: Process, ask: Ask, cafile: str) -> None:
    """RFC 9114 4.1: an answer that does not wait for the body is whole, whatever becomes of the upload."""
    refuse, size = f"{server.url}/refuse", 8 * MIB
    for _ in range(5):
        assert ask("POST", refuse, data=bytes(size)) == (413, b"too much")
        assert ask("POST", refuse, data=pattern.chunks(size)) == (413, b"too much")
    assert ask("GET", f"{server.url}/hello") == (200, b"Hello, HTTP/3!")
    with quiche_h3.connect(refuse, cafile=cafile) as client, client.open("POST", "/refuse") as request:
        with pytest.raises(StreamClosed):
            write_for_ever(request)
        assert request.response().text == "too much"


@pytest.mark.parametrize("how", ["reset", "close"])
def test_broken_off(server: Process, cafile: str, how: str) -> None:
    """A body that breaks off is never taken for a whole one: code and reason are the server's, data stays."""

    def check(error: Exception) -> None:
        assert isinstance(error, (StreamReset, ConnectionClosed))
        assert (error.code, error.remote) == (H3ErrorCode.H3_INTERNAL_ERROR, True)
        assert how == "reset" or "H3_INTERNAL_ERROR (0x102): going down" in str(error)

    expected: type[StreamReset] | type[ConnectionClosed] = StreamReset if how == "reset" else ConnectionClosed
    with Client(cafile=cafile) as client:
        with client.open("POST", f"{server.url}/break/{how}") as request:
            response = request.response()
            assert response.read() == b"the beginning"
            request.end()
            with pytest.raises(expected) as caught:
                response.read_all()
        check(caught.value)
        assert client.get(f"{server.url}/hello").status == 200

    async def run() -> None:
        async with AsyncClient(cafile=cafile) as client:
            async with await client.open("POST", f"{server.url}/break/{how}") as request:
                response = await request.response()
                assert await response.read() == b"the beginning"
                await request.end()
                with pytest.raises(expected) as caught:
                    await response.read_all()
            check(caught.value)
            assert (await client.get(f"{server.url}/hello")).status == 200

    asyncio.run(run())


def test_killed_in_the_middle(peer: Peer, certificate: Certificate, cafile: str) -> None:
    """A server that vanishes in mid-body is given up after the idle timeout (RFC 9000 10.1), not earlier."""
    config = ClientConfig(idle_timeout_ms=1000)
    with (
        Client(cafile=cafile, config=config) as client,
        started(peer.serve(*certificate), code=None) as process,
    ):
        response = client.get(f"{process.url}/bytes/{64 * MIB}")
        response.read(1000)
        process.popen.kill()
        with pytest.raises(ConnectionClosed, match="idle timeout"):
            response.read_all()


# Connections that were there a moment ago


def test_server_that_was_started_again(go_peer: GoPeer, certificate: Certificate, ask: Ask) -> None:
    """RFC 9000 10.3, RFC 9110 9.2.2: a reset without state ends the connection in the pool at once.

    What may be done twice goes out once more, unseen by the program; anything else fails.
    """

    def serve(port: int) -> AbstractContextManager[Process]:
        flags = ("--reset-key=one key for every life", f"--address=127.0.0.1:{port}")
        return started(go_peer.serve(*certificate, *flags), code=None)

    with ExitStack() as lives:
        process = lives.enter_context(serve(0))
        url = f"{process.url}/describe"
        for method, body in (("GET", None), ("PUT", b"a body"), ("POST", b"a body")):
            assert ask("GET", url)[0] == 200
            process.popen.kill()
            process.popen.wait()
            process = lives.enter_context(serve(process.said["port"]))
            if method == "POST":
                with pytest.raises(ConnectionClosed):
                    ask(method, url, data=body, timeout=10)
            else:
                answer = json.loads(ask(method, url, data=body, timeout=10)[1])
                assert (answer["method"], answer["body"]) == (method, (body or b"").decode())


def test_server_that_fell_silent(peer: Peer, certificate: Certificate, cafile: str) -> None:
    """A server that let a request time out is asked for a sign of life; without one nobody waits there."""
    limits = Timeouts(read=0.3)
    with started(peer.serve(*certificate), code=None) as process:

        def silence() -> None:
            process.popen.send_signal(signal.SIGSTOP)
            os.waitpid(process.popen.pid, os.WUNTRACED)  # its threads do not stop at once

        def wake() -> None:
            process.popen.send_signal(signal.SIGCONT)

        hello = f"{process.url}/hello"
        with Client(cafile=cafile) as client:
            assert client.get(hello).content
            with pytest.raises(TimedOut):  # a server that lives and is slow keeps its connection
                client.get(f"{process.url}/slow", timeout=limits)
            assert client.get(hello).content
            silence()
            with pytest.raises(TimedOut):
                client.get(hello, timeout=limits)
            with pytest.raises(ConnectionClosed, match="no answer to a PING"):
                client.post(f"{process.url}/describe", timeout=10)
            assert not client.connections()
            wake()
            assert client.get(hello).content

        async def run() -> None:
            async with AsyncClient(cafile=cafile) as client:
                assert await (await client.get(hello)).content()
                silence()
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.get(hello), 0.3)
                waiting = asyncio.ensure_future(client.get(hello))
                await until(lambda: not client.connections())
                wake()
                assert (await waiting).status == 200  # it went out once more

        asyncio.run(run())
