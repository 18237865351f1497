"""What an X.509 certificate says (RFC 5280): its key, from when until when it is valid, whom it is for.

Read, not judged: whether a certificate can be used, and whether it is to be trusted, the TLS library says. A
package that knows all about certificates costs a process 8 MiB of memory.
"""

from __future__ import annotations

import binascii
import datetime
import ipaddress
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_PEM: Final = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END ", re.DOTALL)

# Tags of DER (X.690 8.1.2), and of GeneralName (RFC 5280 4.2.1.6).
_UTC_TIME: Final = 0x17
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_DNS_NAME: Final = 0x82
_IP_ADDRESS: Final = 0x87

_SUBJECT_ALTERNATIVE_NAME: Final = b"\x55\x1d\x11"  # 2.5.29.17

_TIME_PARTS: Final = ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14))


class Certificate(NamedTuple):
    """What is in a certificate, as far as it matters here."""

    der: bytes
    """The whole of it."""
    public_key: bytes
    """Its SubjectPublicKeyInfo, in DER."""
    not_before: datetime.datetime
    """The first second of its validity, in UTC."""
    not_after: datetime.datetime
    """The last second of its validity, in UTC."""
    names: list[str]
    """The host names it is for, as it gives them: `*.` may stand before one."""
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address]
    """The IP addresses it is for."""


class _Element(NamedTuple):
    tag: int
    der: bytes
    """With its tag and length."""
    content: bytes


def pem_to_der(pem: bytes) -> bytes:
    """The first certificate of a PEM file, as it is. Raises ValueError where there is none."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("there is no certificate in PEM")
    return binascii.a2b_base64(found[1])


def read_certificate(der: bytes) -> Certificate:
    """Reads a certificate. Raises ValueError for what is none."""
    try:
        certificate = next(_elements(der))  # something of OpenSSL's own follows its "trusted" ones
        fields = list(_elements(next(_elements(certificate.content)).content))
        if fields[0].tag == _VERSION:  # absent in version 1
            del fields[0]
        _serial, _algorithm, _issuer, validity, _subject, public_key, *rest = fields
        not_before, not_after = map(_time, _elements(validity.content))
        names = [name for field in rest if field.tag == _EXTENSIONS for name in _alternatives(field)]
        return Certificate(
            der=certificate.der,
            public_key=public_key.der,
            not_before=not_before,
            not_after=not_after,
            names=[name.content.decode("ascii") for name in names if name.tag == _DNS_NAME],
            addresses=[ipaddress.ip_address(name.content) for name in names if name.tag == _IP_ADDRESS],
        )
    except (IndexError, StopIteration):
        raise ValueError("the certificate is cut off") from None


def _elements(der: bytes) -> Iterator[_Element]:
    """The values that stand one behind the other in `der`. Raises ValueError, or IndexError at its end."""
    at = 0
    while at < len(der):
        begin = at + 2
        length = der[at + 1]
        if length & 0x80:  # the long form (X.690 8.1.3.5): this many bytes hold it
            count = length & 0x7F
            length = int.from_bytes(der[begin : begin + count], "big")
            begin += count
        end = begin + length
        if end > len(der):
            raise ValueError("a value is longer than what holds it")
        yield _Element(der[at], der[at:end], der[begin:end])
        at = end


def _alternatives(extensions: _Element) -> list[_Element]:
    """The names of the subject alternative name extension (RFC 5280 4.2.1.6), if there is one."""
    for extension in _elements(next(_elements(extensions.content)).content):
        identifier, *_critical, value = _elements(extension.content)
        if identifier.content == _SUBJECT_ALTERNATIVE_NAME:
            return list(_elements(next(_elements(value.content)).content))
    return []


def _time(element: _Element) -> datetime.datetime:
    """UTCTime or GeneralizedTime: to the second, in UTC (RFC 5280 4.1.2.5)."""
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    year, month, day, hour, minute, second = (int(text[i:j]) for i, j in _TIME_PARTS)
    return datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.timezone.utc)
