"""The router: registration, resolution and mounting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiche_h3.errors import BadRequest, MethodNotAllowed, NotFound, RouteError
from quiche_h3.routing import Route, Router


def plain(req: object, res: object) -> str:
    """A handler of the simplest kind."""
    return "plain"


def compiled(router: Router, method: bytes = b"GET", path: bytes = b"/") -> Route:
    """The route of a path, which must have one."""
    route = router.resolve(method, path).route
    assert route is not None
    return route


class TestRegistration:
    def test_decorators_return_the_function(self) -> None:
        """The decorated name keeps its function and type; each method has its decorator."""
        router = Router()
        for at, decorator in enumerate(
            [router.get, router.head, router.post, router.put, router.patch, router.delete, router.options]
        ):
            assert decorator("/x")(plain) is plain
            assert len(router.exact) == 0
            assert len(compiled(router, b"GET", b"/x").methods) == 1
            assert len(router.exact[b"/x"]) == max(at + 1, 2)
        kept: Callable[[object, object], str] = router.route(["GET", "POST"], "/y", blocking=True)(plain)
        assert kept is plain
        assert compiled(router, b"POST", b"/y").methods == ("GET", "POST")

    @pytest.mark.parametrize("methods", ["", "G ET", "GET,POST", [], ["GET", "é"], "GET\n"])
    def test_bad_methods(self, methods: Any) -> None:
        """A method is a token (RFC 9110 9.1), and there is at least one."""
        with pytest.raises(RouteError):
            Router().add(methods, "/", plain)

    def test_methods_are_upper_cased_and_counted_once(self) -> None:
        """The standard methods are upper case (RFC 9110 9.1); a custom one is as good."""
        router = Router()
        router.add(["get", "GET", "purge"], "/", plain)
        assert compiled(router, b"PURGE").methods == ("GET", "PURGE")

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("/a", "/a"),
            ("/a", "/%61"),
            ("/café", "/caf%C3%A9"),
            ("/:id", "/{name}"),
            ("/u/:id/x", "/u/:key/x"),
            ("/*", "/*rest"),
        ],
    )
    def test_duplicates_are_refused(self, first: str, second: str) -> None:
        """Two patterns for the same paths and method are a mistake, whatever the names in them."""
        router = Router()
        router.add("GET", first, plain)
        router.add("POST", second, plain)
        with pytest.raises(RouteError, match="already taken"):
            router.add(["PUT", "GET"], second, plain)
        with pytest.raises(MethodNotAllowed):  # nothing of the refused call has stayed
            router.resolve(b"PUT", b"/a" if first == "/a" else split_example(first))

    def test_malformed_patterns_are_refused(self) -> None:
        """The pattern grammar is held at registration; see test_patterns for all of it."""
        with pytest.raises(RouteError):
            Router().get("no-slash")(plain)

    @pytest.mark.parametrize(("methods", "pattern"), [("GET", "*"), ("GET", ""), (["CONNECT", "GET"], "")])
    def test_targets_without_a_path(self, methods: Any, pattern: str) -> None:
        """Only CONNECT has no path, only OPTIONS has "*" (RFC 9114 4.4, RFC 9110 7.1)."""
        with pytest.raises(RouteError):
            Router().add(methods, pattern, plain)


def split_example(pattern: str) -> bytes:
    """A path that a pattern of the duplicates table matches."""
    return pattern.replace(":id", "7").replace("*", "x").replace("é", "%C3%A9").encode()


@pytest.fixture
def site() -> Router:
    """A router with some of everything."""
    router = Router()
    router.add("GET", "/", plain, name="root")
    router.add("GET", "/hello", plain, name="hello")
    router.add("POST", "/hello", plain, name="post")
    router.add("GET", "/user/me", plain, name="me")
    router.add(["GET", "DELETE"], "/user/:id", plain, name="user")
    router.add("GET", "/files/*", plain, name="files")
    router.add("PUT", "/files/*path", plain, name="put")
    router.add("HEAD", "/head", plain, name="own head")
    router.add("GET", "/head", plain, name="get")
    router.add("OPTIONS", "/options", plain, name="own options")
    return router


class TestResolve:
    @pytest.mark.parametrize(
        ("method", "path", "name", "params"),
        [
            (b"GET", b"/", "root", {}),
            (b"GET", b"/hello", "hello", {}),
            (b"POST", b"/hello", "post", {}),
            (b"HEAD", b"/hello", "hello", {}),
            (b"HEAD", b"/head", "own head", {}),
            (b"GET", b"/head", "get", {}),
            (b"GET", b"/h%65llo", "hello", {}),
            (b"GET", b"/user/me", "me", {}),
            (b"DELETE", b"/user/me", "user", {"id": "me"}),
            (b"GET", b"/user/a%20b", "user", {"id": "a b"}),
            (b"HEAD", b"/user/7", "user", {"id": "7"}),
            (b"GET", b"/files/a/b.txt", "files", {"*": "a/b.txt"}),
            (b"PUT", b"/files/a/b.txt", "put", {"path": "a/b.txt"}),
            (b"OPTIONS", b"/options", "own options", {}),
        ],
    )
    def test_found(self, site: Router, method: bytes, path: bytes, name: str, params: dict[str, str]) -> None:
        """Specification 11, 3.1 and 3.2; HEAD falls back to GET (RFC 9110 9.3.2)."""
        match = site.resolve(method, path)
        assert match.route is not None
        assert (match.route.name, match.params) == (name, params)

    @pytest.mark.parametrize(
        "path",
        [b"/nope", b"/hello/", b"//", b"//hello", b"/user", b"/user/", b"/files", b"/HELLO", b"/./hello"],
    )
    def test_not_found(self, site: Router, path: bytes) -> None:
        """Paths are compared as they are: no normalisation, no redirect; OPTIONS has no other rule."""
        for method in (b"GET", b"OPTIONS"):
            with pytest.raises(NotFound):
                site.resolve(method, path)

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            (b"PUT", b"/hello", ("GET", "HEAD", "OPTIONS", "POST")),
            (b"get", b"/hello", ("GET", "HEAD", "OPTIONS", "POST")),
            (b"PUT", b"/user/me", ("DELETE", "GET", "HEAD", "OPTIONS")),
            (b"POST", b"/user/7", ("DELETE", "GET", "HEAD", "OPTIONS")),
            (b"POST", b"/files/x", ("GET", "HEAD", "OPTIONS", "PUT")),
            (b"GET", b"/options", ("OPTIONS",)),
            (b"CONNECT", b"/hello", ("GET", "HEAD", "OPTIONS", "POST")),
        ],
    )
    def test_method_not_allowed(
        self, site: Router, method: bytes, path: bytes, allowed: tuple[str, ...]
    ) -> None:
        """405 knows all methods of all patterns that match (RFC 9110 15.5.6); methods are case-sensitive."""
        with pytest.raises(MethodNotAllowed) as caught:
            site.resolve(method, path)
        assert caught.value.allowed == allowed

    def test_automatic_options(self, site: Router) -> None:
        """OPTIONS is answered from the routes when it has none of its own (RFC 9110 9.3.7)."""
        match = site.resolve(b"OPTIONS", b"/hello")
        assert match.route is None
        assert match.allowed == ("GET", "HEAD", "OPTIONS", "POST")

    def test_options_of_the_server(self, site: Router) -> None:
        """`*` asks what the server can do at all, unless a handler answers (RFC 9110 9.3.7)."""
        match = site.resolve(b"OPTIONS", b"*")
        assert match.route is None
        assert match.allowed == ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
        site.add("OPTIONS", "*", plain, name="own")
        assert compiled(site, b"OPTIONS", b"*").name == "own"

    @pytest.mark.parametrize("path", [b"", b"*", b"hello", b"http://example/hello", b"\xff"])
    def test_no_path(self, site: Router, path: bytes) -> None:
        """A path begins with a slash and is not empty (RFC 9114 4.3.1)."""
        with pytest.raises(BadRequest):
            site.resolve(b"GET", path)
        if path != b"*":
            with pytest.raises(BadRequest):
                site.resolve(b"OPTIONS", path)

    @pytest.mark.parametrize("target", [b"", b"example.com:443", b"[::1]:80"])
    def test_connect_to_an_authority(self, site: Router, target: bytes) -> None:
        """CONNECT has no path (RFC 9114 4.4): one handler answers for all authorities, or 405."""
        with pytest.raises(MethodNotAllowed) as caught:
            site.resolve(b"CONNECT", target)
        assert caught.value.allowed == ()
        site.add("CONNECT", "", plain, name="proxy")
        assert compiled(site, b"CONNECT", target).name == "proxy"
        with pytest.raises(BadRequest):
            site.resolve(b"GET", target)

    def test_extended_connect_has_a_path(self, site: Router) -> None:
        """RFC 8441 4: CONNECT with :protocol is routed by its path like any method."""
        site.add("CONNECT", "/chat/:room", plain, name="chat")
        assert site.resolve(b"CONNECT", b"/chat/7").params == {"room": "7"}

    @pytest.mark.parametrize("path", [b"/%", b"/hello%zz", b"/user/%ff", b"/user/\xff", b"/nope/%c3"])
    def test_bad_encoding(self, site: Router, path: bytes) -> None:
        """A malformed escape or what is not UTF-8 is a bad request, wherever it stands."""
        with pytest.raises(BadRequest):
            site.resolve(b"GET", path)

    @given(st.binary(max_size=40), st.sampled_from([b"GET", b"OPTIONS", b"CONNECT", b"X"]))
    def test_any_path_is_answered(self, path: bytes, method: bytes) -> None:
        """Whatever the path, there is a match or one of three errors, and parameters are text."""
        router = Router()
        for pattern in ("/", "/:a", "/:a/b", "/x/*"):
            router.add("GET", pattern, plain)
        try:
            match = router.resolve(method, path)
        except (BadRequest, NotFound, MethodNotAllowed):
            return
        assert match.route or match.allowed
        assert all(value.encode() is not None for value in match.params.values())


class TestExact:
    def test_two_lookups(self, site: Router) -> None:
        """Compiled code finds exact routes without a call; HEAD is there too, patterns are not."""
        site.compile()
        assert site.exact[b"/hello"][b"HEAD"] is site.exact[b"/hello"][b"GET"]
        assert site.exact[b"/head"][b"HEAD"].name == "own head"
        assert set(site.exact) == {b"/", b"/hello", b"/user/me", b"/head", b"/options"}

    def test_it_stays_the_same_object_and_is_never_stale(self, site: Router) -> None:
        """A holder of `exact` sees nothing after a change and everything after the next resolve()."""
        exact = site.exact
        site.compile()
        site.add("GET", "/new", plain)
        assert exact == {}
        site.resolve(b"GET", b"/hello")
        assert site.exact is exact
        assert b"/new" in exact

    def test_encoded_literals_are_not_exact(self) -> None:
        """What can be spelled in two ways is found by decoding."""
        router = Router()
        router.add("GET", "/café", plain)
        router.add("GET", "/a%2Fb", plain)
        router.compile()
        assert router.exact == {}
        for path in (b"/caf%c3%a9", b"/caf%C3%A9", "/café".encode(), b"/a%2fb", b"/%61%2Fb"):
            compiled(router, b"GET", path)
        with pytest.raises(NotFound):
            router.resolve(b"GET", b"/a/b")


class TestMount:
    def test_nested(self) -> None:
        """Prefixes add up, their parameters too; a slash at the end of a prefix has no meaning."""
        root, api, users = Router(), Router(), Router()
        users.add("GET", "/", plain, name="list")
        users.add("GET", "/:id", plain, name="one")
        api.mount("/users/", users)
        root.mount("/api/:version", api)
        root.mount("/", api)
        match = root.resolve(b"GET", b"/api/v1/users/7")
        assert match.params == {"version": "v1", "id": "7"}
        assert match.route is not None
        assert match.route.pattern == "/api/:version/users/:id"
        assert match.route.params == ("version", "id")
        assert compiled(root, b"GET", b"/api/v1/users/").name == "list"
        assert compiled(root, b"GET", b"/users/").name == "list"
        assert compiled(api, b"GET", b"/users/7").name == "one"
        with pytest.raises(NotFound):
            root.resolve(b"GET", b"/api/v1/users")

    def test_routes_added_later_count(self) -> None:
        """A router may be filled after it was mounted, and after the first request."""
        root, api, deep = Router(), Router(), Router()
        root.mount("/api", api)
        api.mount("/deep", deep)
        with pytest.raises(NotFound):
            root.resolve(b"GET", b"/api/deep/x")
        deep.add("GET", "/x", plain)
        assert compiled(root, b"GET", b"/api/deep/x").pattern == "/api/deep/x"

    def test_duplicates_across_routers_are_refused_at_once(self) -> None:
        """Whoever comes second is refused: a mount, a route of the outer or of the mounted router."""
        root, api = Router(), Router()
        api.add("GET", "/x", plain)
        root.add("GET", "/:a/x", plain)
        root.add("GET", "/b/x", plain)
        with pytest.raises(RouteError, match="'/b/x' is already taken"):
            root.mount("/b", api)
        root.mount("/api", api)
        with pytest.raises(RouteError):
            root.add("GET", "/api/x", plain)
        root.add("GET", "/api/y", plain)
        with pytest.raises(RouteError):
            api.add("GET", "/y", plain)
        with pytest.raises(NotFound):
            api.resolve(b"GET", b"/y")
        api.add("GET", "/z", plain)

    def test_a_duplicate_with_itself(self) -> None:
        """One route that arrives at one path by two ways is a duplicate too."""
        root, left, right, shared = Router(), Router(), Router(), Router()
        for router in (left, right):
            router.mount("/shared", shared)
            root.mount("/api", router)
        with pytest.raises(RouteError, match="already taken"):
            shared.add("GET", "/x", plain)
        assert root.resolve(b"OPTIONS", b"*").allowed == ("OPTIONS",)

    def test_parameters_must_differ_across_routers(self) -> None:
        """A parameter name cannot come twice in the whole pattern."""
        root, api = Router(), Router()
        root.mount("/:id", api)
        with pytest.raises(RouteError, match="twice"):
            api.add("GET", "/:id", plain)

    @pytest.mark.parametrize("prefix", ["api", "/a/*", "//", "*", "/a//", "/%"])
    def test_bad_prefixes(self, prefix: str) -> None:
        """A prefix is a pattern without a wildcard."""
        with pytest.raises(RouteError):
            Router().mount(prefix, Router())

    def test_cycles_are_refused(self) -> None:
        """A router cannot be under itself."""
        a, b, c = Router(), Router(), Router()
        a.mount("/b", b)
        b.mount("/c", c)
        for router in (a, b, c):
            with pytest.raises(RouteError, match="itself"):
                c.mount("/x", router)

    def test_targets_without_a_path_are_not_prefixed(self) -> None:
        """CONNECT and OPTIONS * of a mounted router are those of the server."""
        root, proxy = Router(), Router()
        proxy.add("CONNECT", "", plain, name="proxy")
        proxy.add("OPTIONS", "*", plain, name="options")
        root.mount("/proxy", proxy)
        assert compiled(root, b"CONNECT", b"a:1").name == "proxy"
        assert compiled(root, b"OPTIONS", b"*").name == "options"
        with pytest.raises(RouteError):
            root.add("CONNECT", "", plain)
