"""The command `get`: one request, its body to a file or to stdout, a progress bar if somebody watches."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final, TextIO

import click
from cryptography import x509

from . import __version__
from ._options import KIB, MIB
from .client import ClientConnection, connect
from .client_messages import ClientResponse
from .headers import Pair, encode_header

_LARGE: Final = 1 * MIB
_REDRAW_SECONDS: Final = 0.1


def fetch(
    url: str,
    insecure: bool,
    cacert: str | None,
    headers: tuple[str, ...],
    output: str | None,
    verbose: bool,
    fail: bool,
    timeout: float,
) -> None:
    """Does what the command line says. Raises ClickException, QuicheH3Error or OSError."""
    fields = [(b"user-agent", f"quiche-h3/{__version__}".encode()), (b"accept", b"*/*")]
    fields = _with_headers(fields, headers)
    try:
        client = connect(url, verify=not insecure, cafile=cacert, timeout=timeout)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    with client:
        if verbose:
            _show_connection(client, insecure)
            _show_request(client, fields)
        response = client.get(client.path, headers=fields)
        if verbose:
            _show_response(response)
        if fail and response.status >= 400:
            raise click.ClickException(f"the server answered with status {response.status}")
        _save(response, output)
        if verbose and response.trailers is not None:
            for name, value in response.trailers.items():
                _say("<", f"{name}: {value}")


def _with_headers(fields: list[Pair], given: tuple[str, ...]) -> list[Pair]:
    """The fields to send; a given one takes the place of ours."""
    own = []
    for text in given:
        name, colon, value = text.partition(":")
        if not colon:
            raise click.UsageError(f"-H {text!r}: write -H 'NAME: VALUE'")
        own.append(encode_header(name.strip(), value.strip()))
    names = {name for name, _ in own}
    return [pair for pair in fields if pair[0] not in names] + own


def _save(response: ClientResponse, output: str | None) -> None:
    text = response.headers.get("content-length", "")
    total = int(text) if text.isdecimal() else None
    if output is not None:
        with Path(output).open("wb") as file:
            _copy(response, file, Progress(sys.stderr, total) if sys.stderr.isatty() else None)
        return
    # Where the body itself appears on the terminal, a bar would be in its way.
    watched = sys.stderr.isatty() and not sys.stdout.isatty() and (total is None or total >= _LARGE)
    _copy(response, sys.stdout.buffer, Progress(sys.stderr, total) if watched else None)


def _copy(response: ClientResponse, file: BinaryIO, progress: Progress | None) -> None:
    try:
        for chunk in response:
            file.write(chunk)
            if progress is not None:
                progress.add(len(chunk))
        file.flush()
    finally:
        if progress is not None:
            progress.finish()


class Progress:
    """One line on a terminal: how much of a body is there, how fast it comes, how long it will take."""

    def __init__(self, terminal: TextIO, total: int | None) -> None:
        self._terminal = terminal
        self._total = total
        self._done = 0
        self._begin = time.monotonic()
        self._drawn = 0.0

    def add(self, size: int) -> None:
        """So many bytes more have come."""
        self._done += size
        now = time.monotonic()
        if now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            self._draw()

    def finish(self) -> None:
        """No more comes."""
        self._draw()
        self._terminal.write("\n")
        self._terminal.flush()

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._terminal.write("\r" + self.line(time.monotonic() - self._begin, width).ljust(width))
        self._terminal.flush()

    def line(self, seconds: float, width: int) -> str:
        """The line after so many seconds, at most `width` wide."""
        rate = self._done / max(seconds, 1e-3)
        if self._total is None:
            return f"{show_size(self._done)}  {show_size(rate)}/s"[:width]
        share = self._done / self._total if self._total else 1.0
        left = (self._total - self._done) / rate if rate else 0.0
        minutes, rest = divmod(round(seconds if share >= 1 else left), 60)
        sizes = f"{show_size(self._done)} of {show_size(self._total)}"
        end = f"{sizes}  {show_size(rate)}/s  {minutes}:{rest:02d}"
        begin = f"{share:4.0%} "
        room = width - len(begin) - len(end) - 4
        if room < 5:
            return (begin + end)[:width]
        filled = round(min(share, 1.0) * room)
        return f"{begin}[{'#' * filled}{'.' * (room - filled)}]  {end}"


def show_size(size: float) -> str:
    """Bytes as people read them."""
    for unit, name in ((1024 * MIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"


def _say(mark: str, text: str) -> None:
    click.echo(f"{mark} {text}".rstrip(), err=True)


def _show_connection(client: ClientConnection, insecure: bool) -> None:
    info = client.info
    host, port = info.address
    _say("*", f"Connected to {client.origin.host} ({host}) port {port} from port {info.local_address[1]}")
    _say("*", f"QUIC version 1, TLS 1.3, ALPN {info.alpn}, handshake in {info.handshake_s * 1000:.1f} ms")
    certificate = x509.load_der_x509_certificate(info.certificate)
    _say("*", f"Certificate: {certificate.subject.rfc4514_string() or 'no subject'}")
    _say("*", f"  issued by {certificate.issuer.rfc4514_string() or 'nobody'}")
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    _say("*", f"  valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}")
    _say("*", "  NOT verified (--insecure)" if insecure else f"  verified for {client.origin.host}")


def _show_request(client: ClientConnection, fields: list[Pair]) -> None:
    _say(">", f"GET {client.path} HTTP/3")
    _say(">", f"host: {client.origin.authority}")
    for name, value in fields:
        _say(">", f"{name.decode()}: {value.decode('latin-1')}")
    _say(">", "")


def _show_response(response: ClientResponse) -> None:
    for hint in response.interim:
        _say("<", f"HTTP/3 {hint.status}")
        for name, value in hint.headers.items():
            _say("<", f"{name}: {value}")
        _say("<", "")
    _say("<", f"HTTP/3 {response.status}")
    for name, value in response.headers.items():
        _say("<", f"{name}: {value}")
    _say("<", "")
