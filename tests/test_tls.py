"""The server's certificate: every source, and every way to be wrong."""

from __future__ import annotations

import datetime
import errno
import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from quiche_h3.config import ServerConfig
from quiche_h3.dev_certificate import make_dev_certificate
from quiche_h3.errors import ConfigError
from quiche_h3.tls import load_certificate

Pair = tuple[bytes, bytes]


def make_pair(first_day: int = -1, last_day: int = 1, bits: int = 0) -> Pair:
    """A certificate valid between two days, counted from now, and its key (RSA of so many bits, or EC)."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    key = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now + datetime.timedelta(days=first_day))
        .not_valid_after(now + datetime.timedelta(days=last_day))
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_dev_certificate()


def fingerprint(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).fingerprint(SHA256())


def in_files(directory: Path, cert: bytes, key: bytes) -> ServerConfig:
    (directory / "cert.pem").write_bytes(cert)
    (directory / "key.pem").write_bytes(key)
    return ServerConfig(cert_path=str(directory / "cert.pem"), key_path=str(directory / "key.pem"))


def descriptors() -> int:
    """How many descriptors are open. Both systems that we run on list them."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


def refused(config: ServerConfig, field: str, problem: str) -> ConfigError:
    before = descriptors()
    with pytest.raises(ConfigError) as caught:
        load_certificate(config)
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert "\n" not in str(caught.value)
    assert descriptors() == before
    return caught.value


def test_from_files(tmp_path: Path, pair: Pair) -> None:
    """Files are used where they are, and stay when the object is closed."""
    config = in_files(tmp_path, *pair)
    with load_certificate(config) as files:
        assert (files.cert_path, files.key_path) == (config.cert_path, config.key_path)
        assert files.sha256 == fingerprint(pair[0])
    assert Path(files.cert_path).read_bytes() == pair[0]


def test_from_bytes(pair: Pair) -> None:
    """Bytes get file names that can be opened again and again, until they are closed."""
    files = load_certificate(ServerConfig(cert_pem=pair[0], key_pem=pair[1]))
    with files:
        for _ in range(2):
            assert Path(files.cert_path).read_bytes() == pair[0]
            assert Path(files.key_path).read_bytes() == pair[1]
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert_path, files.key_path)
    files.close()
    assert not Path(files.key_path).exists()


def test_from_bytes_without_memory_files(pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Elsewhere than on Linux the key is in a file that only its user can read, and that goes."""
    monkeypatch.setattr("quiche_h3.tls.sys.platform", "darwin")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with load_certificate(ServerConfig(cert_pem=pair[0], key_pem=pair[1])) as files:
        assert Path(files.key_path).read_bytes() == pair[1]
        assert stat.S_IMODE(Path(files.key_path).stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == []


def test_descriptors_return(pair: Pair) -> None:
    """close() gives back every descriptor."""
    before = descriptors()
    for _ in range(50):
        load_certificate(ServerConfig(cert_pem=pair[0], key_pem=pair[1])).close()
    assert descriptors() == before


def test_rsa_and_chain(pair: Pair) -> None:
    """An RSA certificate works too, and the fingerprint of a chain is that of its first certificate."""
    cert, key = make_pair(bits=2048)
    with load_certificate(ServerConfig(cert_pem=cert + pair[0], key_pem=key)) as files:
        assert files.sha256 == fingerprint(cert)


def test_not_yet_valid_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A certificate of the future may mean that our own clock is wrong."""
    cert, key = make_pair(first_day=1, last_day=2)
    load_certificate(ServerConfig(cert_pem=cert, key_pem=key)).close()
    assert "not valid before" in caplog.text


def test_expired() -> None:
    """No client takes an expired certificate, so the server does not start with one."""
    cert, key = make_pair(first_day=-3, last_day=-1)
    assert refused(ServerConfig(cert_pem=cert, key_pem=key), "cert_pem", "expired on").remedy == "renew it"


def test_key_of_another_certificate(tmp_path: Path, pair: Pair) -> None:
    """Key and certificate that do not belong together, of the same kind and of different kinds."""
    other = make_dev_certificate()[1]
    refused(in_files(tmp_path, pair[0], other), "key_path", "not the key of the certificate in cert_path")
    refused(ServerConfig(cert_pem=pair[0], key_pem=make_pair(bits=2048)[1]), "key_pem", "not the key")


@pytest.mark.parametrize(
    "garbage", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_bad_certificate(tmp_path: Path, pair: Pair, garbage: bytes) -> None:
    """Empty, not PEM, and PEM around nonsense."""
    refused(in_files(tmp_path, garbage, pair[1]), "cert_path", "no usable certificate")


def test_bad_key(tmp_path: Path, pair: Pair) -> None:
    """A key that is none, and the two files swapped."""
    refused(in_files(tmp_path, pair[0], b"hello"), "key_path", "no usable private key")
    refused(in_files(tmp_path, pair[0], pair[0]), "key_path", "no usable private key")
    refused(in_files(tmp_path, pair[1], pair[0]), "cert_path", "no usable certificate")


def test_encrypted_key(pair: Pair) -> None:
    """quiche cannot ask for a password; the error says how to take it off."""
    key = load_pem_private_key(pair[1], None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    exc = refused(ServerConfig(cert_pem=pair[0], key_pem=encrypted), "key_pem", "encrypted")
    assert "openssl pkey" in exc.remedy


def test_unreadable_paths(tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a directory, no path at all, and a file without permission (which root could read)."""
    config = in_files(tmp_path, *pair)
    config.cert_path = str(tmp_path / "missing.pem")
    refused(config, "cert_path", "No such file")
    config.cert_path = str(tmp_path)
    refused(config, "cert_path", "Is a directory")
    config.cert_path = None
    refused(config, "cert_path", "is not set")

    def forbidden(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    refused(in_files(tmp_path, *pair), "cert_path", "Permission denied")


@pytest.mark.parametrize(
    ("path", "problem"), [("caf\udce9.pem", "not UTF-8"), ("a\0b", "NUL"), ("", "empty")]
)
def test_paths_that_abort_quiche(path: str, problem: str) -> None:
    """quiche unwraps the UTF-8 of a certificate's path; a path that is not UTF-8 would end the process."""
    refused(ServerConfig(cert_path=path, key_path=path), "cert_path", problem)
