"""What is transferred over bad networks: a server with bodies of any size, and clients that check every byte.

`python -m net.site serve FIELDS` is that server as a program, for a network namespace of its own, and
`python -m net.site visit SIZE URL...` such clients in turn; FIELDS are the configuration's, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from client_support import blocks, digest

import quiche_h3
from quiche_h3 import ClientConfig, ClientConnection, Request, Server, ServerConfig

from .relay import Relay


def make_site(**fields: Any) -> Server:
    """A server that gives `/bytes/N`, and tells of what is posted to `/sha256` its digest."""
    # The relay may be gone before the last acknowledgement has come: nothing to wait for.
    defaults = {"bind_addr": "127.0.0.1", "bind_port": 0, "dev_cert": True, "drain_timeout_ms": 0}
    server = Server(ServerConfig(**{**defaults, **fields}))

    @server.get("/bytes/:size")
    def download(req: Request) -> Iterator[bytes]:
        yield from blocks(int(req.params["size"]))

    @server.post("/sha256")
    async def upload(req: Request) -> str:
        sha = hashlib.sha256()
        async for chunk in req.body:
            sha.update(chunk)
        return sha.hexdigest()

    return server


def relayed(server: Server, scenario: str, seed: int = 1) -> Relay:
    """A relay in front of a server that runs."""
    return Relay(scenario, seed=seed, upstream=("127.0.0.1", server.address.port))


@contextmanager
def behind(scenario: str, **fields: Any) -> Iterator[Relay]:
    """A site of its own behind a relay."""
    server = make_site(**fields)
    with server.running(), relayed(server, scenario) as relay:
        yield relay


def connect(url: str, timeout: float = 60, /, **fields: Any) -> ClientConnection:
    """A client that takes any certificate; `fields` are its configuration's."""
    return quiche_h3.connect(url, verify=False, config=ClientConfig(**fields), timeout=timeout)


def download(client: ClientConnection, size: int) -> float:
    """Gets so many bytes, asserts that each is right, and returns the seconds it took."""
    begin = time.monotonic()
    response = client.get(f"/bytes/{size}")
    sha = hashlib.sha256()
    while chunk := response.read():
        sha.update(chunk)
    assert sha.hexdigest() == digest(blocks(size))
    return time.monotonic() - begin


def upload(client: ClientConnection, size: int) -> float:
    """Sends so many bytes, asserts that the server has got each, and returns the seconds it took."""
    begin = time.monotonic()
    assert client.post("/sha256", data=blocks(size)).text == digest(blocks(size))
    return time.monotonic() - begin


def both_ways(client: ClientConnection, size: int) -> None:
    """An upload and a download at the same time."""
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(upload, client, size), pool.submit(download, client, size)]:
            done.result()


def main(command: str, *arguments: str) -> None:
    if command == "serve":
        fields = json.loads(arguments[0])
        if "secret_key" in fields:
            fields["secret_key"] = bytes.fromhex(fields["secret_key"])
        with make_site(**fields).running() as address:
            print(json.dumps({"port": address.port}), flush=True)
            sys.stdin.read()
        return
    for url in arguments[1:]:
        with connect(url) as client:
            seconds = [transfer(client, int(arguments[0])) for transfer in (download, upload)]
            print(json.dumps({"seconds": seconds, "peer": client.info.address[0]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
