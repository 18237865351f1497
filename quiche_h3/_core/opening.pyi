from typing_extensions import disjoint_base

from .admission import Admission
from .connection import Connection
from .routes import Routes
from .settings import EngineSettings
from .stateless import StatelessAnswers

@disjoint_base
class Opening:
    def __init__(
        self, settings: EngineSettings, answers: StatelessAnswers, routes: Routes, *, server: bool
    ) -> None: ...
    @property
    def answers(self) -> StatelessAnswers: ...
    @property
    def admission(self) -> Admission: ...
    @property
    def connections(self) -> dict[int, Connection]: ...
