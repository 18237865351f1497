"""What docs/messages.md shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import quiche_h3

ROOT = Path(__file__).parents[1]


def test_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interim responses, trailers, ranges, files and datagrams of the page's one program."""
    monkeypatch.chdir(ROOT)
    (program,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs" / "messages.md").read_text(), re.M | re.S
    )
    namespace: dict[str, Any] = {"__name__": "messages"}
    exec(compile(program, "docs/messages.md", "exec"), namespace)
    server = namespace["server"]
    server.config.bind_addr, server.config.bind_port = "127.0.0.1", 0
    with server.running() as address, quiche_h3.connect(address.url, verify=False, timeout=10) as client:
        page = client.get("/page")
        assert (page.text, [interim.status for interim in page.interim]) == ("a page", [103])
        summed = client.get("/sum")
        assert (summed.content, summed.trailers and summed.trailers["x-checksum"]) == (b"content", "abc")
        part = client.get("/part", headers={"range": "bytes=2-4"})
        assert (part.status, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
        assert client.get("/part").content == b"0123456789"
        assert client.get("/part", headers={"range": "bytes=10-"}).status == 416
        assert client.get("/license").text == (ROOT / "LICENSE").read_text()
        with client.open("GET", "/live") as request:
            request.send_datagram(b"abc")
            assert next(request.datagrams()) == b"cba"
