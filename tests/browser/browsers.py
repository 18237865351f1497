"""Chromium and Firefox as the system has them, headless, driven by Playwright from the thread of the test."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from playwright.async_api import Browser as PlaywrightBrowser
from playwright.async_api import Page, Playwright, async_playwright

T = TypeVar("T")
Scenario = Callable[[Page], Awaitable[T]]

NAMES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
# Chromium's QUIC goes to ::1 alone for localhost, where the servers of the tests are not.
CHROMIUM_FLAGS = ("--host-resolver-rules=MAP localhost 127.0.0.1",)
MILLISECONDS = 20_000


class Browser:
    """A running browser. Each scenario gets a page in a profile of its own."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, browser: PlaywrightBrowser) -> None:
        self.name = name
        self.any_certificate = True
        """Pages are loaded whatever the certificate. WebTransport looks at it all the same."""
        self._loop = loop
        self._browser = browser

    @property
    def version(self) -> str:
        return self._browser.version

    def run(self, url: str, *scenarios: Scenario[T]) -> list[T]:
        """Opens `url` in a page for each scenario, runs them side by side, and returns their results.

        An error of a script that nobody catches fails the scenario.
        """
        return self._loop.run_until_complete(self._run(url, scenarios))

    def close(self) -> None:
        """Ends the browser before its launcher does."""
        self._loop.run_until_complete(self._browser.close())

    async def _run(self, url: str, scenarios: Sequence[Scenario[T]]) -> list[T]:
        return list(await asyncio.gather(*(self._scenario(url, scenario) for scenario in scenarios)))

    async def _scenario(self, url: str, scenario: Scenario[T]) -> T:
        context = await self._browser.new_context(
            ignore_https_errors=self.any_certificate, viewport={"width": 900, "height": 900}
        )
        context.set_default_timeout(MILLISECONDS)
        errors: list[str] = []
        try:
            page = await context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(url)
            result = await scenario(page)
        finally:
            await context.close()
        assert not errors, errors
        return result

    def evaluate(self, url: str, script: str, argument: Any = None) -> Any:
        """The JSON value that a JavaScript function returns, called with `argument` in the page of `url`."""
        return self.run(url, lambda page: page.evaluate(script, argument))[0]


class Launcher:
    """Starts browsers, and ends all of them on `close()`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._context = async_playwright()
        self._playwright: Playwright = self._loop.run_until_complete(self._context.__aenter__())

    def launch(self, name: str, flags: Sequence[str] = CHROMIUM_FLAGS) -> Browser:
        """A browser of the system; `flags` are Chromium's. Raises FileNotFoundError where it is not there."""
        program = next(filter(None, map(shutil.which, NAMES[name])), None)
        if program is None:
            raise FileNotFoundError(f"{name} is not installed (on Debian: apt-get install {NAMES[name][0]})")
        return self._loop.run_until_complete(self._launch(name, program, flags))

    async def _launch(self, name: str, program: str, flags: Sequence[str]) -> Browser:
        if name == "chromium":
            browser = await self._playwright.chromium.launch(executable_path=program, args=list(flags))
        else:
            # The unpatched Firefox, over WebDriver BiDi.
            browser = await self._playwright.firefox.launch(channel="moz-firefox", executable_path=program)
        return Browser(name, self._loop, browser)

    def close(self) -> None:
        self._loop.run_until_complete(self._context.__aexit__(None, None, None))
        self._loop.close()
