"""The clicker's parts without a browser: its stores, its rules, its life in a thread."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import quiche_h3
from quiche_h3 import InvalidState, ServerConfig

FOLDER = Path(__file__).parents[1] / "examples" / "clicker"


@pytest.fixture(scope="module")
def clicker() -> Iterator[Any]:
    """The program as a module."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("clicker")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(params=["memory", "sqlite"])
def store(clicker: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = (
        clicker.MemoryScores() if request.param == "memory" else clicker.SqliteScores(str(tmp_path / "s.db"))
    )
    yield made
    made.close()


def test_store_counts(store: Any) -> None:
    """Each store counts from 1, keeps players apart, and knows the best; threads lose nothing."""
    assert [store.increment("ann"), store.increment("ann"), store.increment("bob")] == [1, 2, 1]
    assert store.top(10) == [("ann", 2), ("bob", 1)]
    assert store.top(1) == [("ann", 2)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.increment("cat"), range(200)))
    assert store.top(1) == [("cat", 200)]


def test_sqlite_outlives_the_program(clicker: Any, tmp_path: Path) -> None:
    """A second store finds the scores of the first."""
    first = clicker.SqliteScores(str(tmp_path / "scores.db"))
    first.increment("ann")
    first.close()
    second = clicker.SqliteScores(str(tmp_path / "scores.db"))
    assert second.increment("ann") == 2
    second.close()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense",
        b"[" * 4000,
        b"null",
        b'{"username": "ann"}',
        b'{"username": "ann", "type": "decrement"}',
        b'{"username": 1, "type": "increment"}',
        b'{"username": " ", "type": "increment"}',
        b'{"username": "%s", "type": "increment"}' % (b"x" * 41),
        b"\xff\xfe",
    ],
)
def test_anything_else_is_400(clicker: Any, text: bytes) -> None:
    """What is no click of a named player is answered with status 400, and counts nothing."""
    game = clicker.Game(clicker.MemoryScores())
    assert json.loads(game.answer(clicker.parse(text))) == {"status": 400}
    assert game.store.top(1) == []


def test_start_stop_status(clicker: Any) -> None:
    """Waiting, running in a thread, stopped; stop() and run() again do nothing, or say so."""
    config = ServerConfig(bind_addr="127.0.0.1", bind_port=0, dev_cert=True, drain_timeout_ms=500)
    game = clicker.ClickerServer(clicker.MemoryScores(), config)
    assert game.status() is clicker.Status.WAITING_TO_START
    game.stop()
    game.run(non_blocking=True)
    assert game.status() is clicker.Status.RUNNING
    game.run(non_blocking=True)  # runs already
    with quiche_h3.connect(game.server.address.url, verify=False) as client:
        assert "Clicker" in client.get("/").text
    game.stop()
    assert game.status() is clicker.Status.STOPPED
    game.stop()
    with pytest.raises(InvalidState):
        game.run(non_blocking=True)


def test_protocol(clicker: Any) -> None:
    """Over WebTransport: a datagram, both kinds of streams, several messages on one, and a scoreboard."""
    config = ServerConfig(bind_addr="127.0.0.1", bind_port=0, dev_cert=True, drain_timeout_ms=500)
    click = json.dumps({"username": "ann", "type": "increment"}).encode()
    game = clicker.ClickerServer(clicker.MemoryScores(), config)
    game.run(non_blocking=True)
    url = game.server.address.url
    try:
        with quiche_h3.connect_webtransport(f"{url}/clicker", verify=False) as session:
            session.send_datagram(click)
            assert json.loads(session.receive_datagram()) == {"status": 200, "score": 1}
            with session.open_uni_stream() as stream:
                stream.write(click)
            answer = next(iter(session.incoming_uni_streams()))
            assert json.loads(answer.read_all()) == {"status": 200, "score": 2}
            bidi = session.open_bidi_stream()
            bidi.write(click)  # not ended: it is answered all the same
            assert json.loads(bidi.read()) == {"status": 200, "score": 3}
            bidi.write(click[:10])
            bidi.write(click[10:] + b"oops")
            bidi.finish()
            assert bidi.read_all() == b'{"status": 200, "score": 4}{"status": 400}'
        with quiche_h3.connect_webtransport(f"{url}/scoreboard", verify=False) as session:
            board = next(iter(session.incoming_uni_streams()))
            assert json.loads(board.read()) == [["ann", 4]]
    finally:
        game.stop()
