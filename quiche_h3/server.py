"""The server: routes, life cycle and the loop that runs it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from . import ev
from ._core import quiche_log
from ._core.connection import Connection
from ._core.endpoint import Endpoint
from ._core.hq import HQ_ALPN, Hq
from ._core.http3 import Http3
from ._core.sockets import open_server_sockets
from .config import EventBackend, ServerConfig
from .credentials import Credentials
from .drivers import Driver, LibevDriver
from .errors import ConfigError, H3ErrorCode, InvalidState
from .events import Event
from .files import StaticDirectory
from .handlers import Dispatcher
from .metrics import Metrics
from .polling import PollingDispatcher
from .request import Request
from .response import Response
from .routing import HandlerKind, Router
from .server_connections import ServerConnections
from .watchdog import Watchdog

if TYPE_CHECKING:
    from .first_visit import FirstVisit

log: Final = logging.getLogger("quiche_h3")

DatagramCallback = Callable[["Server", Connection, bytes], object]
ConnectionCallback = Callable[[Connection], object]
D = TypeVar("D", bound=DatagramCallback)
C = TypeVar("C", bound=ConnectionCallback)
F = TypeVar("F", bound=Callable[[], object])

_CLOSE_SECONDS: Final = 0.5
_ASYNC_KINDS: Final = (HandlerKind.COROUTINE, HandlerKind.ASYNC_GENERATOR)


class Address(NamedTuple):
    """Where a server can be reached."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The https URL of the server's root, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


