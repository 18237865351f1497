from __future__ import annotations

from typing import Any

from typing_extensions import disjoint_base

from .connection import Watch
from .http3 import Http3
from .http3_stream import Stream

@disjoint_base
class GuardLimits:
    def __init__(self, config: Any) -> None: ...

@disjoint_base
class Progress: ...

@disjoint_base
class Guard(Watch):
    def __init__(self, http3: Http3, limits: GuardLimits) -> None: ...
    def give_up(self, stream: Stream, call: str) -> None: ...
