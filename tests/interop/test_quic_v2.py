"""QUIC version 2 (RFC 9369) and compatible version negotiation (RFC 9368), with aioquic and quic-go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import (
    QuicProtocolVersion,
    QuicVersionInformation,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)

import quiche_h3
from quiche_h3 import Client, ClientConfig, ConnectError, MemoryTickets, Request, Server

from . import pattern
from .aioquic_peer import configure, open_client
from .aioquic_server import serving as server_of_aioquic
from .certificates import Certificate
from .programs import AioquicPeer, GoPeer, Peer, started

V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2
MIB = 1 << 20


@contextmanager
def serving(certificate: Certificate, *versions: str, **fields: Any) -> Iterator[str]:
    """Our server with these versions, its own default without any: its URL."""
    if versions:
        fields["quic_versions"] = list(versions)
    server = Server(certificate.server_config(**fields))
    server.get("/bytes/:size")(lambda req: b"".join(pattern.chunks(int(req.params["size"]))))

    @server.post("/upload", blocking=True)
    def upload(req: Request) -> str:
        return str(len(req.body.read_all()))

    with server.running() as address:
        yield address.url


def ask(url: str, certificate: Certificate, original: int, *versions: int) -> int | None:
    """What aioquic speaks with a server in the end, when it has moved a MiB each way."""
    configuration = configure(str(certificate.certificate))
    configuration.original_version, configuration.supported_versions = original, list(versions)

    async def run() -> int | None:
        async with open_client(url, configuration=configuration) as client:
            assert (await client.get(f"/bytes/{MIB}")).body == b"".join(pattern.chunks(MIB))
            assert (await client.upload("/upload", MIB)).body == b"%d" % MIB
            client._quic.request_key_update()
            assert (await client.get(f"/bytes/{MIB}")).size == MIB
            return client._quic._version

    return asyncio.run(run())


@pytest.mark.parametrize("fields", [{}, {"enable_retry": True}], ids=["", "retry"])
@pytest.mark.parametrize(
    ("versions", "original", "theirs", "spoken"),
    [
        ((), V2, [V2], V2),
        ((), V1, [V2, V1], V1),
        (("2", "1"), V1, [V1, V2], V2),
        (("2", "1"), V1, [V1], V1),
        (("2", "1"), V2, [V1, V2], V2),
        (("1", "2"), V2, [V2, V1], V1),
        (("1",), V2, [V2, V1], V1),
        (("2",), V1, [V2, V1], V2),
    ],
)
def test_aioquics_client(
    certificate: Certificate,
    versions: tuple[str, ...],
    original: int,
    theirs: list[int],
    spoken: int,
    fields: dict[str, Any],
) -> None:
    """RFC 9368 2: of what both have our server chooses; one without the client's version says so."""
    with serving(certificate, *versions, **fields) as url:
        assert ask(url, certificate, original, *theirs) == spoken


@pytest.mark.parametrize("retry", ["", "--retry"])
@pytest.mark.parametrize(
    ("versions", "theirs", "spoken"),
    [
        (("2",), [V1, V2], 2),
        (("1", "2"), [V2, V1], 1),
        (("2", "1"), [V1, V2], 2),
        (("1",), [V2, V1], 1),
        (("1", "2"), [V1], 1),
        (("1", "2"), [V2], 2),
    ],
)
def test_aioquics_server(
    aioquic_peer: AioquicPeer,
    certificate: Certificate,
    cafile: str,
    versions: tuple[str, ...],
    theirs: list[int],
    spoken: int,
    retry: str,
) -> None:
    """RFC 9368 2.3, 2.1: our client goes on in what the server chooses, or what it says that it has."""
    flags = [f"--version={version}" for version in theirs] + [retry] * bool(retry)
    config = ClientConfig(quic_versions=list(versions))
    with (
        started(aioquic_peer.serve(*certificate, *flags)) as process,
        quiche_h3.connect(process.url, cafile=cafile, config=config) as client,
    ):
        assert client.get(f"/bytes/{MIB}").content == b"".join(pattern.chunks(MIB))
        assert client.post("/upload", data=b"x" * MIB).json()["bytes"] == MIB
        assert client.stats()["quic_version"] == spoken


