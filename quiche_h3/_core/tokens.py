"""The keys of one secret: for Retry tokens (RFC 9000 8.1), stateless reset tokens (10.3) and session tickets.

Tokens are keyed hashes: nothing is stored for one that was given out, and every process and machine that has
the secret accepts the others'.
"""

from __future__ import annotations

import hmac
import os
import time
from hashlib import blake2s

_TAG_BYTES = 16
# A token of another machine, whose clock is ahead by so much, is taken all the same.
_SKEW_MS = 5_000


class TokenKeys:
    """Makes and checks tokens. `secret`: at least 32 bytes, or None for a random one.

    `previous` is the secret before, whose Retry tokens and session tickets are still taken.
    """

    def __init__(
        self, secret: bytes | None = None, retry_lifetime_ms: int = 15_000, previous: bytes | None = None
    ) -> None:
        root = secret if secret is not None else os.urandom(32)
        self._roots = [root] if previous is None or previous == root else [root, previous]
        self._retry_keys = [_derive(root, b"retry token") for root in self._roots]
        self.reset_key = _derive(root, b"stateless reset")
        self._lifetime_ms = retry_lifetime_ms
        self._ticket_keys = [_ticket_key(root) for root in self._roots]
        self._rotates = secret is None
        self._ticket_keys_since = time.monotonic_ns()
        # The wall clock, as it would be had nobody set it since.
        self._wall_minus_monotonic = time.time() - time.monotonic()

    def renewed(self, secret: bytes | None, retry_lifetime_ms: int, previous: bytes | None) -> TokenKeys:
        """Keys of a new configuration: the secret that it replaces goes on for one period, None keeps it."""
        current = self._roots[0]
        kept = secret is None or secret == current
        if kept:
            secret, older = current, self._roots[1] if len(self._roots) > 1 else None
        else:
            older = current
        keys = TokenKeys(secret, retry_lifetime_ms, previous if previous is not None else older)
        if self._rotates and kept:
            keys._rotates = True
            keys._ticket_keys, keys._ticket_keys_since = self._ticket_keys, self._ticket_keys_since
        elif self._rotates and previous is None:
            keys._ticket_keys[1:] = self._ticket_keys[:1]
        return keys

    def ticket_keys(self) -> list[bytes]:
        """Keys of session tickets, 48 bytes each: the one to seal with, then the one before."""
        return self._ticket_keys

    def tickets_until(self, period_ms: int) -> int:
        """When the ticket keys rotate (nanoseconds, monotonic clock): never if the secret was given."""
        if not self._rotates or not period_ms:
            return 1 << 62
        return self._ticket_keys_since + period_ms * 1_000_000

    def rotate_tickets(self, period_ms: int, now: int) -> list[bytes]:
        """New random ticket keys for the periods that have passed, the newest last: two at most are kept."""
        passed = (now - self._ticket_keys_since) // (period_ms * 1_000_000)
        self._ticket_keys_since += passed * period_ms * 1_000_000
        fresh = [os.urandom(48) for _ in range(min(passed, 2))]
        self._ticket_keys = [*reversed(fresh), *self._ticket_keys][:2]
        return fresh

    def seal_retry(self, address: bytes, odcid: bytes, new_scid: bytes) -> bytes:
        """A Retry token for the client at `address` (its raw IP and port), good for the lifetime from now."""
        body = bytes([len(odcid)]) + odcid + int(time.time() * 1000).to_bytes(8, "big")
        return body + _tag(self._retry_keys[0], address, new_scid, body)

    def open_retry(self, token: bytes, address: bytes, dcid: bytes) -> bytes | None:
        """The original destination connection ID, or None when the token is not ours, not his, or too old."""
        if not token or len(token) != 1 + token[0] + 8 + _TAG_BYTES:
            return None
        body, tag = token[:-_TAG_BYTES], token[-_TAG_BYTES:]
        for key in self._retry_keys:
            if hmac.compare_digest(tag, _tag(key, address, dcid, body)):
                return body[1:-8] if self._is_current(int.from_bytes(body[-8:], "big")) else None
        return None

    def _is_current(self, issued_ms: int) -> bool:
        """By the wall clock, which machines share; or by what it was before somebody set it."""
        clocks = (time.time(), time.monotonic() + self._wall_minus_monotonic)
        return any(-_SKEW_MS <= now * 1000 - issued_ms <= self._lifetime_ms for now in clocks)


def _ticket_key(root: bytes) -> bytes:
    return _derive(root, b"session ticket name")[:16] + _derive(root, b"session ticket")


def _derive(root: bytes, use: bytes) -> bytes:
    return hmac.digest(root, b"quiche_h3 " + use, "sha256")


def _tag(key: bytes, address: bytes, new_scid: bytes, body: bytes) -> bytes:
    # new_scid is bound in, so that a token cannot be moved to a connection ID of the client's choice.
    # All lengths are fixed or authenticated: `body` starts with the original connection ID's length.
    message = bytes([len(address), len(new_scid)]) + address + new_scid + body
    return blake2s(message, key=key, digest_size=_TAG_BYTES).digest()
