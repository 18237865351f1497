"""Fixtures of the core's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quiche_h3.dev_certificate import make_dev_certificate

from .pair import Pair


def make_certificate(directory: Path) -> SimpleNamespace:
    """A certificate for localhost in files, which is what the C API takes."""
    cert, key = make_dev_certificate()
    (directory / "cert.pem").write_bytes(cert)
    (directory / "key.pem").write_bytes(key)
    return SimpleNamespace(cert_path=str(directory / "cert.pem"), key_path=str(directory / "key.pem"))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One for all."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def make_pair(certificate: SimpleNamespace) -> Iterator[Callable[..., Pair]]:
    """Makes pairs with configurations of the test's own."""
    pairs: list[Pair] = []

    def make(**options: Any) -> Pair:
        pairs.append(Pair(certificate, **options))
        return pairs[-1]

    yield make
    for pair in pairs:
        for endpoint in (vars(pair).get("client"), vars(pair).get("server")):
            if endpoint is not None:
                endpoint.drop_all()


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    """Two endpoints with the defaults."""
    return make_pair()
