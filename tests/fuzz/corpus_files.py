"""The corpus: for each target a file of inputs, one in each line, in hexadecimal digits."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).with_name("corpus")


def load(name: str) -> list[bytes]:
    """The inputs kept for a target."""
    path = DIRECTORY / f"{name}.hex"
    return [bytes.fromhex(line) for line in path.read_text().splitlines()] if path.exists() else []


def save(name: str, inputs: list[bytes]) -> None:
    """Keeps these, shortest first."""
    lines = sorted({data.hex() for data in inputs}, key=lambda line: (len(line), line))
    (DIRECTORY / f"{name}.hex").write_text("".join(f"{line}\n" for line in lines))
