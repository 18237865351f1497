"""Extensible priorities (RFC 9218): what a Priority field value says."""

from __future__ import annotations

from typing import NamedTuple


class Priority(NamedTuple):
    """How the client ranks a response (RFC 9218 4): urgency 0 (first) to 7, and whether parts are of use."""

    urgency: int = 3
    incremental: bool = False

    @classmethod
    def parse(cls, value: str) -> Priority:
        """Reads a Priority field value; what is not understood keeps its default (RFC 9218 4)."""
        urgency, incremental = 3, False
        for item in value.split(","):
            key, _, text = item.partition(";")[0].strip().partition("=")
            if key == "u" and text in ("0", "1", "2", "3", "4", "5", "6", "7"):
                urgency = int(text)
            elif key == "i" and text in ("", "?0", "?1"):
                incremental = text != "?0"
        return cls(urgency, incremental)
