from typing_extensions import disjoint_base

from .settings import EngineSettings

@disjoint_base
class SendPass:
    def __init__(self, settings: EngineSettings) -> None: ...
