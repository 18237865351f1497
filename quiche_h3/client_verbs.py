"""The methods that all clients have, waiting or awaited: `request()` by its usual names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypedDict, TypeVar

from .client_exchange import IDEMPOTENT_METHODS, SAFE_METHODS, ClientExchange, Prepared, content_of
from .errors import ConnectionClosed, H3ErrorCode, QuicErrorCode, RedirectError
from .request import Priority
from .timeouts import Timeout
from .urls import Redirect, redirect_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from typing_extensions import Unpack

    from .client_exchange import Chunk, Data, HeaderItems
    from .headers import Headers

R = TypeVar("R")

_NO_FAULT: Final = (H3ErrorCode.H3_NO_ERROR, QuicErrorCode.NO_ERROR)  # silence; else we close on its mistakes


class RequestOptions(TypedDict, total=False):
    """What every request takes besides method and URL."""

    headers: HeaderItems | None
    data: Data | AsyncIterable[Chunk] | None
    json: Any
    timeout: Timeout | None
    priority: Priority | None
    follow_redirects: bool


class Verbs(Generic[R]):
    """`request()` by its usual names. `R` is a response, or what is awaited for one."""

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> R:
        """Sends a request and waits for its response: for status and fields, not for the body."""
        raise NotImplementedError

    def get(self, url: str, **options: Unpack[RequestOptions]) -> R:
        """`request("GET", ...)`."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Unpack[RequestOptions]) -> R:
        """`request("HEAD", ...)`: status and fields as of GET, no body."""
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Unpack[RequestOptions]) -> R:
        """`request("OPTIONS", ...)`."""
        return self.request("OPTIONS", url, **options)

    def post(self, url: str, **options: Unpack[RequestOptions]) -> R:
        """`request("POST", ...)`."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Unpack[RequestOptions]) -> R:
        """`request("PUT", ...)`."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Unpack[RequestOptions]) -> R:
        """`request("PATCH", ...)`."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Unpack[RequestOptions]) -> R:
        """`request("DELETE", ...)`."""
        return self.request("DELETE", url, **options)


def may_send_again(prepared: Prepared, exchange: ClientExchange) -> bool:
    """A request whose body we still have, and that the server has not processed or may well process twice.

    RFC 9114 4.1.1 and 5.2: rejected, or beyond the GOAWAY. RFC 8470 5.2: too early. RFC 9110 9.2.2: what may
    be done twice, where its connection went before an answer: with the 0-RTT it was in, or as one that had
    served before and was found to be gone.
    """
    if prepared.body is None:
        return False
    error = exchange.error
    if error is None:
        return exchange.early  # answered with 425
    if exchange.unprocessed:
        return True
    if not isinstance(error, ConnectionClosed) or not (error.remote or error.code in _NO_FAULT):
        return False
    return prepared.method in (
        SAFE_METHODS if exchange.early else IDEMPOTENT_METHODS if exchange.reused else ()
    )


def next_request(
    status: int, headers: Headers, method: str, url: str, options: RequestOptions, done: int, limit: int
) -> tuple[str, str, RequestOptions] | None:
    """Method, URL and options of what a redirect asks for. Raises RedirectError where it cannot be sent."""
    redirect = redirect_of(status, headers.get("location"), method, url)
    if redirect is None:
        return None
    if done >= limit:
        raise RedirectError(f"more than {limit} redirects, the last one to {redirect.url}")
    if not redirect.url.startswith("https:"):
        raise RedirectError(f"a redirect leads to {redirect.url}, which is not https")
    if redirect.keeps_body and content_of(options.get("data"), options.get("json")).source is not None:
        raise RedirectError("a redirect asks for the body once more, and its source was read already")
    return redirect.method, redirect.url, _redirected(options, redirect)


def _redirected(options: RequestOptions, redirect: Redirect) -> RequestOptions:
    """The options for it: no unwanted body, no credentials for another origin (RFC 9110 15.4)."""
    dropped = {"host"}
    if not redirect.keeps_body:
        dropped |= {"content-length", "content-type", "content-encoding", "content-language"}
    if not redirect.same_origin:
        dropped |= {"authorization", "cookie", "proxy-authorization"}
    given = options.get("headers") or ()
    pairs = given.items() if hasattr(given, "items") else given
    kept = [(name, value) for name, value in pairs if _lower(name) not in dropped]
    result = RequestOptions(**options)
    result["headers"] = kept
    if not redirect.keeps_body:
        result["data"] = result["json"] = None
    return result


def _lower(name: str | bytes) -> str:
    return (name.decode("latin-1") if isinstance(name, bytes) else name).lower()
