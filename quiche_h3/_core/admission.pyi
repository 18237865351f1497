from __future__ import annotations

from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Host: ...

@disjoint_base
class Admission:
    def __init__(self, config: Any, *, server: bool) -> None: ...
    def configure(self, config: Any) -> None: ...
    def counters(self) -> dict[str, int]: ...
