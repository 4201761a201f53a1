"""HMAC-SHA256 over the body: how a subscriber knows that an event is ours and unchanged."""

from __future__ import annotations

import hmac

HEADER = "X-Signature-256"
_SCHEME = "sha256="


def sign(secret: str, body: bytes) -> str:
    """Value of the header `X-Signature-256`: `sha256=` and 64 hex digits."""
    return _SCHEME + hmac.digest(secret.encode(), body, "sha256").hex()


def verify(secret: str, body: bytes, signature: str) -> bool:
    """Whether a header's value is the body's signature. Takes the same time wherever they differ."""
    # compare_digest refuses str that is not ASCII, and a header may hold anything.
    return hmac.compare_digest(sign(secret, body).encode(), signature.encode("utf-8", "surrogateescape"))
