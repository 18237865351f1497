"""Configuration: the fields and defaults of specification 4.1, checks, sources, and the page about them."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quiche_h3.config import ClientConfig, EventBackend, LogLevel, ServerConfig, TransportConfig
from quiche_h3.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent

# Specification 4.1, in snake_case.
SPECIFIED: dict[str, object] = {
    "bind_addr": "0.0.0.0",
    "bind_port": 4433,
    "cert_path": "third_party/quiche/quiche/examples/cert.crt",
    "key_path": "third_party/quiche/quiche/examples/cert.key",
    "verify_peer": False,
    "idle_timeout_ms": 30_000,
    "initial_max_data": 2 * 1024 * 1024,
    "initial_max_stream_data_bidi_local": 1024 * 1024,
    "initial_max_stream_data_bidi_remote": 1024 * 1024,
    "initial_max_stream_data_uni": 1024 * 1024,
    "initial_max_streams_bidi": 10,
    "initial_max_streams_uni": 10,
    "max_recv_udp_payload_size": 1350,
    "max_send_udp_payload_size": 1350,
    "disable_active_migration": True,
    "enable_pacing": True,
    "cc_algorithm": "cubic",
    "enable_dgram": False,
    "dgram_recv_queue_len": 0,
    "dgram_send_queue_len": 0,
    "grease": True,
    "qlog_dir": "qlogs",
    "keylog_path": None,
    "enable_debug_logging": True,
    "log_level": "warn",
    "debug_log_throttle": 10,
    "alpn_protocols": ["h3", "hq-interop", "hq-29", "hq-28", "hq-27", "http/0.9"],
    "max_request_headers_size": 16_384,
    "max_request_body_size": 100 * 1024 * 1024,
    "max_path_length": 2048,
    "max_header_count": 100,
    "max_header_name_length": 256,
    "max_header_value_length": 8192,
    "max_non_streaming_body_bytes": 1024 * 1024,
    "max_active_requests_per_conn": 0,
    "max_active_downloads_per_conn": 0,
    "wt_max_streams_uni": 32,
    "wt_max_streams_bidi": 32,
    "wt_write_quota_per_tick": 64 * 1024,
    "wt_session_idle_ms": 60_000,
    "wt_stream_pending_max": 256 * 1024,
    "wt_app_err_stream_limit": 0x1000,
    "wt_app_err_invalid_stream": 0x1001,
    "enable_retry": False,
    "recv_buffer_size": 2048,
    "send_buffer_size": 2048,
}

TRANSPORT_PARAMETERS = (
    "idle_timeout_ms",
    "initial_max_data",
    "initial_max_stream_data_bidi_local",
    "initial_max_stream_data_bidi_remote",
    "initial_max_stream_data_uni",
    "initial_max_streams_bidi",
    "initial_max_streams_uni",
    "max_recv_udp_payload_size",
    "active_connection_id_limit",
    "max_connection_window",
    "max_stream_window",
)


def server(**values: Any) -> ServerConfig:
    return ServerConfig(**{"dev_cert": True, **values})


def refused(config: TransportConfig) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.validate()
    assert "\n" not in str(caught.value)
    return caught.value


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_config_table", ROOT / "docs" / "gen_config_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_specified_field_is_there() -> None:
    """Specification 4.1: every field of ServerConfig, under its name in snake_case."""
    assert set(SPECIFIED) <= set(ServerConfig.options())


def test_page_explains_each_default_that_differs() -> None:
    """A default that is not the specification's is in the second table of the page; nothing else is."""
    values = ServerConfig().as_dict()
    differing = {name for name, default in SPECIFIED.items() if values[name] != default}
    section = (ROOT / "docs" / "configuration.md").read_text("utf-8").split("## Where we differ")[1]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name.strip(" `") for row in rows for name in row.split(",")} == differing


def test_page_is_current() -> None:
    """The committed tables are those that docs/gen_config_table.py makes from the declarations."""
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert generator().render(page) == page, "run: python docs/gen_config_table.py"


