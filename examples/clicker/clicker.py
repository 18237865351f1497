"""A clicker: players press a button, and everybody sees the scores. JSON over WebTransport, at /clicker.

    quiche-h3 serve examples/clicker/clicker.py:server
    python examples/clicker/clicker.py --port 4433 --database scores.db

and open https://localhost:4433/ in a few windows.

`{"username": "ann", "type": "increment"}` is answered by `{"status": 200, "score": 1}`, anything else by
`{"status": 400}`: a datagram by a datagram; messages on a bidirectional stream on that stream, each as soon
as it is complete; messages on a unidirectional stream on one of the server's. A session at /scoreboard gets
the best players on one stream, as lines of JSON, whenever that changes.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import enum
import json
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from scores import MemoryScores, ScoreStore, SqliteScores

from quiche_h3 import Server, ServerConfig, ServerSession, WebTransportStream

HERE = Path(__file__).parent
MAX_MESSAGE = 4096  # characters
MAX_NAME = 40  # characters
BOARD_SIZE = 10
BOARD_SECONDS = 0.1  # the least time between two scoreboards


class Game:
    """The rules, and who watches the scores."""

    def __init__(self, store: ScoreStore) -> None:
        self.store = store
        self.watchers: set[asyncio.Event] = set()

    def answer(self, message: object) -> bytes:
        """The answer to a message: the new score, or status 400."""
        match message:
            case {"type": "increment", "username": str(name)} if 0 < len(name.strip()) <= MAX_NAME:
                score = self.store.increment(name.strip())
                for changed in self.watchers:
                    changed.set()
                return json.dumps({"status": 200, "score": score}).encode()
        return json.dumps({"status": 400}).encode()

    async def boards(self) -> AsyncIterator[list[tuple[str, int]]]:
        """The best players now, and again whenever a score has changed."""
        changed = asyncio.Event()
        self.watchers.add(changed)
        try:
            while True:
                changed.clear()
                yield self.store.top(BOARD_SIZE)
                await changed.wait()
                await asyncio.sleep(BOARD_SECONDS)
        finally:
            self.watchers.discard(changed)


def parse(data: bytes) -> object:
    """The JSON value that a datagram holds; None when it holds none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


async def messages(stream: AsyncIterable[bytes]) -> AsyncIterator[object]:
    """The JSON values of a stream, each as soon as it is complete; None, at its end, for what is none."""
    decoder, utf8 = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")("replace")
    text, seen = "", False
    async for chunk in stream:
        text = (text + utf8.decode(chunk)).lstrip()
        while text:
            try:
                value, end = decoder.raw_decode(text)
            except (ValueError, RecursionError):
                break  # not all of it is here yet, or it is no JSON
            seen = True
            yield value
            text = text[end:].lstrip()
        if len(text) > MAX_MESSAGE:
            break
    if text or not seen:
        yield None


def make_server(store: ScoreStore, config: ServerConfig) -> Server:
    """The game as a server: its pages and its two sessions."""
    game = Game(store)
    server = Server(config)
    server.static("/web", HERE.parent / "web")
    server.static("/", HERE / "page", index="index.html")

    @server.get("/certificate")
    def certificate() -> dict[str, str | None]:
        """What the page gives as `serverCertificateHashes`; null for a certificate that browsers trust."""
        return {"sha256": server.certificate_sha256.hex() if server.config.dev_cert else None}

    @server.webtransport("/clicker")
    async def clicker(session: ServerSession) -> None:
        def datagram(payload: bytes) -> None:
            session.send_datagram(game.answer(parse(payload)))

        async def uni(stream: WebTransportStream) -> None:
            async with await session.open_uni_stream() as answers:
                async for message in messages(stream):
                    await answers.write(game.answer(message))

        async def bidi(stream: WebTransportStream) -> None:
            async for message in messages(stream):
                await stream.write(game.answer(message))

        await session.serve(on_datagram=datagram, on_uni_stream=uni, on_bidi_stream=bidi)

    @server.webtransport("/scoreboard")
    async def scoreboard(session: ServerSession) -> None:
        async with await session.open_uni_stream() as stream:
            async for board in game.boards():
                await stream.write(json.dumps(board).encode() + b"\n")

    return server


class Status(enum.Enum):
    """What a ClickerServer is doing."""

    WAITING_TO_START = "waiting to start"
    RUNNING = "running"
    STOPPED = "stopped"


class ClickerServer:
    """The game with a life cycle, for programs that do something else besides."""

    def __init__(self, store: ScoreStore, config: ServerConfig) -> None:
        self.server = make_server(store, config)
        self._status = Status.WAITING_TO_START
        self.server.on_startup(lambda: self._set(Status.RUNNING))
        self.server.on_shutdown(lambda: self._set(Status.STOPPED))

    def run(self, *, non_blocking: bool = False) -> None:
        """Serves until `stop()` or Ctrl-C; with `non_blocking` in a thread, once it can be reached.

        Does nothing while it runs already. A server that was stopped does not start again.
        """
        if self._status is Status.RUNNING:
            return
        if non_blocking:
            self.server.start()
        else:
            self.server.run()

    def stop(self) -> None:
        """Stops the server; returns when a thread of its own has ended. Does nothing when it does not run."""
        if self._status is Status.RUNNING:
            self.server.stop()

    def status(self) -> Status:
        """What the server is doing."""
        return self._status

    def _set(self, status: Status) -> None:
        self._status = status


server = make_server(MemoryScores(), ServerConfig(dev_cert=True, tcp_pages=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="A clicker over WebTransport.")
    parser.add_argument("--port", type=int, default=4433)
    parser.add_argument("--database", metavar="FILE", help="keep the scores there, not in memory")
    options = parser.parse_args()
    store = SqliteScores(options.database) if options.database else MemoryScores()
    try:
        print(f"https://localhost:{options.port}/")
        ClickerServer(store, ServerConfig(dev_cert=True, tcp_pages=True, bind_port=options.port)).run()
    finally:
        store.close()


if __name__ == "__main__":
    main()
