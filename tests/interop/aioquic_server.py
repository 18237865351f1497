"""An HTTP/3 server on aioquic with the routes of the Go one: /hello /bytes/N /upload /echo /trailers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from aioquic.asyncio.server import QuicServer, serve
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, FrameUnexpected, encode_frame
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import Epoch, SessionTicket

from . import pattern, wrong_answers
from .aioquic_peer import H3Protocol, PeerClosed, PeerReset


class RequestStream:
    """A request whose body arrives in a queue: bytes, then None, or an exception when it was cut short."""

    def __init__(self, stream_id: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.stream_id = stream_id
        self.fields = dict(headers)
        self.trailers: list[tuple[bytes, bytes]] = []
        self.early = False
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def body(self) -> AsyncIterator[bytes]:
        while (item := await self.queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


class AioquicServer(H3Protocol):
    """One connection of the server."""

    cancelled: ClassVar[list[int]] = []
    """The codes that clients have given requests up with."""
    closed: ClassVar[list[int]] = []
    """The codes that clients have closed their connections with."""
    turned_away: ClassVar[int] = 0
    """Requests to /rejected and /goaway; every second one is served."""

    def __init__(self, quic: QuicConnection, stream_handler: Any = None) -> None:
        super().__init__(quic, stream_handler)
        self.requests: dict[int, RequestStream] = {}
        self.unidirectional = bytearray()  # what the client's unidirectional streams have brought
        self.tasks: set[asyncio.Task[None]] = set()
        self.unread: set[int] = set()  # streams whose limits stay as they are
        write_limits = quic._write_stream_limits

        def limits_of_what_is_read(builder: Any, space: Any, stream: Any) -> None:
            # aioquic allows more as soon as data arrive, whether anybody reads them or not.
            if stream.stream_id not in self.unread:
                write_limits(builder, space, stream)

        # aioquic has no option for it, so the method is replaced on this one connection.
        quic._write_stream_limits = limits_of_what_is_read  # type: ignore[method-assign]

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset | StopSendingReceived) and event.stream_id in self.requests:
            AioquicServer.cancelled.append(event.error_code)
        if isinstance(event, StreamDataReceived) and event.stream_id % 4 == 2:
            self.unidirectional += event.data
        if isinstance(event, ConnectionTerminated):
            AioquicServer.closed.append(event.error_code)
            for request in self.requests.values():
                request.queue.put_nowait(PeerClosed(event))
        elif isinstance(event, StreamReset) and event.stream_id in self.requests:
            self.requests[event.stream_id].queue.put_nowait(PeerReset(event.error_code))
        super().quic_event_received(event)

    def h3_event_received(self, event: H3Event) -> None:
        if isinstance(event, DatagramReceived):  # an HTTP datagram of a request: back it goes
            self.http.send_datagram(event.stream_id, event.data[::-1])
            self.transmit()
        if not isinstance(event, HeadersReceived | DataReceived):
            return
        request = self.requests.get(event.stream_id)
        if isinstance(event, DataReceived):
            if request and event.data:
                request.queue.put_nowait(event.data)
        elif request:
            request.trailers = event.headers
        else:
            request = self.requests[event.stream_id] = RequestStream(event.stream_id, event.headers)
            request.early = not self._quic._handshake_complete
            task = asyncio.ensure_future(self.run(request))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        if request and event.stream_ended:
            request.queue.put_nowait(None)

    async def run(self, request: RequestStream) -> None:
        try:
            await self.answer(request)
        except (PeerReset, PeerClosed, FrameUnexpected):
            pass  # there is nobody to answer: aioquic raises the last where the client has stopped the stream
        finally:
            del self.requests[request.stream_id]

    async def answer(self, request: RequestStream) -> None:
        path, stream_id = request.fields[b":path"].decode(), request.stream_id
        if await self.answer_rest(request, path.partition("?")[0]):
            return
        if path == "/hello":
            await self.respond(stream_id, b"Hello, HTTP/3!")
        elif path.startswith("/bytes/"):
            size = int(path[len("/bytes/") :])
            self.send_status(stream_id, 200, (b"content-length", str(size).encode()))
            await self.send_body(stream_id, pattern.chunks(size), True)
        elif path == "/upload":
            size, digest = 0, hashlib.sha256()
            async for chunk in request.body():
                size += len(chunk)
                digest.update(chunk)
            await self.respond(stream_id, json.dumps({"bytes": size, "sha256": digest.hexdigest()}).encode())
        elif path == "/echo":
            self.send_status(stream_id, 200)
            self.transmit()  # the client may wait for the status before it sends a body
            async for chunk in request.body():
                await self.send_body(stream_id, [chunk], False)
            self.finish(stream_id, request.trailers)
        elif path == "/trailers":
            self.send_status(stream_id, 200)
            await self.send_body(stream_id, [b"body before trailers"], False)
            self.finish(stream_id, [(b"x-trailer", b"after the body")])
        else:
            await self.respond(stream_id, b"not found", 404)

    async def answer_rest(self, request: RequestStream, path: str) -> bool:
        """What a client of a REST service meets. False for other paths."""
        stream_id, (_, kind, *rest) = request.stream_id, path.split("/")
        if kind == "describe" or (kind == "too-early" and not request.early):
            await self.respond(stream_id, await self.describe(request))
        elif kind == "too-early":
            await self.respond(stream_id, b"", 425)
        elif kind == "status":
            await self.respond(stream_id, f"status {rest[0]}".encode(), int(rest[0]))
        elif kind == "redirect":
            query = request.fields[b":path"].decode().partition("code=")[2]
            target = "/describe" if rest[0] == "1" else f"/redirect/{int(rest[0]) - 1}"
            self.send_status(stream_id, int(query or 302), (b"location", target.encode()))
            self.finish(stream_id, [])
        elif kind == "cookie":
            self.send_status(stream_id, 204, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"))
            self.finish(stream_id, [])
        elif kind == "interim":
            for fields in ([(b":status", b"103"), (b"link", b"</a.css>")], [(b":status", b"102")]):
                section = self.http._encode_headers(stream_id, fields)
                self._quic.send_stream_data(stream_id, encode_frame(FrameType.HEADERS, section))
            self.transmit()
            await self.respond(stream_id, b"after two")
        elif kind == "unidirectional":
            async for _ in request.body():
                pass
            await self.respond(stream_id, self.unidirectional.hex().encode())
        elif kind == "slow":
            self.unread.add(stream_id)
            await asyncio.sleep(3600)
        elif kind == "new-keys":  # RFC 9001 6
            self._quic.request_key_update()
            await self.respond(stream_id, b"with new keys")
        elif kind == "refuse":  # the body is left unread
            await self.respond(stream_id, b"too much", 413)
            self._quic.stop_stream(stream_id, ErrorCode.H3_NO_ERROR)
            self.transmit()
        elif kind == "break":
            self.send_status(stream_id, 200)
            await self.send_body(stream_id, [b"the beginning"], False)
            async for _ in request.body():
                pass  # until the client has seen it, and says so
            if rest[0] == "reset":
                self._quic.reset_stream(stream_id, ErrorCode.H3_INTERNAL_ERROR)
            else:
                self._quic.close(ErrorCode.H3_INTERNAL_ERROR, reason_phrase="going down")
            self.transmit()
        elif kind == "wrong":
            self.send_wrong(stream_id, rest[0])
        elif kind in ("rejected", "goaway"):
            AioquicServer.turned_away += 1
            if AioquicServer.turned_away % 2 == 0:
                await self.respond(stream_id, b"taken")
            elif kind == "rejected":
                self._quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)
                self.transmit()
            else:  # RFC 9114 5.2: this request, and none after it, will be processed
                assert self.http._local_control_stream_id is not None
                frame = encode_frame(FrameType.GOAWAY, encode_uint_var(stream_id))
                self._quic.send_stream_data(self.http._local_control_stream_id, frame)
                self.transmit()
        else:
            return False
        return True

    async def describe(self, request: RequestStream) -> bytes:
        body = b"".join([chunk async for chunk in request.body()])
        fields = {name.decode(): value.decode("latin-1") for name, value in request.fields.items()}
        own = {name: value for name, value in fields.items() if not name.startswith(":")}
        return json.dumps(
            {
                "method": fields[":method"],
                "path": fields[":path"],
                "authority": fields[":authority"],
                "headers": own,
                "body": body.decode(),
                "early": request.early,
                "resumed": self._quic.tls.session_resumed,
                "client": "{}:{}".format(*self._quic._network_paths[0].addr[:2]),
                "subject": "",
                "cancelled": AioquicServer.cancelled,
                "closed": AioquicServer.closed,
                "key_phase": self._quic._cryptos[Epoch.ONE_RTT].key_phase,
            }
        ).encode()

    def send_wrong(self, stream_id: int, name: str) -> None:
        def section(fields: wrong_answers.Pairs) -> bytes:
            return self.http._encode_headers(stream_id, fields)

        make = wrong_answers.MALFORMED.get(name) or wrong_answers.FORBIDDEN[name][1]
        self._quic.send_stream_data(stream_id, make(section), end_stream=True)
        self.transmit()

    def send_status(self, stream_id: int, status: int, *headers: tuple[bytes, bytes]) -> None:
        self.http.send_headers(stream_id, [(b":status", str(status).encode()), *headers])

    async def respond(self, stream_id: int, body: bytes, status: int = 200) -> None:
        self.send_status(stream_id, status, (b"content-length", str(len(body)).encode()))
        await self.send_body(stream_id, [body], True)

    def finish(self, stream_id: int, trailers: list[tuple[bytes, bytes]]) -> None:
        if trailers:
            self.http.send_headers(stream_id, trailers, end_stream=True)
        else:
            self.http.send_data(stream_id, b"", True)
        self.transmit()


@asynccontextmanager
async def serving(
    certificate: str,
    key: str,
    host: str = "127.0.0.1",
    port: int = 0,
    retry: bool = False,
    alpn: str = "h3",
    versions: Sequence[int] = (QuicProtocolVersion.VERSION_1,),
) -> AsyncIterator[int]:
    """Serve until the end of the block, in these versions of QUIC; yields the port."""
    tickets: dict[bytes, SessionTicket] = {}
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=[alpn], supported_versions=list(versions), max_datagram_size=1350
    )
    configuration.max_datagram_frame_size = 65_536
    configuration.load_cert_chain(certificate, key)
    server: QuicServer = await serve(
        host,
        port,
        configuration=configuration,
        create_protocol=AioquicServer,
        session_ticket_fetcher=lambda label: tickets.pop(label, None),
        session_ticket_handler=lambda ticket: tickets.__setitem__(ticket.ticket, ticket),
        retry=retry,
    )
    assert server._transport is not None
    try:
        yield server._transport.get_extra_info("sockname")[1]
    finally:
        server.close()