@pytest.mark.parametrize("cls", [ServerConfig, ClientConfig])
def test_defaults_are_within_their_own_ranges(cls: type[TransportConfig]) -> None:
    """Defaults pass the checks, and each field says in words what it is."""
    (server() if cls is ServerConfig else cls()).validate()
    for name, option in cls.options().items():
        assert option.doc.endswith("."), name
        assert option.range_text(), name


@pytest.mark.parametrize("name", TRANSPORT_PARAMETERS)
@pytest.mark.parametrize("value", [1 << 62, 1 << 64, -1])
def test_values_that_abort_quiche_are_refused(name: str, value: int) -> None:
    """A transport parameter of 2^62 or more aborts the process inside quiche (RFC 9000 16 and 18)."""
    assert refused(server(**{name: value})).field == name


@pytest.mark.parametrize("name", [n for n, o in ServerConfig.options().items() if o.kind == "int"])
def test_integer_ranges(name: str) -> None:
    """Each integer is refused just outside of its range, in words, and when it is no integer."""
    option = ServerConfig.options()[name]
    for wrong in (option.low - 1, option.high + 1, "5", 1.5, True, None):
        exc = refused(server(**{name: wrong}))
        assert (exc.field, exc.remedy) == (name, f"use {option.range_text()}")


@pytest.mark.parametrize("name", ["cert_path", "key_path", "cafile", "ca_path", "qlog_dir", "keylog_path"])
@pytest.mark.parametrize("value", ["bad\udcff", "nul\0", "", b"bytes"])
def test_paths_that_abort_quiche_are_refused(name: str, value: object) -> None:
    """quiche unwraps the UTF-8 of every path it is given, and a NUL would cut it short."""
    assert refused(server(**{name: value})).field == name


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("cc_algorithm", {"cc_algorithm": "cubic\udcff"}),
        ("cc_algorithm", {"cc_algorithm": "vegas"}),
        ("event_backend", {"event_backend": "iocp"}),
        ("log_level", {"log_level": "loud"}),
        ("gso", {"gso": 1}),
        ("bind_addr", {"bind_addr": "localhost"}),
        ("bind_addr", {"bind_addr": []}),
        ("bind_addr", {"bind_addr": ["127.0.0.1", 7]}),
        ("bind_addr", {"bind_addr": ["::1", "0:0::1"]}),
        ("bind_addr", {"bind_addr": ["::", "127.0.0.1"]}),
        ("quic_versions", {"quic_versions": ["3"]}),
        ("quic_versions", {"quic_versions": ["1", "1"]}),
        ("quic_versions", {"quic_versions": []}),
        ("tls_cipher_suites", {"tls_cipher_suites": ["AES_128"]}),
        ("tls_cipher_suites", {"tls_cipher_suites": ["TLS_AES_128_GCM_SHA256"] * 2}),
        ("tls_cipher_suites", {"tls_cipher_suites": []}),
        ("preferred_address_v4", {"preferred_address_v4": "192.0.2.1"}),
        ("preferred_address_v4", {"preferred_address_v4": "192.0.2.1:0"}),
        ("preferred_address_v4", {"preferred_address_v4": "192.0.2.1:65536"}),
        ("preferred_address_v4", {"preferred_address_v4": "0.0.0.0:443"}),
        ("preferred_address_v4", {"preferred_address_v4": "[2001:db8::1]:443"}),
        ("preferred_address_v4", {"preferred_address_v4": "localhost:443"}),
        ("preferred_address_v6", {"preferred_address_v6": "192.0.2.1:443"}),
        ("preferred_address_v6", {"preferred_address_v6": "2001:db8::1:443"}),
        ("preferred_address_v6", {"preferred_address_v6": "[::]:443"}),
        ("bind_port", {"bind_port": 70_000}),
        ("alpn_protocols", {"alpn_protocols": []}),
        ("alpn_protocols", {"alpn_protocols": ["h3", "h3"]}),
        ("alpn_protocols", {"alpn_protocols": ["x" * 256]}),
        ("alpn_protocols", {"alpn_protocols": [""]}),
        ("alpn_protocols", {"alpn_protocols": ["h3\0"]}),
        ("secret_key", {"secret_key": b"short"}),
        ("key_path", {"dev_cert": False, "cert_path": "cert.pem"}),
        ("cert_pem", {"dev_cert": False, "key_pem": b"x"}),
        ("cert_path", {"dev_cert": False}),
        ("cert_path", {"cert_path": "cert.pem", "key_path": "key.pem"}),
        ("verify_peer", {"verify_peer": True}),
        ("server_header", {"server_header": "a\r\nset-cookie: b"}),
        ("initial_max_streams_bidi", {"initial_max_streams_bidi": 0}),
        ("max_request_headers_size", {"max_request_headers_size": 65_537}),
        ("max_connection_window", {"max_connection_window": 1024 * 1024}),
        ("max_stream_window", {"initial_max_stream_data_uni": 9 * 1024 * 1024}),
        ("recv_buffer_size", {"recv_buffer_size": 2048}),
        ("recv_buffer_size", {"recv_buffer_size": 2048, "max_recv_udp_payload_size": 1350}),
        ("send_buffer_size", {"send_buffer_size": 1300}),
        ("cafile", {"cafile": "/nonexistent/ca.pem"}),
        ("cafile", {"cafile": "/"}),
        ("ca_path", {"ca_path": "/dev/null"}),
        ("qlog_dir", {"qlog_dir": "/nonexistent/deep/qlogs"}),
        ("qlog_dir", {"qlog_dir": "/dev/null"}),
        ("keylog_path", {"keylog_path": "/"}),
        ("keylog_path", {"keylog_path": "/nonexistent/deep/keys"}),
    ],
)
def test_refusals_name_their_field(field: str, values: dict[str, Any]) -> None:
    """validate() names the bad field, what is wrong and what would be right, in one line."""
    exc = refused(server(**values))
    assert exc.field == field
    assert exc.problem
    assert exc.remedy