class Server(Router):
    """An HTTP/3 server. Register routes, then `run()`, `start()`, `await serve()`, or poll `next_event()`.

    A server runs once: make another to serve again.
    """

    def __init__(self, config: ServerConfig | None = None) -> None:
        super().__init__()
        self.config = ServerConfig.gather() if config is None else config
        self._app = ServerConnections()
        self._app.configure(self.config, Dispatcher(self.config, self))
        self._endpoint: Endpoint | None = None
        self._credentials: Credentials | None = None
        self._driver: Driver | None = None
        self._first_visit: FirstVisit | None = None
        self._watchdog: Watchdog | None = None
        self._started_before = 0  # handlers, when the watchdog looked last
        self._thread: threading.Thread | None = None
        self._thread_error: BaseException | None = None
        self._begun = threading.Event()  # the background thread serves, or has failed to
        self._busy: set[Connection] | None = None  # while draining: connections with requests in flight
        self._stop_requests = 0
        self._started = self._stopping = self._stopped = self._ended = False
        self._startup_hooks: list[Callable[[], object]] = []
        self._shutdown_hooks: list[Callable[[], object]] = []

    # Registration beyond routes

    def on_datagram(self, callback: D) -> D:
        """Decorator: `callback(server, connection, payload)` for QUIC DATAGRAMs (RFC 9221).

        It gets all but those of requests whose handlers take HTTP datagrams.
        """
        self._app.on_datagram = lambda connection, payload: callback(self, connection, payload)
        self._app.dispatcher.raw_datagrams = True
        return callback

    def on_connect(self, callback: C) -> C:
        """Decorator: `callback(connection)` when a handshake is complete."""
        self._app.connect_hooks.append(callback)
        return callback

    def on_close(self, callback: C) -> C:
        """Decorator: `callback(connection)` when a connection is gone; `connection.close_reason` says why."""
        self._app.close_hooks.append(callback)
        return callback

    def on_startup(self, callback: F) -> F:
        """Decorator: `callback()` when the sockets are bound, before the first request."""
        self._startup_hooks.append(callback)
        return callback

    def on_shutdown(self, callback: F) -> F:
        """Decorator: `callback()` after the last connection is gone."""
        self._shutdown_hooks.append(callback)
        return callback

    def static(self, prefix: str, directory: str | os.PathLike[str], **options: Any) -> None:
        """Serves a directory's files under `prefix`. Options as of `files.StaticDirectory`, e.g. `index`."""
        files = StaticDirectory(directory, **options)

        def send(req: Request, res: Response) -> None:
            res.send_plan(files.plan(req.params["*"], req.method, req.headers))

        self.get(prefix.rstrip("/") + "/*", name=f"static {prefix}")(send)

    # Life cycle

    def configure(self, config: ServerConfig) -> None:
        """Takes another configuration, as from the command line. Raises InvalidState once it is bound."""
        if self._endpoint is not None:
            raise InvalidState("the server is bound: its configuration stays")
        self.config = config
        self._app.configure(config, Dispatcher(config, self))

    @property
    def address(self) -> Address:
        """The first bound address. Raises InvalidState before the server is bound."""
        return self.addresses[0]

    @property
    def addresses(self) -> list[Address]:
        """All bound addresses."""
        if self._endpoint is None:
            raise InvalidState("the server is not bound yet")
        return [Address(*sock.address) for sock in self._endpoint.sockets]

    @property
    def certificate_sha256(self) -> bytes:
        """SHA-256 of the certificate, as a browser's `serverCertificateHashes` wants it."""
        if self._credentials is None:
            raise InvalidState("the server has loaded no certificate yet")
        return self._credentials.certificate.sha256

    @property
    def certificate_spki_sha256(self) -> bytes:
        """SHA-256 of its public key, as Chrome's --ignore-certificate-errors-spki-list wants it."""
        if self._credentials is None:
            raise InvalidState("the server has loaded no certificate yet")
        return self._credentials.certificate.spki_sha256

    @property
    def connections(self) -> list[Connection]:
        """The connections there are now."""
        return [] if self._endpoint is None else list(self._endpoint.connections.values())

    def open(self) -> None:
        """Checks the configuration, loads the certificate, binds. Raises ConfigError, with nothing bound."""
        if self._endpoint is not None:
            raise InvalidState("a server runs once")
        self.config.validate()
        for name in self.config.alpn_protocols:
            if name != "h3" and name not in HQ_ALPN:
                raise ConfigError("alpn_protocols", f"{name!r} is not served", 'use "h3" or "hq-interop"')
        self.compile()
        if self.config.qlog_dir is not None:
            Path(self.config.qlog_dir).mkdir(parents=True, exist_ok=True)
        if self.config.enable_debug_logging:
            quiche_log.enable(self.config.debug_log_throttle)
        self._app.webtransport = self._wants_webtransport()
        credentials = Credentials(self.config, self._app.webtransport)
        try:
            sockets = open_server_sockets(self.config)
        except BaseException:
            credentials.close()
            raise
        self._credentials = credentials
        endpoint = Endpoint(credentials.settings, self._app, server=True)
        for sock in sockets:
            endpoint.add_socket(sock)
        self._endpoint = endpoint
        if self.config.tcp_pages:
            from .first_visit import FirstVisit  # `ssl` alone is 4 MiB

            try:
                self._first_visit = FirstVisit(self.config, self.addresses, credentials.certificate)
            except BaseException:
                self._release()
                raise

    def run(self, loop: ev.Loop | None = None) -> None:
        """Serves until `stop()`, SIGINT or SIGTERM; then drains. A second signal stops at once.

        `loop` is the program's own, with its own watchers. Where async handlers are registered the server
        runs in an asyncio loop instead (uvloop if it is installed).
        """
        endpoint = self._prepare()
        if self._wants_asyncio():
            if loop is not None:
                raise InvalidState(
                    "async handlers need an asyncio loop: use `await serve()`, or run() without a loop"
                )
            from . import asyncio_driver

            asyncio_driver.run(self.serve())
            return
        driver = LibevDriver(endpoint, loop, self.config.event_backend)
        try:
            self._begin(driver)
            self._begin_watch(driver)
            with self._signals():
                driver.run()
        finally:
            self._end(driver)

    def _prepare(self) -> Endpoint:
        """The endpoint, bound. Raises InvalidState when it is or was in use."""
        if self._endpoint is None:
            self.open()
        endpoint = self._endpoint
        if endpoint is None or self._ended or self._driver is not None:
            raise InvalidState("a server runs once")
        return endpoint

    def _wants_asyncio(self) -> bool:
        routes = self.routes()
        kinds = {route.kind if route.session is None else route.session.calls for route in routes}
        for table in (self._errors, *(table for route in routes for table in route.errors)):
            kinds.update(handler.kind for handler in table.values())
        return self.config.event_backend is EventBackend.ASYNCIO or not kinds.isdisjoint(_ASYNC_KINDS)

    def _wants_webtransport(self) -> bool:
        return self.config.enable_webtransport and any(route.session for route in self.routes())

    async def serve(self) -> None:
        """Serves inside the running asyncio loop, until `stop()` or cancellation, which drains first."""
        import asyncio

        from .asyncio_driver import AsyncioDriver

        driver = AsyncioDriver(self._prepare())
        self._app.dispatcher.spawn = driver.spawn
        try:
            self._begin(driver)
            self._begin_watch(driver)
            with self._signals():
                try:
                    await driver.run()
                except asyncio.CancelledError:
                    self._begin_drain()
                    await driver.run()
                    raise
        finally:
            self._end(driver)
            await driver.wait_closed()

    def start(self) -> Address:
        """Serves in a background thread. Returns its address, or raises what on_startup hooks raise."""
        if self._thread is not None:
            raise InvalidState("the server was started already")
        self._prepare()
        self._thread = threading.Thread(target=self._run_thread, name="quiche_h3-server", daemon=True)
        self._thread.start()
        self._begun.wait()
        if self._thread_error is not None:
            self.stop()  # raises it
        return self.address

    def _run_thread(self) -> None:
        try:
            self.run()
        except BaseException as exc:
            self._thread_error = exc
            if self._started:
                log.exception("the server thread failed")
        finally:
            self._begun.set()

    def stop(self) -> None:
        """Stops accepting, lets requests in flight finish within `drain_timeout_ms`, closes everything.

        Safe from any thread and from a signal handler. The second call stops at once. After `start()`, called
        from another thread, it waits until the server's thread has ended.
        """
        if self._endpoint is not None and self._endpoint.forked:
            return  # the server, its thread and its sockets are the parent's
        self._stop_requests += 1
        driver = self._driver
        if driver is not None:
            try:
                driver.post(self._begin_drain if self._stop_requests == 1 else self._stop_now)
            except RuntimeError:
                pass  # it has ended by itself meanwhile
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
            if self._thread_error is not None:
                error, self._thread_error = self._thread_error, None
                raise error

    def reload(self, config: ServerConfig | None = None) -> None:
        """Reads certificates and keys anew, for the connections that begin from now on; the others go on.

        `config` may name other certificates, trust and secrets (`credentials.RELOADED_FIELDS`); the rest of
        it is not looked at. A new `secret_key` leaves the old one in use for Retry tokens and session
        tickets until the next reload with another. Raises `ConfigError` when something cannot be used: then
        nothing is changed. Safe from any thread.
        """
        if self._credentials is None or self._endpoint is None or self._ended:
            raise InvalidState("the server does not run")
        credentials = self._credentials.renewed(config)
        if self._driver is None:
            self._adopt(credentials)
        else:
            self._driver.post(self._adopt, credentials)

    def _adopt(self, credentials: Credentials) -> None:
        before, endpoint = self._credentials, self._endpoint
        if before is None or endpoint is None:
            return
        endpoint.take_settings(credentials.settings)
        self._credentials = credentials
        if self._first_visit is not None:
            self._first_visit.renew(credentials.certificate)
        before.give_way(credentials)
        log.info("certificates and keys were reloaded")

    @contextmanager
    def running(self) -> Iterator[Address]:
        """Context manager: the server runs in a background thread; yields its address."""
        address = self.start()
        try:
            yield address
        finally:
            self.stop()

    def __enter__(self) -> Address:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def call_soon_threadsafe(self, function: Callable[..., object], *args: Any) -> None:
        """Calls a function in the server's loop, from any thread, as requests and connections need it."""
        if self._driver is None:
            raise InvalidState("the server does not run")
        self._driver.post(function, *args)

    # Polling mode

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next event; None after `timeout` seconds (None: waits for ever) or when the server has stopped.

        No handler is called in this mode: the program answers each RequestEvent through its response, all
        from the one thread that polls. The first call binds, if `open()` was not called before.
        """
        if self._app.events is None:
            self._begin_polling()
        events, driver = self._app.events, self._driver
        if events is None:
            raise InvalidState("the server does not poll")
        deadline = None if timeout is None else time.monotonic() + timeout
        while not events and isinstance(driver, LibevDriver) and self._driver is not None:
            if self._stopped:
                self._end(driver)
                break
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0 and timeout:
                return None
            driver.run_once(left)
            if timeout == 0:
                break
        return events.popleft() if events else None

    def _begin_polling(self) -> None:
        driver = LibevDriver(self._prepare(), None, self.config.event_backend)
        self._app.events = events = deque[Event]()
        self._app.dispatch_by(PollingDispatcher(self.config, self, events))
        try:
            self._begin(driver)
        except BaseException:
            self._end(driver)
            raise

    def close(self) -> None:
        """Ends the polling mode at once: every connection is closed with H3_NO_ERROR.

        Gives back what `open()` took, if the server was never run. Else it does nothing.
        """
        driver = self._driver
        if isinstance(driver, LibevDriver) and self._app.events is not None:
            self._stop_now()
            driver.run()  # until the last CONNECTION_CLOSE is out
            self._end(driver)
        elif self._endpoint is not None and driver is None and self._thread is None and not self._ended:
            self._release()

    # Running

    def _begin(self, driver: Driver) -> None:
        self._driver = driver
        self._app.dispatcher.post = driver.post
        self._app.dispatcher.raw_datagrams = self._app.on_datagram is not None
        for hook in self._startup_hooks:
            hook()
        driver.start()
        if self._first_visit is not None:
            self._first_visit.start()
        self._started = True
        self._begun.set()
        for address in self.addresses:
            log.info("serving HTTP/3 on %s", address.url)
        if self._stop_requests:  # stop() was called before there was a loop to tell
            driver.post(self._begin_drain)

    def _begin_watch(self, driver: Driver) -> None:
        if self.config.watchdog_ms:
            self._watchdog = Watchdog(driver.post, self._handlers_work, self.config.watchdog_ms / 1000)

    def _handlers_work(self) -> bool:
        """Some handler runs, or has run since this was asked last."""
        counted = self._app.dispatcher.counters()
        before, self._started_before = self._started_before, counted["started"]
        return counted["started"] != before or counted["active"] > 0

    def _end(self, driver: Driver) -> None:
        self._driver = None
        if self._watchdog is not None:
            self._watchdog.close()
        driver.close()
        self._release()
        if self._started:
            for hook in self._shutdown_hooks:
                hook()

    def _release(self) -> None:
        self._ended = True
        if self._first_visit is not None:
            self._first_visit.close()
        if self._endpoint is not None:
            self._endpoint.drop_all()
            for sock in self._endpoint.sockets:
                sock.close()
        self._app.dispatcher.close()
        if self._credentials is not None:
            self._credentials.close()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """In the main thread SIGINT and SIGTERM stop the server, and SIGHUP, if it is free, reloads it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            numbers.append(signal.SIGHUP)
        before = {n: signal.signal(n, self._on_signal) for n in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            try:
                self.reload()
            except ConfigError as error:
                log.error("SIGHUP: nothing was reloaded: %s", error)
            return
        log.info("%s: stopping", signal.Signals(number).name)
        self.stop()

    def _begin_drain(self) -> None:
        """GOAWAY for everybody; whoever has nothing in flight is closed behind it (RFC 9114 5.2).

        The GOAWAY goes out in a turn of its own: a close drops what waits to be sent, and a client that has
        seen no GOAWAY cannot know which of its requests were not processed.
        """
        endpoint, driver = self._endpoint, self._driver
        if endpoint is None or driver is None or self._busy is not None:
            return
        endpoint.refuse_new()
        self._busy = set()
        for connection in self.connections:
            http3 = connection.context
            if isinstance(http3, (Http3, Hq)):
                http3.goaway()
                self._busy.add(connection)
            else:
                connection.close(H3ErrorCode.H3_NO_ERROR)
        driver.after_turn = self._continue_drain
        driver.soon()
        driver.call_later(self.config.drain_timeout_ms / 1000, self._stop_now)

    def _continue_drain(self) -> None:
        busy, driver = self._busy, self._driver
        if busy is None or driver is None:
            return
        for connection in list(busy):
            if connection.closed or connection.context.drained:
                busy.discard(connection)
                connection.close(H3ErrorCode.H3_NO_ERROR)
        if not busy:
            self._stop_now()

    def _stop_now(self) -> None:
        """Closes what is left, sends that, and ends the loop."""
        endpoint, driver = self._endpoint, self._driver
        if endpoint is None or driver is None:
            return
        if self._stopping:
            return
        self._stopping = True
        endpoint.refuse_new()
        endpoint.close_all(H3ErrorCode.H3_NO_ERROR)
        driver.after_turn = self._stop_when_closed
        driver.soon()
        # With a full congestion window quiche holds a close back until there is an acknowledgement.
        driver.call_later(_CLOSE_SECONDS, self._stop_loop)

    def _stop_when_closed(self) -> None:
        """Ends the loop once every CONNECTION_CLOSE is out."""
        endpoint, driver = self._endpoint, self._driver
        if endpoint is None or driver is None or endpoint.blocked:
            return
        if all(connection.draining for connection in self.connections):
            self._stop_loop()

    def _stop_loop(self) -> None:
        self._stopped = True
        if self._driver is not None:
            self._driver.stop()

    # For programs

    def send_datagram(self, connection: Connection, payload: bytes) -> None:
        """Sends a QUIC DATAGRAM. Raises one of the DatagramErrors, or ConnectionClosed."""
        connection.context.send_datagram(payload)

    def export_metrics(self) -> dict[str, Any]:
        """All counters: engine, connections, http3, handlers. `quiche_h3.metrics` says what each means."""
        if self._endpoint is None:
            raise InvalidState("the server is not bound yet")
        endpoint, sockets = self._endpoint.counters()
        active = [connection.stats() for connection in self.connections]
        return Metrics.collect(
            endpoint,
            sockets,
            active,
            self._app.counters.as_dict(),
            {
                **self._app.dispatcher.counters(),
                "loop_blocked": 0 if self._watchdog is None else self._watchdog.blocked,
            },
            self._app.webtransport_counters.as_dict(),
        ).as_dict()