@pytest.mark.parametrize("retry", [False, True])
def test_quic_go(go_peer: GoPeer, certificate: Certificate, cafile: str, retry: bool) -> None:
    """RFC 9369 3: packets, keys, labels and Retry of version 2, in both roles."""
    with serving(certificate, **({"enable_retry": True} if retry else {})) as url:
        got = go_peer.run("download", f"{url}/bytes/{MIB}", quic_v2="true")
        assert got["sha256"] == pattern.sha256(MIB)
    config = ClientConfig(quic_versions=["2"])
    with (
        started(go_peer.serve(*certificate, *["--retry"] * retry)) as process,
        quiche_h3.connect(process.url, cafile=cafile, config=config) as client,
    ):
        assert client.get(f"/bytes/{MIB}").content == b"".join(pattern.chunks(MIB))
        assert client.stats()["quic_version"] == 2


@pytest.mark.parametrize("other", ["ours", "quic-go", "aioquic"])
def test_resumption(
    other: str, certificate: Certificate, cafile: str, request: pytest.FixtureRequest
) -> None:
    """RFC 9369 5: a ticket is good in the version that it was given in, 0-RTT included, and in no other."""
    tickets = MemoryTickets()
    with ExitStack() as stack:
        if other == "ours":
            url = stack.enter_context(serving(certificate, enable_early_data=True))
        else:
            peer: Peer = request.getfixturevalue("go_peer" if other == "quic-go" else "aioquic_peer")
            flags = [f"--version={V1}", f"--version={V2}"] if other == "aioquic" else []
            url = stack.enter_context(started(peer.serve(*certificate, *flags))).url
        seen = []
        for version in ("2", "2", "1", "1", "2"):
            config = ClientConfig(quic_versions=[version], early_data="safe")
            with Client(cafile=cafile, config=config, tickets=tickets) as client:
                assert (response := client.get(f"{url}/bytes/1000")).status == 200
                (info,) = client.connections().values()
                assert info.quic_version == int(version)
                assert response.early_data is info.resumed
                seen.append(info.resumed)
    assert seen == [False, True, False, True, False]


def test_no_ticket_after_a_change(certificate: Certificate, cafile: str) -> None:
    """RFC 9369 5: no session is kept of a connection that has changed its version, and none resumed."""
    tickets = MemoryTickets()
    with serving(certificate, "2", "1") as url:
        seen = []
        for versions in (["1"], ["1", "2"], ["1", "2"], ["1"]):
            config = ClientConfig(quic_versions=versions)
            with Client(cafile=cafile, config=config, tickets=tickets) as client:
                assert client.get(f"{url}/bytes/1000").status == 200
                (info,) = client.connections().values()
                seen.append((info.quic_version, info.resumed))
    assert seen == [(1, False), (2, False), (2, False), (1, False)]


def test_server_that_has_version_1_alone(
    aioquic_peer: AioquicPeer, certificate: Certificate, cafile: str
) -> None:
    """RFC 9000 6.2: a client of version 2 alone is told, and says so."""
    config = ClientConfig(quic_versions=["2"])
    with (
        started(aioquic_peer.serve(*certificate)) as process,
        pytest.raises(ConnectError, match="speaks no version of QUIC"),
    ):
        quiche_h3.connect(process.url, cafile=cafile, config=config)


@pytest.mark.parametrize("told", [None, (V1, [V2, V1]), (V2, [])])
def test_server_that_tells_otherwise(
    certificate: Certificate, cafile: str, told: tuple[int, list[int]] | None
) -> None:
    """RFC 9368 4: what our client is told has to be what is spoken, or the connection ends with 0x11."""
    true_parameters = QuicConnection._serialize_transport_parameters

    def parameters(connection: QuicConnection) -> bytes:
        buffer = Buffer(data=true_parameters(connection))
        parsed = pull_quic_transport_parameters(buffer)
        parsed.version_information = told and QuicVersionInformation(*told)
        buffer = Buffer(capacity=1000)
        push_quic_transport_parameters(buffer, parsed)
        return buffer.data

    async def run() -> str:
        files = str(certificate.certificate), str(certificate.key)
        async with server_of_aioquic(*files, versions=[V2, V1]) as port:
            with mock.patch.object(QuicConnection, "_serialize_transport_parameters", parameters):
                config = ClientConfig(quic_versions=["2", "1"])
                try:
                    async with await quiche_h3.aconnect(
                        f"https://127.0.0.1:{port}", cafile=cafile, config=config
                    ) as client:
                        return f"version {client.info.quic_version}"
                except ConnectError as error:
                    return str(error)

    outcome = asyncio.run(run())
    if told == (V2, []):
        assert outcome == "version 2"
    else:
        assert "VERSION_NEGOTIATION_ERROR" in outcome
