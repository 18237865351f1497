"""The router: what is not found by the one look-up that the core does itself."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from quiche_h3 import NotFound, Router


def handler() -> str:
    return ""


@pytest.fixture(scope="module")
def router() -> Router:
    """A hundred routes of each kind."""
    router = Router()
    for i in range(100):
        router.get(f"/exact/{i}")(handler)
        router.get(f"/user{i}/:id/posts/:post")(handler)
        router.get(f"/files{i}/*")(handler)
    router.compile()
    return router


@pytest.mark.parametrize(
    "path", [b"/exact/50", b"/user50/123/posts/456", b"/files50/a/b/c.txt", b"/files50/a%20b"]
)
def test_resolve(benchmark: BenchmarkFixture, router: Router, path: bytes) -> None:
    match = benchmark(router.resolve, b"GET", path)
    assert match.route is not None


def test_not_found(benchmark: BenchmarkFixture, router: Router) -> None:
    def resolve() -> bool:
        try:
            router.resolve(b"GET", b"/nowhere/at/all")
        except NotFound:
            return True
        return False

    assert benchmark(resolve)


def test_exact(benchmark: BenchmarkFixture, router: Router) -> None:
    """As the dispatcher does it first."""
    exact = router.exact
    assert benchmark(lambda: exact[b"/exact/50"][b"GET"]) is not None
