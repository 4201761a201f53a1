"""The estimate whether a payload is so large that an event loop should not wait for its encoding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LARGE = 64 << 10  # bytes as JSON: about half a millisecond to encode and to check
_ITEM = 32  # bytes: the assumed size of an item of a container
_MOST_LOOKS = 500


def looks_large(payload: Any) -> bool:
    """Return whether a payload will probably be large as JSON, by its outermost level only."""
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
