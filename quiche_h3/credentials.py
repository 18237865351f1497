"""A server's certificates and keys: read at its start, and anew while it runs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from ._core.settings import EngineSettings
from .config import ServerConfig
from .errors import ConfigError
from .tls import CertificateFiles, load_certificate, load_more_certificates

RELOADED_FIELDS: Final = (
    "cert_path",
    "key_path",
    "cert_pem",
    "key_pem",
    "dev_cert",
    "more_certificates",
    "cafile",
    "ca_path",
    "verify_peer",
    "secret_key",
    "previous_secret_key",
)
"""What `Server.reload()` takes from another configuration; everything else stays as it was at the start."""


class Credentials:
    """The engine's settings with the certificates they were made from."""

    def __init__(
        self, config: ServerConfig, webtransport: bool = False, before: Credentials | None = None
    ) -> None:
        """Reads everything. Raises `ConfigError`, with nothing kept. `before` hands on what it has made."""
        self.config = config
        with ExitStack() as undo:
            keep = before is not None and config.dev_cert and before.config.dev_cert
            if before is not None and keep:
                self.certificate: CertificateFiles = before.certificate
            else:
                self.certificate = load_certificate(config)
                undo.callback(self.certificate.close)
            more = load_more_certificates(config)
            keys = before.settings.keys if before is not None else None
            self.settings: EngineSettings = EngineSettings(config, self.certificate, webtransport, more, keys)
            undo.pop_all()

    def renewed(self, config: ServerConfig | None) -> Credentials:
        """The same, read anew, from the places that `config` names. Raises `ConfigError`."""
        given = self.config if config is None else config
        merged = replace(self.config, **{name: getattr(given, name) for name in RELOADED_FIELDS})
        if merged.secret_key is None and self.config.secret_key is not None:
            raise ConfigError("secret_key", "is not set any more", "keep the key, or give the next one")
        merged.validate()
        return Credentials(merged, self.settings.webtransport, self)

    def give_way(self, successor: Credentials) -> None:
        """Closes what the successor does not use."""
        self.settings.close()
        if self.certificate is not successor.certificate:
            self.certificate.close()

    def close(self) -> None:
        """Gives back what was opened. Connections that use the settings keep them."""
        self.settings.close()
        self.certificate.close()
