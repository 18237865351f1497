"""The programs of the benchmark: built once, outside the clone, under the hash of what they are made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
QUICHE = ROOT / "third_party" / "quiche"
PEERS = HERE / "peers"
PACKAGES = ("aioquic==1.7.2", "hypercorn[h3]==0.18.0", "qh3==2.1.0", "uvloop==0.23.0")


class Unavailable(Exception):
    """A program that this machine cannot make; says what it would need."""


def cache_folder() -> Path:
    """Where everything is kept that is built outside the clone."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("QUICHE_H3_CACHE") or home / "quiche_h3")


def run(command: Sequence[str | Path], folder: Path, **environment: str) -> str:
    """Runs a build step. Returns its output; raises RuntimeError with all it said when it fails."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout.strip()


def tool(name: str, elsewhere: Path, advice: str) -> str:
    """The path of a tool. Raises Unavailable where there is none."""
    found = shutil.which(name) or shutil.which(name, path=str(elsewhere))
    if found is None:
        raise Unavailable(f"{name} is missing: {advice}")
    return found


def cargo() -> str:
    """The path of cargo. Raises Unavailable where there is none."""
    return tool("cargo", Path.home() / ".cargo" / "bin", "install Rust with rustup (see rustup.rs)")


def built_once(name: str, inputs: Sequence[Path | str], build: Callable[[Path], None]) -> Path:
    """A file or folder of the cache, made by `build(path)` when there is none for these inputs yet."""
    digest = hashlib.sha256()
    for item in inputs:
        digest.update(item.read_bytes() if isinstance(item, Path) else item.encode())
        digest.update(b"\0")
    target = cache_folder() / f"bench-{name}-{digest.hexdigest()[:16]}"
    if not target.exists():
        print(f"building {name} of the benchmark, once", file=sys.stderr)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        build(unfinished)
        unfinished.rename(target)
    return target


def sources(folder: Path) -> list[Path]:
    """The files that make a program, in a fixed order."""
    names = ("Cargo.toml", "Cargo.lock", "go.mod", "go.sum", "*.go", "src/*.rs")
    return [file for name in names for file in sorted(folder.glob(name))]


def cargo_build(folder: Path, target: Path, program: str, result: Path, *options: str) -> None:
    """Builds a crate and copies its program out of cargo's own folders."""
    command = [cargo(), "build", "--quiet", "--release", *options]
    run(command, folder, CARGO_TARGET_DIR=str(target))
    shutil.copy2(target / "release" / program, result)


@cache
def load_client() -> Path:
    """The load client."""
    folder = HERE / "load"

    def build(result: Path) -> None:
        target = cache_folder() / "bench-target"
        cargo_build(folder, target, "bench-load", result, "--locked")

    return built_once("load", sources(folder), build)


def native_server() -> list[str]:
    """The server in Rust, on the very sources that quiche_h3's library is made from, patches included."""
    folder = HERE / "native"
    library = [*sources(QUICHE), *sorted(QUICHE.glob("patches/*.patch"))]

    def build(result: Path) -> None:
        cargo()
        run([ROOT / "build_quiche.sh"], ROOT)  # the sources are fetched and patched by this
        work = Path(run([ROOT / "build_quiche.sh", "--print-sources"], ROOT)).parent
        crate = result.with_name(result.name + ".crate")
        shutil.copytree(folder, crate)
        shutil.copy2(QUICHE / "Cargo.lock", crate)  # the same versions of everything
        vendored = [
            "--offline",
            "--config=source.crates-io.replace-with='vendored'",
            f"--config=source.vendored.directory='{work / 'vendor'}'",
        ]
        try:
            cargo_build(crate, work / "target", "bench-native", result, *vendored)
        finally:
            shutil.rmtree(crate)

    return [str(built_once("native", sources(folder) + library, build))]


def go_server() -> list[str]:
    """The server on quic-go."""
    folder = PEERS / "go"

    def build(result: Path) -> None:
        go = tool("go", Path("/usr/local/go/bin"), "install golang-go")
        run([go, "build", "-trimpath", "-o", result, "."], folder, CGO_ENABLED="0")

    return [str(built_once("go", sources(folder), build))]


def peers_python() -> Path:
    """The interpreter of a virtual environment with the other Python servers, for the same Python as ours."""

    def build(result: Path) -> None:
        venv.create(result, with_pip=True)
        pip = str(result / "bin" / "pip")
        run([pip, "install", "--quiet", "--disable-pip-version-check", *PACKAGES], HERE)

    return built_once("venv", [sys.version, *PACKAGES], build) / "bin" / "python"


def peer(module: str, *words: str) -> Callable[[], list[str]]:
    """A Python server of that environment."""
    return lambda: [str(peers_python()), "-m", f"bench.peers.{module}", *words]


def own(module: str) -> Callable[[], list[str]]:
    """One of this project's servers, in this Python."""
    return lambda: [sys.executable, "-m", f"bench.peers.{module}"]


@dataclass(frozen=True)
class Server:
    """A server to measure."""

    name: str
    command: Callable[[], list[str]]
    """The command, to which the certificate and the key are added; makes the program when it must."""
    datagrams: bool = True


SERVERS = [
    Server("native", native_server),
    Server("quiche_h3", own("plain_server")),
    Server("quiche_h3 async", own("async_server")),
    Server("quic-go", go_server),
    Server("qh3", peer("bare_server", "qh3")),
    Server("aioquic", peer("bare_server", "aioquic")),
    Server("hypercorn", peer("hypercorn_server"), datagrams=False),
]


def versions() -> dict[str, str]:
    """The versions of everything that is compared."""
    modules = (PEERS / "go" / "go.mod").read_text().split()
    locked = (QUICHE / "Cargo.lock").read_text().partition('name = "quiche"\nversion = "')[2]
    return {
        "python": sys.version.split()[0],
        "quiche": locked.partition('"')[0],
        "quic-go": modules[modules.index("github.com/quic-go/quic-go") + 1],
        **dict(package.replace("[h3]", "").split("==") for package in PACKAGES),
    }


if __name__ == "__main__":  # make everything, and say where it is
    print(json.dumps({server.name: server.command() for server in SERVERS}, indent=2))
    print(load_client())
