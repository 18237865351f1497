"""A TCP flow beside a run, by CUBIC as fast as it goes: `python -m interop.matrix.traffic send|receive`."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from net.relay import Network

PORT: Final = 5201
_CHUNK: Final = bytes(1 << 16)


@contextmanager
def tcp_flow(network: Network) -> Iterator[None]:
    """Runs for the length of the block, from the server's side to the client's; it flows when that begins."""
    python = [sys.executable, "-m", __name__]
    ends = (network.server, "send"), (network.client, "receive")
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name, role in ends:
            popen = subprocess.Popen(Network.within(name, [*python, role]), stdout=subprocess.PIPE)
            running.append(popen)
            assert popen.stdout is not None
            if not popen.stdout.readline():
                raise RuntimeError(f"the TCP flow's {role} ended with {popen.wait()}")
        yield
    finally:
        for popen in running:
            popen.kill()
            popen.communicate()


def send() -> None:
    """Says when it listens, then fills one connection until that ends."""
    with socket.create_server((Network.SERVER4, PORT)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        print("listening", flush=True)
        connection, _ = listening.accept()
        with connection:
            while True:
                connection.sendall(_CHUNK)


def receive() -> None:
    """Says when the first bytes have come, then takes all that comes."""
    with socket.create_connection((Network.SERVER4, PORT)) as connection:
        connection.recv(1)
        print("flows", flush=True)
        while connection.recv(len(_CHUNK)):
            pass


if __name__ == "__main__":
    {"send": send, "receive": receive}[sys.argv[1]]()
