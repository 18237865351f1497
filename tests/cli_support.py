"""The command line as a process of its own: what tests of its commands share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "quiche_h3"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("QUICHE_H3_", "H3_"))}


def run(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=cwd,
        env={**CLEAN, **environment},
    )