@pytest.mark.parametrize(
    "values",
    [
        {"bind_addr": ["127.0.0.1", "::1"], "bind_port": 0},
        {"bind_addr": ["0.0.0.0", "::"], "dual_stack": False},
        {"preferred_address_v4": "192.0.2.1:443", "preferred_address_v6": "[2001:db8::1]:443"},
        {"recv_buffer_size": 2048, "max_recv_udp_payload_size": 1350, "gro": False},
        {"secret_key": bytes(32)},
        {"dev_cert": False, "cert_pem": b"x", "key_pem": b"y"},
        {"event_backend": "epoll", "log_level": "trace"},
        {"max_request_body_size": 0},
        {"server_header": "quiche-h3"},
    ],
)
def test_accepted(values: dict[str, Any]) -> None:
    """What the documentation allows passes."""
    server(**values).validate()


@pytest.mark.parametrize("name", ["exa mple.org", "bücher.example", "a" * 254, "", "x\0y", "\udcff"])
def test_server_names_that_abort_quiche_are_refused(name: str) -> None:
    """quiche unwraps the UTF-8 of the server name; RFC 6066 3 wants ASCII."""
    assert refused(ClientConfig(server_name=name)).field == "server_name"


def test_paths_and_enumerations_are_normalised(tmp_path: Path) -> None:
    """pathlib paths become text, names become members, at construction and when set later."""
    config = server(qlog_dir=tmp_path, event_backend="poll")
    assert config.qlog_dir == str(tmp_path)
    assert config.event_backend is EventBackend.POLL
    config.__setattr__("log_level", "debug")
    config.validate()
    assert config.log_level is LogLevel.DEBUG


