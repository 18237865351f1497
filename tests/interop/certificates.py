"""Certificates for the peers, made without this library."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quiche_h3 import ServerConfig


class Certificate(NamedTuple):
    """PEM files; the certificate is its own authority."""

    certificate: Path
    key: Path

    def server_config(self, **fields: Any) -> ServerConfig:
        """That of a server of ours with this certificate, at 127.0.0.1 and a free port."""
        cert, key = str(self.certificate), str(self.key)
        return ServerConfig(bind_addr="127.0.0.1", bind_port=0, cert_path=cert, key_path=key, **fields)


def make_certificate(folder: Path) -> Certificate:
    """Make a self-signed certificate for localhost and 127.0.0.1 in ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=10))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(folder / "cert.pem", folder / "key.pem")
    files.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.key.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return files
