"""The tables of docs/ that name the test of each row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NAMED = re.compile(r"`((?:\w+/)*\w+\.py)(?:::(\w+))?`(: (?:`test_\w+`(?:, )?)+)?")


@pytest.mark.parametrize("page", ["attacks.md", "faults.md"])
def test_named_tests_exist(page: str) -> None:
    """Each file and each test that a row names is there."""
    found = 0
    for file, name, more in NAMED.findall((TESTS.parent / "docs" / page).read_text()):
        source = (TESTS / file).read_text()
        for test in filter(None, [name, *re.findall(r"test_\w+", more)]):
            assert f"def {test}(" in source, f"{file} has no {test}"
            found += 1
    assert found > 20
