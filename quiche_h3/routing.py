"""From a method and a raw path to the handler that answers; see `patterns` for what matches what."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, TypeVar

from .errors import BadRequest, MethodNotAllowed, NotFound, RouteError
from .patterns import NO_PATH, Node, join, parse_pattern, split_path

# What may be registered: called with (request, response), (request) or (), whatever it takes.
Handler = Callable[[], object] | Callable[[Any], object] | Callable[[Any, Any], object]
CallNext = Callable[[Any, Any], Any]  # call_next(request, response) inside a middleware
Middleware = Callable[[Any, Any, CallNext], object]
ErrorCallback = Callable[[Any, Any, Any], object]  # (request, response, exception)
DatagramCallback = Callable[[Any, Any, bytes], object]  # (request, response, payload)

H = TypeVar("H", bound=Handler)
M = TypeVar("M", bound=Middleware)
E = TypeVar("E", bound=ErrorCallback)
D = TypeVar("D", bound=DatagramCallback)

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a method, RFC 9110 9.1


class HandlerKind(IntEnum):
    """How a route's handler is to be called. What it returns or yields is the response's business."""

    PLAIN = 0  # call it
    GENERATOR = 1  # call it, then pull chunks
    COROUTINE = 2  # call it and await
    ASYNC_GENERATOR = 3  # call it, then pull chunks asynchronously
    BLOCKING = 4  # call it in the thread pool
    SESSION = 5  # call it with a WebTransport session


@dataclass(slots=True, eq=False)
class ErrorHandler:
    """A callback for an exception of a handler: `handler(request, response, exception)`."""

    handler: ErrorCallback
    kind: HandlerKind


# Who may open sessions: pages of the same origin, those listed ("*" for all), or what a function says.
Origins = Collection[str] | Callable[[str, Any], object] | None


@dataclass(slots=True, eq=False)
class SessionPolicy:
    """What a route of WebTransport sessions adds to its handler, whose own kind is `kind`.

    `calls` is how it is to be called inside of its middleware: PLAIN, COROUTINE or BLOCKING.
    """

    kind: HandlerKind
    origins: Origins
    protocols: tuple[str, ...]
    calls: HandlerKind


_ErrorTable = dict[type[BaseException], ErrorHandler]


@dataclass(slots=True, eq=False)
class Route:
    """A handler at its place: the full pattern, middleware composed in.

    Call `handler` with as many of (request, response) as `arity` says (0 to 2), in the manner of `kind`.
    `endpoint` is the function as it was registered. With middleware around it a handler of any kind is PLAIN,
    COROUTINE or BLOCKING, and what it returns may be the endpoint's generator or asynchronous generator.
    """

    methods: tuple[str, ...]
    pattern: str
    handler: Callable[..., Any]
    kind: HandlerKind
    arity: int
    name: str
    endpoint: Callable[..., object]
    params: tuple[str, ...] = ()
    errors: tuple[_ErrorTable, ...] = ()
    session: SessionPolicy | None = None
    on_datagram: DatagramCallback | None = None

    @property
    def blocking(self) -> bool:
        """Whether the handler runs in the thread pool."""
        return self.kind is HandlerKind.BLOCKING

    def error_handler(self, exc: BaseException) -> ErrorHandler | None:
        """Who answers for `exc`: the nearest router that knows its class or a base of it."""
        return _find_error_handler(self.errors, exc)


@dataclass(slots=True, eq=False)
class Match:
    """What `Router.resolve` found. `route` is None when OPTIONS is to be answered with `allowed`."""

    route: Route | None
    params: dict[str, str]
    allowed: tuple[str, ...] = ()


class Router:
    """Routes, the middleware around them, and routers mounted under prefixes.

    `exact` maps a raw path to its routes by method, HEAD included, for the patterns without parameters: two
    lookups answer most requests. It stays the same object; what is not in it is for `resolve()` to answer.
    Everything may be registered at any time, also on a router that is already mounted.
    """

    def __init__(self) -> None:
        self.exact: dict[bytes, dict[bytes, Route]] = {}
        self._tree = Node[Route]()
        self._version = self._compiled = 0
        self._routes: list[Route] = []
        self._mounted: list[tuple[str, Router]] = []
        self._parents: list[tuple[str, Router]] = []
        self._middleware: list[Middleware] = []
        self._errors: _ErrorTable = {}
        self._taken: dict[tuple[str, str], str] = {}  # (method, shape) -> pattern, mounted ones included

    # Registration

    def add(
        self,
        methods: str | Iterable[str],
        pattern: str,
        handler: Handler,
        *,
        blocking: bool = False,
        name: str | None = None,
    ) -> None:
        """Let `handler` answer `methods` (one, or several) on `pattern`.

        The pattern "*" is for OPTIONS of the server itself, "" for CONNECT to an authority. With `blocking`
        the handler runs in the thread pool and must be a plain function. Raises RouteError for a malformed or
        taken pattern, a bad method, and what cannot be called as (request, response), (request) or ().
        """
        names = tuple(dict.fromkeys(map(_method, [methods] if isinstance(methods, str) else methods)))
        if not names:
            raise RouteError(f"{pattern!r}: no method given")
        parsed = parse_pattern(pattern)
        if pattern in NO_PATH and names != (("CONNECT",) if pattern == "" else ("OPTIONS",)):
            raise RouteError(f"{pattern!r}: '' is a pattern for CONNECT alone, '*' for OPTIONS alone")
        kind, arity = _inspect(handler, most=2)
        if blocking:
            if kind is not HandlerKind.PLAIN:
                raise RouteError(f"{pattern!r}: blocking=True is for plain functions, this is {kind.name}")
            kind = HandlerKind.BLOCKING
        self._take((method, pattern) for method in names)
        label = name or getattr(handler, "__qualname__", None) or type(handler).__qualname__
        self._routes.append(Route(names, pattern, handler, kind, arity, label, handler, parsed.params))
        self._changed()

    def route(
        self, methods: str | Iterable[str], pattern: str, *, blocking: bool = False, name: str | None = None
    ) -> Callable[[H], H]:
        """Decorator form of `add()`; the function stays what it was."""

        def register(handler: H) -> H:
            self.add(methods, pattern, handler, blocking=blocking, name=name)
            return handler

        return register

    def get(self, pattern: str, *, blocking: bool = False, name: str | None = None) -> Callable[[H], H]:
        """`route("GET", ...)`; it answers HEAD too unless that has its own handler."""
        return self.route("GET", pattern, blocking=blocking, name=name)

    def head(self, pattern: str, *, blocking: bool = False, name: str | None = None) -> Callable[[H], H]:
        """`route("HEAD", ...)`."""
        return self.route("HEAD", pattern, blocking=blocking, name=name)

    def post(self, pattern: str, *, blocking: bool = False, name: str | None = None) -> Callable[[H], H]:
        """`route("POST", ...)`."""
        return self.route("POST", pattern, blocking=blocking, name=name)

    def put(self, pattern: str, *, blocking: bool = False, name: str | None = None) -> Callable[[H], H]:
        """`route("PUT", ...)`."""
        return self.route("PUT", pattern, blocking=blocking, name=name)

    def patch(self, pattern: str, *, blocking: bool = False, name: str | None = None) -> Callable[[H], H]:
        """`route("PATCH", ...)`."""
        return self.route("PATCH", pattern, blocking=blocking, name=name)

    def delete(self, pattern: str, *, blocking: bool = False, name: str | None = None) -> Callable[[H], H]:
        """`route("DELETE", ...)`."""
        return self.route("DELETE", pattern, blocking=blocking, name=name)

    def options(self, pattern: str, *, blocking: bool = False, name: str | None = None) -> Callable[[H], H]:
        """`route("OPTIONS", ...)`, in place of the automatic answer."""
        return self.route("OPTIONS", pattern, blocking=blocking, name=name)

    def webtransport(
        self,
        pattern: str,
        *,
        origins: Origins = None,
        protocols: Iterable[str] = (),
        blocking: bool = False,
        name: str | None = None,
    ) -> Callable[[H], H]:
        """Decorator: let a function of (session) or (request, session) serve WebTransport on `pattern`.

        `async def`, whose return closes the session with code 0, or plain: it sets callbacks and returns.
        With `blocking` a plain function has a thread and a session that waits, and its return closes that.
        Register it before the server is bound. `origins`: whose pages may open a session, None for those of
        the same origin, a collection of origins ("*" for all), or a function of (origin, request).
        `protocols`: the subprotocols it knows.
        """

        def register(handler: H) -> H:
            kind, arity = _inspect(handler, most=2)
            if kind not in (HandlerKind.PLAIN, HandlerKind.COROUTINE):
                raise RouteError(f"{pattern!r}: sessions are served by plain functions and coroutines")
            if blocking:
                if kind is not HandlerKind.PLAIN:
                    raise RouteError(f"{pattern!r}: blocking=True is for plain functions")
                kind = HandlerKind.BLOCKING
            known = tuple(protocols)
            if any(not (p.isascii() and p.isprintable() and p) for p in known):
                raise RouteError(f"{pattern!r}: the name of a subprotocol is printable ASCII")
            self._take([("CONNECT", pattern)])
            self._routes.append(
                Route(
                    ("CONNECT",),
                    pattern,
                    handler,
                    HandlerKind.SESSION,
                    arity,
                    name or getattr(handler, "__qualname__", None) or type(handler).__qualname__,
                    handler,
                    parse_pattern(pattern).params,
                    session=SessionPolicy(kind, origins, known, kind),
                )
            )
            self._changed()
            return handler

        return register

    def route_h3_datagram(self, methods: str | Iterable[str], pattern: str) -> Callable[[D], D]:
        """Decorator: `callback(request, response, payload)` for each datagram of such requests (RFC 9297).

        Their handler is registered before. It is called as soon as the request's fields are there, and its
        response stays open until the client ends the request, so that `response.send_h3_datagram()` can
        answer all that time. The callback runs in the loop; what it raises is logged, but for a
        DatagramError. Raises RouteError where there is no such route, or its handler is blocking, and for
        what cannot be called so.
        """
        names = tuple(map(_method, [methods] if isinstance(methods, str) else methods))
        shape = parse_pattern(pattern).shape

        def register(callback: D) -> D:
            kind, arity = _inspect(callback, most=3)
            if arity != 3 or kind is not HandlerKind.PLAIN:
                raise RouteError(
                    f"{callback!r}: a datagram callback is a plain function of (request, response, payload)"
                )
            for name in names:
                found = [
                    r for r in self._routes if name in r.methods and parse_pattern(r.pattern).shape == shape
                ]
                if not found:
                    raise RouteError(f"{name} {pattern!r}: register the request's handler before")
                if found[0].blocking:
                    raise RouteError(
                        f"{name} {pattern!r}: a blocking handler iterates response.h3_datagrams()"
                    )
                found[0].on_datagram = callback
            self._changed()
            return callback

        return register

    def mount(self, prefix: str, router: Router) -> None:
        """Put all routes of `router`, present and future, under `prefix`.

        The prefix may have parameters but no wildcard; a slash at its end has no meaning. This router's
        middleware runs outside the mounted one's. Raises RouteError as `add()` does, and for a cycle.
        """
        if prefix not in ("", "/") and (not prefix.startswith("/") or parse_pattern(prefix).wildcard):
            raise RouteError(f"{prefix!r}: a prefix begins with a slash and has no wildcard")
        base = prefix.rstrip("/")
        if any(above is router for above, _ in self._seen_from("/")):
            raise RouteError(f"{prefix!r}: the router would be mounted under itself")
        self._take((method, join(base, pattern)) for (method, _), pattern in router._taken.items())
        self._mounted.append((base, router))
        router._parents.append((base, self))
        self._changed()

    def middleware(self, function: M) -> M:
        """Decorator: let `function(request, response, call_next)` wrap every route of this router.

        The first registered is the outermost. `call_next(request, response)` returns what the handler
        returns; an `async def` middleware awaits it, and may stand around plain handlers too. A middleware
        that is not `async def` cannot stand around handlers that are, nor an `async def` one around blocking
        handlers: `compile()` raises RouteError. Requests that match no route pass no middleware.

        It stands around the handlers of WebTransport sessions too. There `response` can refuse the session:
        by a status of 300 or more, by what the middleware returns, or by an exception.
        """
        kind, arity = _inspect(function, most=3)
        if arity != 3 or kind not in (HandlerKind.PLAIN, HandlerKind.COROUTINE):
            raise RouteError(f"{function!r}: a middleware is a function of (request, response, call_next)")
        self._middleware.append(function)
        self._changed()
        return function

    def on_error(self, exception: type[BaseException]) -> Callable[[E], E]:
        """Decorator: let `function(request, response, exception)` answer when a handler raises `exception`.

        Classes are tried in the order of the exception's MRO, routers from the one of the route outwards.
        """
        if not (isinstance(exception, type) and issubclass(exception, BaseException)):
            raise RouteError(f"{exception!r} is not an exception class")
        if exception in self._errors:
            raise RouteError(f"{exception.__name__} already has a handler in this router")

        def register(function: E) -> E:
            kind, arity = _inspect(function, most=3)
            if arity != 3:
                raise RouteError(
                    f"{function!r}: an error handler is a function of (request, response, exception)"
                )
            self._errors[exception] = ErrorHandler(function, kind)
            return function

        return register

    # Resolution

    def routes(self) -> list[Route]:
        """All routes there are now, mounted ones included, each with its full pattern and its middleware."""
        return list(self._collect("", (), ()))

    def compile(self) -> None:
        """Build the tables now; otherwise `resolve()` does when something has changed.

        Raises RouteError where middleware and handler do not fit together.
        """
        version = self._version
        tree = Node[Route]()
        exact: dict[bytes, dict[bytes, Route]] = {}
        for route in self.routes():
            pattern = parse_pattern(route.pattern)
            if route.pattern in NO_PATH:
                table = exact.setdefault(route.pattern.encode(), {})
            else:
                table = tree.table(pattern)
            table.update((method.encode(), route) for method in route.methods)
            if b"GET" in table:
                table.setdefault(b"HEAD", table[b"GET"])  # RFC 9110 9.3.2
            if pattern.raw is not None:
                exact[pattern.raw] = table
        self._tree = tree
        self.exact.clear()
        self.exact.update(exact)
        self._compiled = version

    def resolve(self, method: bytes, path: bytes) -> Match:
        """The route for a raw `:path` without its query, and the decoded parameters.

        Raises BadRequest for what is no path or does not decode as UTF-8, NotFound, and MethodNotAllowed with
        the methods there are. OPTIONS without a handler of its own is a match without a route.
        """
        if self._compiled != self._version:
            self.compile()
        table = self.exact.get(path)
        if table is not None and (route := table.get(method)) is not None:
            return Match(route, {})
        if not path.startswith(b"/"):
            return self._resolve_without_path(method, path)
        values: list[str] = []
        found: set[bytes] = set()
        route = self._tree.find(split_path(path), 0, method, values, found)
        if route is not None:
            return Match(route, dict(zip(route.params, values, strict=True)))
        if not found:
            raise NotFound
        allowed = _allow(name.decode() for name in found)
        if method == b"OPTIONS":
            return Match(None, {}, allowed)
        raise MethodNotAllowed(allowed)

    def error_handler(self, exc: BaseException) -> ErrorHandler | None:
        """Who answers for `exc` where there is no route, as for NotFound: this router alone is asked."""
        return _find_error_handler((self._errors,), exc)

    def _resolve_without_path(self, method: bytes, target: bytes) -> Match:
        if method == b"CONNECT":  # its target is an authority and, other than in RFC 8441 4, there is no path
            if (route := self.exact.get(b"", {}).get(method)) is not None:
                return Match(route, {})
            raise MethodNotAllowed
        if method == b"OPTIONS" and target == b"*":  # the server as a whole, RFC 9110 9.3.7
            return Match(None, {}, _allow(name for name, _ in self._taken))
        raise BadRequest("the path must begin with a slash")  # RFC 9114 4.3.1

    def _collect(
        self, prefix: str, outer: tuple[Middleware, ...], errors: tuple[_ErrorTable, ...]
    ) -> Iterator[Route]:
        layers = (*outer, *self._middleware)
        errors = (self._errors, *errors)
        for route in self._routes:
            pattern = join(prefix, route.pattern)
            handler, kind, arity = _compose(route, layers)
            session = route.session
            if session is not None:
                session, kind = replace(session, calls=kind), HandlerKind.SESSION
            yield replace(
                route,
                pattern=pattern,
                handler=handler,
                kind=kind,
                arity=arity,
                params=parse_pattern(pattern).params,
                errors=errors,
                session=session,
            )
        for base, router in self._mounted:
            yield from router._collect(prefix + base, layers, errors)

    def _seen_from(self, pattern: str) -> Iterator[tuple[Router, str]]:
        """This router and all it is mounted in, each with the pattern as it is there."""
        yield self, pattern
        for base, parent in self._parents:
            yield from parent._seen_from(join(base, pattern))

    def _take(self, keys: Iterable[tuple[str, str]]) -> None:
        """Claim (method, pattern) pairs here and in all routers above: all or, on RouteError, none."""
        claims: dict[tuple[Router, tuple[str, str]], str] = {}
        for method, pattern in keys:
            for router, text in self._seen_from(pattern):
                key = (method, parse_pattern(text).shape)
                other = router._taken.get(key, claims.get((router, key)))
                if other is not None:
                    raise RouteError(f"{method} {text!r} is already taken by {other!r}")
                claims[router, key] = text
        for (router, key), text in claims.items():
            router._taken[key] = text

    def _changed(self) -> None:
        self._version += 1
        self.exact.clear()  # whoever looks there first comes to resolve(), which compiles
        for _, parent in self._parents:
            parent._changed()


def _allow(methods: Iterable[str]) -> tuple[str, ...]:
    """The value of Allow: what is there and what is automatic."""
    names = {"OPTIONS", *methods}
    return tuple(sorted(names | {"HEAD"} if "GET" in names else names))


def _find_error_handler(tables: Iterable[_ErrorTable], exc: BaseException) -> ErrorHandler | None:
    for table in tables:
        for cls in type(exc).__mro__:
            if (handler := table.get(cls)) is not None:
                return handler
    return None


def _method(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise RouteError(f"{name!r} is no method")
    return name.upper()


# Handlers


def _inspect(handler: Callable[..., object], most: int) -> tuple[HandlerKind, int]:
    """The kind of a callable and how many positional arguments it wants, `most` at most.

    The outer callable decides: what a decorator returns is called, not what it wraps.
    """
    if not callable(handler):
        raise RouteError(f"{handler!r} cannot be called")
    return _kind(handler), _arity(handler, most)


def _kind(handler: Callable[..., object]) -> HandlerKind:
    code = handler
    while isinstance(code, functools.partial):
        code = code.func
    if not (inspect.isroutine(code) or inspect.isclass(code)):
        code = type(code).__call__  # an object that is called
    if inspect.iscoroutinefunction(code):
        return HandlerKind.COROUTINE
    if inspect.isasyncgenfunction(code):
        return HandlerKind.ASYNC_GENERATOR
    return HandlerKind.GENERATOR if inspect.isgeneratorfunction(code) else HandlerKind.PLAIN


def _arity(handler: Callable[..., object], most: int) -> int:
    try:
        parameters = inspect.signature(handler, follow_wrapped=False).parameters.values()
    except ValueError:
        return most  # a builtin that does not tell
    required = [
        p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(required) > most or any(p.kind is p.KEYWORD_ONLY for p in required):
        raise RouteError(f"{handler!r} must take at most {most} positional arguments and require no others")
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return len(required)
    # A decorator's wrapper(*args) hands on what it gets, so what it wraps tells how much that should be.
    inner = getattr(handler, "__wrapped__", None)
    if inner is not None and inspect.ismethod(handler):
        inner = functools.partial(inner, handler.__self__)
    try:
        return most if inner is None else _arity(inner, most)
    except RouteError:
        return most  # the wrapper knows what else it takes


def _compose(route: Route, layers: tuple[Middleware, ...]) -> tuple[Callable[..., Any], HandlerKind, int]:
    """The handler inside its middleware, outermost first, as (handler, kind, arity)."""
    own = route.kind if route.session is None else route.session.kind
    if route.session is not None:
        call = _with_session(route.handler, route.arity)
    elif layers:
        call = _with_two_arguments(route.handler, route.arity)
    else:
        return route.handler, own, route.arity
    if not layers:
        return call, own, 2
    waiting = [layer for layer in layers if _kind(layer) is HandlerKind.COROUTINE]
    blocking = own is HandlerKind.BLOCKING
    kind = HandlerKind.BLOCKING if blocking else HandlerKind.PLAIN
    if waiting or own in (HandlerKind.COROUTINE, HandlerKind.ASYNC_GENERATOR):
        if blocking:
            raise RouteError(
                f"{route.pattern!r}: a blocking handler cannot have the async middleware {waiting[0]!r}"
            )
        if len(waiting) < len(layers):
            wrong = next(layer for layer in layers if layer not in waiting)
            raise RouteError(
                f"{route.pattern!r}: middleware {wrong!r} must be 'async def' like what it wraps"
            )
        if own is not HandlerKind.COROUTINE:
            call = _awaitable(call)
        kind = HandlerKind.COROUTINE
    for layer in reversed(layers):
        call = _link(layer, call)
    return call, kind, 2


def _with_session(handler: Callable[..., Any], arity: int) -> CallNext:
    """A handler of sessions takes its session from the response, which only the middleware around it sees."""
    return lambda request, response: handler(*_arguments(request, response.enter(), arity))


def _arguments(request: Any, session: Any, arity: int) -> tuple[Any, ...]:
    return (session,) if arity == 1 else (request, session)[:arity]


def _with_two_arguments(handler: Callable[..., Any], arity: int) -> CallNext:
    if arity == 2:
        return handler
    if arity == 1:
        return lambda request, response: handler(request)
    return lambda request, response: handler()


def _awaitable(call: CallNext) -> CallNext:
    async def awaited(request: Any, response: Any) -> Any:
        return call(request, response)

    return awaited


def _link(layer: Middleware, inner: CallNext) -> CallNext:
    return lambda request, response: layer(request, response, inner)
