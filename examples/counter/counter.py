"""Counts what it is sent over WebTransport: the protocol of the GoogleChrome sample, at /counter.

    quiche-h3 serve examples/counter/counter.py:server

and open https://localhost:4433/ in a browser. The page comes over TCP first; the warning of its certificate,
which was made at start, is to be passed by. The session trusts that certificate by its hash.

- A datagram is answered by a datagram with its length, in decimal.
- A unidirectional stream is answered by the number of its bytes, on a unidirectional stream of the server's.
- A bidirectional stream is answered by the number of its bytes, on the same stream.
"""

from __future__ import annotations

from pathlib import Path

from quiche_h3 import Server, ServerConfig, ServerSession, WebTransportStream

HERE = Path(__file__).parent

server = Server(ServerConfig(dev_cert=True, tcp_pages=True))
server.static("/web", HERE.parent / "web")
server.static("/", HERE / "page", index="index.html")


@server.get("/certificate")
def certificate() -> dict[str, str | None]:
    """What the page gives as `serverCertificateHashes`; null for a certificate that browsers trust."""
    return {"sha256": server.certificate_sha256.hex() if server.config.dev_cert else None}


@server.webtransport("/counter")
async def counter(session: ServerSession) -> None:
    """A session: its datagrams, and both kinds of streams, side by side."""

    def answer_datagram(datagram: bytes) -> None:
        session.send_datagram(b"%d" % len(datagram))

    async def count(stream: WebTransportStream) -> int:
        return sum([len(chunk) async for chunk in stream])

    async def answer_uni(stream: WebTransportStream) -> None:
        total = await count(stream)
        async with await session.open_uni_stream() as answer:
            await answer.write(b"%d" % total)

    async def answer_bidi(stream: WebTransportStream) -> None:
        await stream.write(b"%d" % await count(stream))

    await session.serve(on_datagram=answer_datagram, on_uni_stream=answer_uni, on_bidi_stream=answer_bidi)


if __name__ == "__main__":
    server.run()
