"""What development certificates promise."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from quiche_h3.config import ServerConfig
from quiche_h3.dev_certificate import make_dev_certificate
from quiche_h3.errors import ConfigError
from quiche_h3.tls import load_certificate


def test_development_certificate_is_what_browsers_take() -> None:
    """serverCertificateHashes (WebTransport): ECDSA P-256, valid now, for at most 14 days in all."""
    with load_certificate(ServerConfig(dev_cert=True, bind_addr=["192.0.2.7", "::"])) as files:
        leaf = x509.load_pem_x509_certificate(Path(files.cert_path).read_bytes())
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert isinstance(leaf.signature_hash_algorithm, SHA256)
    assert leaf.not_valid_before_utc < datetime.datetime.now(datetime.timezone.utc) < leaf.not_valid_after_utc
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= datetime.timedelta(days=14)
    assert files.not_after == leaf.not_valid_after_utc
    assert files.sha256 == leaf.fingerprint(SHA256())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["127.0.0.1", "::1", "192.0.2.7"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_development_certificate_is_its_own_authority(tmp_path: Path, host: str) -> None:
    """A client that is given the certificate as cafile verifies it, by each of its names, and by no other."""
    cert, key = make_dev_certificate()
    (tmp_path / "pair.pem").write_bytes(cert + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "pair.pem")
    client = ssl.create_default_context(cadata=cert.decode())

    def handshake(name: str) -> None:
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = client.wrap_bio(to_client, to_server, server_hostname=name)
        theirs = server.wrap_bio(to_server, to_client, server_side=True)
        for side in (ours, theirs, ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
        assert ours.version() == "TLSv1.3"

    handshake(host)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake("example.org")


def test_each_development_certificate_is_new() -> None:
    """No key is ever shared between two servers."""
    assert make_dev_certificate()[1] != make_dev_certificate()[1]


@pytest.mark.parametrize("days", [0, 15, -1])
def test_development_certificate_days(days: int) -> None:
    """Browsers refuse hashes of certificates that live longer than 14 days."""
    with pytest.raises(ConfigError, match="1 to 14"):
        make_dev_certificate(days=days)


def test_development_certificate_names() -> None:
    """What cannot be in a certificate is refused in one line."""
    with pytest.raises(ConfigError, match="names"):
        make_dev_certificate(names=())
    with pytest.raises(ConfigError, match="addresses"):
        make_dev_certificate(addresses=("localhost",))
    with pytest.raises(ConfigError):
        make_dev_certificate(names=("bücher.example",))
