"""The interop runner's cases: link, files, what endpoints are told, what a run must show beyond the files."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from net.relay import SIMPLE

from .wire import VERSION_2, Facts

ROLES: Final = ("client", "server")
KIB: Final = 1 << 10
MIB: Final = 1 << 20
LINK: Final = SIMPLE.partition(" ")[2]
BURSTS: Final = "--burst_to_server=3 --burst_to_client=3"


@dataclass
class Evidence:
    """What a run has left behind."""

    facts: Facts
    notes: list[str]
    """What the relay had to say: when it rebound."""
    qlog: dict[str, str]
    """Everything that each role wrote into its qlog files."""
    ours: set[str]
    """The roles that this library had."""


Check = Callable[[Evidence], Iterator[str]]
"""Yields what is wrong."""


class Suite(Enum):
    """The tables that there are. An endpoint takes part in one or more."""

    QUIC = "QUIC"
    MEASUREMENT = "Goodput"
    WEBTRANSPORT = "WebTransport"


@dataclass(frozen=True)
class Case:
    """One line of a table."""

    name: str
    files: tuple[int, ...]
    """Sizes in bytes."""
    check: Check
    client: str = "transfer"
    """TESTCASE as the client sees it."""
    server: str = "transfer"
    scenario: str = SIMPLE
    timeout: float = 60.0
    suite: Suite = Suite.QUIC
    host: str = "server4"
    certificates: int = 1
    """Certificates in the server's chain, its own included."""
    name_length: int = 10
    runs: int | None = None
    """How often it is run, whatever else is asked for."""
    traffic: bool = False
    """A TCP flow is beside it."""
    source: str = "server"
    """The role that has the files; the other one asks for them."""


def handshakes(count: int, *, retried: bool = False, corrupted: bool = False, changed: bool = False) -> Check:
    """Exactly so many handshakes, no Version Negotiation; version 1, and no Retry, unless asked for."""

    def check(seen: Evidence) -> Iterator[str]:
        facts = seen.facts
        if (done := len(facts.server_cids)) != count:
            yield f"{done} handshakes, not {count}"
        if facts.versions != {1} and not changed:
            yield f"versions {sorted(facts.versions)} in the server's Initials"
        if facts.negotiations and not corrupted:  # the answer to a version that was changed on the way
            yield f"{facts.negotiations} Version Negotiation packets"
        if bool(facts.retry_tokens) != retried:
            yield f"{len(facts.retry_tokens)} Retry packets"

    return check


def version_2(seen: Evidence) -> Iterator[str]:
    """The client begins in version 1, the server answers in version 2, and both go on in that."""
    facts = seen.facts
    if 1 not in facts.client_versions:
        yield f"versions {sorted(facts.client_versions)} in the client's Initials"
    if VERSION_2 not in facts.versions:
        yield f"versions {sorted(facts.versions)} in the server's Initials"
    if facts.handshake_versions != {VERSION_2}:
        yield f"versions {sorted(facts.handshake_versions)} in Handshake packets"


def together(*checks: Check) -> Check:
    """All of them."""

    def check(seen: Evidence) -> Iterator[str]:
        for one in checks:
            yield from one(seen)

    return check


def retry_token(seen: Evidence) -> Iterator[str]:
    """The Retry's token comes back in an Initial."""
    for token in seen.facts.retry_tokens:
        if any(token.startswith(used) or used.startswith(token) for used in seen.facts.used_tokens if used):
            return
    yield "no Initial carries the Retry's token"


def long_handshake(seen: Evidence) -> Iterator[str]:
    """The client sends its first flight again: the answer takes longer than its timeout."""
    if seen.facts.client_initials < 2:
        yield "only one ClientHello"


def resumed(seen: Evidence) -> Iterator[str]:
    """The second handshake has no certificate in it: its flight is smaller by more than one."""
    flights = [seen.facts.first_flight[cid] for cid in seen.facts.server_cids]
    if len(flights) == 2 and flights[1] > flights[0] - 700:
        yield f"{flights[1]} bytes in the server's second handshake, {flights[0]} in the first"


def early_data(seen: Evidence) -> Iterator[str]:
    """The requests go in 0-RTT packets, and are not repeated in others."""
    if not seen.facts.early_bytes:
        yield "no 0-RTT packets"
    if seen.facts.client_short_bytes > 5000:
        yield f"{seen.facts.client_short_bytes} bytes of the client in 1-RTT packets"


def stream_limit(seen: Evidence) -> Iterator[str]:
    """The server lets at most 1000 streams be open at the start: the client has to wait for credit."""
    if "server" in seen.ours and not any(
        f'"initial_max_streams_bidi":{limit},' in seen.qlog["server"] for limit in range(1, 1001)
    ):
        yield "initial_max_streams_bidi is not known to be at most 1000"


