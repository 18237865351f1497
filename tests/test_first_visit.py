"""A browser's first visit: HTTPS over TCP on the port of HTTP/3 gives the same answers, and says Alt-Svc."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from server_support import make_server

from quiche_h3 import Address, ConfigError, Request, Response, Server, ServerConfig

LARGE = bytes(range(256)) * 4096


def application(**fields: object) -> Server:
    server = make_server(tcp_pages=True, **fields)

    @server.route(["GET", "POST"], "/seen")
    def seen(req: Request) -> dict[str, object]:
        body = req.body.read()
        return {
            "method": req.method,
            "query": req.query_string,
            "length": len(body),
            "headers": dict(req.headers),
        }

    @server.get("/large")
    def large(res: Response) -> bytes:
        return LARGE

    @server.get("/pieces")
    def pieces(req: Request, res: Response) -> Iterator[bytes]:
        yield from (b"one ", b"two ", b"three")

    @server.get("/empty")
    def empty(req: Request, res: Response) -> None:
        res.status(204)

    return server


@contextmanager
def visit(address: Address) -> Iterator[http.client.HTTPSConnection]:
    """A connection over TCP that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(address.host, address.port, timeout=10, context=context)
    try:
        yield connection
    finally:
        connection.close()


def test_same_answers_with_alt_svc() -> None:
    """One connection over TCP, several requests: what HTTP/3 answers, plus Alt-Svc (RFC 7838 3)."""
    with application().running() as address, visit(address) as tcp:
        tcp.request(
            "POST", "/seen?a=1", body=b"x" * 1000, headers={"X-Mine": "yes", "Connection": "keep-alive"}
        )
        response = tcp.getresponse()
        seen = json.loads(response.read())
        assert response.status == 200
        assert response.headers["alt-svc"] == f'h3=":{address.port}"; ma=3600'
        assert (seen["method"], seen["query"], seen["length"]) == ("POST", "a=1", 1000)
        assert seen["headers"]["x-mine"] == "yes"
        assert "connection" not in seen["headers"]
        assert f'host="{address.host}:{address.port}"' in seen["headers"]["forwarded"]

        tcp.request("GET", "/large")
        response = tcp.getresponse()
        assert response.headers["content-length"] == str(len(LARGE))
        assert response.read() == LARGE

        tcp.request("HEAD", "/large")
        response = tcp.getresponse()
        assert (response.status, response.headers["content-length"]) == (200, str(len(LARGE)))
        assert response.read() == b""

        tcp.request("GET", "/pieces")
        response = tcp.getresponse()
        assert response.headers["transfer-encoding"] == "chunked"
        assert response.read() == b"one two three"

        tcp.request("GET", "/empty")
        response = tcp.getresponse()
        assert (response.status, response.read()) == (204, b"")

        tcp.request("GET", "/nowhere")
        response = tcp.getresponse()
        assert (response.status, bool(response.read())) == (404, True)


def test_certificate_is_the_same() -> None:
    """TCP shows the certificate whose hash the server tells."""
    server = application()
    with server.running() as address, visit(address) as tcp:
        tcp.connect()
        der = tcp.sock.getpeercert(binary_form=True) or b""
        assert hashlib.sha256(der).digest() == server.certificate_sha256


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Length": "x"}, 400),
        ({"Content-Length": "70000"}, 413),
    ],
)
def test_refuses_what_it_cannot_forward(headers: dict[str, str], status: int) -> None:
    """A body without a length, or beyond the limit, is refused with its status and the connection ends."""
    with application(max_non_streaming_body_bytes=65_536).running() as address, visit(address) as tcp:
        tcp.putrequest("POST", "/seen")
        for name, value in headers.items():
            tcp.putheader(name, value)
        tcp.endheaders()
        response = tcp.getresponse()
        assert response.status == status
        assert response.headers["connection"] == "close"


def test_silent_connections_hold_up_nobody() -> None:
    """Connections that never begin TLS have threads of their own: others are served meanwhile."""
    with application().running() as address:
        silent = [socket.create_connection(address) for _ in range(20)]
        with visit(address) as tcp:
            tcp.request("GET", "/empty")
            assert tcp.getresponse().status == 204
        for sock in silent:
            sock.close()


def test_port_and_threads_are_given_back() -> None:
    """After stop() the TCP port is free and no thread of ours is left listening."""
    with application().running() as address, visit(address) as tcp:
        tcp.request("GET", "/empty")
        tcp.getresponse().read()
    assert not [thread for thread in threading.enumerate() if thread.name == "quiche_h3-tcp"]
    with socket.create_server((address.host, address.port)):
        pass


def test_taken_port() -> None:
    """A TCP port that is taken is an error of the configuration, and nothing stays bound."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(ServerConfig(bind_addr="127.0.0.1", bind_port=port, dev_cert=True, tcp_pages=True))
        with pytest.raises(ConfigError, match="tcp_pages"):
            server.open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", port))


def test_no_client_certificates() -> None:
    """The forwarding connection has no certificate of a client: the two options exclude each other."""
    with pytest.raises(ConfigError, match="tcp_pages"):
        ServerConfig(dev_cert=True, tcp_pages=True, verify_peer=True, cafile=__file__).validate()
