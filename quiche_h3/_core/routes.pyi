from typing_extensions import disjoint_base

from .stateless import StatelessAnswers

@disjoint_base
class Routes:
    def __init__(self, answers: StatelessAnswers) -> None: ...
