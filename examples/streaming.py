"""A stream of server-sent events, by an async generator.

    quiche-h3 serve examples/streaming.py:server --dev-cert
    quiche-h3 get 'https://localhost:4433/events?count=5' --insecure

Each `yield` is sent at once. When the client takes nothing more, the generator waits at its `yield`; when the
client goes away, it is closed there. With async handlers the server runs in an asyncio loop (uvloop, if it is
installed).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator

from quiche_h3 import BadRequest, Request, Response, Server, ServerConfig

PAGE = """<!doctype html><title>Events</title><ul id=list></ul><script>
new EventSource("/events").onmessage = e => list.append(Object.assign(document.createElement("li"),
  {textContent: e.data}));
</script>
"""

server = Server(ServerConfig(dev_cert=True))


@server.get("/")
def page(req: Request, res: Response) -> str:
    res.header("content-type", "text/html; charset=utf-8")
    return PAGE


@server.get("/events")
async def events(req: Request, res: Response) -> AsyncIterator[str]:
    """The time, once in `interval` seconds, `count` times or for ever."""
    try:
        interval = float(req.query.get("interval", "1"))
        count = int(req.query["count"]) if "count" in req.query else None
    except ValueError:
        raise BadRequest("count and interval are numbers") from None
    res.header("content-type", "text/event-stream")
    res.header("cache-control", "no-store")
    for number in itertools.count():
        if number == count:
            return
        yield f"id: {number}\ndata: {json.dumps({'number': number, 'time': time.time()})}\n\n"
        await asyncio.sleep(interval)


if __name__ == "__main__":
    server.run()
