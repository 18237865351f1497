"""The relay `impair`, from Python: between two ports of this machine, or between two network namespaces.

`Relay` needs nothing but a C compiler. `Network` needs root, TUN and `ip`; it makes two namespaces with the
addresses of the QUIC interop runner, and a wire between them that impairs what goes over it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from interop.programs import Process, started

HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra")
SIMPLE = "simple-p2p --delay=15ms --bandwidth=10Mbps --queue=25"
"""The link that all scenarios of the interop runner begin with."""


class Datagram(NamedTuple):
    """A line of the relay's log."""

    at: float
    """When it came in: seconds since the first datagram."""
    goes_on: float | None
    """When it reaches the other side; None when it never does."""
    direction: str
    """`toserver` or `toclient`."""
    flow: int
    """Number of the client's address, from 1."""
    number: int
    """Counts the datagrams of its direction, from 1."""
    size: int
    """Bytes of UDP payload, as it came in."""
    fate: str
    """`forward`, `corrupt`, `drop:queue`, `drop:rate` and so on; `+late` and `+twice` may be appended."""
    header: bytes
    """The first 96 bytes of a datagram that begins with a long header (RFC 8999 5.1), else nothing."""

    @property
    def passed(self) -> bool:
        """It went on, whole or corrupted."""
        return not self.fate.startswith("drop")


@cache
def build() -> Path:
    """The program, compiled once for these sources and kept outside the clone."""
    sources = sorted((HERE / "impair").glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources) + " ".join(FLAGS).encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache_folder = Path(os.environ.get("QUICHE_H3_CACHE") or home / "quiche_h3")
    target = cache_folder / f"impair-{digest.hexdigest()[:16]}"
    if not target.exists():
        cache_folder.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "cc")
        files = [str(file) for file in sources if file.suffix == ".c"]
        subprocess.run([compiler, *FLAGS, "-o", str(unfinished), *files], check=True)
        unfinished.rename(target)
    return target


class Relay:
    """The program for the length of a `with` block, before the server at `upstream` (literal address, port).

    Clients send to `port`, on the loopback of the same family. With `namespaces` (client's, server's) it
    joins these two instead. `scenario` is as the interop runner writes it; main.c has what else can be said.
    """

    def __init__(
        self,
        scenario: str = SIMPLE,
        *,
        seed: int = 1,
        upstream: tuple[str, int] | None = None,
        namespaces: tuple[str, str] | None = None,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="impair-"))
        self._log = self._folder / "log"
        self.command = [str(build()), f"--seed={seed}", f"--log={self._log}"]
        if upstream is not None:
            host = f"[{upstream[0]}]" if ":" in upstream[0] else upstream[0]
            self.command.append(f"--upstream={host}:{upstream[1]}")
        if namespaces is not None:
            self.command += [f"--client-namespace={namespaces[0]}", f"--server-namespace={namespaces[1]}"]
        self.command.append(scenario)
        self._host = "127.0.0.1" if upstream is None or ":" not in upstream[0] else "[::1]"
        self._exit = ExitStack()
        self.process: Process

    def __enter__(self) -> Relay:
        self.process = self._exit.enter_context(started(self.command))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()
        self.lines = self._log.read_text().splitlines()
        shutil.rmtree(self._folder)

    @property
    def port(self) -> int:
        """Where clients send to."""
        return int(self.process.said["port"])

    @property
    def url(self) -> str:
        """An https URL whose server is behind the relay."""
        return f"https://{self._host}:{self.port}"

    def say(self, words: str) -> None:
        """Change parameters of the scenario, as `--mtu=1280`, or `rebind` all clients, from now on."""
        assert self.process.popen.stdin is not None
        self.process.popen.stdin.write(words + "\n")
        self.process.popen.stdin.flush()

    @property
    def text(self) -> list[str]:
        """The lines of the log; complete once the block has ended."""
        return self._log.read_text().splitlines() if self._log.exists() else self.lines

    @property
    def notes(self) -> list[str]:
        """What was no datagram: rebindings, and what the system refused to send."""
        return [line[2:] for line in self.text if line.startswith("#")]

    @property
    def log(self) -> list[Datagram]:
        """Every datagram that came in, as it came in; complete once the block has ended."""
        return [parse(line) for line in self.text if not line.startswith("#")]


def parse(line: str) -> Datagram:
    at, goes_on, direction, flow, number, size, fate, *header = line.split(" ")
    due = None if goes_on == "-" else float(goes_on) / 1000
    first = bytes.fromhex(header[0]) if header else b""
    return Datagram(float(at) / 1000, due, direction, int(flow), int(number), int(size), fate, first)


def ip(*words: str) -> None:
    """One command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def lacking() -> str | None:
    """What keeps this machine from having a `Network`, or None."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if shutil.which("ip") is None:
        return "needs iproute2 (ip)"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    try:
        with namespace("probe"):
            return None
    except (subprocess.CalledProcessError, OSError) as error:
        return f"network namespaces cannot be made: {error}"


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network namespace of our own, its loopback up."""
    full = f"h3{name}{os.getpid()}"
    ip("netns", "add", full)
    try:
        ip("-n", full, "link", "set", "lo", "up")
        yield full
    finally:
        ip("netns", "del", full)


class Network:
    """Two namespaces, `client` and `server`, with `relay` between them."""

    CLIENT4, CLIENT6 = "193.167.0.100", "fd00:cafe:cafe:0::100"
    SERVER4, SERVER6 = "193.167.100.100", "fd00:cafe:cafe:100::100"

    def __init__(self, scenario: str = SIMPLE, *, seed: int = 1, mtu: int = 1500) -> None:
        self._scenario, self._seed, self._mtu = scenario, seed, mtu
        self._exit = ExitStack()

    def __enter__(self) -> Network:
        with ExitStack() as made:
            self.client = made.enter_context(namespace("client"))
            self.server = made.enter_context(namespace("server"))
            both = (self.client, self.server)
            self.relay = made.enter_context(Relay(self._scenario, seed=self._seed, namespaces=both))
            addresses = (self.CLIENT4, self.CLIENT6), (self.SERVER4, self.SERVER6)
            for name, own in zip(both, addresses, strict=True):
                ip("-n", name, "link", "set", "impair", "mtu", str(self._mtu), "up")
                for address in own:
                    ip("-n", name, "addr", "add", address, "dev", "impair", *["nodad"] * (":" in address))
                    ip("-n", name, *["-6"] * (":" in address), "route", "add", "default", "dev", "impair")
            self._exit = made.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @staticmethod
    def within(name: str, command: Sequence[str]) -> list[str]:
        """The command, run in a namespace."""
        return ["ip", "netns", "exec", name, *command]
