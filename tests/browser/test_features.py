"""Chromium, Firefox and webtransport-go use every part of WebTransport against this library's server."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from interop.programs import build_go, started
from interop.sessions import Told, add_sessions
from server_support import make_server

from interop import pattern

from .browsers import Browser, Launcher

pytestmark = pytest.mark.slow

MIB = 1 << 20
SECONDS = 10.0
HERE = Path(__file__).parent


class Peer:
    """A client of somebody else, and what the server tells of it."""

    name: str

    def __init__(self, url: str, told: Told) -> None:
        self.url = url
        self.told = told

    def __call__(self, function: str, *arguments: Any) -> Any:
        """The result of a function of features.js, or of the same in Go."""
        raise NotImplementedError

    def next(self) -> tuple[str, Any]:
        """What the server told next."""
        try:
            return self.told.get(timeout=SECONDS)
        except queue.Empty:
            pytest.fail("the server told nothing")


class BrowserPeer(Peer):
    """The page of features in a browser."""

    def __init__(self, browser: Browser, url: str, told: Told) -> None:
        super().__init__(url, told)
        self.browser = browser
        self.name = browser.name

    def __call__(self, function: str, *arguments: Any) -> Any:
        script = "([name, parameters]) => window.features[name](...parameters)"
        return self.browser.evaluate(self.url, script, [function, list(arguments)])


class GoPeer(Peer):
    """webtransport-go in a process for each call, which ends when the test does."""

    name = "webtransport-go"

    def __init__(self, program: Path, url: str, told: Told) -> None:
        super().__init__(url, told)
        self.program = program
        self.processes = ExitStack()

    def __call__(self, function: str, *arguments: Any) -> Any:
        command = [str(self.program), "call", self.url, function, json.dumps(arguments)]
        return self.processes.enter_context(started(command)).said


@contextmanager
def serving(**fields: Any) -> Iterator[tuple[str, Told]]:
    """The server in a thread of this process: its URL, and what it tells."""
    told: Told = queue.Queue()
    server = make_server(tcp_pages=True, drain_timeout_ms=500, **fields)
    server.static("/", HERE / "page", index="index.html")

    @server.get("/certificate")
    def certificate() -> dict[str, str]:
        return {"sha256": server.certificate_sha256.hex()}

    add_sessions(server, told)
    with server.running() as address:
        yield f"https://localhost:{address.port}/", told


@pytest.fixture(scope="module")
def application() -> Iterator[tuple[str, Told]]:
    with serving() as where:
        yield where


@pytest.fixture(params=["chromium", "firefox", "webtransport-go"])
def peer(request: pytest.FixtureRequest, application: tuple[str, Told]) -> Iterator[Peer]:
    url, told = application
    while not told.empty():  # what a test before has left
        told.get()
    if request.param != "webtransport-go":
        yield BrowserPeer(request.getfixturevalue(request.param), url, told)
        return
    try:
        program = build_go("webtransport")
    except FileNotFoundError as no_go:
        pytest.skip(str(no_go))
    go = GoPeer(program, url, told)
    with go.processes:
        yield go


def test_datagrams(peer: Peer) -> None:
    """Datagrams of all sizes up to what the peer says it can send come back as they were."""
    sizes = [1, 2, 63, 64, 500, 1000]
    result = peer("datagrams", sizes)
    assert result["seen"] == sizes
    assert result["most"] >= 1000


def test_datagram_at_once(browser: Browser, application: tuple[str, Told]) -> None:
    """A datagram that the server sends together with its 200 arrives: it does not overtake the response."""
    assert BrowserPeer(browser, *application)("greeting") == "at once"


def test_client_streams(peer: Peer) -> None:
    """Streams of the peer of both kinds: what is written comes back."""
    assert peer("clientStreams", "Grüße, 世界") == {"bidi": "Grüße, 世界", "uni": "Grüße, 世界"}


def test_server_streams(peer: Peer) -> None:
    """Streams of the server of both kinds reach the peer, and its answer the server."""
    assert peer("serverStreams", "an answer") == {"uni": "from the server", "bidi": "from the server"}
    assert peer.next() == ("answer", "an answer")


def test_8_mib_each_way(peer: Peer) -> None:
    """8 MiB down one stream and up another arrive whole."""
    size, digest = 8 * MIB, pattern.sha256(8 * MIB)
    assert peer("large", size) == {
        "bytes": size,
        "sha256": digest,
        "server": {"bytes": size, "sha256": digest},
    }


def test_8_mib_echo(peer: Peer) -> None:
    """8 MiB up and down one stream at the same time: the checksums agree."""
    sent, received, size = peer("echoLarge", 8 * MIB)
    assert (received, size) == (sent, 8 * MIB)


def test_50_streams_at_once(peer: Peer) -> None:
    """50 streams of each kind at once, of 1 to 50 kB: each comes back as it was."""
    assert peer("manyStreams", 50) == [50, 50]


@pytest.mark.parametrize(("code", "reason"), [(0, ""), (4242, "Grüße"), (0xFFFFFFFF, "x" * 1024)])
def test_closed_by_server(peer: Peer, code: int, reason: str) -> None:
    """The peer gets the server's code and reason (WT_CLOSE_SESSION)."""
    assert peer("closedByServer", code, reason) == [code, reason]


