from typing_extensions import disjoint_base

from .routes import Routes
from .settings import EngineSettings
from .stateless import StatelessAnswers

@disjoint_base
class Opening:
    def __init__(
        self, settings: EngineSettings, answers: StatelessAnswers, routes: Routes, *, server: bool
    ) -> None: ...
