"""`Stream.write_file`: files are read where quiche keeps what is not acknowledged; HTTP/0.9 as it can."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quiche_h3._core.hq import HQ_ALPN
from quiche_h3.errors import InvalidState, StreamClosed

from .pair import OK, Pair, listen
from .test_hq import HqApp

MakePair = Callable[..., Pair]
BODY = random.Random(3).randbytes(400_000)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """An open file with `BODY` in it."""
    path = tmp_path / "body"
    path.write_bytes(BODY)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["h3", HQ_ALPN[0]])
def pair(make_pair: MakePair, request: pytest.FixtureRequest) -> Pair:
    """Both sides speak HTTP/3, or HTTP/0.9; the client grants 30,000 bytes at once."""
    narrow = {"initial_max_stream_data_bidi_local": 30_000, "max_stream_window": 30_000}
    alpn = {"alpn_protocols": [request.param]}
    pair = make_pair(client=narrow | alpn, server=alpn)
    if request.param != "h3":
        pair.server_app.__class__ = pair.client_app.__class__ = HqApp
    return pair


def send(pair: Pair, fd: int, offset: int, size: int) -> list[int]:
    """Answers each request with that part of the file. What each call took goes into the list."""
    taken: list[int] = []

    def go_on(stream: Any) -> None:
        while sum(taken) < size and not stream.blocked:
            taken.append(stream.write_file(fd, offset + sum(taken), size - sum(taken)))
        if sum(taken) == size:
            stream.finish()

    def answer(stream: Any) -> None:
        pair.server_app.listen(stream).on["drained"] = lambda: go_on(stream)
        stream.send_headers(OK)
        go_on(stream)

    pair.server_app.on_request = answer
    return taken


def test_a_file_is_taken_as_credit_comes(pair: Pair, fd: int) -> None:
    """RFC 9000 4.1: no more is taken than the client does; what arrives is the part that was asked for."""
    taken = send(pair, fd, 1000, 300_000)
    handler = pair.fetch(pair.connect())
    assert bytes(handler.body) == BODY[1000:301_000]
    assert len(taken) > 5
    assert max(taken) <= 30_000
    assert pair.server_app.requests[0].bytes_sent == 300_000


def test_a_file_survives_loss(pair: Pair, fd: int) -> None:
    """RFC 9000 13.3: what is lost is sent again from where it was read to, though the file has gone."""
    send(pair, fd, 0, len(BODY))
    connection = pair.connect()
    pair.up.loss = pair.down.loss = 0.05
    assert bytes(pair.fetch(connection).body) == BODY


def test_the_end_of_a_file_and_a_read_that_fails(pair: Pair, fd: int, tmp_path: Path) -> None:
    """What is not there is an error, after what is there was taken; the stream goes on."""
    listen(pair)
    handler = pair.request(pair.connect())
    pair.settle()
    (stream,) = pair.server_app.requests
    stream.send_headers(OK)
    directory = os.open(tmp_path, os.O_RDONLY)
    for error, arguments in (
        (IsADirectoryError, (directory, 0, 10)),
        (OSError, (-1, 0, 10)),
        (EOFError, (fd, len(BODY), 1)),
    ):
        with pytest.raises(error):
            stream.write_file(*arguments)
    os.close(directory)
    assert stream.write_file(fd, len(BODY) - 5, 5) == 5
    stream.enqueue(b"end", True)
    pair.run(lambda: handler.finished)
    assert bytes(handler.body) == BODY[-5:] + b"end"
    with pytest.raises(StreamClosed):
        stream.write_file(fd, 0, 1)


def test_a_file_waits_for_what_is_queued(pair: Pair, fd: int) -> None:
    """It does not overtake what was written before, and `on_drained` says when it may follow."""
    listen(pair)
    handler = pair.request(pair.connect(), read=False)
    pair.settle()
    (stream,) = pair.server_app.requests
    stream.send_headers(OK)
    stream.enqueue(bytes(40_000))
    assert stream.pending
    assert stream.write_file(fd, 0, 10) == 0
    assert stream.blocked

    def go_on() -> None:
        assert stream.write_file(fd, 0, 10) == 10
        stream.finish()

    pair.server_app.handlers[0].on["drained"] = go_on
    handler.read = True
    handler.drain()
    pair.run(lambda: handler.finished)
    assert bytes(handler.body) == bytes(40_000) + BODY[:10]


def test_a_file_for_nobody(pair: Pair, fd: int) -> None:
    """RFC 9000 3.5: a client that has stopped the response takes none of it."""
    listen(pair)
    handler = pair.request(pair.connect())
    pair.settle()
    (stream,) = pair.server_app.requests
    stream.send_headers(OK)
    assert stream.write_file(fd, 0, len(BODY)) > 0
    assert handler.stream is not None
    handler.stream.reset(0x10C)
    pair.settle()
    assert not stream.sending
    with pytest.raises(StreamClosed):
        stream.write_file(fd, 0, 1)


def test_a_file_is_as_long_as_announced(make_pair: MakePair, fd: int) -> None:
    """RFC 9114 4.1.2: more than the content-length is refused before anything of it is sent."""
    pair = make_pair()
    listen(pair)
    pair.request(pair.connect())
    pair.settle()
    (stream,) = pair.server_app.requests
    pair.server_app.opened[0].context.keeps_lengths = True
    stream.send_headers([*OK, (b"content-length", b"10")])
    with pytest.raises(InvalidState, match="longer"):
        stream.write_file(fd, 0, 11)
    assert stream.write_file(fd, 0, 10) == 10


def test_a_file_before_the_head(make_pair: MakePair, fd: int) -> None:
    """RFC 9114 4.1: a body follows a field section; nothing is taken before that."""
    pair = make_pair()
    listen(pair)
    pair.request(pair.connect())
    pair.settle()
    (stream,) = pair.server_app.requests
    assert stream.write_file(fd, 0, 10) == 0
    assert stream.bytes_sent == 0
