"""HTTPS over TCP for a browser's first visit: HTTP/1.1, forwarded to the HTTP/3 server on the same port.

A browser comes to a new site over TCP, and learns from Alt-Svc (RFC 7838) that there is HTTP/3. What it gets
is what the server answers over HTTP/3: there is one set of routes. This is for development and for small
sites; a large one has a server for HTTP/1.1 and HTTP/2 beside this one.
"""

from __future__ import annotations

import http.server
import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any, Final

from .client import ClientConnection, connect
from .client_messages import ClientResponse
from .config import ClientConfig, ServerConfig
from .errors import ConfigError, HeaderInvalid, QuicheH3Error
from .tls import CertificateFiles

log: Final = logging.getLogger("quiche_h3")

_ALT_SVC_SECONDS: Final = 3600
_IDLE_SECONDS: Final = 15.0
_MAX_CONNECTIONS: Final = 128
# Fields that speak of the one connection (RFC 9110 7.6.1), which HTTP/3 has not got (RFC 9114 4.2), and Host.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)


class FirstVisit:
    """The TCP side of a server: bound when made, serving from `start()` to `close()`. May be closed twice.

    `addresses` are those of the UDP sockets. Raises ConfigError, with nothing left bound, when a TCP port is
    taken.
    """

    def __init__(
        self, config: ServerConfig, addresses: Sequence[tuple[str, int]], certificate: CertificateFiles
    ) -> None:
        self._context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.renew(certificate)
        context.set_alpn_protocols(["http/1.1"])
        self._upstream = _Upstream(*addresses[0])
        self._listeners: list[_Listener] = []
        self._threads: list[threading.Thread] = []
        try:
            for address in addresses:
                self._listeners.append(_Listener(address, config, context, self._upstream))
        except BaseException:
            self.close()
            raise

    def renew(self, certificate: CertificateFiles) -> None:
        """Takes another certificate, for the connections that begin from now on."""
        self._context.load_cert_chain(certificate.cert_path, certificate.key_path)

    def start(self) -> None:
        """Answers from now on, in threads of its own."""
        for listener in self._listeners:
            thread = threading.Thread(
                target=listener.serve_forever, args=(0.1,), name="quiche_h3-tcp", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Takes no more connections and gives the ports back; answers under way are cut off."""
        threads, self._threads = self._threads, []
        for listener in self._listeners:
            if threads:
                listener.shutdown()
            listener.server_close()
        for thread in threads:
            thread.join()
        self._upstream.close()


class _Upstream:
    """The one HTTP/3 connection to the server itself, made when first needed and again when it was closed."""

    def __init__(self, host: str, port: int) -> None:
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        self._url = f"https://[{address}]:{port}" if address.version == 6 else f"https://{address}:{port}"
        self._lock = threading.Lock()
        self._client: ClientConnection | None = None
        self._closed = False

    def client(self) -> ClientConnection:
        """Raises ConnectError when there is no server any more."""
        with self._lock:
            if self._client is None or self._client.closed:
                # Our own server, on this machine: there is nobody to mistake it for.
                config = ClientConfig(server_name="localhost")
                self._client = connect(self._url, verify=False, config=config)
            return self._client

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()


class _Listener(http.server.ThreadingHTTPServer):
    """A listening socket: a thread for each of at most 128 connections."""

    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], config: ServerConfig, context: ssl.SSLContext, upstream: _Upstream
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.dual_stack = config.dual_stack
        self.max_body = config.max_non_streaming_body_bytes
        self.context = context
        self.upstream = upstream
        self.free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        try:
            super().__init__(address, _Visit)
        except OSError as exc:
            raise ConfigError(
                "tcp_pages",
                f"TCP port {address[1]} of {address[0]} cannot be had: {exc.strerror}",
                "use another port",
            ) from exc

    def server_bind(self) -> None:
        """As the UDP socket is bound. The base class would ask the resolver for the machine's name."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if self.dual_stack else 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def get_request(self) -> tuple[Any, Any]:
        """The handshake is left to the connection's own thread: nobody waits for a slow one."""
        sock, address = super().get_request()
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), address

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that does not take the certificate ends here; so do those that just go."""
        log.debug("a TCP connection of %s failed", client_address[0], exc_info=True)


class _Visit(http.server.BaseHTTPRequestHandler):
    """A connection: its requests are forwarded one after the other."""

    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    server: _Listener

    def forward(self) -> None:
        """Sends the request on and its response back."""
        body = self._body()
        if body is None:
            return
        headers = [(n.lower(), v) for n, v in self.headers.items() if n.lower() not in _HOP_BY_HOP]
        host = self.headers.get("host", "").replace('"', "")
        headers.append(("forwarded", f'for="{self.client_address[0]}";host="{host}";proto=https'))
        path = self.path if self.path.startswith("/") else "/"
        try:
            client = self.server.upstream.client()
            response = client.request(self.command, path, headers=headers, data=body or None)
        except (HeaderInvalid, ValueError) as exc:
            self._refuse(400, str(exc))
            return
        except QuicheH3Error as exc:
            self._refuse(502, str(exc))
            return
        with response:
            self._answer(response)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = forward

    def _body(self) -> bytes | None:
        """The request's body, or None when it was refused."""
        if "transfer-encoding" in self.headers:
            self._refuse(411, "send a content-length")
            return None
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            self._refuse(400, "content-length is no number")
            return None
        if int(length) > self.server.max_body:
            self._refuse(413, f"over TCP a body has at most {self.server.max_body} bytes")
            return None
        return self.rfile.read(int(length))

    def _refuse(self, status: int, reason: str) -> None:
        self.close_connection = True
        content = f"{reason}\n".encode()
        self.send_response_only(status)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(content)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, response: ClientResponse) -> None:
        empty = self.command == "HEAD" or response.status in (204, 304)
        chunked = not empty and "content-length" not in response.headers
        self.send_response_only(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("alt-svc", f'h3=":{self.server.server_address[1]}"; ma={_ALT_SVC_SECONDS}')
        if chunked:
            self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for chunk in response:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
        except QuicheH3Error:
            self.close_connection = True  # all that is left to say that this was not all of it

    def log_message(self, format: str, *args: Any) -> None:
        """The access log tells of the forwarded request."""