def amplification(seen: Evidence) -> Iterator[str]:
    """At most three bytes for one before the address is proven (RFC 9000 8.1); the runner tolerates four."""
    if seen.facts.amplification > 4:
        yield f"{seen.facts.amplification:.1f} bytes sent for each received"


def key_update(seen: Evidence) -> Iterator[str]:
    """Both sides sent packets in key phase 1 (RFC 9001 6): the one that began tells it in its qlog."""
    if not any(
        "key_update" in text or '"key_phase":1' in text or '"key_phase_bit":"1"' in text
        for text in seen.qlog.values()
    ):
        yield "no qlog tells of a key update"


def new_paths(seen: Evidence) -> Iterator[str]:
    """The client's address changed, and the server challenged each new path (RFC 9000 9.3)."""
    rebinds = sum("rebind" in note for note in seen.notes)
    if not rebinds:
        yield "the relay never rebound"
    if "server" in seen.ours:
        challenges = seen.qlog["server"].count('"path_challenge"')
        answers = seen.qlog["server"].count('"path_response"')
        if challenges < rebinds or answers < rebinds:
            yield f"{rebinds} rebindings, {challenges} PATH_CHALLENGE and {answers} PATH_RESPONSE frames"


def preferred_address(seen: Evidence) -> Iterator[str]:
    """The client has gone to another port of the server (RFC 9000 9.6), to stay; we validated the path."""
    ports = [note.rpartition(" ")[2] for note in seen.notes if "goes to port" in note]
    if not ports or ports[-1] == "443":
        yield f"the client goes to port {ports[-1] if ports else 443}"
    if "server" in seen.ours and '"path_response"' not in seen.qlog["server"]:
        yield "the server's qlog has no PATH_RESPONSE"


def marked(seen: Evidence) -> Iterator[str]:
    """Both sides mark with ECT(0), and nothing else; ours are told of it in ACK frames (RFC 9000 13.4)."""
    for direction in ("toserver", "toclient"):
        told = [note.rpartition(" ")[2] for note in seen.notes if f"{direction} has codepoint" in note]
        if told != ["2"]:
            yield f"codepoints {direction}: {', '.join(told) or 'none'}"
    for role in seen.ours:
        if '"ect0":' not in seen.qlog[role]:
            yield f"the {role}'s qlog tells of no counts"


def chacha20(seen: Evidence) -> Iterator[str]:
    """What was negotiated, as our own qlog tells it."""
    for role in seen.ours:
        if '"tls_cipher":"ChaCha20_Poly1305"' not in seen.qlog[role]:
            yield f"the {role} does not use ChaCha20"


ONCE: Final = handshakes(1)

WEBTRANSPORT_FILES: Final = {
    "unidirectional": (100 * KIB, 500 * KIB, 250 * KIB, MIB, 2 * MIB),
    "bidirectional": (100 * KIB, 500 * KIB, 250 * KIB, MIB, 2 * MIB),
    "datagram": tuple(range(600, 1000, 2)),
}
ENDPOINT: Final = "endpoint"
"""The path of the WebTransport session."""
PROTOCOLS: Final = {"client": "zulu bravo alpha", "server": "alpha bravo"}
CHOSEN: Final = "bravo"
"""The client's first that the server has."""

