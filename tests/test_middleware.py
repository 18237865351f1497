"""What stands around handlers: middleware and error handlers."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from quiche_h3.errors import HandlerError, NotFound, PayloadTooLarge, RouteError, StreamingError
from quiche_h3.routing import CallNext, HandlerKind, Route, Router


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


def compiled(router: Router, method: bytes = b"GET", path: bytes = b"/") -> Route:
    """The route of a path, which must have one."""
    route = router.resolve(method, path).route
    assert route is not None
    return route


def call(route: Route) -> Any:
    """What a route's handler returns, called as its arity says."""
    return route.handler(*("req", "res")[: route.arity])


def tracing(log: list[str], name: str) -> Callable[[Any, Any, CallNext], object]:
    """A middleware that notes when it is entered and left."""

    def trace(req: Any, res: Any, call_next: CallNext) -> object:
        log.append(name)
        result = call_next(req, res)
        log.append(f"/{name}")
        return result

    return trace


async def awaiting(req: Any, res: Any, call_next: CallNext) -> object:
    """An asynchronous middleware."""
    return ("seen", await call_next(req, res))


class TestMiddleware:
    def test_order(self) -> None:
        """Outermost first; a mounted router's own stand inside; those registered late count too."""
        log: list[str] = []
        root, api = Router(), Router()

        @api.get("/x")
        def handler(req: object) -> str:
            log.append("handler")
            return "result"

        root.mount("/api", api)
        assert compiled(root, b"GET", b"/api/x").arity == 1
        api.middleware(tracing(log, "inner"))
        root.middleware(tracing(log, "first"))
        root.middleware(tracing(log, "second"))
        route = compiled(root, b"GET", b"/api/x")
        assert (call(route), route.kind, route.arity) == ("result", HandlerKind.PLAIN, 2)
        assert log == ["first", "second", "inner", "handler", "/inner", "/second", "/first"]
        log.clear()
        call(compiled(api, b"GET", b"/x"))
        assert log == ["inner", "handler", "/inner"]

    def test_none_costs_nothing(self) -> None:
        """Without middleware the handler is the function itself."""
        router = Router()
        router.add("GET", "/", plain)
        assert compiled(router).handler is plain

    @pytest.mark.parametrize(
        ("handler", "result"), [(lambda: "none", "none"), (lambda req: req, "other"), (plain, "plain")]
    )
    def test_every_arity_is_wrapped(self, handler: Any, result: str) -> None:
        """The handler gets what it takes, from whatever the middleware hands on."""
        router = Router()
        router.add("GET", "/", handler)
        router.middleware(lambda req, res, call_next: call_next("other", res))
        assert call(compiled(router)) == result

    def test_it_may_answer_itself(self) -> None:
        """A middleware need not go on."""
        router = Router()
        router.add("GET", "/", plain)
        router.middleware(lambda req, res, call_next: "refused")
        assert call(compiled(router)) == "refused"

    def test_around_a_generator(self) -> None:
        """The route becomes plain and returns the generator."""
        router = Router()
        router.add("GET", "/", generator)
        router.middleware(tracing([], "x"))
        route = compiled(router)
        assert route.kind is HandlerKind.PLAIN
        assert list(call(route)) == [b"generated"]
        assert route.endpoint is generator

    def test_around_a_blocking_handler(self) -> None:
        """All of it runs in the thread pool."""
        router = Router()
        router.add("GET", "/", plain, blocking=True)
        router.middleware(tracing([], "x"))
        assert compiled(router).kind is HandlerKind.BLOCKING

    @pytest.mark.parametrize("handler", [plain, coroutine])
    def test_async_around_plain_and_async(self, handler: Any) -> None:
        """An asynchronous middleware awaits plain handlers as well; the route is a coroutine."""
        router = Router()
        router.add("GET", "/", handler)
        router.middleware(awaiting)
        router.middleware(functools.partial(awaiting))
        route = compiled(router)
        assert (route.kind, route.arity) == (HandlerKind.COROUTINE, 2)
        assert asyncio.run(call(route)) == ("seen", ("seen", "plain" if handler is plain else "awaited"))

    def test_async_around_an_async_generator(self) -> None:
        """The coroutine returns the asynchronous generator."""
        router = Router()
        router.add("GET", "/", async_generator)
        router.middleware(awaiting)
        route = compiled(router)

        async def collect() -> list[bytes]:
            seen, chunks = await call(route)
            assert seen == "seen"
            return [chunk async for chunk in chunks]

        assert route.kind is HandlerKind.COROUTINE
        assert asyncio.run(collect()) == [b"async"]

    @pytest.mark.parametrize("handler", [coroutine, async_generator])
    def test_sync_around_async_is_refused(self, handler: Any) -> None:
        """It would be left before the handler runs; silently leaving it out could leave out a check."""
        router = Router()
        router.add("GET", "/", handler)
        router.middleware(awaiting)
        router.middleware(tracing([], "x"))
        with pytest.raises(RouteError, match=r"trace.*async def"):
            router.compile()

    def test_async_around_blocking_is_refused(self) -> None:
        """There is nothing to await in a thread."""
        router = Router()
        router.add("GET", "/", plain, blocking=True)
        router.middleware(awaiting)
        with pytest.raises(RouteError, match="blocking"):
            router.compile()

    @pytest.mark.parametrize("function", [plain, lambda: None, generator, async_generator, None])
    def test_what_is_no_middleware(self, function: Any) -> None:
        """A middleware takes request, response and call_next and is no generator."""
        with pytest.raises(RouteError):
            Router().middleware(function)


