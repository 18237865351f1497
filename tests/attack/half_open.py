"""A fixed piece of work whose instructions are counted: `python tests/attack/half_open.py NUMBER`.

So many clients, of `FLIGHTS` that say hello, are answered by a server and never heard of again: handshakes
begun, probes sent in vain, connections given up. Timeouts are three times the defaults: a slow machine, or
one that counts instructions, is to send as many probes as another.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from quiche_h3 import ClientConfig, ServerConfig, make_dev_certificate
from quiche_h3._core.endpoint import Endpoint
from quiche_h3._core.settings import EngineSettings
from quiche_h3._core.udp import UdpSocket

SERVER, CLIENT = ("192.0.2.1", 443), ("192.0.2.2", 5000)
FLIGHTS = 100
SLOWER = 3


class Nobody:
    """The application of connections that nothing ever answers."""

    def protocol(self, connection: Any) -> None:
        """Never asked."""

    connection_opened = connection_closed = protocol


def first_flights(number: int) -> list[list[bytes]]:
    """So many true ClientHellos, each of another connection."""
    client = Endpoint(EngineSettings(ClientConfig(verify=False)), Nobody(), server=False)
    sock = UdpSocket(memory=CLIENT)
    client.add_socket(sock)
    flights: list[list[bytes]] = []
    while len(flights) < number:
        client.connect(0, SERVER, "localhost")
        client.turn()
        flights.append([payload for payload, _, _ in sock.take()])
        client.drop_all()
    return flights


def make_server(folder: Path) -> tuple[Endpoint, UdpSocket]:
    files = SimpleNamespace(cert_path=str(folder / "cert.pem"), key_path=str(folder / "key.pem"))
    for path, content in zip(vars(files).values(), make_dev_certificate(), strict=True):
        Path(path).write_bytes(content)
    defaults = ServerConfig()
    config = ServerConfig(
        cert_path=files.cert_path,
        key_path=files.key_path,
        initial_rtt_ms=SLOWER * defaults.initial_rtt_ms,
        handshake_timeout_ms=SLOWER * defaults.handshake_timeout_ms,
    )
    server = Endpoint(EngineSettings(config, files), Nobody(), server=True)
    sock = UdpSocket(memory=SERVER)
    server.add_socket(sock)
    return server, sock


def main(number: int) -> None:
    flights = first_flights(FLIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        server, sock = make_server(Path(folder))
        for i, flight in enumerate(flights[:number]):
            for payload in flight:
                server.receive_udp_payload(0, payload, (f"198.51.100.{i}", 5000))
            server.turn()
        assert server.counters()[0]["accepted"] == number
        while (deadline := server.deadline()) is not None:
            time.sleep(max(0.0, deadline / 1e9 - time.monotonic()))
            server.turn()
            sock.take()
        assert server.counters()[0]["connections"] == 0
        assert server.counters()[0]["pto_count"] == 4 * number


if __name__ == "__main__":
    main(int(sys.argv[1]))