CASES: Final = [
    Case("handshake", (KIB,), ONCE, "handshake", "handshake"),
    Case("transfer", (2 * MIB, 3 * MIB, 5 * MIB), ONCE),
    Case(
        "longrtt",
        (KIB,),
        together(ONCE, long_handshake),
        "handshake",
        "handshake",
        SIMPLE.replace("15ms", "750ms"),
    ),
    Case("chacha20", (3 * MIB,), together(ONCE, chacha20), "chacha20", "chacha20"),
    Case("multiplexing", (32,) * 1999, together(ONCE, stream_limit)),
    Case("retry", (10 * KIB,), together(handshakes(1, retried=True), retry_token), "retry", "retry"),
    Case(
        "resumption",
        (5 * KIB, 10 * KIB),
        together(handshakes(2), resumed),
        "resumption",
        "resumption",
        certificates=3,
    ),
    Case(
        "zerortt",
        (32,) * 40,
        together(handshakes(2), early_data),
        "zerortt",
        "zerortt",
        name_length=250,
    ),
    Case("http3", (5 * KIB, 10 * KIB, 500 * KIB), ONCE, "http3", "http3"),
    Case("blackhole", (10 * MIB,), ONCE, scenario=f"blackhole {LINK} --on=5s --off=2s"),
    Case("keyupdate", (3 * MIB,), together(ONCE, key_update), "keyupdate", "transfer"),
    Case("ecn", (100 * KIB,), together(ONCE, marked), "ecn", "ecn"),
    Case(
        "amplificationlimit",
        (5 * KIB,),
        together(ONCE, amplification),
        scenario=f"droplist {LINK} --drops_to_server=2,3,4,5,6,7",
        certificates=9,
    ),
    Case(
        "handshakeloss",
        (KIB,) * 50,
        handshakes(50),
        "multiconnect",
        "multiconnect",
        f"drop-rate {LINK} --rate_to_server=30 --rate_to_client=30 {BURSTS}",
        300.0,
    ),
    Case(
        "transferloss",
        (2 * MIB,),
        ONCE,
        scenario=f"drop-rate {LINK} --rate_to_server=2 --rate_to_client=2 {BURSTS}",
    ),
    Case(
        "handshakecorruption",
        (KIB,) * 50,
        handshakes(50, corrupted=True),
        "multiconnect",
        "multiconnect",
        f"corrupt-rate {LINK} --rate_to_server=30 --rate_to_client=30 {BURSTS}",
        300.0,
    ),
    Case(
        "transfercorruption",
        (2 * MIB,),
        handshakes(1, corrupted=True),
        scenario=f"corrupt-rate {LINK} --rate_to_server=2 --rate_to_client=2 {BURSTS}",
    ),
    Case("ipv6", (5 * KIB, 10 * KIB), ONCE, host="server6"),
    # With three certificates not all Handshake packets are behind Initials, where the log does not show them.
    Case("v2", (KIB,), together(handshakes(1, changed=True), version_2), "v2", "v2", certificates=3),
    Case(
        "rebind-port",
        (10 * MIB,),
        together(ONCE, new_paths),
        scenario=f"rebind {LINK} --first-rebind=1s --rebind-freq=5s",
    ),
    Case(
        "rebind-addr",
        (10 * MIB,),
        together(ONCE, new_paths),
        scenario=f"rebind {LINK} --first-rebind=1s --rebind-freq=5s --rebind-addr",
    ),
    Case(
        "connectionmigration",
        (2 * MIB,),
        together(ONCE, preferred_address),
        "transfer",
        "connectionmigration",
        host="server46",
    ),
    Case("goodput", (10 * MIB,), ONCE, suite=Suite.MEASUREMENT, runs=5),
    Case(
        "crosstraffic",
        (25 * MIB,),
        ONCE,
        suite=Suite.MEASUREMENT,
        runs=5,
        timeout=180.0,
        traffic=True,
    ),
    Case("wt-handshake", (), ONCE, "handshake", "handshake", suite=Suite.WEBTRANSPORT),
    *(
        Case(
            f"wt-transfer-{kind}-{way}",
            sizes,
            ONCE,
            f"transfer-{kind}-receive" if way == "receive" else "transfer",
            f"transfer-{kind}-send" if way == "send" else "transfer",
            suite=Suite.WEBTRANSPORT,
            source="server" if way == "receive" else "client",
        )
        for way in ("receive", "send")
        for kind, sizes in WEBTRANSPORT_FILES.items()
    ),
]


def case_of(name: str) -> Case:
    """The case of this name."""
    return next(case for case in CASES if case.name == name)


@dataclass
class Work:
    """What the endpoints of a run are told beside TESTCASE, and what must come of it."""

    requests: dict[str, str]
    """REQUESTS by role."""
    protocols: dict[str, str]
    """PROTOCOLS by role."""
    expected: dict[Path, Path] = field(default_factory=dict)
    """Each file that must be there in the end, below the run's folder, and the one it must be like."""


def prepare(case: Case, folder: Path, seed: int) -> Work:
    """Writes a run's files, with random names and contents, below `folder`, which has one for each role."""
    rng = random.Random(f"{case.name} {seed}")
    below = Path(ENDPOINT if case.suite is Suite.WEBTRANSPORT else "")
    for role in ROLES:
        (folder / role / "www" / below).mkdir(exist_ok=True)  # a server looks there for its endpoints' names
    receiver = next(role for role in ROLES if role != case.source)
    names = []
    work = Work(dict.fromkeys(ROLES, ""), dict.fromkeys(ROLES, ""))
    for size in case.files:
        names.append(below / "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=case.name_length)))
        path = folder / case.source / "www" / names[-1]
        path.write_bytes(rng.randbytes(size))
        work.expected[Path(receiver, "downloads", names[-1])] = path
    asked = names if receiver == "client" and names else [below]
    work.requests["client"] = " ".join(f"https://{case.host}:443/{name}" for name in asked)
    if receiver == "server":
        work.requests["server"] = " ".join(map(str, names))
    if case.suite is Suite.WEBTRANSPORT:
        work.protocols = PROTOCOLS
    if case.client == "handshake" and case.suite is Suite.WEBTRANSPORT:
        (folder / "protocol").write_text(CHOSEN)
        for role in ROLES:
            work.expected[Path(role, "downloads", "negotiated_protocol.txt")] = folder / "protocol"
    return work
