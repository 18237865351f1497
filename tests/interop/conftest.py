"""Fixtures: the two peers as programs, and a certificate both of them verify."""

from __future__ import annotations

import pytest

from .certificates import Certificate, make_certificate
from .programs import AioquicPeer, GoPeer, build_go


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
