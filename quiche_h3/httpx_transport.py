"""HTTP/3 for httpx: `httpx.Client(transport=quiche_h3.HTTPX3Transport())`, and its twin for asyncio.

Needs httpx, which `pip install quiche-h3[httpx]` brings along.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

from .async_client import AsyncClient
from .async_messages import AsyncClientResponse
from .client import Client
from .client_messages import ClientResponse
from .client_verbs import RequestOptions
from .config import ClientConfig
from .errors import (
    ConnectError,
    ConnectionClosed,
    H3ErrorCode,
    InvalidState,
    QuicErrorCode,
    StreamingError,
    StreamReset,
    TimedOut,
)
from .tickets import TicketStore
from .timeouts import Timeouts

# RFC 9114 4.2: what is about a connection of HTTP/1.1 is not sent.
_DROPPED: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_NO_FAULT: Final = (H3ErrorCode.H3_NO_ERROR, H3ErrorCode.H3_REQUEST_CANCELLED, QuicErrorCode.NO_ERROR)
_TIMEOUTS: Final = {
    "connect": httpx.ConnectTimeout,
    "pool": httpx.PoolTimeout,
    "write": httpx.WriteTimeout,
    "read": httpx.ReadTimeout,
}


class HTTPX3Transport(httpx.BaseTransport):
    """Sends the requests of an `httpx.Client` over HTTP/3, by a `quiche_h3.Client` with these arguments.

    httpx's own `verify`, `cert`, `http2` and `limits` do not reach a transport: say it here. Timeouts,
    redirects, cookies and authentication are httpx's as ever.
    """

    def __init__(
        self,
        *,
        verify: bool = True,
        cafile: str | None = None,
        config: ClientConfig | None = None,
        keep_alive_s: float | None = None,
        tickets: TicketStore | None = None,
    ) -> None:
        self.client = Client(
            verify=verify, cafile=cafile, config=config, keep_alive_s=keep_alive_s, tickets=tickets
        )
        """What sends the requests."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request. Raises httpx's exceptions."""
        _check_scheme(request)
        with _as_httpx(request):
            with _checking(request):
                sent = self.client.send(request.method, str(request.url), **_options(request))
            response = sent.response()
        return httpx.Response(
            response.status,
            headers=list(response.headers.raw),
            stream=_Stream(response, request),
            extensions=_extensions(response),
        )

    def close(self) -> None:
        """Closes every connection."""
        self.client.close()


class AsyncHTTPX3Transport(httpx.AsyncBaseTransport):
    """Sends the requests of an `httpx.AsyncClient` over HTTP/3, as `HTTPX3Transport` does."""

    def __init__(
        self,
        *,
        verify: bool = True,
        cafile: str | None = None,
        config: ClientConfig | None = None,
        keep_alive_s: float | None = None,
        tickets: TicketStore | None = None,
    ) -> None:
        self.client = AsyncClient(
            verify=verify, cafile=cafile, config=config, keep_alive_s=keep_alive_s, tickets=tickets
        )
        """What sends the requests."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request. Raises httpx's exceptions."""
        _check_scheme(request)
        with _as_httpx(request):
            with _checking(request):
                sent = await self.client.send(request.method, str(request.url), **_options(request))
            response = await sent.response()
        return httpx.Response(
            response.status,
            headers=list(response.headers.raw),
            stream=_AsyncStream(response, request),
            extensions=_extensions(response),
        )

    async def aclose(self) -> None:
        """Closes every connection."""
        await self.client.close()


class _Stream(httpx.SyncByteStream):
    def __init__(self, response: ClientResponse, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx(self._request):
            yield from self._response

    def close(self) -> None:
        self._response.close()


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, response: AsyncClientResponse, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for chunk in self._response:
                yield chunk

    async def aclose(self) -> None:
        self._response.close()


def _check_scheme(request: httpx.Request) -> None:
    if request.url.scheme != "https":
        raise httpx.UnsupportedProtocol(
            f"HTTP/3 is for https:// alone, not for {request.url.scheme or 'no scheme'}", request=request
        )


def _options(request: httpx.Request) -> RequestOptions:
    limits = request.extensions.get("timeout", {})
    body: Any = request.stream
    if isinstance(body, httpx.ByteStream):
        body = b"".join(body) or None
    return RequestOptions(
        headers=[(name, value) for name, value in request.headers.raw if name.lower() not in _DROPPED],
        data=body,
        timeout=Timeouts(**{phase: _seconds(limits.get(phase)) for phase in _TIMEOUTS}),
    )


def _seconds(limit: float | None) -> float | None:
    """httpx takes 0 for a limit: what is not there at once is too late."""
    return None if limit is None else max(limit, 1e-6)


def _extensions(response: ClientResponse | AsyncClientResponse) -> dict[str, Any]:
    """`quiche_h3_response` has what httpx has no name for: trailers, interim responses."""
    return {"http_version": b"HTTP/3", "quiche_h3_response": response}


@contextmanager
def _checking(request: httpx.Request) -> Iterator[None]:
    """What cannot be sent at all. What the source of a body raises later is the program's own."""
    try:
        yield
    except ValueError as exc:  # HeaderInvalid too
        raise httpx.LocalProtocolError(str(exc), request=request) from exc


@contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """Our exceptions as httpx's."""
    try:
        yield
    except TimedOut as exc:  # ConnectTimedOut too
        raise _TIMEOUTS[exc.phase](str(exc), request=request) from exc
    except ConnectError as exc:
        raise httpx.ConnectError(str(exc), request=request) from exc
    except InvalidState as exc:
        raise httpx.LocalProtocolError(str(exc), request=request) from exc
    except (StreamReset, ConnectionClosed) as exc:
        # The server has broken it off, or what came from it was wrong: then the code is ours.
        ours = not exc.remote and exc.code in _NO_FAULT
        raise (httpx.ReadError if ours else httpx.RemoteProtocolError)(str(exc), request=request) from exc
    except StreamingError as exc:
        raise httpx.WriteError(str(exc), request=request) from exc
