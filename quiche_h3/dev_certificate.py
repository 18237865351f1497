"""Certificates for development."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .errors import ConfigError

DEV_CERTIFICATE_DAYS: Final = 14
"""The longest a certificate may be valid for browsers to take its hash in `serverCertificateHashes`."""


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
