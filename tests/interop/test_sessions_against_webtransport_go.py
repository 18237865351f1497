"""This library's WebTransport client against the server of webtransport-go, which speaks drafts 02 and 15."""

from __future__ import annotations

import asyncio
import hashlib
import json
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

import pytest

from quiche_h3 import (
    ClientSession,
    SessionRejected,
    WebTransportStreamReset,
    aconnect_webtransport,
    connect_webtransport,
)

from . import pattern
from .certificates import Certificate
from .programs import build_go, started

T = TypeVar("T")
MIB = 1 << 20
SECONDS = 10.0


class GoServer:
    """The server in a process of its own, and what it tells."""

    def __init__(self, url: str, cafile: str) -> None:
        self.url = url
        self.cafile = cafile
        self.told: queue.Queue[list[Any]] = queue.Queue()

    def next(self) -> list[Any]:
        """What the server told next: what, and a value."""
        return self.told.get(timeout=SECONDS)

    def run(self, path: str, scenario: Callable[[ClientSession], Awaitable[T]], **options: Any) -> T:
        """Runs a scenario with a session at `path`, in asyncio."""

        async def connected() -> T:
            async with await aconnect_webtransport(self.url + path, cafile=self.cafile, **options) as session:
                return await scenario(session)

        return asyncio.run(connected())


@pytest.fixture(scope="module")
def server(certificate: Certificate) -> Iterator[GoServer]:
    try:
        program = build_go("webtransport")
    except FileNotFoundError as no_go:
        pytest.skip(str(no_go))
    command = [str(program), "serve", f"--cert={certificate.certificate}", f"--key={certificate.key}"]
    with started(command) as process:
        go = GoServer(process.url, str(certificate.certificate))
        lines = process.popen.stdout
        assert lines is not None

        def listen() -> None:
            for line in lines:
                go.told.put(json.loads(line))

        threading.Thread(target=listen, daemon=True).start()
        yield go


def test_datagrams(server: GoServer) -> None:
    """Datagrams come back; those that are lost are sent again."""

    async def scenario(session: ClientSession) -> set[bytes]:
        missing = {bytes([size % 256]) * size for size in (1, 63, 64, 500, 1000)}
        sent = set(missing)
        while missing:
            for datagram in missing:
                session.send_datagram(datagram)
            try:
                while missing:
                    missing.discard(await asyncio.wait_for(session.receive_datagram(), 0.2))
            except asyncio.TimeoutError:
                pass
        return sent

    assert len(server.run("/echo", scenario)) == 5


def test_own_streams(server: GoServer) -> None:
    """Streams of ours, of both kinds: what is written comes back."""

    async def scenario(session: ClientSession) -> tuple[bytes, bytes]:
        async with await session.open_bidi_stream() as bidi:
            await bidi.write(b"to and fro")
            bidi.finish()
            first = await bidi.read_all()
        async with await session.open_uni_stream() as uni:
            await uni.write(b"there, and back on another")
        back = await anext(session.incoming_uni_streams())
        return first, await back.read_all()

    assert server.run("/echo", scenario) == (b"to and fro", b"there, and back on another")


def test_streams_of_the_server(server: GoServer) -> None:
    """Streams of the server, of both kinds, one of which is answered."""

    async def scenario(session: ClientSession) -> list[bytes]:
        uni = await anext(session.incoming_uni_streams())
        bidi = await anext(session.incoming_bidi_streams())
        texts = [await uni.read_all(), await bidi.read_all()]
        await bidi.write(b"an answer")
        bidi.finish()
        assert await asyncio.to_thread(server.next) == ["answer", "an answer"]
        return texts

    assert server.run("/push", scenario) == [b"from the server"] * 2


