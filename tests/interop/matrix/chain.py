"""Certificate chains as the interop runner mounts them: cert.pem (leaf first), priv.key, ca.pem."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAMES: Final = ("server", "server4", "server6", "server46", "localhost")
_PADDING: Final = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(500))
_Issuer = tuple[x509.Name, ec.EllipticCurvePrivateKey]


def make_chain(folder: Path, length: int) -> None:
    """Writes a chain of `length` certificates under its own root; from two on, each is padded to 1 KB."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    issuer: _Issuer = (_name("root"), key)
    root = _sign(issuer, issuer, authority=True, padded=False)
    chain: list[x509.Certificate] = []
    for number in range(length):
        leaf = number == length - 1
        subject: _Issuer = (
            _name("server" if leaf else f"intermediate {number}"),
            ec.generate_private_key(ec.SECP256R1()),
        )
        chain.insert(0, _sign(issuer, subject, authority=not leaf, padded=length > 1))
        issuer = subject
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(b"".join(one.public_bytes(encoding) for one in chain))
    (folder / "ca.pem").write_bytes(root.public_bytes(encoding))
    (folder / "priv.key").write_bytes(
        issuer[1].private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"interop {common}")])


def _sign(issuer: _Issuer, subject: _Issuer, *, authority: bool, padded: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder(issuer[0], subject[0], subject[1].public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES])
        builder = builder.add_extension(names, critical=False)
    if padded:
        builder = builder.add_extension(_PADDING, critical=False)
    return builder.sign(issuer[1], hashes.SHA256())
