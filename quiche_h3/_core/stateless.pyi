from __future__ import annotations

from typing import Any

from typing_extensions import disjoint_base

from .settings import EngineSettings
from .tokens import TokenKeys

@disjoint_base
class StatelessAnswers:
    def __init__(self, settings: EngineSettings, now: int, *, server: bool) -> None: ...
    @property
    def keys(self) -> TokenKeys: ...
    def take_settings(self, settings: EngineSettings) -> None: ...
    def configure(self, config: Any, now: int) -> None: ...
    def counters(self) -> dict[str, int]: ...