def test_secrets_stay_secret() -> None:
    """Keys are neither in repr() nor in as_dict(), nor in errors."""
    config = server(dev_cert=False, cert_pem=b"certificate", key_pem=b"PRIVATE", secret_key=b"S" * 32)
    assert b"PRIVATE" not in repr(config).encode()
    assert "SSSS" not in repr(config)
    assert "key_pem" not in config.as_dict()
    assert config.as_dict(secrets=True)["secret_key"] == b"S" * 32
    config.secret_key = b"S" * 31
    assert "SSSS" not in str(refused(config))
    config.__setattr__("secret_key", "S" * 32)
    assert "SSSS" not in str(refused(config))
    with pytest.raises(ConfigError) as caught:
        ServerConfig.load(env={"QUICHE_H3_SECRET_KEY": "SSSS"})
    assert "SSSS" not in str(caught.value)


def test_as_dict_makes_an_equal_configuration() -> None:
    """as_dict() holds plain types and is enough to build the same again."""
    config = server(event_backend="select", bind_addr=["::1"])
    values = config.as_dict(secrets=True)
    assert type(values["event_backend"]) is str
    assert ServerConfig(**values) == config
    assert dataclasses.replace(config) == config


def test_sources_in_order(tmp_path: Path) -> None:
    """Defaults < file < environment < command line."""
    file = tmp_path / "server.toml"
    file.write_text(
        'dev_cert = true\nbind_port = 1\nmax_connections = 1\nidle_timeout_ms = 1\nbind_addr = ["::1"]'
    )
    env = {"QUICHE_H3_MAX_CONNECTIONS": "2", "QUICHE_H3_IDLE_TIMEOUT_MS": "2", "HOME": "/"}
    config = ServerConfig.load(file, env, {"idle_timeout_ms": "3"})
    assert (config.bind_port, config.max_connections, config.idle_timeout_ms) == (1, 2, 3)
    assert config.bind_addrs == ["::1"]
    assert config.recv_batch == 16


def test_texts_of_the_environment() -> None:
    """Every kind of field can be given as text."""
    env = {
        "QUICHE_H3_DEV_CERT": "yes",
        "QUICHE_H3_GSO": "off",
        "QUICHE_H3_BIND_ADDR": "127.0.0.1, ::1",
        "QUICHE_H3_SECRET_KEY": "00" * 32,
        "QUICHE_H3_WT_APP_ERR_STREAM_LIMIT": "0x2000",
        "QUICHE_H3_QLOG_DIR": "",
        "QUICHE_H3_SERVER_HEADER": "none",
        "QUICHE_H3_EVENT_BACKEND": "poll",
    }
    config = ServerConfig.load(env=env)
    assert config.bind_addrs == ["127.0.0.1", "::1"]
    assert (config.gso, config.secret_key, config.wt_app_err_stream_limit) == (False, bytes(32), 0x2000)
    assert (config.qlog_dir, config.server_header, config.event_backend) == (None, None, EventBackend.POLL)


def test_short_forms() -> None:
    """H3_MAX_BODY_MB, H3_LOG_LEVEL, H3_DEBUG and H3_WEBTRANSPORT (specification 5.6, 5.7); full names win."""
    env = {"QUICHE_H3_DEV_CERT": "1", "H3_MAX_BODY_MB": "7", "H3_DEBUG": "1", "H3_WEBTRANSPORT": "1"}
    config = ServerConfig.load(env=env)
    assert config.max_non_streaming_body_bytes == 7 * 1024 * 1024
    assert (config.enable_debug_logging, config.log_level) == (True, LogLevel.DEBUG)
    assert config.enable_webtransport
    assert ServerConfig.load(env={**env, "H3_LOG_LEVEL": "info"}).log_level is LogLevel.INFO
    strong = ServerConfig.load(env={**env, "H3_LOG_LEVEL": "info", "QUICHE_H3_LOG_LEVEL": "error"})
    assert strong.log_level is LogLevel.ERROR
    assert not ServerConfig.load(env={"QUICHE_H3_DEV_CERT": "1", "H3_DEBUG": "0"}).enable_debug_logging
    assert ClientConfig.load(env=env).log_level is LogLevel.DEBUG


