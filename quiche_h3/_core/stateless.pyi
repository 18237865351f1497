from __future__ import annotations

from typing_extensions import disjoint_base

from .settings import EngineSettings
from .tokens import TokenKeys

@disjoint_base
class StatelessAnswers:
    def __init__(self, settings: EngineSettings, now: int) -> None: ...
    @property
    def keys(self) -> TokenKeys: ...
    def limit(self, now: int) -> None: ...
    def counters(self) -> dict[str, int]: ...
