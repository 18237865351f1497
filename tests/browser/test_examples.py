"""The example applications in browsers, served by the command line as their first lines say."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from .browsers import Browser

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
OPEN = "#status[data-state=open]"


@contextmanager
def served(name: str) -> Iterator[str]:
    """The URL of an example, which must end with exit code 0 at once, sessions or not."""
    command = [sys.executable, "-m", "quiche_h3", "serve", f"{EXAMPLES / name}:server", "--port", "0"]
    options = ["--host", "127.0.0.1", "--no-access-log", "--set", "drain_timeout_ms=500"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"https://\S+", process.stdout.readline())
        try:
            assert found is not None
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
    assert process.returncode == 0


def test_every_example_is_tested() -> None:
    """No example with a page is forgotten here."""
    names = {path.name for path in EXAMPLES.iterdir() if (path / "page").is_dir()}
    tests = {name.split("_")[1] for name in globals() if name.startswith("test_")}
    assert names == tests - {"every"}


def test_counter(browser: Browser) -> None:
    """All three buttons show how many bytes the server has counted, UTF-8 and 1 MB included."""

    async def scenario(page: Page) -> list[list[str]]:
        await page.wait_for_selector(OPEN)
        for text, kinds in (("Grüße!", ["datagram", "uni", "bidi"]), ("x" * 1_000_000, ["uni", "bidi"])):
            await page.fill("#text", text)
            for kind in kinds:
                await page.click(f"[data-send={kind}]")
        await page.wait_for_function("document.querySelectorAll('tr[data-answer]').length === 5")
        rows: list[list[str]] = await page.evaluate(
            "[...document.querySelectorAll('tr[data-answer]')].map("
            "(row) => [row.dataset.kind, row.dataset.answer])"
        )
        return rows

    with served("counter/counter.py") as url:
        [rows] = browser.run(url, scenario)
    expected = [["datagram", "8"], ["uni", "8"], ["bidi", "8"], ["uni", "1000000"], ["bidi", "1000000"]]
    assert rows[::-1] == expected


def test_counter_says_what_is_lost(browser: Browser) -> None:
    """A datagram that no packet holds is shown as lost; the session goes on."""

    async def scenario(page: Page) -> str | None:
        await page.wait_for_selector(OPEN)
        await page.fill("#text", "x" * 5000)
        await page.click("[data-send=datagram]")
        await page.wait_for_selector("tr[data-answer='']")
        lost = await page.text_content("tr[data-answer=''] td:nth-child(3)")
        await page.click("[data-send=bidi]")
        await page.wait_for_selector("tr[data-answer='5000']")
        return lost

    with served("counter/counter.py") as url:
        assert browser.run(url, scenario) == ["lost"]


def test_clicker(browser: Browser) -> None:
    """Three players, each in another way: everybody's score is on everybody's board."""
    clicks = {"ann": (7, "bidi"), "Jürgen": (5, "datagram"), "bob": (3, "uni")}
    board = [["1", "ann", "7"], ["2", "Jürgen", "5"], ["3", "bob", "3"]]

    def player(name: str) -> Any:
        async def scenario(page: Page) -> None:
            count, way = clicks[name]
            await page.wait_for_selector(f"{OPEN}, #click:enabled")
            await page.fill("#name", name)
            await page.select_option("#way", way)
            for click in range(count):
                await page.click("#click")
                await page.wait_for_function(
                    f"document.getElementById('score').textContent === '{click + 1}'"
                )
            await page.wait_for_function(
                "(board) => JSON.stringify([...document.querySelectorAll('#board tr')].map((row) =>"
                " [...row.cells].map((cell) => cell.textContent))) === JSON.stringify(board)",
                arg=board,
            )
            assert await page.text_content("tr.me td:nth-child(2)") == name

        return scenario

    with served("clicker/clicker.py") as url:
        browser.run(url, *map(player, clicks))


def test_clicker_without_a_name(browser: Browser) -> None:
    """A click without a name is answered with status 400, which the page shows; then all goes on."""

    async def scenario(page: Page) -> None:
        await page.wait_for_selector("#click:enabled")
        await page.fill("#name", " ")
        await page.click("#click")
        await page.wait_for_function("document.getElementById('latency').textContent.includes('name')")
        await page.fill("#name", "ann")
        await page.click("#click")
        await page.wait_for_function("document.getElementById('score').textContent === '1'")

    with served("clicker/clicker.py") as url:
        browser.run(url, scenario)


def test_chat(browser: Browser) -> None:
    """Two in a room and one in another: what is said stays there, who is there is seen, who goes is gone."""

    async def members(page: Page, *names: str) -> None:
        await page.wait_for_function(
            "(names) => JSON.stringify([...document.querySelectorAll('#members li')].map((item) =>"
            " item.firstChild.textContent).sort()) === JSON.stringify(names)",
            arg=sorted(names),
        )

    async def enter(page: Page, name: str, room: str) -> None:
        await page.fill("#name", name)
        await page.fill("#room-name", room)
        await page.click("#join button")

    async def said(page: Page) -> list[str]:
        texts: list[str] = await page.evaluate(
            "[...document.querySelectorAll('#messages li')].map((item) => item.lastChild.textContent)"
        )
        return texts

    async def scenario(ann: Page) -> None:
        bob, cat = [await ann.context.new_page() for _ in range(2)]
        for page in (bob, cat):
            await page.goto(ann.url)
        await enter(ann, "ann", "kitchen")
        await members(ann, "ann (you)")
        await ann.fill("#text", "anybody here?")
        await ann.press("#text", "Enter")
        await ann.wait_for_selector("#messages li.mine")

        await enter(bob, "ann", "kitchen")
        await bob.wait_for_selector("#problem:visible")  # the name is taken
        await enter(bob, "bob", "kitchen")
        await enter(cat, "cat", "cellar")
        await members(ann, "ann (you)", "bob")
        await members(bob, "ann", "bob (you)")
        await members(cat, "cat (you)")

        await bob.fill("#text", "<b>me</b>")
        await ann.wait_for_function("document.getElementById('members').textContent.includes('typing')")
        await bob.press("#text", "Enter")
        await ann.wait_for_function("document.querySelectorAll('#messages li').length === 2")
        await bob.wait_for_function("document.querySelectorAll('#messages li').length === 2")
        for page in (ann, bob):
            assert await said(page) == ["anybody here?", "<b>me</b>"]
        assert await said(cat) == []

        await bob.goto("about:blank")
        await members(ann, "ann (you)")

    with served("chat/chat.py") as url:
        browser.run(url, scenario)


def test_arena(browser: Browser) -> None:
    """Players take gems; where packets are lost, what comes by the stream falls behind, datagrams do not."""
    means = "['datagrams', 'stream'].map((id) => Number(document.getElementById(id).dataset.mean))"

    async def enter(page: Page, name: str) -> None:
        await page.fill("#name", name)
        await page.click("#join button")

    async def slide(page: Page, knob: str, value: int) -> None:
        await page.locator(f"#{knob}").fill(str(value))
        await page.locator(f"#{knob}").dispatch_event("change")

    async def scenario(ann: Page) -> None:
        bob = await ann.context.new_page()
        await bob.goto(ann.url)
        await enter(ann, "ann")
        await ann.wait_for_selector("#game:visible")
        await enter(bob, "ann")
        await bob.wait_for_selector("#problem:visible")  # the name is taken
        await enter(bob, "bob")
        await bob.bring_to_front()
        await bob.wait_for_function("document.querySelectorAll('#scores tr').length === 2")
        await slide(bob, "delay", 50)
        await slide(bob, "loss", 20)
        await bob.wait_for_function("document.getElementById('loss-text').textContent === '20 %'")
        await bob.wait_for_function(f"(([d, s]) => d > 0 && s > 30 && s > 2 * d)({means})")
        while not await bob.evaluate("Number(document.querySelector('#scores tr.me .number').textContent)"):
            box = await bob.locator("#datagrams canvas").bounding_box()
            assert box is not None
            for x, y in ((0.1, 0.1), (0.9, 0.3), (0.1, 0.5), (0.9, 0.7), (0.1, 0.9)):
                await bob.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
                await bob.wait_for_timeout(1000)

    with served("arena/arena.py") as url:
        browser.run(url, scenario)
