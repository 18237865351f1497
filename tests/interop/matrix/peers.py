"""The endpoints: how each is built, and what starts it. All of them keep to the interop runner's contract."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from .table import Suite

ROOT: Final = Path(__file__).resolve().parents[3]
PEERS: Final = ROOT / "interop" / "peers"
OURS: Final = "quiche_h3"
PYTHON: Final = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}


class Endpoint(NamedTuple):
    """An implementation that takes both roles."""

    name: str
    prepare: Callable[[], Mapping[str, Path]]
    """Builds what is needed: programs by their names. Raises FileNotFoundError without the tools."""
    command: Callable[[str, Mapping[str, Path], str], list[str]]
    """Role, programs, REQUESTS."""
    suites: frozenset[Suite] = frozenset({Suite.QUIC, Suite.MEASUREMENT})


def build(folder: str) -> dict[str, Path]:
    """Runs a build script, which prints where the programs are. Raises FileNotFoundError for status 127."""
    done = subprocess.run([PEERS / folder / "build.sh"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 127:
        raise FileNotFoundError(f"the tools to build {folder} are missing")
    if done.returncode != 0:
        raise RuntimeError(f"{folder} does not build")
    return {path.name: path for path in Path(done.stdout.strip()).iterdir()}


def _ours() -> dict[str, Path]:
    return {"run": ROOT / "interop" / "run_endpoint.sh"}


def _aioquic() -> dict[str, Path]:
    return {"run": PEERS / "aioquic" / "endpoint.py"}


ENDPOINTS: Final = {
    endpoint.name: endpoint
    for endpoint in (
        Endpoint(OURS, _ours, lambda role, programs, urls: [str(programs["run"])], frozenset(Suite)),
        Endpoint(
            "quic-go",
            cache(lambda: build("quic-go")),
            lambda role, programs, urls: [str(programs[role]), *(urls.split() if role == "client" else ())],
        ),
        Endpoint("aioquic", _aioquic, lambda role, programs, urls: [sys.executable, str(programs["run"])]),
        Endpoint(
            "quinn",
            cache(lambda: build("quinn")),
            lambda role, programs, urls: [str(programs["quinn-endpoint"])],
        ),
        Endpoint(
            "quiche",
            cache(lambda: build("quiche")),
            lambda role, programs, urls: [str(programs["quiche-endpoint"])],
        ),
        Endpoint(
            "webtransport-go",
            cache(lambda: build("webtransport-go")),
            lambda role, programs, urls: [str(programs[role])],
            frozenset({Suite.WEBTRANSPORT}),
        ),
    )
}


def environment(role: str, testcase: str, requests: str, protocols: str) -> dict[str, str]:
    """What the runner says to an endpoint, and where ours finds its interpreter."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": "/tmp",
        "ROLE": role,
        "TESTCASE": testcase,
        "REQUESTS": requests,
        "PROTOCOLS": protocols,
        "SSLKEYLOGFILE": "/logs/keys.log",
        "QLOGDIR": "/logs/qlog/",
        "SERVER_PARAMS": "",
        "CLIENT_PARAMS": "",
        **PYTHON,
    }
