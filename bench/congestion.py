"""Compares the congestion controls over links that the relay of tests/net makes.

`python -m bench.congestion`: server and relay are processes of their own, the client is this one. Prints
a Markdown table: goodput in Mbit/s and, behind the slash, the server's CPU in ms for each MiB; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from interop.programs import started  # noqa: E402 - after the path above was set
from net.relay import Relay  # noqa: E402 - after the path above was set
from net.site import connect, download  # noqa: E402 - after the path above was set

MIB = 1 << 20
ALGORITHMS = ("cubic", "reno", "bbr2_gcongestion")
LOSS = "drop-rate --delay=15ms --bandwidth=100Mbps --queue=300 --rate_to_server=0 --rate_to_client="
LINKS = {  # name: scenario, MiB to transfer
    "simple": ("simple-p2p --delay=15ms --bandwidth=10Mbps --queue=25", 4),
    "clean": ("simple-p2p --delay=15ms --bandwidth=100Mbps --queue=300", 32),
    "loss1": (LOSS + "1", 4),
    "loss2": (LOSS + "2", 4),
    "long100": ("simple-p2p --delay=50ms --bandwidth=100Mbps --queue=1000", 32),
    "long300": ("simple-p2p --delay=150ms --bandwidth=100Mbps --queue=3000", 32),
    "jitter": ("simple-p2p --delay=25ms --bandwidth=100Mbps --queue=400 --jitter=10ms", 8),
    "late": ("simple-p2p --delay=25ms --bandwidth=100Mbps --queue=400 --reorder=2 --reorder-delay=5ms", 8),
}


def measure(algorithm: str, link: str, seed: int) -> tuple[float, float]:
    """Goodput in Mbit/s and CPU in ms for each MiB of one download."""
    scenario, size = LINKS[link]
    fields = json.dumps({"cc_algorithm": algorithm})
    with (
        started([sys.executable, "-m", "net.site", "serve", fields]) as server,
        Relay(scenario, seed=seed, upstream=("127.0.0.1", server.said["port"])) as relay,
        connect(relay.url) as client,
    ):
        before = server.cpu_seconds()
        seconds = download(client, size * MIB)
        cpu = server.cpu_seconds() - before
    return size * MIB * 8 / seconds / 1e6, cpu * 1000 / size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.congestion", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(LINKS), choices=list(LINKS))
    options = parser.parse_args()
    print("| link | " + " | ".join(ALGORITHMS) + " |\n|---" + "|---" * len(ALGORITHMS) + "|", flush=True)
    for link in options.only:
        cells = []
        for algorithm in ALGORITHMS:
            runs = [measure(algorithm, link, seed) for seed in range(1, options.runs + 1)]
            goodput, cpu = (statistics.median(each) for each in zip(*runs, strict=True))
            cells.append(f"{goodput:.1f} / {cpu:.1f}")
        print(f"| {link} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
