"""The command `get`: requests by the options that curl has, bodies to files or to stdout."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote, urlsplit

import click

from . import __version__
from ._options import MIB
from .cli_errors import NOT_READ, NOT_WRITTEN, Failed, exit_code, show_error
from .cli_progress import Progress, show_seconds, show_size
from .client import Client
from .client_exchange import size_of
from .client_link import ConnectionInfo
from .client_messages import ClientRequest, ClientResponse
from .client_verbs import RequestOptions, next_request
from .config import ClientConfig
from .errors import QuicheH3Error, StatusError
from .headers import Pair, encode_header

_LARGE: Final = 1 * MIB
_PARALLEL: Final = 50
_FORM: Final = b"application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Options:
    """The command line."""

    urls: tuple[str, ...]
    method: str | None
    headers: tuple[str, ...]
    data: tuple[str, ...]
    binary: tuple[str, ...]
    upload: str | None
    outputs: tuple[str, ...]
    remote_name: bool
    head: bool
    location: bool
    verbose: bool
    timing: bool
    parallel: bool
    early: bool
    tickets: str | None
    insecure: bool
    cacert: str | None
    cert: str | None
    key: str | None
    key_log: str | None
    qlog: str | None
    fail: bool
    timeout: float


def fetch(options: Options) -> None:
    """Does what the command line says. Raises ClickException or OSError."""
    try:
        body = _body(options)
        plan = [(url, _target(options, url, place)) for place, url in enumerate(options.urls)]
        with Client(
            verify=not options.insecure,
            cafile=options.cacert,
            config=_config(options),
            timeout=options.timeout,
        ) as client:
            Getter(client, options, body).run(plan)
    except QuicheH3Error as exc:
        raise Failed(str(exc), exit_code(exc)) from exc
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


def _config(options: Options) -> ClientConfig:
    config = ClientConfig.gather()
    if options.key_log is not None:
        config.keylog_path = options.key_log
    if options.qlog is not None:
        config.qlog_dir = options.qlog
    if options.cert is not None:
        config.client_cert_path, config.client_key_path = options.cert, options.key or options.cert
    if options.early:
        config.early_data = "safe"
    if options.early or options.tickets is not None:
        config.ticket_path = options.tickets or str(_ticket_file())
    return config


def _ticket_file() -> Path:
    """Where tickets are kept from one call to the next, in a folder that is this user's alone."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quiche-h3"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / "tickets"


def _body(options: Options) -> bytes | None:
    """The body of -d or --data-binary: its values joined by &, @FILE for what is in one, @- for stdin."""
    bodies = [name for name, given in (("-d", options.data), ("--data-binary", options.binary)) if given]
    bodies += ["-T"] if options.upload is not None else []
    if len(bodies) > 1 or (bodies and options.head):
        raise click.UsageError(f"give {' or '.join(bodies + ['-I'] * options.head)}, not both")
    if not options.data and not options.binary:
        return None
    parts = []
    for text in options.data or options.binary:
        part = _content(text[1:]) if text.startswith("@") else text.encode()
        # As curl has it: what somebody edits in a file ends with a line end that a form has not.
        parts.append(part.translate(None, b"\r\n\0") if options.data and text.startswith("@") else part)
    return b"&".join(parts)


