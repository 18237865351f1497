"""Fixtures: the two peers as programs and as servers, and a certificate both of them verify."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .certificates import Certificate, make_certificate
from .programs import AioquicPeer, GoPeer, Peer, Process, build_go, started


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The certificate that the peers serve with and trust."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def go_peer(certificate: Certificate) -> GoPeer:
    """quic-go as a program that trusts ``certificate``; skips where there is no Go."""
    try:
        return GoPeer(build_go(), certificate.certificate)
    except FileNotFoundError as no_go:
        pytest.skip(str(no_go))


@pytest.fixture(scope="session")
def aioquic_peer(certificate: Certificate) -> AioquicPeer:
    """aioquic as a program that trusts ``certificate``."""
    return AioquicPeer(certificate.certificate)


@pytest.fixture(scope="module", params=["quic-go", "aioquic"])
def peer(request: pytest.FixtureRequest, aioquic_peer: AioquicPeer) -> Peer:
    """One after the other."""
    if request.param == "aioquic":
        return aioquic_peer
    go_peer: GoPeer = request.getfixturevalue("go_peer")
    return go_peer


@pytest.fixture(scope="module")
def server(peer: Peer, certificate: Certificate) -> Iterator[Process]:
    """The peer as a server, for the tests of a module."""
    with started(peer.serve(*certificate)) as process:
        yield process


@pytest.fixture(scope="module")
def aioquic(aioquic_peer: AioquicPeer, certificate: Certificate) -> Iterator[Process]:
    """aioquic as a server, for what only one of them can."""
    with started(aioquic_peer.serve(*certificate)) as process:
        yield process


@pytest.fixture(scope="session")
def cafile(certificate: Certificate) -> str:
    """What trusts ``certificate``."""
    return str(certificate.certificate)
