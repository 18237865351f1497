"""Field sections, headers, requests and responses."""

from __future__ import annotations

from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from quiche_h3 import Headers, Request, Response
from quiche_h3.capsules import decode_varint, encode_varint
from quiche_h3.handlers import NO_BODY
from quiche_h3.headers import encode_header

from .conftest import Captured

PAIRS = [
    (b"user-agent", b"quiche_h3"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, br"),
    (b"cookie", b"a=1"),
    (b"cookie", b"b=2"),
    (b"content-type", b"application/json"),
]


def test_headers_made_and_asked(benchmark: BenchmarkFixture) -> None:
    assert benchmark(lambda: Headers(PAIRS)["Content-Type"]) == "application/json"


def test_headers_asked(benchmark: BenchmarkFixture) -> None:
    headers = Headers(PAIRS)
    assert benchmark(lambda: headers["accept-encoding"]) == "gzip, br"


def test_encode_header(benchmark: BenchmarkFixture) -> None:
    assert benchmark(encode_header, "Cache-Control", "max-age=3600, public")[0] == b"cache-control"


def test_field_section_pseudo(benchmark: BenchmarkFixture, captured: Captured) -> None:
    fields = captured.response.stream.fields
    assert benchmark(lambda: (fields.method, fields.path)) == (b"GET", b"/hold")


def test_field_section_pairs(benchmark: BenchmarkFixture, captured: Captured) -> None:
    assert len(benchmark(captured.response.stream.fields.pairs)) == 2


def test_request(benchmark: BenchmarkFixture, captured: Captured) -> None:
    stream = captured.response.stream
    assert benchmark(lambda: Request(stream, {}, NO_BODY)).path == "/hold"


def test_request_attributes(benchmark: BenchmarkFixture, captured: Captured) -> None:
    stream = captured.response.stream

    def look() -> tuple[str, str, str | None]:
        request = Request(stream, {}, NO_BODY)
        return request.method, request.path, request.headers.get("user-agent")

    assert benchmark(look) == ("GET", "/hold", "quiche_h3")


def test_response_with_fields(benchmark: BenchmarkFixture, captured: Captured) -> None:
    def unused(response: Response) -> Any:
        raise AssertionError("nothing is sent")

    def make() -> Response:
        response = captured.response.moved_to(captured.response.stream, unused)
        return response.status(404).header("cache-control", "no-store").header("x-count", 3)

    assert benchmark(make).status_code == 404


def test_varints(benchmark: BenchmarkFixture) -> None:
    """One of each length (RFC 9000 16), written and read."""
    values = [37, 15_293, 494_878_333, 151_288_809_941_952_652]
    assert benchmark(lambda: [decode_varint(encode_varint(value)) for value in values])[0] == (37, 1)
