"""What a request asks of a representation: preconditions, ranges, content codings (RFC 9110 12 to 14)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timezone
from email.utils import formatdate, parsedate_to_datetime
from typing import Final

from .errors import InvalidRange, Malformed, MultiRange, NonBytesUnit, Unsatisfiable
from .headers import Headers

MAX_RANGES: Final = 16

_ENTITY_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')  # RFC 9110 8.8.3
_RANGE: Final = re.compile(r"([0-9]{0,32})-([0-9]{0,32})")
_QVALUE: Final = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")  # RFC 9110 12.4.2


@dataclass(slots=True, frozen=True)
class Validators:
    """What tells one state of a representation from another: a strong entity tag, and seconds since 1970."""

    etag: str
    modified: int

    @property
    def last_modified(self) -> str:
        """The Last-Modified field value."""
        return formatdate(self.modified, usegmt=True)


def precondition_status(request_headers: Headers, validators: Validators) -> int | None:
    """412 or 304 when a precondition of a GET or HEAD says so, else None; in the order of RFC 9110 13.2.2."""
    if (if_match := request_headers.get("if-match")) is not None:
        if if_match.strip() != "*" and validators.etag not in _ENTITY_TAG.findall(if_match):
            return 412
    elif (since := _date(request_headers, "if-unmodified-since")) is not None and validators.modified > since:
        return 412
    if (if_none_match := request_headers.get("if-none-match")) is not None:
        tags = [tag.removeprefix("W/") for tag in _ENTITY_TAG.findall(if_none_match)]
        return 304 if if_none_match.strip() == "*" or validators.etag in tags else None
    since = _date(request_headers, "if-modified-since")
    return 304 if since is not None and validators.modified <= since else None


def range_applies(request_headers: Headers, validators: Validators) -> bool:
    """Whether If-Range, if any, lets a Range count: by the strong tag or the exact date (RFC 9110 13.1.5)."""
    value = request_headers.get("if-range")
    if value is None:
        return True
    if '"' in value:
        return value.strip() == validators.etag
    return _date(request_headers, "if-range") == validators.modified


def parse_range(value: str, size: int, *, limit: int = MAX_RANGES) -> list[tuple[int, int]]:
    """The (start, length) pairs, in the order asked for, that a Range field value means for `size` bytes.

    Ranges beyond the end are left out and others cut there. Raises NonBytesUnit; Malformed for what is no
    list of ranges; InvalidRange when one ends before it begins; MultiRange for more than `limit` ranges or
    for overlapping ones that come to more than `size` (RFC 9110 17.15); Unsatisfiable when none is left.
    """
    unit, equals, ranges = value.strip().partition("=")
    if not equals:
        raise Malformed
    if unit.lower() != "bytes":
        raise NonBytesUnit
    specs = [spec for item in ranges.split(",") if (spec := item.strip(" \t"))]
    if len(specs) > limit:
        raise MultiRange(f"more than {limit} ranges are requested")
    found = []
    for spec in specs:
        match = _RANGE.fullmatch(spec)
        if match is None or spec == "-":
            raise Malformed
        first, last = match.groups()
        if not first:
            start, end = max(0, size - int(last)), size
        else:
            start, end = int(first), min(size, int(last) + 1 if last else size)
            if last and int(last) < start:
                raise InvalidRange
        if start < end:
            found.append((start, end - start))
    if not specs:
        raise Malformed
    if not found:
        raise Unsatisfiable
    if sum(length for _, length in found) > size:
        raise MultiRange("the requested ranges overlap")
    return found


def acceptable_codings(accept_encoding: str | None, offered: Iterable[str]) -> list[str]:
    """Those of the offered content codings that may be sent, the client's favourite first (RFC 9110 12.5.3).

    Equals come in the order of `offered`. One that the client likes less than no coding at all is left out;
    without the field there is none.
    """
    quality: dict[str, float] = {}
    for item in (accept_encoding or "").lower().split(","):
        coding, *parameters = (part.strip(" \t") for part in item.split(";"))
        weight = parameters[0].removeprefix("q=") if parameters else "1"
        if _QVALUE.fullmatch(weight):
            quality[coding.removeprefix("x-")] = float(weight)
    lowest = quality.get("identity", 0.0)
    weighed = [(quality.get(coding, quality.get("*", 0.0)), coding) for coding in offered]
    weighed = [(weight, coding) for weight, coding in weighed if weight > 0 and weight >= lowest]
    return [coding for _, coding in sorted(weighed, key=lambda pair: -pair[0])]


def _date(request_headers: Headers, name: str) -> int | None:
    """An HTTP-date in any of its three forms (RFC 9110 5.6.7) as seconds since 1970, else None."""
    try:
        when = parsedate_to_datetime(request_headers[name])
        return int((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())
    except (LookupError, ValueError, TypeError, OverflowError):
        return None
