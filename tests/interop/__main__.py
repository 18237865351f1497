"""``python -m interop COMMAND``: the aioquic peer as a program, with the commands and JSON of the Go one."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from . import pattern
from .aioquic_peer import AioquicClient, Exchange, open_client
from .aioquic_server import serving


def fields(pairs: Sequence[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if not name.startswith(b":"):
            found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return found


async def many(options: argparse.Namespace) -> dict[str, Any]:
    async def one_connection(count: int) -> list[Exchange]:
        async with open_client(options.url, options.ca) as client:
            return await client.many(options.path, count)

    share, more = divmod(options.n, options.connections)
    counts = [share + (i < more) for i in range(options.connections)]
    done = [e for batch in await asyncio.gather(*map(one_connection, counts)) for e in batch]
    ok = sum(e.status == 200 and e.body == options.expect.encode() for e in done)
    return {"ok": ok, "failed": len(done) - ok, "connections": options.connections}


async def one(client: AioquicClient, options: argparse.Namespace) -> dict[str, Any]:
    if options.command == "upload":
        done = await client.upload(options.path, options.size, timeout=options.timeout)
        own = {"bytes": options.size, "sha256": pattern.sha256(options.size)}
        return {"status": done.status, "body": done.body.decode(), **own}
    if options.command == "download":
        done = await client.download(options.path, timeout=options.timeout)
        return {"status": done.status, "bytes": done.size, "sha256": done.sha256.hexdigest()}
    done = await client.get(options.path, timeout=options.timeout)
    if options.command == "get":
        print(json.dumps({"status": done.status, "headers": fields(done.headers)}), file=sys.stderr)
        sys.stdout.buffer.write(done.body)
        return {}
    return {
        "status": done.status, "headers": fields(done.headers), "body": done.body.decode("latin-1"),
        "trailers": fields(done.trailers),
    }  # fmt: skip


async def run(options: argparse.Namespace) -> dict[str, Any]:
    if options.command == "serve":
        async with serving(
            options.cert,
            options.key,
            host=options.address[0],
            port=options.address[1],
            retry=options.retry,
            alpn=options.alpn,
            versions=options.version or [1],
        ) as port:
            print(json.dumps({"port": port}), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        return {}
    options.path = urlsplit(options.url)._replace(scheme="", netloc="").geturl() or "/"
    if options.command == "many":
        return await many(options)
    async with open_client(options.url, options.ca) as client:
        return await one(client, options)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m interop", description=__doc__)
    parser.add_argument("command", choices=["get", "many", "upload", "download", "trailers", "serve"])
    parser.add_argument("url", nargs="?", help="what to ask for; not with serve")
    parser.add_argument("--ca", help="PEM file of the authorities to trust; without it nothing is verified")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds (default 60)")
    parser.add_argument("-n", "--n", type=int, default=1, help="requests of many")
    parser.add_argument("--connections", type=int, default=1, help="connections of many")
    parser.add_argument("--expect", default="", help="body that every response of many must have")
    parser.add_argument("--size", type=int, default=0, help="bytes to upload")
    parser.add_argument("--address", default="127.0.0.1:0", help="host:port to serve on")
    parser.add_argument("--cert", help="PEM file with the server's certificate")
    parser.add_argument("--key", help="PEM file with its key")
    parser.add_argument("--retry", action="store_true", help="have every client prove its address first")
    parser.add_argument("--alpn", default="h3", help="the one protocol served")
    parser.add_argument("--version", type=int, action="append", help="versions of QUIC served, best first")
    options = parser.parse_intermixed_args()
    if (options.url is None) != (options.command == "serve"):
        parser.error("every command but serve takes a URL")
    host, _, port = options.address.rpartition(":")
    options.address = (host, int(port))
    result = asyncio.run(run(options))
    if result:
        print(json.dumps(result))
    return 1 if result.get("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