def test_8_mib_each_way(server: GoServer) -> None:
    """8 MiB down one stream, and up another, arrive whole."""

    async def down(session: ClientSession) -> tuple[int, str]:
        stream = await session.open_bidi_stream()
        await stream.write(b"%d" % (8 * MIB))
        stream.finish()
        size, digest = 0, hashlib.sha256()
        async for chunk in stream:
            size += len(chunk)
            digest.update(chunk)
        return size, digest.hexdigest()

    async def up(session: ClientSession) -> Any:
        stream = await session.open_bidi_stream()
        for chunk in pattern.chunks(8 * MIB):
            await stream.write(chunk)
        stream.finish()
        return json.loads(await stream.read_all())

    digest = pattern.sha256(8 * MIB)
    assert server.run("/pattern", down) == (8 * MIB, digest)
    assert server.run("/digest", up) == {"bytes": 8 * MIB, "sha256": digest}


def test_50_streams_at_once(server: GoServer) -> None:
    """50 streams at once, each with its own answer."""

    async def scenario(session: ClientSession) -> list[bool]:
        async def talk(number: int) -> bool:
            text = b"stream %d " % number * 1000
            async with await session.open_bidi_stream() as stream:
                await stream.write(text)
                stream.finish()
                return await stream.read_all() == text

        return await asyncio.gather(*map(talk, range(50)))

    assert server.run("/echo", scenario) == [True] * 50


@pytest.mark.parametrize(("code", "reason"), [(0, ""), (4242, "Grüße"), (0xFFFFFFFF, "x" * 1024)])
def test_closed_by_the_server(server: GoServer, code: int, reason: str) -> None:
    """The server's code and reason."""

    async def scenario(session: ClientSession) -> tuple[int, str, bool]:
        return (await session.wait_closed())[:3]

    assert server.run(f"/close?code={code}&reason={quote(reason)}", scenario) == (code, reason, True)


def test_closed_by_us(server: GoServer) -> None:
    """Our code and reason reach the server, by the blocking session too."""

    async def scenario(session: ClientSession) -> None:
        session.close(4242, "Grüße")
        assert await asyncio.to_thread(server.next) == ["closed", [4242, "Grüße", True]]

    server.run("/wait", scenario)
    with connect_webtransport(server.url + "/wait", cafile=server.cafile) as session:
        session.close(7, "enough")
        assert server.next() == ["closed", [7, "enough", True]]


@pytest.mark.parametrize("code", [0, 29, 30, 0xFFFFFFFF])
def test_reset_and_stopped_by_the_server(server: GoServer, code: int) -> None:
    """The codes of the server's RESET_STREAM and STOP_SENDING."""

    async def reset(session: ClientSession) -> int:
        stream = await session.open_bidi_stream()
        await stream.write(b"now")
        with pytest.raises(WebTransportStreamReset) as caught:
            await stream.read_all()
        return caught.value.code

    async def stopped(session: ClientSession) -> int:
        stream = await session.open_uni_stream()
        try:
            while True:
                await stream.write(b"now" * 10_000)
        except WebTransportStreamReset as stop:
            return stop.code

    assert server.run(f"/reset?code={code}", reset) == code
    assert server.run(f"/stop?code={code}", stopped) == code


def test_reset_and_stopped_by_us(server: GoServer) -> None:
    """Our codes, as the server has them."""

    async def scenario(session: ClientSession) -> set[tuple[Any, ...]]:
        stream = await session.open_bidi_stream()
        await stream.write(b"something")
        await stream.read()
        stream.reset(29)
        stream.stop_sending(30)
        return {tuple(await asyncio.to_thread(server.next)) for _ in range(2)}

    assert server.run("/aborted", scenario) == {("reset", 29), ("stopped", 30)}


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500])
def test_rejected(server: GoServer, status: int) -> None:
    """A session that the server refuses raises with its status."""
    with pytest.raises(SessionRejected) as caught:
        connect_webtransport(f"{server.url}/reject?status={status}", cafile=server.cafile)
    assert caught.value.status == status


def test_subprotocol(server: GoServer) -> None:
    """Of those that we offer the first that the server knows; none is chosen when it knows none."""

    async def scenario(session: ClientSession) -> tuple[str | None, bytes]:
        chosen = await anext(session.incoming_uni_streams())
        return session.protocol, await chosen.read_all()

    assert server.run("/protocols", scenario, protocols=["aa", "bb"]) == ("bb", b"bb")
    assert server.run("/protocols", scenario) == (None, b"none")
