"""Cases of the interop runner that need real addresses and marks: against ourselves, between namespaces.

`make interop` runs all of them, three times and against others.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from net.relay import lacking

from .matrix.arena import run
from .matrix.peers import OURS
from .matrix.table import case_of

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))


@pytest.mark.parametrize("name", ["chacha20", "ecn", "connectionmigration"])
def test_case(name: str, tmp_path: Path) -> None:
    """The files are right, and what the relay and the qlogs have seen is what the case asks for."""
    result = run(case_of(name), OURS, OURS, 1, tmp_path)
    assert (result.outcome, result.problems) == ("passed", [])
