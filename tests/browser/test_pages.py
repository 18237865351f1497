"""Browsers come to plain pages: over TCP at first, over HTTP/3 as the command line says."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import Page

from .browsers import Browser, Launcher

pytestmark = pytest.mark.slow

PROTOCOL = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
COMMAND = [sys.executable, "-m", "quiche_h3", "serve", "--dev-cert", "--tcp", "--port", "0"]


def banner(process: subprocess.Popen[str]) -> str:
    """What `quiche-h3 serve` says at its start, up to the last line that it says."""
    assert process.stdout is not None
    lines: list[str] = []
    while "any browser" not in "".join(lines):
        line = process.stdout.readline()
        assert line, lines
        lines.append(line)
    return "".join(lines)


def test_first_visit(browser: Browser, tmp_path: Path) -> None:
    """A browser with no flags gets the page over TCP, of the one server that there is."""
    (tmp_path / "index.html").write_text("<!doctype html><title>First</title><p id=here>here")
    with subprocess.Popen(
        [*COMMAND, "--host", "127.0.0.1", "--directory", str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            url = re.search(r"https://\S+", banner(process))
            assert url is not None

            async def scenario(page: Page) -> tuple[str | None, str]:
                return await page.text_content("#here"), await page.evaluate(PROTOCOL)

            assert browser.run(url[0], scenario) == [("here", "http/1.1")]
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def test_flags_of_the_command_line(launcher: Launcher, chromium: Browser, tmp_path: Path) -> None:
    """With exactly the flags that `serve --dev-cert` prints, Chrome gets its first page over HTTP/3."""
    (tmp_path / "index.html").write_text("<!doctype html><title>Flags</title>")
    for host in ("127.0.0.1", "::"):
        with subprocess.Popen(
            [*COMMAND, "--host", host, "--directory", str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                told = re.search(r"google-chrome (.*?)\n\n", banner(process), re.DOTALL)
                assert told is not None
                _profile, *flags, url = shlex.split(told[1].replace("\\\n", ""))
                chrome = launcher.launch("chromium", flags)
                chrome.any_certificate = False
                assert chrome.evaluate(url, f"() => {PROTOCOL}") == "h3"
            finally:
                process.send_signal(signal.SIGINT)
        assert process.returncode == 0
