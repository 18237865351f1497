"""Address validation tokens (RFC 9000 8.1) and stateless reset tokens (RFC 9000 10.3), from one secret.

Both are HMACs: nothing is stored for a token that was given out, and every process that shares the secret
accepts the others' tokens.
"""

from __future__ import annotations

import hmac
import os
import time

_TAG_BYTES = 16


class TokenKeys:
    """Makes and checks tokens. `secret`: at least 32 bytes, or None for a random one."""

    def __init__(self, secret: bytes | None = None, retry_lifetime_ms: int = 15_000) -> None:
        root = secret if secret is not None else os.urandom(32)
        self._retry_key = hmac.digest(root, b"quiche_h3 retry token", "sha256")
        self._reset_key = hmac.digest(root, b"quiche_h3 stateless reset", "sha256")
        self._lifetime_ms = retry_lifetime_ms

    def reset_token(self, cid: bytes) -> bytes:
        """The 16-byte stateless reset token of one of our connection IDs."""
        return hmac.digest(self._reset_key, cid, "sha256")[:16]

    def _tag(self, address: bytes, new_scid: bytes, body: bytes) -> bytes:
        # new_scid is bound in, so that a token cannot be moved to a connection ID of the client's choice.
        # All lengths are fixed or authenticated: `body` starts with the original connection ID's length.
        message = bytes([len(address), len(new_scid)]) + address + new_scid + body
        return hmac.digest(self._retry_key, message, "sha256")[:_TAG_BYTES]

    def seal_retry(self, address: bytes, odcid: bytes, new_scid: bytes) -> bytes:
        """A Retry token for the client at `address` (its raw IP and port), good for the lifetime from now."""
        expires = time.monotonic_ns() // 1_000_000 + self._lifetime_ms
        body = bytes([len(odcid)]) + odcid + expires.to_bytes(8, "big")
        return body + self._tag(address, new_scid, body)

    def open_retry(self, token: bytes, address: bytes, dcid: bytes) -> bytes | None:
        """The original destination connection ID, or None when the token is not ours, not his, or too old."""
        if not token or len(token) != 1 + token[0] + 8 + _TAG_BYTES:
            return None
        body, tag = token[:-_TAG_BYTES], token[-_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(address, dcid, body)):
            return None
        if int.from_bytes(body[-8:], "big") < time.monotonic_ns() // 1_000_000:
            return None
        return body[1:-8]
