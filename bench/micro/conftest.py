"""A real request to look at, and nothing in the stored figures that names a machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from instructions import Answer, Pair

from quiche_h3 import Request, Response


class Captured:
    """Two endpoints, and the last request and response that the server saw."""

    def __init__(self, folder: Path) -> None:
        self.pair = Pair(folder)
        self.pair.app.get("/hold")(self.hold)
        self.pair.app.compile()
        self.connection = self.pair.connect()
        self.request: Request
        self.response: Response
        Answer(self.pair.receiver, self.connection, b"/hold")
        self.pair.pump(lambda: hasattr(self, "request"))

    def hold(self, req: Request, res: Response) -> None:
        self.request, self.response = req, res
        res.defer()


@pytest.fixture
def captured(tmp_path: Path) -> Captured:
    """A request that waits for its answer, on a live connection."""
    return Captured(tmp_path)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """The baseline is published: a processor and a version say enough."""
    for name in ("node", "release", "system", "processor"):
        machine_info.pop(name, None)
    machine_info["cpu"] = {"brand_raw": machine_info.get("cpu", {}).get("brand_raw")}


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    """Nor does it say who measured what when."""
    commit_info.clear()
