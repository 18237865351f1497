"""A chat in rooms: what is said goes over streams and arrives, who is there over datagrams and may not.

    quiche-h3 serve examples/chat/chat.py:server

and open https://localhost:4433/ in a few windows.

A session at /chat/<room>?name=<name> is a member of the room; a name that is taken is refused with 409. The
server opens one stream; on it come what was said lately and then everything that is said, as lines of JSON:
`{"from": "ann", "text": "hello", "at": 1767225600.0}`. To say something a member opens a unidirectional
stream and sends the text. A datagram of a member says in a word what it does, as `typing`. A datagram to all
lists who is there, what they do and how many seconds ago they were heard of: each second, and when something
changes. A member who does not read what is said is sent away with code 1.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from pathlib import Path

from quiche_h3 import (
    ConnectionClosed,
    DatagramError,
    FlowControl,
    Server,
    ServerConfig,
    ServerSession,
    WebTransportStream,
)

HERE = Path(__file__).parent
NAME = re.compile(r"[\w.-][\w .-]*")
DOING = re.compile(r"[a-z]{1,8}")
MAX_NAME = 24  # bytes of UTF-8
MAX_TEXT = 2000  # bytes of UTF-8
MAX_MEMBERS = 20  # of a room: the list of them fits into a datagram
MAX_ROOMS = 1000
HISTORY = 50  # messages
UNREAD = 200  # messages
PRESENCE_SECONDS = 1.0
TOO_SLOW, TOO_LONG = 1, 2  # codes of a session's and of a stream's end


class Member:
    """Somebody in a room."""

    def __init__(self, session: ServerSession, name: str) -> None:
        self.session = session
        self.name = name
        self.unread: asyncio.Queue[bytes] = asyncio.Queue(UNREAD)
        self.doing = ""
        self.heard_at = time.monotonic()

    def tell(self, line: bytes) -> None:
        """Has a line sent; a member who is too far behind is sent away."""
        try:
            self.unread.put_nowait(line)
        except asyncio.QueueFull:
            self.session.close(TOO_SLOW, "too slow")


class Room:
    """Its members, and what was said lately."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.history: deque[bytes] = deque(maxlen=HISTORY)
        self.changed = asyncio.Event()
        self.presence: asyncio.Future[None] | None = None  # the task that tells it

    def say(self, name: str, text: str) -> None:
        line = json.dumps({"from": name, "text": text, "at": time.time()}).encode() + b"\n"
        self.history.append(line)
        for member in list(self.members.values()):
            member.tell(line)

    def enter(self, member: Member) -> None:
        self.members[member.name] = member
        for line in self.history:
            member.tell(line)
        self.changed.set()

    def leave(self, member: Member) -> None:
        del self.members[member.name]
        self.changed.set()

    async def tell_presence(self) -> None:
        """Tells all members who is there, until nobody is. What is lost comes again."""
        while self.members:
            self.changed.clear()
            now = time.monotonic()
            present = [[m.name, m.doing, round(now - m.heard_at, 1)] for m in self.members.values()]
            datagram = json.dumps(present, ensure_ascii=False, separators=(",", ":")).encode()
            for member in self.members.values():
                try:
                    member.session.send_datagram(datagram)
                except (DatagramError, ConnectionClosed):
                    pass  # it is lost, as datagrams may be, or the member is about to leave
            try:
                await asyncio.wait_for(self.changed.wait(), PRESENCE_SECONDS)
            except asyncio.TimeoutError:
                pass


server = Server(ServerConfig(dev_cert=True, tcp_pages=True))
server.static("/web", HERE.parent / "web")
server.static("/", HERE / "page", index="index.html")

rooms: dict[str, Room] = {}


@server.get("/certificate")
def certificate() -> dict[str, str | None]:
    """What the page gives as `serverCertificateHashes`; null for a certificate that browsers trust."""
    return {"sha256": server.certificate_sha256.hex() if server.config.dev_cert else None}


def is_name(name: str) -> bool:
    return NAME.fullmatch(name) is not None and len(name.encode()) <= MAX_NAME


@server.webtransport("/chat/:room")
async def chat(session: ServerSession) -> None:
    """A member, from its coming to its going."""
    room_name, name = session.request.params["room"], session.request.query.get("name", "")
    if not is_name(room_name) or not is_name(name):
        session.reject(400)
        return
    room = rooms.get(room_name)
    if room is None:
        if len(rooms) == MAX_ROOMS:
            session.reject(503)
            return
        room = rooms[room_name] = Room()
        room.presence = asyncio.ensure_future(room.tell_presence())
    if name in room.members or len(room.members) == MAX_MEMBERS:
        session.reject(409)
        return
    session.accept()
    member = Member(session, name)
    room.enter(member)
    telling = asyncio.ensure_future(tell(member))

    async def listen(stream: WebTransportStream) -> None:
        """Something that the member says."""
        try:
            text = await stream.read_all(MAX_TEXT)
        except FlowControl:
            stream.stop_sending(TOO_LONG)
        else:
            room.say(name, text.decode("utf-8", "replace"))

    def hear(datagram: bytes) -> None:
        """What the member does."""
        doing = datagram.decode("ascii", "replace")
        member.heard_at = time.monotonic()
        if doing != member.doing and DOING.fullmatch(doing):
            member.doing = doing
            room.changed.set()

    try:
        await session.serve(on_uni_stream=listen, on_datagram=hear)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        room.leave(member)
        if not room.members:
            del rooms[room_name]


async def tell(member: Member) -> None:
    """What is said, to the member."""
    async with await member.session.open_uni_stream() as stream:
        while True:
            await stream.write(await member.unread.get())


if __name__ == "__main__":
    server.run()
