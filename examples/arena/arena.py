"""A game of gems: the same state of play by datagrams and by a stream, side by side, over a network made bad.

    quiche-h3 serve examples/arena/arena.py:server

and open https://localhost:4433/ in a few windows. Steer with the arrow keys or the mouse, collect gems, let
the network lose packets. What comes by the stream stops at each loss until that packet was sent again, for a
stream leaves nothing out; what comes by datagrams goes on with the next: nobody needs the old positions.

A session at /arena?name=<name> is a player. The server opens two streams of lines of JSON, each begun by its
name. On "events" comes what must not be lost, `{"gems": [[x, y], ...], "scores": {...}, "network": {...}}`,
whenever that changes; on "states" `[number, milliseconds, {name: [x, y], ...}]`, 30 times a second, and that
in a datagram too. A player sends datagrams `[number, x, y]`, where to go: only the newest counts. It changes
the network by `{"loss": percent, "delay": milliseconds}` on a unidirectional stream.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bad_network import BadNetwork

from quiche_h3 import (
    DatagramError,
    QuicheH3Error,
    Request,
    Server,
    ServerConfig,
    ServerSession,
    WebTransportStream,
)

HERE = Path(__file__).parent
TICK = 1 / 30  # seconds
SPEED = 0.6  # widths of the arena in a second
REACH = 0.04  # as near as this a gem is taken
GEMS = 6
MAX_PLAYERS = 12  # their positions fit into a datagram
MAX_NAME = 16  # characters
MAX_LOSS, MAX_DELAY = 30, 200  # percent, milliseconds
MAX_BEHIND = 32_768  # bytes of states that wait for a slow player: then some are left out


class Player:
    """Somebody in the arena, which is 1 wide and 1 high."""

    def __init__(self, session: ServerSession) -> None:
        self.session = session
        self.x, self.y = random.random(), random.random()
        self.goal = (self.x, self.y)
        self.newest = -1.0  # number of the datagram that gave the goal
        self.score = 0
        self.streams: dict[str, WebTransportStream] = {}

    def steer(self, datagram: bytes) -> None:
        """Goes where the newest datagram says; one that was overtaken is of no use any more."""
        try:
            number, x, y = map(float, json.loads(datagram))
        except (ValueError, TypeError, RecursionError):
            return
        if number > self.newest and 0 <= x <= 1 and 0 <= y <= 1:
            self.newest, self.goal = number, (x, y)

    def move(self) -> None:
        dx, dy = self.goal[0] - self.x, self.goal[1] - self.y
        part = min(1.0, SPEED * TICK / max(math.hypot(dx, dy), 1e-9))
        self.x, self.y = self.x + dx * part, self.y + dy * part

    def tell(self, kind: str, line: bytes) -> None:
        """Writes a line, unless the stream is far behind or gone."""
        stream = self.streams.get(kind)
        if stream is not None and stream.pending < MAX_BEHIND:
            try:
                stream.write(line + b"\n")
            except QuicheH3Error:
                pass  # the player is about to leave


class Arena:
    """The players, the gems, and the clock."""

    def __init__(self, network: BadNetwork) -> None:
        self.network = network
        self.players: dict[str, Player] = {}
        self.gems = [new_gem() for _ in range(GEMS)]
        self.number = 0
        self.clock: asyncio.Task[None] | None = None

    def enter(self, name: str, player: Player) -> None:
        self.players[name] = player
        if self.clock is None:
            self.clock = asyncio.get_running_loop().create_task(self.run())
        self.tell_events()

    def leave(self, name: str) -> None:
        del self.players[name]
        self.tell_events()

    def change_network(self, wish: Any) -> None:
        try:
            loss, delay = float(wish["loss"]), float(wish["delay"])
        except (ValueError, TypeError, KeyError):
            return
        self.network.loss = min(max(loss, 0), MAX_LOSS) / 100
        self.network.delay = min(max(delay, 0), MAX_DELAY) / 1000
        self.tell_events()

    async def run(self) -> None:
        """The clock, as long as anybody is there."""
        try:
            while self.players:
                self.tick()
                await asyncio.sleep(TICK)
        finally:
            self.clock = None

    def tick(self) -> None:
        taken = False
        for player in self.players.values():
            player.move()
            for place, gem in enumerate(self.gems):
                if math.dist(gem, (player.x, player.y)) < REACH:
                    self.gems[place], taken = new_gem(), True
                    player.score += 1
        if taken:
            self.tell_events()
        self.number += 1
        where = {name: [round(p.x, 4), round(p.y, 4)] for name, p in self.players.items()}
        state = compact([self.number, round(time.monotonic() * 1000, 1), where])
        for player in list(self.players.values()):
            player.tell("states", state)
            try:
                player.session.send_datagram(state)
            except DatagramError:
                pass  # lost, as datagrams may be

    def tell_events(self) -> None:
        scores = {name: player.score for name, player in self.players.items()}
        network = {"loss": round(self.network.loss * 100), "delay": round(self.network.delay * 1000)}
        line = compact({"gems": self.gems, "scores": scores, "network": network})
        for player in list(self.players.values()):
            player.tell("events", line)


def new_gem() -> tuple[float, float]:
    return round(random.uniform(0.05, 0.95), 3), round(random.uniform(0.05, 0.95), 3)


def compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


arena = Arena(BadNetwork())
server = Server(ServerConfig(dev_cert=True, tcp_pages=True))
server.static("/web", HERE.parent / "web")
server.static("/", HERE / "page", index="index.html")


@server.on_startup
def begin() -> None:
    host, port = server.address
    arena.network.start(({"::": "::1", "0.0.0.0": "127.0.0.1"}.get(host, host), port))


server.on_shutdown(arena.network.close)


@server.get("/certificate")
def certificate() -> dict[str, str | int | None]:
    """What the page gives as `serverCertificateHashes`, and the port of the bad network."""
    sha256 = server.certificate_sha256.hex() if server.config.dev_cert else None
    return {"sha256": sha256, "port": arena.network.port}


def same_host(origin: str, request: Request) -> bool:
    """The page has the server's port, its session that of the network."""
    return urlsplit(origin).hostname == urlsplit(f"//{request.authority}").hostname


@server.webtransport("/arena", origins=same_host)
async def play(session: ServerSession) -> None:
    """A player, from its coming to its going."""
    name = session.request.query.get("name", "").strip()
    if not 0 < len(name) <= MAX_NAME:
        session.reject(400)
        return
    if name in arena.players or len(arena.players) == MAX_PLAYERS:
        session.reject(409)
        return
    session.accept()
    player = Player(session)
    arena.enter(name, player)

    async def wish(stream: WebTransportStream) -> None:
        try:
            arena.change_network(json.loads(await stream.read_all(limit=200)))
        except (ValueError, RecursionError):
            pass

    try:
        for kind in ("events", "states"):
            player.streams[kind] = await session.open_uni_stream()
            player.tell(kind, compact(kind))
        arena.tell_events()
        await session.serve(on_datagram=player.steer, on_uni_stream=wish)
    finally:
        arena.leave(name)


if __name__ == "__main__":
    server.run()
