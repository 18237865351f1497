#!/usr/bin/env python3
"""An interop endpoint on aioquic, both roles: HTTP/0.9 and HTTP/3, by the interop runner's contract."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h0.connection import H0_ALPN, H0Connection
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent, StreamReset
from aioquic.quic.logger import QuicFileLogger
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite, SessionTicket

UNSUPPORTED: Final = 127
SERVER: Final = {
    *("handshake", "transfer", "multiconnect", "retry", "resumption", "zerortt", "http3", "chacha20", "v2"),
}
CLIENT: Final = SERVER | {"keyupdate"}
CHUNK: Final = 1 << 16
AT_ONCE: Final = 100  # requests in flight: aioquic itself does not wait for stream credit fairly


class Protocol(QuicConnectionProtocol):
    """What both roles share: HTTP by the protocol that was negotiated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http: H0Connection | H3Connection | None = None

    def start_http(self, alpn: str | None) -> H0Connection | H3Connection:
        self.http = H3Connection(self._quic) if alpn in H3_ALPN else H0Connection(self._quic)
        return self.http

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated) and self.http is None:
            self.start_http(event.alpn_protocol)
        if isinstance(event, StreamReset):
            self.was_reset(event.stream_id)
        if self.http is not None:
            for item in self.http.handle_event(event):
                self.http_event(item)

    def was_reset(self, stream_id: int) -> None:
        """The peer has given a stream up."""

    def http_event(self, event: Any) -> None:
        """Something of HTTP has come."""


class ServerProtocol(Protocol):
    www: Path

    def http_event(self, event: Any) -> None:
        if isinstance(event, HeadersReceived) and self.http is not None:
            path = dict(event.headers)[b":path"].decode()
            file = self.www / Path(path).name
            found = file.is_file()
            self.http.send_headers(event.stream_id, [(b":status", b"200" if found else b"404")])
            self.http.send_data(event.stream_id, file.read_bytes() if found else b"", True)
            self.transmit()


class ClientProtocol(Protocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting: dict[int, tuple[bytearray, asyncio.Future[bytes]]] = {}

    def request(self, url: str) -> asyncio.Future[bytes]:
        http = self.http or self.start_http(self._quic.configuration.alpn_protocols[0])
        parts = urlsplit(url)
        stream_id = self._quic.get_next_available_stream_id()
        fields = {":method": "GET", ":scheme": "https", ":authority": parts.netloc, ":path": parts.path}
        future: asyncio.Future[bytes] = self._loop.create_future()
        self.waiting[stream_id] = (bytearray(), future)
        headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        http.send_headers(stream_id, headers, True)
        return future

    def http_event(self, event: Any) -> None:
        if event.stream_id not in self.waiting or not isinstance(event, (DataReceived, HeadersReceived)):
            return
        body, future = self.waiting[event.stream_id]
        if isinstance(event, DataReceived):
            body += event.data
        if event.stream_ended and not future.done():
            future.set_result(bytes(body))

    def was_reset(self, stream_id: int) -> None:
        if stream_id in self.waiting and not self.waiting[stream_id][1].done():
            self.waiting[stream_id][1].set_exception(RuntimeError(f"stream {stream_id} was reset"))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for _, future in self.waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("the connection is gone"))


def configuration(client: bool, case: str) -> QuicConfiguration:
    made = QuicConfiguration(is_client=client, alpn_protocols=H3_ALPN if case == "http3" else H0_ALPN)
    made.idle_timeout = 180.0
    if keys := os.environ.get("SSLKEYLOGFILE"):
        made.secrets_log_file = Path(keys).open("a")  # noqa: SIM115 - for as long as we run
    if qlog := os.environ.get("QLOGDIR"):
        Path(qlog).mkdir(parents=True, exist_ok=True)
        made.quic_logger = QuicFileLogger(qlog)
    if case == "v2":
        made.original_version = QuicProtocolVersion.VERSION_1
        made.supported_versions = [QuicProtocolVersion.VERSION_2, QuicProtocolVersion.VERSION_1]
    if case == "chacha20":
        made.cipher_suites = [CipherSuite.CHACHA20_POLY1305_SHA256]
    return made


async def run_server(case: str) -> int:
    made = configuration(False, case)
    made.load_cert_chain("/certs/cert.pem", "/certs/priv.key")
    ServerProtocol.www = Path("/www")
    tickets: dict[bytes, SessionTicket] = {}
    await serve(
        "::",
        443,
        configuration=made,
        create_protocol=ServerProtocol,
        retry=case == "retry",
        session_ticket_fetcher=lambda label: tickets.pop(label, None),
        session_ticket_handler=lambda ticket: tickets.update({ticket.ticket: ticket}),
    )
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    return 0


async def fetch(
    made: QuicConfiguration, urls: Sequence[str], case: str, tickets: list[SessionTicket]
) -> None:
    """Everything over one connection."""
    parts = urlsplit(urls[0])
    early = case == "zerortt" and bool(tickets)
    made.session_ticket = tickets[0] if tickets else None
    async with connect(
        str(parts.hostname),
        parts.port or 443,
        configuration=made,
        create_protocol=ClientProtocol,
        session_ticket_handler=tickets.append,
        wait_connected=not early,
    ) as connected:
        protocol = cast(ClientProtocol, connected)
        if case == "keyupdate":
            protocol.request_key_update()
        todo = deque(urls)
        running: dict[asyncio.Future[bytes], str] = {}
        while todo or running:
            while todo and len(running) < AT_ONCE:
                url = todo.popleft()
                running[protocol.request(url)] = url
            protocol.transmit()
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                target = Path("/downloads") / Path(urlsplit(running.pop(future)).path).name
                target.write_bytes(future.result())


async def run_client(case: str, urls: Sequence[str]) -> int:
    made = configuration(True, case)
    made.load_verify_locations("/certs/ca.pem")
    tickets: list[SessionTicket] = []
    if case == "multiconnect":
        for url in urls:
            await fetch(made, [url], case, [])
    elif case in ("resumption", "zerortt"):
        await fetch(made, urls[:1], case, tickets)
        await fetch(made, urls[1:], case, tickets)
    else:
        await fetch(made, urls, case, tickets)
    return 0


def main() -> int:
    role, case = os.environ.get("ROLE"), os.environ.get("TESTCASE", "")
    if case not in (SERVER if role == "server" else CLIENT):
        return UNSUPPORTED
    if role == "server":
        return asyncio.run(run_server(case))
    return asyncio.run(run_client(case, os.environ["REQUESTS"].split()))


if __name__ == "__main__":
    sys.exit(main())
