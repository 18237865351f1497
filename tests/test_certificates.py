"""What is read of a certificate, against a library that knows all of it; and that junk is a ValueError."""

from __future__ import annotations

import datetime
import ipaddress
import random
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from quiche_h3.certificates import pem_to_der, read_certificate

ADDRESSES = ["192.0.2.7", "2001:db8::1"]


def make(first: datetime.datetime, last: datetime.datetime, *extensions: x509.ExtensionType) -> bytes:
    """A certificate in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x" * 60)] * 9)  # lengths of two bytes
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(first).not_valid_after(last)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def utc(year: int) -> datetime.datetime:
    return datetime.datetime(year, 12, 31, 23, 59, 58, tzinfo=datetime.timezone.utc)


@pytest.fixture(scope="module")
def pem() -> bytes:
    alternatives: list[x509.GeneralName] = [x509.DNSName("a.test"), x509.RFC822Name("a@a.test")]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in ADDRESSES]
    alternatives += [x509.DNSName("*.b.test")]
    usage = x509.BasicConstraints(ca=False, path_length=None)
    return make(utc(1999), utc(2052), usage, x509.SubjectAlternativeName(alternatives))


def test_what_is_read(pem: bytes) -> None:
    """RFC 5280 4.1: key and validity are those that another reader finds, the names those it was made for."""
    theirs = x509.load_pem_x509_certificate(pem)
    ours = read_certificate(pem_to_der(pem))
    assert ours.der == theirs.public_bytes(Encoding.DER)
    key = theirs.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert ours.public_key == key
    assert (ours.not_before, ours.not_after) == (utc(1999), utc(2052))
    assert ours.names == ["a.test", "*.b.test"]
    assert [str(address) for address in ours.addresses] == ADDRESSES


@pytest.mark.parametrize(("first", "last"), [(1950, 2049), (2049, 2050), (1970, 9999)])
def test_times(first: int, last: int) -> None:
    """RFC 5280 4.1.2.5: two digits of a year mean 1950 to 2049, all later times have four."""
    certificate = read_certificate(pem_to_der(make(utc(first), utc(last))))
    assert (certificate.not_before, certificate.not_after) == (utc(first), utc(last))


def test_no_names() -> None:
    """A certificate without the extension, or without any, is for nobody."""
    usage = x509.BasicConstraints(ca=True, path_length=1)
    for pem in (make(utc(2020), utc(2040)), make(utc(2020), utc(2040), usage)):
        certificate = read_certificate(pem_to_der(pem))
        assert (certificate.names, certificate.addresses) == ([], [])


def test_the_first_of_a_chain(pem: bytes) -> None:
    """Text around the certificates is allowed (RFC 7468 2), the server's own comes first (RFC 8446 4.4.2)."""
    chain = b"subject=/O=x\n" + pem.replace(b"\n", b"\r\n") + make(utc(2020), utc(2040))
    assert pem_to_der(chain) == pem_to_der(pem)


@pytest.mark.parametrize(
    "junk", [b"", b"\x30", b"\x30\x80", b"\x30\x85\xff\xff\xff\xff\xff", b"\x30\x00" * 9]
)
def test_junk(junk: bytes) -> None:
    """What is no certificate."""
    with pytest.raises(ValueError, match=r"cut off|longer|values"):
        read_certificate(junk)
    with pytest.raises(ValueError, match="no certificate"):
        pem_to_der(junk)


def test_nothing_but_valueerror(pem: bytes) -> None:
    """Certificates come from strangers, too: cut off anywhere, and with any byte changed."""
    der = pem_to_der(pem)
    for end in range(len(der)):
        with pytest.raises(ValueError, match=r"cut off|longer|values"):
            read_certificate(der[:end])
    changes = random.Random(5280)
    for at in range(len(der)):
        changed = bytearray(der)
        changed[at] ^= changes.randrange(1, 256)
        try:
            read_certificate(bytes(changed))
        except ValueError:
            pass


def test_a_server_does_not_import_what_makes_certificates() -> None:
    """With files a server is spared the 8 MiB of `cryptography` and the 9 of asyncio; a client too."""
    program = (
        "import sys, quiche_h3; quiche_h3.Server, quiche_h3.Client;"
        "print(sorted({'cryptography', 'asyncio', 'ssl', 'click', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