def _content(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    with _failing(NOT_READ):
        return Path(name).read_bytes()


@contextmanager
def _failing(code: int) -> Iterator[None]:
    """What the system refuses here is the end of the command, with this code."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise Failed(show_error(exc), code) from exc


def _target(options: Options, url: str, place: int) -> Path | None:
    """The file for a URL's body, None for stdout."""
    if options.remote_name:
        name = urlsplit(url).path.rpartition("/")[2]
        if name in ("", ".", ".."):
            raise click.UsageError(f"-O: {url} ends with no file name; use -o FILE")
        return Path(name)
    if place >= len(options.outputs) or options.outputs[place] == "-":
        return None
    return Path(options.outputs[place])


class Getter:
    """Runs the requests, one after the other or at once."""

    def __init__(self, client: Client, options: Options, body: bytes | None) -> None:
        self._client = client
        self._options = options
        self._body = body
        self._fields = _fields(options, body)
        self._shown: set[str] = set()
        self._lock = threading.Lock()  # the lines of one request stay together
        self._progress: Progress | None = None

    def run(self, plan: list[tuple[str, Path | None]]) -> None:
        """Raises what went wrong, once all have ended; of several URLs with the URL before it."""
        watched = sys.stderr.isatty() and (
            all(path is not None for _, path in plan) or not sys.stdout.isatty()
        )
        self._progress = Progress(sys.stderr) if watched and not self._options.head else None
        workers = min(len(plan), _PARALLEL) if self._options.parallel else 1
        with ThreadPoolExecutor(workers) as pool:
            running = [pool.submit(self._one, url, path) for url, path in plan]
            try:
                failed = [
                    (url, error)
                    for (url, _), future in zip(plan, running, strict=True)
                    if (error := future.exception()) is not None
                ]
            except KeyboardInterrupt:  # the threads are waited for, and they for answers
                pool.shutdown(wait=False, cancel_futures=True)
                self._client.close()
                raise
        if self._progress is not None and self._options.parallel:
            self._progress.finish()
        for _, error in failed:
            if len(plan) == 1 or isinstance(error, BrokenPipeError) or not isinstance(error, Exception):
                raise error
        lines = [f"{url}: {show_error(error)}" for url, error in failed]
        for line in lines[:-1]:
            click.echo(f"quiche-h3: {line}", err=True)
        if lines:
            raise Failed(lines[-1], exit_code(failed[-1][1]))

    def _one(self, url: str, path: Path | None) -> None:
        begin = time.monotonic()
        with ExitStack() as files:
            response = self._response(url, files)
            first = time.monotonic()
            if self._options.fail and response.status >= 400:
                raise StatusError(response.status)
            size = self._save(response, path)
        if self._options.verbose and response.trailers is not None:
            _say(*(f"< {name}: {value}" for name, value in response.trailers.items()))
        if self._options.timing or self._options.verbose:
            _say(self._timing(response, begin, first, size))

    def _response(self, url: str, files: ExitStack) -> ClientResponse:
        """The last response, after the redirects if they are to be followed."""
        options = RequestOptions(headers=self._fields)
        method = self._options.method or "GET"
        if self._body is not None:
            options["data"], method = self._body, self._options.method or "POST"
        elif self._options.upload is not None:
            method = self._options.method or "PUT"
            if url.endswith("/") and self._options.upload != "-":
                url += quote(Path(str(self._options.upload)).name)
            size, options["data"] = self._open_upload(files)
            if size is not None:
                options["headers"] = [*self._fields, (b"content-length", b"%d" % size)]
        if self._options.head:
            method = "HEAD"
        limit = ClientConfig().max_redirects
        history: list[ClientResponse] = []
        while True:
            request = self._client.send(method, url, **options)
            self._show_request(request, options)
            response = request.response()
            self._show_response(response)
            response.history = tuple(history)
            if not self._options.location:
                return response
            following = next_request(
                response.status, response.headers, method, request.url, options, len(history), limit
            )
            if following is None:
                return response
            response.close()
            history.append(response)
            method, url, options = following

    def _open_upload(self, files: ExitStack) -> tuple[int | None, Iterator[bytes]]:
        name = str(self._options.upload)
        if name == "-":
            return None, _pieces(sys.stdin.buffer, self._progress)
        with _failing(NOT_READ):
            # By the name as it was given, which errors show; the stack closes it.
            file = files.enter_context(open(name, "rb"))  # noqa: PTH123, SIM115
        size = size_of(file)
        if self._progress is not None:
            self._progress.expect(size)
        return size, _pieces(file, self._progress)

    def _save(self, response: ClientResponse, path: Path | None) -> int:
        """Writes the body, and returns its size."""
        if self._options.head:
            heads = (
                "\n".join([*_response_lines(each, ""), "", ""]) for each in (*response.history, response)
            )
            with _opened(path) as file, _failing(NOT_WRITTEN):
                file.write("".join(heads).encode())
                file.flush()
            return 0
        text = response.headers.get("content-length", "")
        total = int(text) if text.isdecimal() else None
        large = path is not None or total is None or total >= _LARGE
        progress = self._progress if large else None
        if progress is not None:
            progress.expect(total)
        with _opened(path) as file:
            size = _copy(response, file, progress, path is None and not self._options.outputs)
        if progress is not None and not self._options.parallel:
            progress.finish()
            self._progress = Progress(sys.stderr)
        return size

    # What -v shows

    def _show_request(self, request: ClientRequest, options: RequestOptions) -> None:
        if not self._options.verbose:
            return
        origin = request.url.removesuffix(request.target)
        with self._lock:
            if not self._show_connection(origin):
                _say("* The request goes out in 0-RTT, before the handshake is complete")
            fields = dict.fromkeys(encode_header(*pair) for pair in options.get("headers") or ())
            _say(
                f"> {request.method} {request.target} HTTP/3",
                f"> host: {origin.removeprefix('https://')}",
                *(f"> {name.decode()}: {value.decode('latin-1')}" for name, value in fields),
                ">",
            )

    def _show_connection(self, origin: str) -> bool:
        """Shows it where that was not done; False while its handshake goes on."""
        info = self._client.connections().get(origin)
        if info is not None and origin not in self._shown:
            self._shown.add(origin)
            _say(*_connection_lines(urlsplit(origin).hostname or "", info, self._options.insecure))
        return info is not None

    def _show_response(self, response: ClientResponse) -> None:
        if not self._options.verbose:
            return
        with self._lock:
            self._show_connection(response.url.removesuffix(response.request.target))
            for hint in response.interim:
                lines = (f"< {name}: {value}" for name, value in hint.headers.items())
                _say(f"< HTTP/3 {hint.status}", *lines, "<")
            _say(*_response_lines(response, "< "), "<")

    def _timing(self, response: ClientResponse, begin: float, first: float, size: int) -> str:
        now = time.monotonic()
        info = self._client.connections().get(response.url.removesuffix(response.request.target))
        parts = []
        if info is not None:
            how = "resumed" if info.resumed else "full"
            parts = [
                f"{show_seconds(info.lookup_s)} lookup",
                f"{show_seconds(info.handshake_s)} handshake ({how}{', 0-RTT' * response.early_data})",
            ]
        parts += [f"{show_seconds(first - begin)} to the response", f"{show_seconds(now - begin)} in all"]
        rate = f" at {show_size(size / max(now - first, 1e-6))}/s" if size >= _LARGE else ""
        return f"* {', '.join(parts)}: {show_size(size)}{rate}"


def _fields(options: Options, body: bytes | None) -> list[Pair]:
    """The fields to send; a given one takes the place of ours."""
    fields = [(b"user-agent", f"quiche-h3/{__version__}".encode()), (b"accept", b"*/*")]
    if body is not None:
        fields.append((b"content-type", _FORM))
    own: list[Pair] = []
    left_out: set[bytes] = set()
    for text in options.headers:
        name, colon, value = text.partition(":")
        if not colon and text.endswith(";"):
            own.append(encode_header(text[:-1], ""))
        elif not colon:
            raise click.UsageError(f"-H {text!r}: write -H 'NAME: VALUE'")
        elif value.strip():
            own.append(encode_header(name.strip(), value.strip()))
        else:
            left_out.add(name.strip().lower().encode())
    names = left_out | {name for name, _ in own}
    return [pair for pair in fields if pair[0] not in names] + own


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        return
    with _failing(NOT_WRITTEN):
        file = path.open("wb")
    try:
        yield file
    finally:
        with _failing(NOT_WRITTEN):
            file.close()


def _copy(response: ClientResponse, file: BinaryIO, progress: Progress | None, to_stdout: bool) -> int:
    size = 0
    chunk = b"\n"
    terminal = file.isatty()
    try:
        for chunk in response:
            if terminal and to_stdout and b"\0" in chunk:
                raise Failed("the body is binary: give -o FILE, or -o - for the terminal", NOT_WRITTEN)
            with _failing(NOT_WRITTEN):
                file.write(chunk)
            size += len(chunk)
            if progress is not None:
                progress.add(len(chunk))
    except BaseException:
        if progress is not None:
            progress.finish()  # the error has a line of its own
        raise
    finally:
        with _failing(NOT_WRITTEN):
            if terminal and size and not chunk.endswith(b"\n"):
                file.write(b"\n")  # what is shown next, too
            file.flush()
    return size


def _pieces(file: BinaryIO, progress: Progress | None) -> Iterator[bytes]:
    while chunk := file.read(65_536):
        if progress is not None:
            progress.add(len(chunk))
        yield chunk


def _say(*lines: str) -> None:
    for line in lines:
        click.echo(line, err=True)


def _response_lines(response: ClientResponse, mark: str) -> list[str]:
    fields = (f"{mark}{name}: {value}" for name, value in response.headers.items())
    return [f"{mark}HTTP/3 {response.status}", *fields]


def _connection_lines(host: str, info: ConnectionInfo, insecure: bool) -> list[str]:
    address, port = info.address
    resumed = ", resumed" if info.resumed else ""
    handshake = f"handshake in {info.handshake_s * 1000:.1f} ms{resumed}"
    lines = [
        f"* Connected to {host} ({address}) port {port} from port {info.local_address[1]}",
        f"* QUIC version {info.quic_version}, TLS 1.3, ALPN {info.alpn}, {handshake}",
    ]
    if not info.certificate:
        return lines
    from cryptography import x509  # 8 MiB, for -v alone

    certificate = x509.load_der_x509_certificate(info.certificate)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return [
        *lines,
        f"* Certificate: {certificate.subject.rfc4514_string() or 'no subject'}",
        f"*   issued by {certificate.issuer.rfc4514_string() or 'nobody'}",
        f"*   valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}",
        "*   NOT verified (--insecure)" if insecure else f"*   verified for {host}",
    ]
