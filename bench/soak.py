"""Ten minutes of mixed traffic, much of it broken off: does the server keep what it should let go?

    python -m bench.soak [--seconds 600] [--rounds 20] [--seed 1]

Traffic comes in rounds. Between them every connection ends, by CONNECTION_CLOSE, or by idle timeout where the
client vanished; then the server's resident memory, descriptors and live Python objects are read. Their slopes
(Theil-Sen, without the first fifth) must be flat. Exit 1 when they are not, or when an answer was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from quiche_h3 import H3ErrorCode, Request, Server, ServerConfig

from .processes import rss
from .programs import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from interop.aioquic_peer import AioquicClient, PeerClosed, PeerReset, configure
from interop.certificates import make_certificate

KIB, MIB = 1 << 10, 1 << 20
SIZE = 300_000
WORKERS = 6
CANCELLED = H3ErrorCode.H3_REQUEST_CANCELLED
WARM_UP = 0.2
# Over the whole run, by the slope: less is noise of the allocator.
MAX_GROWTH = {"rss": MIB, "descriptors": 1.0, "threads": 1.0, "objects": 200.0}


# The server


def give_back() -> None:
    """What the allocator holds and nobody uses goes back to the system: what is left is in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def serve(certificate: Path, key: Path) -> None:
    """The program that is watched."""
    server = Server(
        ServerConfig(
            bind_addr="127.0.0.1",
            bind_port=0,
            cert_path=str(certificate),
            key_path=str(key),
            idle_timeout_ms=2000,
            new_connections_per_address=10_000,
        )
    )

    @server.get("/small")
    def small(req: Request) -> str:
        return "small"

    @server.get("/download")
    def download(req: Request) -> Iterator[bytes]:
        for _ in range(SIZE // 10_000):
            yield bytes(10_000)

    @server.post("/upload", blocking=True)
    def upload(req: Request) -> str:
        return str(sum(map(len, req.body)))

    @server.post("/whole")
    def whole(req: Request) -> str:
        return str(len(req.body.read()))

    @server.get("/fails")
    def fails(req: Request) -> str:
        raise RuntimeError("as it should")

    @server.get("/stats")
    def stats(req: Request) -> dict[str, int]:
        gc.collect()
        give_back()
        return {
            "objects": len(gc.get_objects()),
            "threads": threading.active_count(),
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "connections": len(server.connections),
            "requests": server.export_metrics()["http3"]["requests"],
        }

    @server.on_datagram
    def echo(server: Server, connection: Any, payload: bytes) -> None:
        server.send_datagram(connection, payload)

    @server.on_startup
    def tell() -> None:
        print(json.dumps({"port": server.address.port}), flush=True)

    server.run()


# The traffic


class Vanished(AioquicClient):
    """A client that can stop existing without a word."""

    def vanish(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[Vanished]:
    from aioquic.asyncio.client import connect

    configuration = configure(None)
    configuration.max_datagram_frame_size = 65_536
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=Vanished, wait_connected=True
    ) as client:
        assert isinstance(client, Vanished)
        client.authority = b"localhost"
        yield client


async def small(client: AioquicClient, random: Random) -> None:
    assert (await client.get("/small")).body == b"small"


async def missing(client: AioquicClient, random: Random) -> None:
    assert (await client.get("/nowhere")).status == 404


async def failing(client: AioquicClient, random: Random) -> None:
    assert (await client.get("/fails")).status == 500


async def download(client: AioquicClient, random: Random) -> None:
    assert (await client.get("/download")).size == SIZE


async def download_broken_off(client: AioquicClient, random: Random) -> None:
    exchange = client.start(client.fields("GET", "/download"))
    await exchange.response()
    client.send_stop(exchange.stream_id, CANCELLED)


async def upload(client: AioquicClient, random: Random) -> None:
    path = random.choice(("/upload", "/whole"))
    body = [bytes(10_000)] * random.randrange(1, 20)
    assert (await client.request("POST", path, body=body)).body == b"%d" % (10_000 * len(body))


async def upload_broken_off(client: AioquicClient, random: Random) -> None:
    path = random.choice(("/upload", "/whole"))
    exchange = client.start(client.fields("POST", path), end_stream=False)
    client.http.send_data(exchange.stream_id, bytes(random.randrange(20_000)), False)
    client.transmit()
    await asyncio.sleep(random.random() / 50)
    client.reset(exchange.stream_id, CANCELLED)


async def reset_at_once(client: AioquicClient, random: Random) -> None:
    for _ in range(5):
        exchange = client.start(client.fields("GET", "/download"))
        client.send_stop(exchange.stream_id, CANCELLED)
        client.reset(exchange.stream_id, CANCELLED)


async def malformed(client: AioquicClient, random: Random) -> None:
    exchange = client.start([*client.fields("GET", "/small"), (b"Upper", b"case")])
    try:
        await exchange.complete()
    except PeerReset as reset:
        if reset.code != H3ErrorCode.H3_MESSAGE_ERROR:
            raise


async def datagrams(client: AioquicClient, random: Random) -> None:
    for _ in range(20):
        # It looks like one of a request (RFC 9297 2.1) that aioquic does not know.
        client._quic.send_datagram_frame(b"\x80\x10\0\0" + random.randbytes(random.randrange(1000)))
    client.transmit()


Action = Callable[[AioquicClient, Random], Awaitable[None]]
ACTIONS: list[Action] = [
    small,
    small,
    missing,
    failing,
    download,
    download_broken_off,
    download_broken_off,
    upload,
    upload_broken_off,
    upload_broken_off,
    reset_at_once,
    malformed,
    datagrams,
]


async def work(port: int, random: Random, until: float, done: Counter[str]) -> None:
    """Opens connections and uses them, one after the other."""
    while time.monotonic() < until:
        async with client_of(port) as client:
            for _ in range(random.randrange(1, 40)):
                if time.monotonic() >= until:
                    break
                action = random.choice(ACTIONS)
                done[action.__name__] += 1
                try:
                    await action(client, random)
                except PeerClosed as closed:  # there are limits to resets
                    if closed.code != H3ErrorCode.H3_EXCESSIVE_LOAD:
                        raise
                    done["closed by the server"] += 1
                    break
            if random.random() < 0.2:
                done["vanished"] += 1
                client.vanish()
            done["connections"] += 1


# What is watched


@dataclass
class Sample:
    """The server at rest."""

    at: float
    rss: int
    objects: int
    descriptors: int
    threads: int
    requests: int


async def rest(port: int, pid: int, began: float) -> Sample:
    """Waits until nobody is connected but who asks."""
    async with client_of(port) as client:
        for _ in range(200):
            stats = json.loads((await client.get("/stats")).body)
            if stats["connections"] == 1:
                at = time.monotonic() - began
                counts = (stats[name] for name in ("objects", "descriptors", "threads", "requests"))
                return Sample(at, rss(pid), *counts)
            await asyncio.sleep(0.1)
    raise AssertionError(f"connections are left over: {stats}")


def slope(samples: list[Sample], name: str) -> float:
    """Theil-Sen: the median of the slopes of all pairs, in units a second."""
    pairs = combinations([(sample.at, float(getattr(sample, name))) for sample in samples], 2)
    return statistics.median((b - a) / (then - now) for (now, a), (then, b) in pairs)


async def soak(
    port: int, pid: int, seconds: float, rounds: int, seed: int
) -> tuple[list[Sample], Counter[str]]:
    """The rounds, with a sample after each."""
    done: Counter[str] = Counter()
    began, samples = time.monotonic(), []
    for number in range(rounds):
        until = began + seconds * (number + 1) / rounds - 3  # for those that vanished
        await asyncio.gather(
            *(work(port, Random(f"{seed} {number} {n}"), until, done) for n in range(WORKERS))
        )
        samples.append(await rest(port, pid, began))
        last = samples[-1]
        what = f"{last.requests:8} requests  {last.rss / MIB:7.2f} MiB  {last.objects} objects"
        print(f"{last.at:6.0f} s  {what}  {last.descriptors} descriptors  {last.threads} threads", flush=True)
    return samples, done


def verdict(samples: list[Sample]) -> bool:
    """Prints the slopes and whether they are flat."""
    steady = samples[int(len(samples) * WARM_UP) :]
    span = samples[-1].at - samples[0].at
    requests = samples[-1].requests - samples[0].requests
    flat = True
    for name, limit in MAX_GROWTH.items():
        growth = slope(steady, name) * span
        flat = flat and growth < limit
        unit = ("KiB", KIB) if name == "rss" else ("", 1)
        per = growth / unit[1] * 100_000 / max(1, requests)
        print(
            f"{name}: {growth / unit[1]:+.1f} {unit[0]} in {span:.0f} s, {per:+.1f} for 100,000 requests: "
            f"{'flat' if growth < limit else 'GROWS'}"
        )
    return flat


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        certificate = make_certificate(Path(folder))
        words = [
            sys.executable,
            "-m",
            "bench.soak",
            "--serve",
            str(certificate.certificate),
            str(certificate.key),
        ]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            samples, done = asyncio.run(soak(port, server.pid, args.seconds, args.rounds, args.seed))
        finally:
            server.terminate()
            server.wait(30)
        errors.seek(0)
        unexpected = errors.read().replace("RuntimeError: as it should", "").count("Error: ")
    print(", ".join(f"{name} {count}" for name, count in sorted(done.items())))
    print(f"exit status {server.returncode}, {unexpected} unexpected errors in the server's log")
    if not verdict(samples) or server.returncode or unexpected:
        sys.exit(1)


if __name__ == "__main__":
    main()
