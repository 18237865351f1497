"""`make interop`: which runs there are, what is held against them, what is made of their results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from net.relay import Datagram, lacking

from quiche_h3.interop import cases, webtransport

from .matrix.__main__ import everything
from .matrix.arena import Result, compare, mounts
from .matrix.peers import ENDPOINTS, OURS
from .matrix.report import markdown
from .matrix.table import CASES, PROTOCOLS, Suite, case_of, prepare
from .matrix.wire import goodput

LACKING = lacking()


def test_every_case_is_known_to_the_endpoint() -> None:
    """What an endpoint is told exists: an unknown TESTCASE would pass for one that is not supported."""
    for case in CASES:
        known = (
            (webtransport.CLIENT, webtransport.SERVER)
            if case.suite is Suite.WEBTRANSPORT
            else (cases.CASES,) * 2
        )
        assert case.client in known[0]
        assert case.server in known[1]
    assert Counter(case.suite for case in CASES) == {
        Suite.QUIC: 22,
        Suite.MEASUREMENT: 2,
        Suite.WEBTRANSPORT: 7,
    }


def test_pairs_and_rounds() -> None:
    """Each case runs in both roles against those that take part in its suite, measurements five times."""
    runs = everything(CASES, list(ENDPOINTS), 1, 7)
    by_name = Counter(case.name for case, *_ in runs)
    others = len([end for end in ENDPOINTS.values() if Suite.QUIC in end.suites]) - 1
    assert by_name["retry"] == 1 + 2 * others
    assert by_name["goodput"] == 5 * by_name["retry"]
    assert by_name["wt-handshake"] == 3
    assert {seed for *_, seed in runs} == {7, 8, 9, 10, 11}
    assert len({(case.name, client, server, seed) for case, client, server, seed in runs}) == len(runs)


@pytest.mark.parametrize(
    "name", ["transfer", "wt-transfer-datagram-receive", "wt-transfer-bidirectional-send"]
)
def test_files(tmp_path: Path, name: str) -> None:
    """What is asked for lies with the other role, and has to arrive: every file, no other, byte for byte."""
    case = case_of(name)
    mounts(case, tmp_path)
    work = prepare(case, tmp_path, 1)
    receiver = "server" if name.endswith("send") else "client"
    for target, source in work.expected.items():
        assert source.is_relative_to(tmp_path / case.source / "www")
        assert target.is_relative_to(Path(receiver, "downloads"))
        assert source.name in work.requests[receiver]
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).write_bytes(source.read_bytes())
    assert sorted(path.stat().st_size for path in work.expected.values()) == sorted(case.files)
    assert list(compare(work.expected, tmp_path)) == []
    target = tmp_path / next(iter(work.expected))
    target.write_bytes(target.read_bytes()[:-1] + b"?")
    assert "differs" in next(compare(work.expected, tmp_path))
    target.rename(target.with_name("other"))
    wrong = list(compare(work.expected, tmp_path))
    assert wrong == [f"1 of {len(case.files)} files are missing", "1 files too many"]


def test_negotiated_protocol(tmp_path: Path) -> None:
    """wt-handshake: both sides write down the client's first protocol that the server has."""
    mounts(case_of("wt-handshake"), tmp_path)
    work = prepare(case_of("wt-handshake"), tmp_path, 1)
    assert work.protocols == PROTOCOLS
    first = next(name for name in PROTOCOLS["client"].split() if name in PROTOCOLS["server"].split())
    assert {str(path) for path in work.expected} == {
        f"{role}/downloads/negotiated_protocol.txt" for role in ("client", "server")
    }
    assert {source.read_text() for source in work.expected.values()} == {first}


def test_goodput() -> None:
    """Bits by the time from the server's first to its last 1-RTT packet, as they reach the client."""
    initial = bytes.fromhex("c00000000100000000")

    def line(
        at: float, goes_on: float | None, direction: str, header: bytes = b"", size: int = 1200
    ) -> Datagram:
        return Datagram(at, goes_on, direction, 1, 1, size, "forward" if goes_on else "drop:queue", header)

    log = [
        line(0.0, 0.015, "toserver", initial),
        line(0.1, 0.115, "toclient", initial),
        line(0.2, 1.0, "toclient"),
        line(0.3, 0.9, "toserver"),
        line(1.0, 3.0, "toclient"),
        line(4.0, None, "toclient"),
        line(5.0, 6.0, "toclient", size=0),  # of TCP
        line(6.0, 7.0, "toserver"),
    ]
    assert goodput(log, 1000) == 8 / 2


def test_tables() -> None:
    """A cell counts passes, a measurement has its mean and deviation, what nobody supports is a dash."""

    def result(name: str, client: str, server: str, outcome: str, **more: Any) -> dict[str, Any]:
        return Result(name, client, server, outcome, **more).as_dict()

    text = markdown(
        [
            result("retry", OURS, "quinn", "passed"),
            result("retry", OURS, "quinn", "failed", problems=["not done in 60 s"]),
            result("v2", OURS, "quinn", "unsupported"),
            result("goodput", "quinn", OURS, "passed", kbit_s=9000),
            result("goodput", "quinn", OURS, "passed", kbit_s=9200),
            result("wt-handshake", "webtransport-go", OURS, "passed"),
        ],
        CASES,
    )
    assert "| case | server quinn |" in text
    assert "| retry | 1 of 2 |" in text
    assert "| v2 | – |" in text
    assert "| goodput | 2 of 2: 9100 ± 100 kbit/s |" in text
    assert "| case | client webtransport-go |" in text
    assert "- retry, client quiche_h3, server quinn: not done in 60 s" in text


@pytest.mark.slow
@pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
@pytest.mark.parametrize("name", ["retry", "wt-transfer-datagram-send"])
def test_a_run(tmp_path: Path, name: str) -> None:
    """A case from the command line to the table: this library against itself passes."""
    options = ["--peer", OURS, "--case", name, "--runs", "1"]
    options += [f"--out={tmp_path}", f"--keep={tmp_path / 'failed'}"]
    done = subprocess.run(
        [sys.executable, "-m", "interop.matrix", *options],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "matrix.json").read_text())
    assert (result["case"], result["outcome"], result["problems"]) == (name, "passed", [])
    assert f"| {name} | 1 of 1 |" in (tmp_path / "matrix.md").read_text()
