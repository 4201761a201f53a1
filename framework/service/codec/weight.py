"""Whether a payload is so large that an event loop should not wait until it is encoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LARGE = 64 << 10  # bytes as JSON: some half a millisecond to encode and to check
_ITEM = 32  # bytes that an item of a container is taken for
_MOST_LOOKS = 500


def looks_large(payload: Any) -> bool:
    """Return whether a payload will be large as JSON, by a quick look at its surface."""
    inside = getattr(payload, "__dict__", None)
    parts: Iterable[Any] = (payload,)
    if isinstance(inside, dict):
        parts = inside.values()
    elif isinstance(payload, dict) and len(payload) <= _MOST_LOOKS:
        parts = payload.values()
    elif isinstance(payload, list | tuple) and len(payload) <= _MOST_LOOKS:
        parts = payload
    size = 0
    for part in parts:
        if isinstance(part, str | bytes):
            size += len(part)
        elif isinstance(part, list | tuple | dict | set | frozenset):
            size += len(part) * _ITEM
    return size > LARGE
