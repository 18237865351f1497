"""Fixtures: the browsers. A test is skipped only where its browser is not installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: pip install 'quiche-h3[test]'")

from .browsers import Browser, Launcher


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    try:
        yield launcher
    finally:
        launcher.close()


@pytest.fixture(scope="session")
def chromium(launcher: Launcher) -> Browser:
    try:
        return launcher.launch("chromium")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def firefox(launcher: Launcher) -> Browser:
    try:
        return launcher.launch("firefox")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=["chromium", "firefox"])
def browser(request: pytest.FixtureRequest) -> Browser:
    """Each of the browsers."""
    browser: Browser = request.getfixturevalue(request.param)
    return browser
