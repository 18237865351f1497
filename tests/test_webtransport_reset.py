"""Resets that leave the header of a stream whole: RESET_STREAM_AT (draft-ietf-quic-reliable-stream-reset)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from test_webtransport import server_with
from test_webtransport_client import with_async

from quiche_h3 import ClientSession, ServerSession, WebTransportStream, WebTransportStreamReset

CODES = set(range(20))


async def end_of(stream: WebTransportStream) -> int | None:
    """The code of its reset, None when it came to its end."""
    try:
        await stream.read_all()
    except WebTransportStreamReset as reset:
        return reset.code
    return None


async def codes_of(streams: Any) -> set[int]:
    """The codes of resets, until there were all of them."""
    seen: set[int] = set()
    async for stream in streams:
        code = await end_of(stream)
        if code is not None:
            seen.add(code)
        if seen == CODES:
            break
    return seen


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("bidi", [False, True])
def test_a_stream_that_is_reset_at_once(bidi: bool, busy: bool) -> None:
    """draft-ietf-webtrans-http3 4.4: the session learns of each, also where no header could be sent yet.

    Without it the header is dropped with the rest, and nobody can say whose stream that was.
    """

    async def collect(session: ServerSession) -> None:
        streams = session.incoming_bidi_streams() if bidi else session.incoming_uni_streams()
        assert await codes_of(streams) == CODES
        session.close(7)

    async def scenario(session: ClientSession) -> int:
        opened = session.open_bidi_stream_nowait if bidi else session.open_uni_stream_nowait
        if busy:  # more than the congestion window takes
            first = opened()
            writing = asyncio.ensure_future(first.write(bytes(1 << 17)))
            await asyncio.sleep(0)
        for code in CODES:
            opened().reset(code)
        if busy:
            await writing
            first.finish()
        return (await session.wait_closed()).code

    assert with_async(server_with(collect), scenario) == 7
