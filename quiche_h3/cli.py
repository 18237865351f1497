"""The command line: serve a program or a directory, get a URL, check a configuration."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import importlib.util
import ipaddress
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn, TypeVar

import click

from . import __version__
from .cli_errors import NOT_WRITTEN, USAGE, Failed, show_error
from .config import ServerConfig
from .errors import ConfigError, QuicheH3Error
from .logs import setup_logging
from .server import Server
from .tls import load_certificate

F = TypeVar("F", bound=Callable[..., object])

_NO_CERTIFICATE: Final = "no certificate: give --cert and --key, or --dev-cert for development"
_LOG_LEVELS: Final = ", ".join(ServerConfig.options()["log_level"].choices)

# Options that give a field of the configuration, by the name of their parameter.
_FIELD_OF: Final = {
    "host": "bind_addr",
    "port": "bind_port",
    "cert": "cert_path",
    "key": "key_path",
    "dev_cert": "dev_cert",
    "tcp": "tcp_pages",
    "log_level": "log_level",
    "access_log": "access_log",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="quiche-h3", message="%(prog)s %(version)s")
def cli() -> None:
    """Serve a Python program or a directory over HTTP/3, or get a URL.

    \b
    Try it:
      quiche-h3 serve --directory . --dev-cert
      quiche-h3 get https://localhost:4433/ --insecure -v
    """


def _config_options(command: F) -> F:
    """The options that make up a server's configuration."""
    options = [
        click.option("--host", metavar="ADDRESS", help="Address to bind: a literal IPv4 or IPv6 address."),
        click.option("--port", metavar="PORT", help="UDP port to bind; 0 takes a free one.  [default: 4433]"),
        click.option("--cert", metavar="FILE", help="Certificate chain in PEM, the server's own first."),
        click.option("--key", metavar="FILE", help="Private key in PEM, not encrypted."),
        click.option(
            "--dev-cert", is_flag=True, default=None, help="Make a self-signed certificate, for development."
        ),
        click.option(
            "--tcp", is_flag=True, default=None, help="Answer HTTPS over TCP too, where browsers come first."
        ),
        click.option("--config", "file", metavar="FILE", help="TOML file with fields of the configuration."),
        click.option(
            "--set",
            "fields",
            metavar="FIELD=VALUE",
            multiple=True,
            help="Any field of the configuration, as in docs/configuration.md. May be given several times.",
        ),
        click.option("--log-level", metavar="LEVEL", help=f"Least severe level logged: {_LOG_LEVELS}."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(short_help="Serve a program or a directory.")
@click.argument("app", required=False, metavar="[APP]")
@click.option("--directory", metavar="DIR", help="Serve the files of a directory, instead of a program.")
@_config_options
@click.option("--access-log/--no-access-log", default=None, help="A line per request.  [default: on]")
def serve(app: str | None, directory: str | None, **options: Any) -> None:
    """Serve APP until it is stopped with Ctrl-C.

    APP names a quiche_h3.Server: by the file and its variable, as in app.py:server, or by the module, as in
    package.module:server. Without a variable it is `server`.

    Every field of the configuration comes from the strongest place that gives it: the program itself, then
    the file of --config, then the environment (QUICHE_H3_<FIELD>), then this command line.

    \b
    Examples:
      quiche-h3 serve app.py:server --dev-cert --tcp
      quiche-h3 serve app.py:server --cert cert.pem --key key.pem --host :: --port 443
      quiche-h3 serve --directory public --dev-cert --set idle_timeout_ms=60000
    """
    if (app is None) == (directory is None):
        raise click.UsageError("give either APP, for example app.py:server, or --directory DIR")
    server = _load_server(app) if app is not None else _directory_server(str(directory))
    config = _gather(options, dataclasses.replace(server.config, access_log=True))
    if not _has_certificate(config):
        raise click.UsageError(_NO_CERTIFICATE)
    config.validate()
    server.configure(config)
    setup_logging(config.log_level, config.access_log)
    server.on_startup(lambda: _announce(server))
    server.open()
    server.run()


@cli.command("check-config", short_help="Check a configuration and print it.")
@_config_options
@click.option("--access-log/--no-access-log", default=None, help="A line per request.")
def check_config(**options: Any) -> None:
    """Check the configuration that `serve` would have with the same options, and print its values as TOML.

    Values come from the defaults, then the file of --config, then the environment, then this command line.
    Files named in it, the certificate among them, are read.
    """
    config = _gather(options, ServerConfig())
    if _has_certificate(config):
        config.validate()
        load_certificate(config).close()
    else:
        ServerConfig.gather(env={}, overrides={"dev_cert": True}, base=config).validate()
        click.echo("no certificate is given: serve needs one", err=True)
    for name, value in config.as_dict().items():
        click.echo(f"# {name} is not set" if value is None else f"{name} = {_toml(value)}")


@cli.command(short_help="Get URLs.")
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("-X", "--request", "method", metavar="METHOD", help="The method, in place of GET, POST or PUT.")
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="'NAME: VALUE'",
    multiple=True,
    help="Send a field; 'NAME;' sends an empty one, 'NAME:' leaves out one of ours.",
)
@click.option(
    "-d",
    "--data",
    metavar="DATA",
    multiple=True,
    help="POST this body; @FILE or @- sends a file or stdin without its line ends. Several are joined by &.",
)
@click.option(
    "--data-binary", "binary", metavar="DATA", multiple=True, help="As -d, with a file sent as it is."
)
@click.option(
    "-T",
    "--upload-file",
    "upload",
    metavar="FILE",
    help="PUT a file; - is stdin. A URL that ends with / gets its name.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    metavar="FILE",
    multiple=True,
    help="Write the body there; once for each URL.",
)
@click.option("-O", "--remote-name", is_flag=True, help="Write the body to a file named as in the URL.")
@click.option("-I", "--head", is_flag=True, help="Send HEAD, and write status and fields.")
@click.option("-L", "--location", is_flag=True, help="Follow redirects.")
@click.option("-v", "--verbose", is_flag=True, help="Show handshake, fields and timing on stderr.")
@click.option("--timing", is_flag=True, help="Show how long each phase took, on stderr.")
@click.option("-Z", "--parallel", is_flag=True, help="Get all URLs at once, over shared connections.")
@click.option("--0rtt", "early", is_flag=True, help="Send GET and HEAD in 0-RTT where a ticket is there.")
@click.option(
    "--tickets", metavar="FILE", help="Keep session tickets there.  [default with --0rtt: in ~/.cache]"
)
@click.option("-k", "--insecure", is_flag=True, help="Take any certificate.")
@click.option(
    "--ca", "--cacert", "cacert", metavar="FILE", help="Trust these authorities (PEM), besides the system's."
)
@click.option("-E", "--cert", metavar="FILE", help="Our own certificate (PEM), for servers that demand one.")
@click.option("--key", metavar="FILE", help="Its key (PEM).  [default: in the same file]")
@click.option("--key-log", metavar="FILE", help="Append TLS secrets to a file, for Wireshark.")
@click.option("--qlog", metavar="DIR", help="Write a qlog file per connection.")
@click.option("-f", "--fail", is_flag=True, help="Fail, without the body, when the status is 400 or more.")
@click.option(
    "--timeout",
    type=float,
    default=30.0,
    metavar="SECONDS",
    help="The longest wait, for an answer or for the next piece of it.  [default: 30]",
)
def get(**options: Any) -> None:
    """Get URLs over HTTP/3 and write the bodies to stdout.

    Options are named as curl's, and so are exit codes: 6 no such host, 7 no connection, 22 --fail,
    23 not written, 26 not read, 28 too late, 47 redirects, 56 broken off, 60 certificate; 2 any other.
    On a terminal, a progress bar shows how large bodies come along. Proxies are not used.

    \b
    Examples:
      quiche-h3 get https://localhost:4433/hello --insecure
      quiche-h3 get https://localhost:4433/hello --ca cert.pem -v
      quiche-h3 get https://example.com/large.iso -O
      quiche-h3 get https://example.com/form -d name=value -d other=1
      quiche-h3 get https://example.com/{a,b,c}.jpg -O --parallel
    """
    from .cli_get import Options, fetch  # the server's command needs no client

    fetch(Options(**options))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0, or after one line on stderr that says what was wrong; see cli_errors."""
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        cli.main(args=given or ["--help"], prog_name="quiche-h3", standalone_mode=False)
        sys.stdout.flush()
    except Failed as exc:
        if exc.code == NOT_WRITTEN:
            _drop_stdout()
        _fail(exc.format_message(), exc.code)
    except click.ClickException as exc:
        _fail(exc.format_message())
    except click.Abort:
        sys.exit(130)
    except BrokenPipeError:  # who read our output is gone
        _drop_stdout()
        sys.exit(0)
    except (QuicheH3Error, OSError) as exc:
        _fail(show_error(exc))
    sys.exit(0)


def _drop_stdout() -> None:
    """What could not be written is given up: Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int = USAGE) -> NoReturn:
    click.echo(f"quiche-h3: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _gather(options: dict[str, Any], base: ServerConfig) -> ServerConfig:
    overrides: dict[str, object] = {}
    for text in options["fields"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--set {text}: write --set FIELD=VALUE")
        overrides[name.strip()] = value
    for option, name in _FIELD_OF.items():
        if options[option] is not None:
            overrides[name] = options[option]
    return ServerConfig.gather(options["file"], overrides=overrides, base=base)


def _has_certificate(config: ServerConfig) -> bool:
    return bool(config.cert_path or config.key_path or config.cert_pem or config.key_pem or config.dev_cert)


def _toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bytes):
        return _toml(value.decode("ascii", "backslashreplace"))
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return str(value)


def _load_server(name: str) -> Server:
    """The server that APP names. Raises UsageError."""
    where, _, variable = name.rpartition(":") if ":" in name else (name, "", "")
    variable = variable or "server"
    is_file = where.endswith(".py") or os.sep in where
    if is_file and not Path(where).is_file():
        raise click.UsageError(f"{where} is not a file")
    try:
        module = _import_file(Path(where)) if is_file else _import_module(where)
    except ConfigError:
        raise
    except Exception as exc:
        raise click.UsageError(f"{where} cannot be imported: {_describe(exc)}") from exc
    server: object = module
    for part in variable.split("."):
        server = getattr(server, part, None)
    if server is None:
        raise click.UsageError(f"{where} has no {variable}: name the variable that holds the server")
    if not isinstance(server, Server):
        raise click.UsageError(f"{name} is of type {type(server).__name__}, not a quiche_h3.Server")
    return server


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _describe(exc: Exception) -> str:
    """What an import raised and where, in a line."""
    frames = traceback.extract_tb(exc.__traceback__)
    text = f"{type(exc).__name__}: {exc}"
    frame = frames[-1] if frames else None
    inside = frame is None or frame.filename.startswith("<") or frame.filename == __file__
    return text if inside or frame is None else f"{text} ({frame.filename}, line {frame.lineno})"


def _directory_server(directory: str) -> Server:
    if not Path(directory).is_dir():
        raise click.UsageError(f"{directory} is not a directory")
    server = Server(ServerConfig())
    server.static("/", directory, index="index.html")
    return server


def _announce(server: Server) -> None:
    """Says where the server is, and how to reach it."""
    address = server.address
    bound = ipaddress.ip_address(address.host)
    host = "localhost" if bound.is_unspecified or bound.is_loopback else address.host
    origin = f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    lines = [f"Serving HTTP/3 on https://{origin}/  (Ctrl-C stops)"]
    if server.config.tcp_pages:
        lines.append("and HTTPS over TCP on the same port, for a browser's first visit")
    lines += ["", "Call it", f"  quiche-h3 get https://{origin}/ -v"]
    if server.config.dev_cert:
        lines[-1] += " --insecure"
        lines += _browsers(server, host, origin)
    click.echo("\n".join(lines) + "\n")
    sys.stdout.flush()


def _browsers(server: Server, host: str, origin: str) -> list[str]:
    """How browsers, which trust no development certificate, come to pages and to WebTransport."""
    sha256 = server.certificate_sha256
    key = base64.b64encode(server.certificate_spki_sha256).decode()
    chrome = [
        "google-chrome --user-data-dir=/tmp/quiche-h3-chrome",
        f"--origin-to-force-quic-on={origin}",
        f"--ignore-certificate-errors-spki-list={key}",
    ]
    if host == "localhost" and ipaddress.ip_address(server.address.host).version == 4:
        chrome.append('--host-resolver-rules="MAP localhost 127.0.0.1"')  # QUIC goes to ::1 alone
    lines = [
        "",
        "Development certificate, valid for 14 days",
        f"  SHA-256 (serverCertificateHashes)  {base64.b64encode(sha256).decode()}",
        f"  the same in hexadecimal            {sha256.hex()}",
        f"  SHA-256 of its key (SPKI)          {key}",
        "",
        "Open it in Chrome, with everything over HTTP/3",
        " \\\n    ".join([f"  {chrome[0]}", *chrome[1:], f"https://{origin}/"]),
    ]
    if server.config.tcp_pages:
        lines += [
            "",
            "Open it in any browser: pages come over TCP, WebTransport trusts the hash",
            f"  https://{origin}/  (pass the certificate's warning by)",
        ]
    return lines
