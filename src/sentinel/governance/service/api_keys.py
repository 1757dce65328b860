"""Keys of ours: `sk-sentinel-` and 256 random bits. What is stored of one opens nothing. Decides."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import sha256

BEGINNING = "sk-sentinel-"
_PREFIX_CHARS = len(BEGINNING) + 6
"""Shown to tell keys apart: 36 of 256 bits."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key, which is shown once; id, by which it is revoked."""

    id: str
    key: str

    @property
    def digest(self) -> bytes:
        """What is stored of it."""
        return digest_of(self.key)

    @property
    def prefix(self) -> str:
        """What people know it by."""
        return prefix_of(self.key)


def new_key() -> NewKey:
    """A key that nobody has had before."""
    return NewKey(f"key_{secrets.token_hex(8)}", BEGINNING + secrets.token_urlsafe(32))


def digest_of(token: str) -> bytes:
    """SHA-256 of a token, by which it is found."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def prefix_of(key: str) -> str:
    """The beginning of a key."""
    return key[:_PREFIX_CHARS]
