from __future__ import annotations

from collections.abc import Sequence
from io import FileIO
from typing import Any
from typing import Protocol as _Interface

from typing_extensions import disjoint_base

from .tokens import TokenKeys

class _Certificate(_Interface):
    @property
    def cert_path(self) -> str: ...
    @property
    def key_path(self) -> str: ...

class _NamedCertificate(_Certificate, _Interface):
    @property
    def names(self) -> list[str]: ...

@disjoint_base
class EngineSettings:
    def __init__(
        self,
        config: Any,
        certificate: _Certificate | None = None,
        webtransport: bool = False,
        others: Sequence[_NamedCertificate] = (),
        keys: TokenKeys | None = None,
    ) -> None: ...
    @property
    def webtransport(self) -> bool: ...
    @property
    def extended_connect(self) -> bool: ...
    @property
    def keys(self) -> TokenKeys: ...
    @property
    def config(self) -> Any: ...
    @property
    def keylog(self) -> FileIO | None: ...
    @property
    def qlog_dir(self) -> str | None: ...
    @property
    def connection_id_length(self) -> int: ...
    @property
    def handshake_timeout_ns(self) -> int: ...
    @property
    def max_burst(self) -> int: ...
    @property
    def max_train(self) -> int: ...
    @property
    def max_packet(self) -> int: ...
    def close(self) -> None: ...