@pytest.mark.parametrize(
    ("env", "field", "remedy"),
    [
        ({"QUICHE_H3_BIND_PROT": "1"}, "bind_prot", "bind_port"),
        ({"QUICHE_H3_XYZZY": "1"}, "xyzzy", "docs/configuration.md"),
        ({"QUICHE_H3_BIND_PORT": "https"}, "bind_port", "0 to 65535"),
        ({"QUICHE_H3_GSO": "maybe"}, "gso", "true or false"),
        ({"H3_MAX_BODY_MB": "lots"}, "H3_MAX_BODY_MB", "MiB"),
        ({"H3_MAX_BODY_MB": "-1"}, "max_non_streaming_body_bytes", "0 to"),
        ({"H3_LOG_LEVEL": "loud"}, "H3_LOG_LEVEL", "trace"),
        ({"H3_DEBUG": "maybe"}, "H3_DEBUG", "1 or 0"),
        ({"H3_WEBTRANSPORT": "maybe"}, "H3_WEBTRANSPORT", "1 or 0"),
    ],
)
def test_bad_environment(env: dict[str, str], field: str, remedy: str) -> None:
    """A wrong or unknown name or value says what would be right."""
    with pytest.raises(ConfigError) as caught:
        ServerConfig.load(env={"QUICHE_H3_DEV_CERT": "1", **env})
    assert caught.value.field == field
    assert remedy in caught.value.remedy


def test_environment_of_the_other_side_and_of_the_build() -> None:
    """One environment serves a server, a client and the build; each takes what is its own."""
    env = {
        "QUICHE_H3_BIND_PORT": "1",
        "QUICHE_H3_VERIFY": "0",
        "QUICHE_H3_CACHE": "/x",
        "H3_WEBTRANSPORT": "1",
    }
    assert not ClientConfig.load(env=env).verify
    assert ServerConfig.load(env={**env, "QUICHE_H3_DEV_CERT": "1"}).bind_port == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"bind_port = ", "not TOML"),
        (b"\xff", "not TOML"),
        (b"bind_prot = 1", "no such field"),
        (None, "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """A file that is missing, no TOML or of unknown fields is one clear error."""
    file = tmp_path / "server.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        ServerConfig.load(file, {})
    assert problem in caught.value.problem


def test_gather_over_a_base(tmp_path: Path) -> None:
    """What a program has set counts less than file, environment and command line, and is not yet checked."""
    file = tmp_path / "config.toml"
    file.write_text('idle_timeout_ms = 2000\ncert_path = "a.pem"\nkey_path = "k.pem"\n')
    base = ServerConfig(dev_cert=True, bind_port=1, idle_timeout_ms=1000, max_header_count=7)
    config = ServerConfig.gather(file, {"QUICHE_H3_BIND_PORT": "2"}, {"bind_addr": "::1"}, base)
    assert (config.bind_addrs, config.bind_port, config.idle_timeout_ms) == (["::1"], 2, 2000)
    assert config.max_header_count == 7
    assert ServerConfig.gather(env={}) == ServerConfig()


def test_stronger_certificate_replaces_a_weaker_one(tmp_path: Path) -> None:
    """One certificate is in use: that of the strongest place which gives one."""
    file = tmp_path / "config.toml"
    file.write_text('cert_path = "a.pem"\nkey_path = "k.pem"\n')
    base = ServerConfig(dev_cert=True)
    config = ServerConfig.gather(file, {}, None, base)
    assert (config.dev_cert, config.cert_path, config.key_path) == (False, "a.pem", "k.pem")
    config = ServerConfig.gather(file, {}, {"dev_cert": True}, base)
    assert (config.dev_cert, config.cert_path, config.key_path) == (True, None, None)
