"""The server's certificate: where it comes from, and whether it can be used."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final

from ._core.settings import check_key
from .certificates import Certificate, pem_to_der, read_certificate
from .config import ServerConfig
from .errors import ConfigError

_log: Final = logging.getLogger("quiche_h3")


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

    def __init__(self, leaf: Certificate) -> None:
        self.sha256 = hashlib.sha256(leaf.der).digest()
        self.spki_sha256 = hashlib.sha256(leaf.public_key).digest()
        self.not_after = leaf.not_after
        self.names = leaf.names
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
        from .dev_certificate import make_dev_certificate  # `cryptography` is 8 MiB, files need none of it

        addresses = dict.fromkeys(("127.0.0.1", "::1", *_literal_addresses(config)))
        pem = make_dev_certificate(addresses=tuple(addresses))
        return _load(("dev_cert", "dev_cert"), pem, None)
    if config.cert_pem is not None and config.key_pem is not None:
        return _load(("cert_pem", "key_pem"), (config.cert_pem, config.key_pem), None)
    pem = (_read(config, "cert_path"), _read(config, "key_path"))
    return _load(("cert_path", "key_path"), pem, (str(config.cert_path), str(config.key_path)))


def load_more_certificates(config: ServerConfig) -> list[CertificateFiles]:
    """Those of `more_certificates`. Raises `ConfigError` as above, and for one that names no host."""
    field, found = "more_certificates", []
    for pair in config.more_certificates or ():
        cert_path, key_path = pair.split(":")
        pem = (_read_path(field, cert_path), _read_path(field, key_path))
        files = _load((field, field), pem, (cert_path, key_path))
        if not files.names:
            raise ConfigError(
                field, f"{cert_path} is for no host name", "give one with a subject alternative name"
            )
        found.append(files)
    return found


def _load(
    fields: tuple[str, str], pem: tuple[bytes, bytes], paths: tuple[str, str] | None
) -> CertificateFiles:
    """A certificate and its key, if they can be used. Errors name `fields`; without `paths` it gets files."""
    files = CertificateFiles(_leaf(fields[0], pem[0]))
    try:
        files.cert_path, files.key_path = paths or (files._store(pem[0]), files._store(pem[1]))
        _check(fields, pem[1], files)
    except BaseException:
        files.close()
        raise
    return files


def _leaf(field: str, pem: bytes) -> Certificate:
    try:
        leaf = read_certificate(pem_to_der(pem))
    except ValueError:
        raise _unusable(field) from None
    now = datetime.datetime.now(datetime.timezone.utc)
    if leaf.not_after < now:
        raise ConfigError(field, f"the certificate expired on {leaf.not_after:%Y-%m-%d}", "renew it")
    if leaf.not_before > now:
        _log.warning("%s: the certificate is not valid before %s", field, leaf.not_before)
    return leaf


def _check(fields: tuple[str, str], key_pem: bytes, files: CertificateFiles) -> None:
    """Raises `ConfigError` for what the TLS library does not take."""
    cert_field, key_field = fields
    refused = check_key(files.cert_path, files.key_path)
    if refused == "certificate":
        raise _unusable(cert_field)
    if refused == "key":
        if b"ENCRYPTED" in key_pem:  # in the label (RFC 7468 11), or in a header (RFC 1421 4.6.1.1)
            remedy = "decrypt it: openssl pkey -in encrypted.pem -out key.pem"
            raise ConfigError(key_field, "the private key is encrypted", remedy)
        raise ConfigError(key_field, "holds no usable private key", "give an RSA or EC key in PEM")
    if refused == "pair":
        problem = f"is not the key of the certificate in {cert_field}"
        raise ConfigError(key_field, problem, "give the two that belong together")


def _unusable(field: str) -> ConfigError:
    remedy = "give a chain in PEM, the server's certificate first"
    return ConfigError(field, "holds no usable certificate", remedy)


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
