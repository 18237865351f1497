"""One run: two endpoints, each in a network namespace and a file tree of its own, a relay between them."""

from __future__ import annotations

import filecmp
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from net.relay import Network

from .chain import make_chain
from .peers import ENDPOINTS, OURS, environment
from .table import ROLES, Case, Evidence, Suite, Work, prepare
from .traffic import tcp_flow
from .wire import facts, goodput

UNSUPPORTED: Final = 127
_READY_SECONDS: Final = 30.0
_GRACE_SECONDS: Final = 10.0

# A file tree like a container's: this machine's own, with the runner's directories and host names in it.
_CONTAINER: Final = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/tree"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/tree"
for dir in proc dev sys; do mount --rbind "/$dir" "$1/tree/$dir"; done
for dir in www certs downloads logs; do
    mkdir -p "$1/tree/$dir"
    mount --bind "$2/$dir" "$1/tree/$dir"
done
cat "$2/hosts" >"$1/tree/etc/hosts"
tree=$1/tree
shift 2
exec chroot "$tree" "$@"
"""

_HOSTS: Final = f"""127.0.0.1 localhost
::1 localhost
{Network.SERVER4} server4 server46 server
{Network.SERVER6} server6 server46 server
"""

# Asks the server for Version Negotiation, as the runner does: version "WAIT", both connection IDs empty.
_PROBE: Final = """
import socket, sys, time
probe = bytes([0xC0]) + b"WAIT" + bytes(2) + bytes(1200)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        try:
            sock.connect((sys.argv[1], 443))
            sock.send(probe)
            answer = sock.recv(2000)
        except ConnectionError:
            time.sleep(0.05)
            continue
        except TimeoutError:
            continue
        sys.exit(0 if answer[1:5] == bytes(4) else 2)
sys.exit(1)
"""


@dataclass
class Result:
    """What came of a run."""

    case: str
    client: str
    server: str
    outcome: str
    """`passed`, `failed` or `unsupported`."""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """Of the client."""
    kbit_s: float | None = None
    """What a measurement has found."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def mounts(case: Case, folder: Path) -> None:
    """The directories of both sides, but for their files."""
    for role in ROLES:
        for name in ("www", "downloads", "logs", "certs", "mount"):
            (folder / role / name).mkdir(parents=True)
        (folder / role / "hosts").write_text(_HOSTS)
    make_chain(folder / "server/certs", case.certificates)
    authority = (folder / "server/certs/ca.pem").read_bytes()
    (folder / "client/certs/ca.pem").write_bytes(authority)


@contextmanager
def started(
    network: Network, role: str, name: str, testcase: str, work: Work, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """An endpoint for the length of the block; it ends by SIGTERM if not before, or else is killed."""
    endpoint = ENDPOINTS[name]
    command = endpoint.command(role, endpoint.prepare(), work.requests[role])
    mounted = [
        "sh",
        "-c",
        _CONTAINER,
        "container",
        str(folder / role / "mount"),
        str(folder / role),
        *command,
    ]
    namespace = network.client if role == "client" else network.server
    with (folder / role / "logs/output.txt").open("wb") as output:
        popen = subprocess.Popen(
            Network.within(namespace, ["unshare", "--mount", "--propagation", "private", *mounted]),
            env=environment(role, testcase, work.requests[role], work.protocols[role]),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield popen
            popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                popen.wait(_GRACE_SECONDS)
        finally:
            popen.kill()
            popen.wait()


def run(case: Case, client: str, server: str, seed: int, folder: Path) -> Result:
    """Runs a case once. What was left behind stays in `folder`."""
    result = Result(case.name, client, server, "failed")
    mounts(case, folder)
    work = prepare(case, folder, seed)
    with Network(case.scenario, seed=seed) as network:
        with started(network, "server", server, case.server, work, folder) as serving:
            if not _ready(network, case, serving):
                result.outcome = "unsupported" if serving.wait() == UNSUPPORTED else "failed"
                result.problems.append(f"the server ended with {serving.returncode}")
                return result
            with tcp_flow(network) if case.traffic else nullcontext():
                status = _fetch(network, case, client, work, folder, result)
        if status == UNSUPPORTED:
            result.outcome = "unsupported"
            result.problems.append("the client does not support it")
            return result
        if server == OURS and serving.returncode != 0:
            result.problems.append(f"the server ended with {serving.returncode}")
    (folder / "relay.log").write_text("\n".join(network.relay.text))
    if status is not None and status != 0:
        result.problems.append(f"the client ended with {status}")
    result.problems += compare(work.expected, folder)
    if not result.problems:
        roles = {"client": client, "server": server}
        evidence = Evidence(
            facts(network.relay.log),
            network.relay.notes,
            {role: qlog(folder / role / "logs/qlog") for role in roles},
            {role for role, name in roles.items() if name == OURS},
        )
        result.problems += case.check(evidence)
        if case.suite is Suite.MEASUREMENT:
            result.kbit_s = round(goodput(network.relay.log, sum(case.files)))
    if not result.problems:
        result.outcome = "passed"
    return result


def _ready(network: Network, case: Case, serving: subprocess.Popen[bytes]) -> bool:
    """Waits until the server answers; False when it has ended or never does."""
    address = Network.SERVER6 if case.host == "server6" else Network.SERVER4
    probing = subprocess.Popen(
        Network.within(network.server, [sys.executable, "-c", _PROBE, address, str(_READY_SECONDS)])
    )
    try:
        while probing.poll() is None:
            if serving.poll() is not None:
                return False
            time.sleep(0.02)
        if probing.returncode != 0:
            serving.terminate()
            return False
        return True
    finally:
        probing.kill()
        probing.wait()


def _fetch(network: Network, case: Case, client: str, work: Work, folder: Path, result: Result) -> int | None:
    """The client's status; None when it took too long."""
    begun = time.monotonic()
    with started(network, "client", client, case.client, work, folder) as fetching:
        try:
            status: int | None = fetching.wait(case.timeout)
        except subprocess.TimeoutExpired:
            status = None
            result.problems.append(f"not done in {case.timeout:g} s")
        result.seconds = round(time.monotonic() - begun, 2)
    return status


def compare(expected: Mapping[Path, Path], folder: Path) -> Iterator[str]:
    """What is wrong with the files that were fetched: exactly these must be there, byte for byte."""
    there = {
        path.relative_to(folder)
        for role in ROLES
        for path in (folder / role / "downloads").rglob("*")
        if path.is_file()
    }
    if missing := expected.keys() - there:
        yield f"{len(missing)} of {len(expected)} files are missing"
    if there - expected.keys():
        yield f"{len(there - expected.keys())} files too many"
    for path in expected.keys() & there:
        if not filecmp.cmp(expected[path], folder / path, shallow=False):
            yield f"{path.name[:10]} differs"


def qlog(folder: Path) -> str:
    """All of a role's qlog files, as one text without spaces behind colons."""
    texts = (path.read_text(errors="replace") for path in sorted(folder.rglob("*")) if path.is_file())
    return "".join(texts).replace(": ", ":")
