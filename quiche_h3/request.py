"""The request as a handler sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from .body import Body
from .conditional import parse_range
from .headers import Headers
from .priorities import Priority as Priority

if TYPE_CHECKING:
    from ._core.connection import Connection
    from ._core.http3_stream import Stream

Address = tuple[str, int]


class Request:
    """One request. What a handler does not look at is never made."""

    __slots__ = ("_fields", "_headers", "_stream", "body", "params", "state", "trailers")

    def __init__(self, stream: Stream, params: dict[str, str], body: Body) -> None:
        self._stream = stream
        self._fields = stream.fields
        self._headers: Headers | None = None
        self.params = params
        """The pattern's parameters, decoded."""
        self.body: Any = body
        """The body: `Body`; in async handlers `AsyncBody`, in blocking ones `BlockingBody`."""
        self.trailers: Headers | None = None
        """The fields after the body, once it was read to its end; None when there were none."""
        self.state: Any = None
        """The program's own, e.g. what a middleware found out."""

    @property
    def method(self) -> str:
        """The method, e.g. ``"GET"``."""
        return (self._fields.method or b"").decode("latin-1")

    @property
    def scheme(self) -> str:
        """``"https"``; empty for CONNECT."""
        return (self._fields.scheme or b"").decode("latin-1")

    @property
    def authority(self) -> str:
        """Host and port that the client addressed, e.g. ``"example.com:4433"``."""
        return (self._fields.authority or b"").decode("latin-1")

    @property
    def raw_path(self) -> bytes:
        """The `:path` as it came, query included."""
        return self._fields.path or b""

    @property
    def path(self) -> str:
        """The path without query, percent-decoded."""
        return unquote(self.raw_path.partition(b"?")[0].decode("latin-1"), "utf-8", "replace")

    @property
    def query_string(self) -> str:
        """What follows the first ``?``, as it came."""
        return self.raw_path.partition(b"?")[2].decode("latin-1")

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, decoded; of one given several times the first."""
        return {name: values[0] for name, values in self.query_lists.items()}

    @property
    def query_lists(self) -> dict[str, list[str]]:
        """The query's parameters with all their values."""
        return parse_qs(self.query_string, keep_blank_values=True)

    @property
    def headers(self) -> Headers:
        """The header fields, case-insensitive; `headers.raw` has them as bytes."""
        if self._headers is None:
            self._headers = Headers(self._fields.pairs())
        return self._headers

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """The (start, length) pairs that the Range field asks for of `size` bytes of content (RFC 9110 14.2).

        Empty without the field: then, and wherever a program likes it better, all of it is the answer (200).
        Raises NonBytesUnit, Malformed, InvalidRange (one ends before it begins), MultiRange (more than 16, or
        they overlap) and Unsatisfiable (all beyond the end). A handler that lets them pass has answered with
        400 or 416. `res.send_file()` looks at the field by itself.
        """
        value = self.headers.get("range")
        return [] if value is None else parse_range(value, size)

    @property
    def content_length(self) -> int | None:
        """What the content-length field says, or None."""
        return None if self._fields.content_length < 0 else self._fields.content_length

    @property
    def protocol(self) -> str | None:
        """What an extended CONNECT is for (RFC 9220), e.g. ``"websocket"``; None for all else."""
        protocol = self._fields.protocol
        return None if protocol is None else protocol.decode("latin-1")

    @property
    def capsule_protocol(self) -> bool:
        """The bodies are made of capsules (RFC 9297 3): an extended CONNECT, or `capsule-protocol: ?1`."""
        return self._fields.protocol is not None or self.headers.get("capsule-protocol") == "?1"

    @property
    def priority(self) -> Priority:
        """What the client asks for: by the priority field, or by its last PRIORITY_UPDATE (RFC 9218)."""
        return Priority(*self._stream.priority)

    def take_last_priority_update(self) -> str | None:
        """The value of the last PRIORITY_UPDATE that came since this was asked, None when none did."""
        value: bytes | None = self._stream.take_last_priority_update()
        return None if value is None else value.decode("latin-1")

    @property
    def connection(self) -> Connection:
        """The connection it came on."""
        return self._stream.connection

    @property
    def conn_id(self) -> int:
        """Number of the connection, unique within the server."""
        return self._stream.connection.id

    @property
    def stream_id(self) -> int:
        """QUIC stream ID of the request."""
        return self._stream.id

    @property
    def peer_address(self) -> Address:
        """(host, port) of the client."""
        return self._stream.connection.peer_address

    @property
    def local_address(self) -> Address:
        """(host, port) the client reached."""
        return self._stream.connection.local_address

    @property
    def early_data(self) -> bool:
        """It may be a replay: it came before the end of the handshake, or a gateway says so (RFC 8470)."""
        return self._stream.early_data or self.headers.get("early-data") == "1"

    @property
    def client_certificate(self) -> bytes | None:
        """The client's certificate in DER, verified where `verify_peer` is set; None if it has shown none."""
        return self._stream.connection.peer_certificate

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.raw_path.decode('latin-1')} stream {self.stream_id}>"
