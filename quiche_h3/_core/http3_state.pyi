from __future__ import annotations

from typing import Any

from typing_extensions import disjoint_base

from .http3_stream import Stream
from .streams import RequestProtocol

@disjoint_base
class Http3Counters:
    def as_dict(self) -> dict[str, Any]: ...

@disjoint_base
class Claims: ...

@disjoint_base
class Http3State(RequestProtocol):
    claims: Claims | None
    keeps_lengths: bool
    @property
    def highest_request(self) -> int: ...
    @property
    def streams(self) -> dict[int, Stream]: ...
    @property
    def datagrams_enabled_by_peer(self) -> bool: ...
    def send_datagram(self, payload: bytes) -> None: ...
    def goaway(self) -> None: ...
