"""`python -m quiche_h3.interop [ROOT]`: does what the environment asks for, as the interop runner sets it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..config import ClientConfig, ServerConfig
from ..errors import QuicheH3Error
from ..happy_eyeballs import source_address
from ..logs import format_address
from . import webtransport
from .cases import CASES, UNSUPPORTED, Case
from .files import Client, Url, make_server

# The runner's client: our address on the way there is the one that it reaches us at.
_CLIENTS: Final = {"preferred_address_v4": "193.167.0.100", "preferred_address_v6": "fd00:cafe:cafe:0::100"}


def main(arguments: list[str], env: Mapping[str, str]) -> int:
    """Runs one test case in one role. Returns the exit status: 0, 1 when it failed, 127 for not supported."""
    logging.basicConfig(level=env.get("LOG_LEVEL", "INFO"), format="%(asctime)s %(name)s: %(message)s")
    root = Path(arguments[0] if arguments else "/")
    role, name = env.get("ROLE", ""), env.get("TESTCASE", "")
    if env.get("PROTOCOLS") or name in webtransport.SERVER.keys() ^ webtransport.CLIENT.keys():
        return run_webtransport(root, env, role, name)
    case = CASES.get(name)
    fields = None if case is None else {"server": case.server, "client": case.client}.get(role)
    if case is None or fields is None:
        print(f"{role or 'no role'}: test case {name!r} is not supported", file=sys.stderr)
        return UNSUPPORTED
    options = {**diagnostics(env), **fields, "alpn_protocols": list(case.alpn)}
    try:
        if role == "server" and case.prefer_address:
            options.update(preferred_addresses(server_port(env) + 1))
        return serve(root, env, options) if role == "server" else fetch(root, env, options, case)
    except (OSError, ValueError, QuicheH3Error) as exc:
        print(f"{role}, {name}: {exc}", file=sys.stderr)
        return 1


def run_webtransport(root: Path, env: Mapping[str, str], role: str, name: str) -> int:
    """The runner's other table, which has some of the same names. The exit status is as of `main()`."""
    work = {"server": webtransport.SERVER, "client": webtransport.CLIENT}.get(role, {}).get(name)
    if work is None:
        print(f"{role or 'no role'}: WebTransport case {name!r} is not supported", file=sys.stderr)
        return UNSUPPORTED
    protocols, asked = env.get("PROTOCOLS", "").split(), env.get("REQUESTS", "")
    try:
        if role == "server":
            config = server_config(root, env, diagnostics(env))
            webtransport.make_server(config, root, work, protocols, asked).run()
        else:
            if not asked.split():
                raise ValueError("REQUESTS names no session")
            options = ClientConfig(cafile=str(root / "certs/ca.pem"), **diagnostics(env))
            webtransport.run_client(options, root, work, protocols, asked.split())
    except (OSError, ValueError, QuicheH3Error, asyncio.TimeoutError) as exc:
        print(f"{role}, {name}: {exc or type(exc).__name__}", file=sys.stderr)
        return 1
    return 0


def diagnostics(env: Mapping[str, str]) -> dict[str, Any]:
    """Key log and qlog, where they are asked for."""
    options: dict[str, Any] = {}
    if keys := env.get("SSLKEYLOGFILE"):
        Path(keys).parent.mkdir(parents=True, exist_ok=True)
        options["keylog_path"] = keys
    if qlog := env.get("QLOGDIR"):
        Path(qlog).mkdir(parents=True, exist_ok=True)
        options["qlog_dir"] = qlog
    return options


def server_port(env: Mapping[str, str]) -> int:
    """Where the runner wants a server."""
    return int(env.get("PORT", "443"))


def preferred_addresses(port: int) -> dict[str, str]:
    """Fields of the configuration: another port of the addresses at which the runner's client reaches us."""
    fields = {}
    for field, client in _CLIENTS.items():
        try:
            host = source_address((client, port))
        except OSError:
            continue  # no way there by this family
        fields[field] = format_address((host, port))
    return fields


def server_config(root: Path, env: Mapping[str, str], options: dict[str, Any]) -> ServerConfig:
    """Where the runner wants a server, and with what."""
    return ServerConfig(
        bind_port=server_port(env),
        cert_path=str(root / "certs/cert.pem"),
        key_path=str(root / "certs/priv.key"),
        drain_timeout_ms=2000,
        **options,
    )


def serve(root: Path, env: Mapping[str, str], options: dict[str, Any]) -> int:
    """Until SIGTERM."""
    make_server(server_config(root, env, options), root / "www").run()
    return 0


def fetch(root: Path, env: Mapping[str, str], options: dict[str, Any], case: Case) -> int:
    """Everything that REQUESTS names, into the directory of downloads."""
    urls = [Url.parse(text) for text in env.get("REQUESTS", "").split()]
    if not urls:
        raise ValueError("REQUESTS names nothing to fetch")
    config = ClientConfig(cafile=str(root / "certs/ca.pem"), connect_timeout_ms=180_000, **options)
    config.validate()
    problem = Client(config, root / "downloads", case.update_key).run(case.plan, urls)
    if problem is not None:
        print(f"client: {problem}", file=sys.stderr)
    return 0 if problem is None else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], os.environ))