def on_exception(req: object, res: object, exc: BaseException) -> str:
    """An error handler."""
    return "handled"


async def on_exception_async(req: object, res: object, exc: BaseException) -> str:
    """An error handler that is awaited."""
    return "handled"


class TestErrorHandlers:
    def test_mro_then_nearest_router(self) -> None:
        """The route's own router first, with any base it knows, then outwards; in each the nearest class."""
        root, api = Router(), Router()
        root.mount("/api", api)
        api.add("GET", "/x", plain)
        root.add("GET", "/y", plain)
        inner, outer = compiled(root, b"GET", b"/api/x"), compiled(root, b"GET", b"/y")
        assert inner.error_handler(ValueError()) is None
        handlers = {
            (router, exception): (lambda req, res, exc: None)
            for router in (root, api)
            for exception in (HandlerError, StreamingError)
        }
        for (router, exception), function in handlers.items():
            router.on_error(exception)(function)
        root.on_error(PayloadTooLarge)(on_exception)
        root.on_error(Exception)(on_exception_async)
        exc = PayloadTooLarge()  # a HandlerError first, a StreamingError second

        def found(where: Route | Router, exc: BaseException) -> object:
            handler = where.error_handler(exc)
            return handler and handler.handler

        assert found(inner, exc) is handlers[api, HandlerError]
        assert found(outer, exc) is on_exception
        assert found(inner, KeyError()) is on_exception_async
        assert found(inner, KeyboardInterrupt()) is None
        assert found(root, NotFound()) is handlers[root, HandlerError]

    def test_kinds(self) -> None:
        """An error handler may be asynchronous; the caller is told."""
        router = Router()
        assert router.on_error(ValueError)(on_exception) is on_exception
        router.on_error(KeyError)(on_exception_async)
        found = router.error_handler(KeyError()), router.error_handler(ValueError())
        assert [h and h.kind for h in found] == [HandlerKind.COROUTINE, HandlerKind.PLAIN]

    def test_refusals(self) -> None:
        """One handler for a class in a router; only for exceptions; only functions of three arguments."""
        router = Router()
        router.on_error(ValueError)(on_exception)
        not_an_exception: Any = int
        for exception in (ValueError, not_an_exception):
            with pytest.raises(RouteError):
                router.on_error(exception)
        two_arguments: Any = plain
        with pytest.raises(RouteError):
            router.on_error(KeyError)(two_arguments)