@pytest.mark.parametrize(("code", "reason"), [(0, ""), (4242, "Grüße"), (0xFFFFFFFF, "x" * 1024)])
def test_closed_by_client(peer: Peer, code: int, reason: str) -> None:
    """The server gets the peer's code and reason."""
    peer("closeByClient", code, reason)
    kind, told = peer.next()
    if peer.name == "webtransport-go" and told == (0, "", True):
        return  # it closes the connection with the session, and the capsule may never be sent
    assert (kind, told) == ("closed", (code, reason, True))


def test_browser_gone(launcher: Launcher, browser: Browser) -> None:
    """A browser that goes, often without a word, ends its session at the latest with the idle timeout."""
    with serving(idle_timeout_ms=3000) as (url, told):
        leaving = launcher.launch(browser.name)
        BrowserPeer(leaving, url, told)("leave")
        leaving.close()
        kind, (code, _reason, _remote) = told.get(timeout=SECONDS)
        assert (kind, code) == ("closed", 0)


@pytest.mark.parametrize("code", [0, 29, 30, 255, 1 << 31])
def test_reset_and_stopped_by_server(peer: Peer, code: int) -> None:
    """The peer gets the codes of the server's RESET_STREAM and STOP_SENDING, mapped as the draft says."""
    reset, stopped = peer("resetByServer", code), peer("stopByServer", code)
    if peer.name == "firefox" and code > 255:
        code = 0  # Firefox 153 knows the codes of draft-02, which end at 255
    assert stopped == {"name": "WebTransportError", "source": "stream", "code": code}
    if peer.name == "firefox":  # reports a TypeError without the code
        assert reset is not None
    else:
        assert reset == {"name": "WebTransportError", "source": "stream", "code": code}


@pytest.mark.parametrize("code", [0, 29, 30, 200])
def test_reset_and_stopped_by_client(peer: Peer, code: int) -> None:
    """The server gets the codes of the browser's RESET_STREAM and STOP_SENDING."""
    peer("abort", code, code + 2)
    expected = {("reset", code), ("reset", code + 1)}
    if peer.name != "firefox":  # whose cancel() sends no STOP_SENDING
        expected.add(("stopped", code + 2))
    assert {peer.next() for _ in expected} == expected


def test_reset_before_anything_was_sent(peer: Peer) -> None:
    """A stream that is reset before its header was sent, as browsers do, leaves the session as it was."""
    peer("abortUnsent", 7)
    told = [peer.next()]
    if told[0][0] == "reset":
        assert told[0] == ("reset", 7)
        told.append(peer.next())
    assert told[-1] == ("finished", False)


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500])
def test_rejected(peer: Peer, status: int) -> None:
    """A refused session fails at once; the next one is opened."""
    error = peer("rejected", status)
    assert error == {"name": "WebTransportError", "source": "session", "code": None}


def test_several_sessions(peer: Peer) -> None:
    """Six sessions side by side are apart; one that is closed takes none with it."""
    result = peer("sessions", 6)
    assert result == {"answers": [f"session {n}" for n in range(6)], "still": "still here"}


def test_pages_side_by_side(browser: Browser, application: tuple[str, Told]) -> None:
    """Four pages at once, each with its own sessions."""
    results = browser.run(
        application[0], *[lambda page: page.evaluate("() => window.features.sessions(2)")] * 4
    )
    assert all(result["answers"] == ["session 0", "session 1"] for result in results)


def test_subprotocol(peer: Peer) -> None:
    """The server's first choice among what the peer offers; Firefox 153 offers nothing."""
    chosen = peer("protocol", ["aa", "bb"])
    assert chosen == ([None, "none"] if peer.name == "firefox" else ["bb", "bb"])


def test_backpressure(peer: Peer) -> None:
    """A stream nobody reads stops its writer once its window is full, and not before."""
    sent = peer("unread")
    assert 64 * 1024 <= sent <= 6 * MIB
