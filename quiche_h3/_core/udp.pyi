from __future__ import annotations

import socket
from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class UdpSocket:
    def __init__(
        self,
        sock: socket.socket | None = None,
        *,
        batch: int = 16,
        slot: int = 65536,
        gro: bool = True,
        gso: bool = True,
        txtime: bool = False,
        memory: tuple[str, int] | None = None,
    ) -> None: ...
    @property
    def warned_gso(self) -> bool: ...
    @property
    def address(self) -> tuple[str, int]: ...
    @property
    def blocked(self) -> bool: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    def take(self) -> list[tuple[bytes, tuple[str, int], tuple[str, int]]]: ...
    def note_fallback(self) -> None: ...
    def counters(self) -> dict[str, Any]: ...
