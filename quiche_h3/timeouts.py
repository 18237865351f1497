"""How long a client waits, phase by phase."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a client waits at most in each phase; None for no limit."""

    connect: float | None = 30.0
    """For a connection: name, handshake, certificate. `ClientConfig.connect_timeout_ms` limits it besides."""
    pool: float | None = 30.0
    """For a place among the client's connections while `max_connections` are busy."""
    write: float | None = 30.0
    """For the server to take a piece of the request's body."""
    read: float | None = 30.0
    """For the response to begin, and for each further piece of it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(
                    f"timeout: {value!r} is not above 0; use seconds for {field.name}, or None for no limit"
                )

    @classmethod
    def all(cls, seconds: float | None) -> Timeouts:
        """The same limit for every phase."""
        return cls(seconds, seconds, seconds, seconds)

    def seconds(self, phase: str) -> float:
        """The limit of a phase, infinite for none."""
        value: float | None = getattr(self, phase)
        return math.inf if value is None else value


Timeout = float | Timeouts
"""What calls take as `timeout`: seconds for every phase, or each its own."""


def timeouts_of(given: Timeout | None, default: Timeouts) -> Timeouts:
    """The limits that a call was given. Raises ValueError for one that is not above 0."""
    if given is None:
        return default
    return given if isinstance(given, Timeouts) else Timeouts.all(given)
