"""https URLs as a client needs them: the origin, the request target, and where a redirect leads."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

_DEFAULT_PORT: Final = 443
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_PATH_SAFE: Final = "/?:@!$&'()*+,;=-._~%[]"  # RFC 3986 3.3 and 3.4; % so that what is encoded stays so
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class Origin(NamedTuple):
    """What an https URL says about the server."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as `:authority` has them, without the default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORT else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """``"https://host:port"``, without the default port."""
        return f"https://{self.authority}"


def parse_url(url: str) -> tuple[Origin, str]:
    """The origin of an absolute https URL and its path and query. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"{url!r} is not a URL: {exc}") from None
    if parts.scheme != "https" or not host:
        raise ValueError(f"{url!r} is not a URL that starts with https:// and names a host")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{url!r}: {host!r} is not a host name") from None
    if not host.replace("%", "").isprintable() or " " in host:
        raise ValueError(f"{url!r}: {host!r} is not a host name")
    query = f"?{parts.query}" if parts.query else ""
    return Origin(host, _DEFAULT_PORT if port is None else port), (parts.path or "/") + query


def request_target(url: str) -> str:
    """Path and query as they go into `:path`, percent-encoded where they must be."""
    return quote(url.partition("#")[0], safe=_PATH_SAFE)


def check_method(method: str) -> None:
    """Raises ValueError for what cannot be sent as a method."""
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"{method!r} is not a method: it must be a token (RFC 9110 9.1)")
    if method == "CONNECT":
        raise ValueError("CONNECT opens a tunnel, which this client has not got")


class Redirect(NamedTuple):
    """The request that a redirect asks for."""

    method: str
    url: str
    """Absolute; it may be of another scheme than https."""
    keeps_body: bool
    same_origin: bool
    """The credentials may go along."""


def redirect_of(status: int, location: str | None, method: str, url: str) -> Redirect | None:
    """Where a response to `method` of the absolute `url` leads; None for one that leads nowhere.

    303, and by custom 301 and 302 after POST, ask for a GET without the body (RFC 9110 15.4).
    """
    if status not in _REDIRECTS or location is None:
        return None
    try:
        target = urljoin(url, location)
        there = urlsplit(target)
        here = urlsplit(url)
        same = (there.scheme, there.hostname, there.port or _DEFAULT_PORT) == (
            here.scheme,
            here.hostname,
            here.port or _DEFAULT_PORT,
        )
    except ValueError:
        return None
    if here.fragment and not there.fragment:
        target += f"#{here.fragment}"
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        return Redirect("GET", target, False, same)
    return Redirect(method, target, True, same)
