"""The interop runner's WebTransport cases: files asked for by `GET name`, over streams and datagrams.

A session's path is its endpoint: the directory below /www that its files come from, and below /downloads
where those of the peer go. Either side may be the one that asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ..config import ClientConfig, ServerConfig
from ..server import Server
from ..webtransport import WebTransportSession
from ..webtransport_client import aconnect_webtransport
from ..webtransport_server import ServerSession
from ..webtransport_streams import WebTransportStream

_GET: Final = b"GET "
_PUSH: Final = b"PUSH "
_DATAGRAMS_AT_ONCE: Final = 8
"""Fewer answers than the queue of a router on the runner's link holds: none may be lost."""
_PATIENCE_SECONDS: Final = 60.0


class Folder(NamedTuple):
    """The files of an endpoint."""

    www: Path
    downloads: Path

    def read(self, request: bytes) -> tuple[bytes, bytes]:
        """Name and content of the file that is asked for. Raises ValueError for no request, OSError."""
        if not request.startswith(_GET):
            raise ValueError(f"{request[:40]!r} asks for no file")
        name = Path(request[len(_GET) :].decode().strip()).name
        return name.encode(), (self.www / name).read_bytes()

    def save(self, name: str, content: bytes) -> None:
        """Keeps a file that was asked for."""
        self.downloads.mkdir(parents=True, exist_ok=True)
        (self.downloads / Path(name).name).write_bytes(content)

    def save_push(self, payload: bytes) -> None:
        """Keeps one that comes with its name. Raises ValueError when it has none."""
        head, found, content = payload.partition(b"\n")
        if not found or not head.startswith(_PUSH):
            raise ValueError(f"{payload[:40]!r} brings no file")
        self.save(head[len(_PUSH) :].decode().strip(), content)


async def answer(session: WebTransportSession, folder: Folder, names: Sequence[str]) -> None:
    """Sends what the peer asks for, each file the way of its request, until the session ends."""

    async def same_stream(stream: WebTransportStream) -> None:
        await stream.write(folder.read(await stream.read_all())[1])

    async def new_stream(stream: WebTransportStream) -> None:
        name, content = folder.read(await stream.read_all())
        async with await session.open_uni_stream() as pushed:
            await pushed.write(_PUSH + name + b"\n")
            await pushed.write(content)

    def datagram(request: bytes) -> None:
        name, content = folder.read(request)
        session.send_datagram(_PUSH + name + b"\n" + content)

    await session.serve(on_bidi_stream=same_stream, on_uni_stream=new_stream, on_datagram=datagram)


async def by_bidi_streams(session: WebTransportSession, folder: Folder, names: Sequence[str]) -> None:
    """Asks for files, each on a stream of its own that brings the answer."""

    async def fetch(name: str) -> None:
        stream = await session.open_bidi_stream()
        await stream.write(_GET + name.encode())
        stream.finish()
        folder.save(name, await stream.read_all())

    await asyncio.gather(*map(fetch, names))


async def by_uni_streams(session: WebTransportSession, folder: Folder, names: Sequence[str]) -> None:
    """Asks for files; the peer opens a stream for each."""

    async def ask(name: str) -> None:
        async with await session.open_uni_stream() as stream:
            await stream.write(_GET + name.encode())

    async def keep(stream: WebTransportStream) -> None:
        folder.save_push(await stream.read_all())

    work: list[asyncio.Future[None]] = [asyncio.ensure_future(ask(name)) for name in names]
    async for stream in session.incoming_uni_streams():
        work.append(asyncio.ensure_future(keep(stream)))
        if len(work) == 2 * len(names):
            break
    await asyncio.gather(*work)


async def by_datagrams(session: WebTransportSession, folder: Folder, names: Sequence[str]) -> None:
    """Asks for files that fit into a datagram, a few at a time."""
    left = list(reversed(names))
    for _ in range(min(_DATAGRAMS_AT_ONCE, len(left))):
        session.send_datagram(_GET + left.pop().encode())
    for _ in names:
        folder.save_push(await session.receive_datagram())
        if left:
            session.send_datagram(_GET + left.pop().encode())


async def handshake(session: WebTransportSession, folder: Folder, names: Sequence[str]) -> None:
    """Writes down the protocol that was agreed on."""
    folder.downloads.parent.mkdir(parents=True, exist_ok=True)
    (folder.downloads.parent / "negotiated_protocol.txt").write_text(session.protocol or "")


async def handshake_and_wait(session: WebTransportSession, folder: Folder, names: Sequence[str]) -> None:
    """The same for a server, which leaves the end to the client."""
    await handshake(session, folder, names)
    await session.wait_closed()


Work = Callable[[WebTransportSession, Folder, Sequence[str]], Awaitable[None]]

SERVER: Final[Mapping[str, Work]] = {
    "handshake": handshake_and_wait,
    "transfer": answer,
    "transfer-unidirectional-send": by_uni_streams,
    "transfer-bidirectional-send": by_bidi_streams,
    "transfer-datagram-send": by_datagrams,
}
CLIENT: Final[Mapping[str, Work]] = {
    "handshake": handshake,
    "transfer": answer,
    "transfer-unidirectional-receive": by_uni_streams,
    "transfer-bidirectional-receive": by_bidi_streams,
    "transfer-datagram-receive": by_datagrams,
}


def by_endpoint(paths: Iterable[str]) -> dict[str, list[str]]:
    """File names by endpoint, from paths of the form endpoint/name, or of an endpoint alone."""
    found: dict[str, list[str]] = {}
    for path in paths:
        endpoint, _, name = path.strip("/").partition("/")
        found.setdefault(endpoint, []).extend([name] if name else [])
    return found


def make_server(config: ServerConfig, root: Path, work: Work, protocols: list[str], asked: str) -> Server:
    """A server with a session for each directory in /www; it asks for the files of `asked`."""
    server = Server(config)
    wanted = by_endpoint(asked.split())

    def register(endpoint: str) -> None:
        folder = Folder(root / "www" / endpoint, root / "downloads" / endpoint)

        @server.webtransport(f"/{endpoint}", origins=["*"], protocols=protocols)
        async def session_of(session: ServerSession) -> None:
            session.accept()
            await work(session, folder, wanted.get(endpoint, []))

    for endpoint in {entry.name for entry in (root / "www").iterdir() if entry.is_dir()} | set(wanted):
        register(endpoint)
    return server


def run_client(
    config: ClientConfig, root: Path, work: Work, protocols: list[str], urls: Sequence[str]
) -> None:
    """A session for each endpoint of the URLs. Raises QuicheH3Error, ValueError, OSError, TimeoutError."""
    parts = urlsplit(urls[0])

    async def session_of(endpoint: str, names: Sequence[str]) -> None:
        folder = Folder(root / "www" / endpoint, root / "downloads" / endpoint)
        url = f"https://{parts.netloc}/{endpoint}"
        async with await aconnect_webtransport(url, protocols=protocols, config=config) as session:
            await work(session, folder, names)

    async def everything() -> None:
        wanted = by_endpoint(urlsplit(url).path for url in urls)
        await asyncio.wait_for(
            asyncio.gather(*(session_of(*one) for one in wanted.items())), _PATIENCE_SECONDS
        )

    asyncio.run(everything())
