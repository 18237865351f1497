"""How the router finds out what a handler is."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from quiche_h3.errors import RouteError
from quiche_h3.routing import HandlerKind, Route, Router


def plain(req: object, res: object) -> str:
    """A handler of the simplest kind."""
    return "plain"


def generator(req: object, res: object) -> Iterator[bytes]:
    """A handler that yields its body."""
    yield b"generated"


async def coroutine(req: object, res: object) -> str:
    """A handler that is awaited."""
    return "awaited"


async def async_generator(req: object) -> AsyncIterator[bytes]:
    """A handler that yields its body asynchronously."""
    yield b"async"


def route_of(handler: Any, **options: Any) -> Route:
    """The route that a handler becomes."""
    router = Router()
    router.add("GET", "/", handler, **options)
    route = router.resolve(b"GET", b"/").route
    assert route is not None
    return route


def call(route: Route) -> Any:
    """What a route's handler returns, called as its arity says."""
    return route.handler(*("req", "res")[: route.arity])


class Object:
    """Handlers that are methods or the object itself."""

    def __call__(self, req: object) -> str:
        return "answer"

    async def method(self, req: object, res: object) -> str:
        return "method"

    @staticmethod
    def static() -> str:
        return "answer"

    @classmethod
    def for_class(cls, req: object) -> Iterator[str]:
        yield "class"


class AsyncObject:
    """An object whose call is a coroutine function."""

    async def __call__(self) -> str:
        return "async object"


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as most are: it hands on what it gets."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that supplies an argument."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function("session", *args)

    return wrapper


class Decorated:
    """A method with a decorator."""

    @passing
    def method(self, req: object) -> str:
        return "answer"


def keyword(req: object, *, limit: int) -> int:
    """A handler that needs functools.partial."""
    return limit


class TestKinds:
    @pytest.mark.parametrize(
        ("handler", "kind", "arity"),
        [
            (plain, HandlerKind.PLAIN, 2),
            (generator, HandlerKind.GENERATOR, 2),
            (coroutine, HandlerKind.COROUTINE, 2),
            (async_generator, HandlerKind.ASYNC_GENERATOR, 1),
            (lambda: "x", HandlerKind.PLAIN, 0),
            (lambda req: "x", HandlerKind.PLAIN, 1),
            (lambda req, res=None: "x", HandlerKind.PLAIN, 1),
            (lambda *args: "x", HandlerKind.PLAIN, 2),
            (lambda req, *args, **kwargs: "x", HandlerKind.PLAIN, 2),
            (Object(), HandlerKind.PLAIN, 1),
            (Object().method, HandlerKind.COROUTINE, 2),
            (Object.static, HandlerKind.PLAIN, 0),
            (Object.for_class, HandlerKind.GENERATOR, 1),
            (AsyncObject(), HandlerKind.COROUTINE, 0),
            (functools.partial(plain, "req"), HandlerKind.PLAIN, 1),
            (functools.partial(coroutine, res=1), HandlerKind.COROUTINE, 1),
            (functools.partial(functools.partial(generator, "req"), "res"), HandlerKind.GENERATOR, 0),
            (functools.partial(AsyncObject()), HandlerKind.COROUTINE, 0),
            (functools.partial(keyword, limit=3), HandlerKind.PLAIN, 1),
            (passing(plain), HandlerKind.PLAIN, 2),
            (passing(coroutine), HandlerKind.PLAIN, 2),
            (passing(async_generator), HandlerKind.PLAIN, 1),
            (passing(passing(lambda: "x")), HandlerKind.PLAIN, 0),
            (with_session(lambda session, req, res: "x"), HandlerKind.PLAIN, 2),
            (Decorated().method, HandlerKind.PLAIN, 1),
            (functools.lru_cache(plain), HandlerKind.PLAIN, 2),
            (dict, HandlerKind.PLAIN, 2),
        ],
    )
    def test_kind_and_arity(self, handler: Any, kind: HandlerKind, arity: int) -> None:
        """The outer callable decides the kind; the arity is that of what is called in the end."""
        route = route_of(handler)
        assert (route.kind, route.arity) == (kind, arity)
        assert route.handler is handler
        assert route.endpoint is handler

    @pytest.mark.parametrize(
        "handler",
        [
            lambda: "answer",
            lambda req: "answer",
            lambda req, *args: "answer",
            functools.partial(lambda req, res: "answer", "req"),
            passing(lambda: "answer"),
            passing(passing(lambda req, res: "answer")),
            with_session(lambda session, req, res: "answer"),
            Object(),
            Object.static,
            Decorated().method,
        ],
    )
    def test_the_arity_fits(self, handler: Any) -> None:
        """Called with as many arguments as the route says, every handler answers."""
        assert call(route_of(handler)) == "answer"

    def test_blocking(self) -> None:
        """blocking=True makes a plain handler one for the thread pool."""
        route = route_of(plain, blocking=True)
        assert route.kind is HandlerKind.BLOCKING
        assert route.blocking
        assert not route_of(plain).blocking

    @pytest.mark.parametrize("handler", [generator, coroutine, async_generator])
    def test_only_plain_functions_block(self, handler: Any) -> None:
        """The other kinds have their own way to wait."""
        with pytest.raises(RouteError, match="plain functions"):
            route_of(handler, blocking=True)

    @pytest.mark.parametrize(
        "handler", [None, "text", 7, lambda a, b, c: None, keyword, lambda a, *, b: None]
    )
    def test_what_is_no_handler(self, handler: Any) -> None:
        """What cannot be called as (request, response), (request) or () is refused at registration."""
        with pytest.raises(RouteError):
            route_of(handler)

    def test_names(self) -> None:
        """A route is called like its handler unless it is given a name."""
        assert route_of(plain).name == "plain"
        assert route_of(plain, name="index").name == "index"
        assert route_of(Object()).name == "Object"
        assert route_of(functools.partial(plain)).name == "partial"
