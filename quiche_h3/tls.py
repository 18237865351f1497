"""The server's certificate: where it comes from, whether it can be used, and ones for development."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .config import ServerConfig
from .errors import ConfigError

_log = logging.getLogger("quiche_h3")

DEV_CERTIFICATE_DAYS: Final = 14
"""The longest a certificate may be valid for browsers to take its hash in `serverCertificateHashes`."""


class CertificateFiles:
    """A checked certificate and its key, under file names that quiche can open.

    quiche reads from file names only. Bytes are given one in memory (Linux) or a temporary file that only
    this user can read; both go with `close()`, after which the names are void. Also a context manager.
    """

    cert_path: str
    """File of the certificate chain, in PEM."""
    key_path: str
    """File of the private key, in PEM."""
    sha256: bytes
    """SHA-256 of the server's own certificate in DER, for `serverCertificateHashes` in WebTransport."""
    spki_sha256: bytes
    """SHA-256 of its public key (SubjectPublicKeyInfo in DER), by which a browser can be told to trust it."""
    not_after: datetime.datetime
    """When the certificate expires, in UTC."""
    names: list[str]
    """The host names it is for, as it gives them: `*.` may stand before one."""

    def __init__(self, leaf: x509.Certificate) -> None:
        self.sha256 = leaf.fingerprint(SHA256())
        self.spki_sha256 = hashlib.sha256(_public_bytes(leaf)).digest()
        self.not_after = leaf.not_valid_after_utc
        self.names = _host_names(leaf)
        self._cleanup = contextlib.ExitStack()

    def close(self) -> None:
        """Removes what was made for bytes. May be called more than once."""
        self._cleanup.close()

    def __enter__(self) -> CertificateFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _store(self, pem: bytes) -> str:
        """A file name that holds `pem` until `close()`."""
        if sys.platform == "linux" and Path("/proc/self/fd").is_dir():
            fd = os.memfd_create("quiche-h3")
            self._cleanup.callback(os.close, fd)
            path = f"/proc/self/fd/{fd}"
        else:
            fd, path = tempfile.mkstemp(prefix="quiche-h3-")  # made with mode 0600
            self._cleanup.callback(os.unlink, path)
            self._cleanup.callback(os.close, fd)
        with open(fd, "wb", closefd=False) as stream:
            stream.write(pem)
        return path


def load_certificate(config: ServerConfig) -> CertificateFiles:
    """The certificate that `config` asks for: its files, its bytes, or a development certificate made now.

    Raises `ConfigError` when a file cannot be read or is no PEM, when the key is encrypted or belongs to
    another certificate, or when the certificate has expired. One that is not valid yet is only logged: it may
    be our clock that is wrong.
    """
    if config.dev_cert:
        addresses = dict.fromkeys(("127.0.0.1", "::1", *_literal_addresses(config)))
        cert_pem, key_pem = make_dev_certificate(addresses=tuple(addresses))
        cert_field, key_field, from_files = "dev_cert", "dev_cert", False
    elif config.cert_pem is not None and config.key_pem is not None:
        cert_pem, key_pem = config.cert_pem, config.key_pem
        cert_field, key_field, from_files = "cert_pem", "key_pem", False
    else:
        cert_field, key_field, from_files = "cert_path", "key_path", True
        cert_pem, key_pem = _read(config, cert_field), _read(config, key_field)

    files = CertificateFiles(_checked(cert_field, cert_pem, key_field, key_pem))
    if from_files:
        files.cert_path, files.key_path = str(config.cert_path), str(config.key_path)
        return files
    try:
        files.cert_path, files.key_path = files._store(cert_pem), files._store(key_pem)
    except BaseException:
        files.close()
        raise
    return files


def load_more_certificates(config: ServerConfig) -> list[CertificateFiles]:
    """Those of `more_certificates`. Raises `ConfigError` as above, and for one that names no host."""
    field, found = "more_certificates", []
    for pair in config.more_certificates or ():
        cert_path, key_path = pair.split(":")
        leaf = _checked(field, _read_path(field, cert_path), field, _read_path(field, key_path))
        files = CertificateFiles(leaf)
        files.cert_path, files.key_path = cert_path, key_path
        if not files.names:
            raise ConfigError(
                field, f"{cert_path} is for no host name", "give one with a subject alternative name"
            )
        found.append(files)
    return found


def _checked(cert_field: str, cert_pem: bytes, key_field: str, key_pem: bytes) -> x509.Certificate:
    """The first certificate, if the key is its own."""
    leaf = _parse_certificate(cert_field, cert_pem)
    if _public_bytes(leaf) != _public_bytes(_parse_key(key_field, key_pem)):
        raise ConfigError(
            key_field,
            f"is not the key of the certificate in {cert_field}",
            "give the two that belong together",
        )
    return leaf


def _host_names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def make_dev_certificate(
    names: Sequence[str] = ("localhost",),
    addresses: Sequence[str] = ("127.0.0.1", "::1"),
    days: int = DEV_CERTIFICATE_DAYS,
) -> tuple[bytes, bytes]:
    """A self-signed certificate for development and its key, both in PEM: ECDSA P-256, for 1 to 14 `days`.

    Browsers take it by its hash (`serverCertificateHashes` wants ECDSA and at most 14 days), other clients as
    `cafile`. Raises `ConfigError` for other `days`, without names, and for an address that is none.
    """
    if not 1 <= days <= DEV_CERTIFICATE_DAYS:
        raise ConfigError("days", f"{days} is out of range", f"use 1 to {DEV_CERTIFICATE_DAYS}")
    if not names:
        raise ConfigError("names", "is empty", "give at least one, as localhost")
    try:
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    except ValueError as exc:
        raise ConfigError("addresses", str(exc), "give host names and literal IP addresses") from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    # An hour back, for peers whose clock is behind; within the 14 days, which browsers count from here.
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        # No key usage: without keyCertSign BoringSSL would not take the certificate for its own issuer.
        .sign(key, SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    return pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _literal_addresses(config: ServerConfig) -> list[str]:
    return [text for text in config.bind_addrs if not ipaddress.ip_address(text).is_unspecified]


def _read(config: ServerConfig, field: str) -> bytes:
    path: str | None = getattr(config, field)
    problem = config.options()[field].problem(path) if path is not None else "is not set"
    if path is None or problem is not None:
        raise ConfigError(field, str(problem), "give the path of a PEM file, in UTF-8")
    return _read_path(field, path)


def _read_path(field: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise ConfigError(field, f"{path!r} cannot be read: {exc.strerror}", "give a PEM file") from None


def _parse_certificate(field: str, pem: bytes) -> x509.Certificate:
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        remedy = "give a chain in PEM, the server's certificate first"
        raise ConfigError(field, "holds no usable certificate", remedy) from None
    now = datetime.datetime.now(datetime.timezone.utc)
    if leaf.not_valid_after_utc < now:
        raise ConfigError(
            field, f"the certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d}", "renew it"
        )
    if leaf.not_valid_before_utc > now:
        _log.warning("%s: the certificate is not valid before %s", field, leaf.not_valid_before_utc)
    return leaf


def _parse_key(field: str, pem: bytes) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        remedy = "decrypt it: openssl pkey -in encrypted.pem -out key.pem"
        raise ConfigError(field, "the private key is encrypted", remedy) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(field, "holds no usable private key", "give an RSA or EC key in PEM") from None


def _public_bytes(owner: x509.Certificate | PrivateKeyTypes) -> bytes:
    return owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
