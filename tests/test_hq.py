"""A server whose routes are served over HTTP/0.9 (`hq-interop`) as well, against aioquic's streams."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived, StreamReset
from server_support import make_server

from quiche_h3 import Request, Server


class Raw(QuicConnectionProtocol):
    """Writes bytes on a stream, and keeps what comes back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.body = b""
        self.over: asyncio.Future[int | None] = self._loop.create_future()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self.body += event.data
            if event.end_stream and not self.over.done():
                self.over.set_result(None)
        elif isinstance(event, StreamReset) and not self.over.done():
            self.over.set_result(event.error_code)


def server() -> Server:
    made = make_server(alpn_protocols=["h3", "hq-interop", "hq-29"])

    @made.get("/about/:name")
    def about(req: Request) -> str:
        return f"{req.method} {req.params['name']} of {req.authority}"

    return made


def send(alpn: str, *pieces: bytes, fin: bool = True) -> tuple[bytes, int | None]:
    """What comes back for these pieces on one stream, and the code of the reset, if it ends by one."""

    async def exchange(port: int) -> tuple[bytes, int | None]:
        made = QuicConfiguration(alpn_protocols=[alpn], verify_mode=ssl.CERT_NONE, server_name="localhost")
        async with connect("127.0.0.1", port, configuration=made, create_protocol=Raw) as client:
            assert isinstance(client, Raw)
            stream_id = client._quic.get_next_available_stream_id()
            for number, piece in enumerate(pieces):
                client._quic.send_stream_data(stream_id, piece, fin and number == len(pieces) - 1)
                client.transmit()
                await client.ping()  # each in a packet of its own
            code = await asyncio.wait_for(client.over, 10)
            return client.body, code

    with server().running() as address:
        return asyncio.run(exchange(address.port))


@pytest.mark.parametrize("alpn", ["hq-interop", "hq-29"])
@pytest.mark.parametrize(
    "pieces",
    [(b"GET /about/x\r\n",), (b"GET /about/x\n",), (b"GET /about/x",), (b"GE", b"T /about", b"/x\r", b"\n")],
)
def test_a_route_answers(alpn: str, pieces: tuple[bytes, ...]) -> None:
    """RFC 1945 3.1 (HTTP/0.9): a line ends by CR LF, by LF, or with the stream, in any number of pieces."""
    assert send(alpn, *pieces) == (b"GET x of localhost", None)


def test_the_end_of_the_line_is_enough() -> None:
    """The answer does not wait for the FIN behind the line."""
    assert send("hq-interop", b"GET /about/x\r\n", fin=False) == (b"GET x of localhost", None)


def test_a_missing_route_is_a_reset() -> None:
    """There is no status to say 404 with: the error page must not be taken for the file."""
    assert send("hq-interop", b"GET /nothing\r\n") == (b"", 404)


@pytest.mark.parametrize(
    "line",
    [
        b"PUT /about/x\r\n",
        b"GET about\r\n",
        b"\r\n",
        b"GET /a b\r\n",
        b"GET /\x00\r\n",
        b"GET /" + b"a" * 5000,
    ],
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    """Another method, no path, blanks, control characters, no end of the line: a reset as for a 400."""
    assert send("hq-interop", line) == (b"", 400)


def test_what_follows_the_line_is_ignored() -> None:
    """HTTP/0.9 has no body: what a client sends behind the line is not read, and costs the answer nothing."""
    assert send("hq-interop", b"GET /about/x\r\nmore and more")[0] == b"GET x of localhost"
