"""Conversion of values that handlers log or put into spans into values that can be written. Nothing here raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from framework.model.outcome import JobInterrupted

_DEEPEST: Final = 32
_MOST_PARTS: Final = 10_000  # parts of one value, including nested ones: a cycle would never end
_PLAIN: Final = frozenset({bool, float, bytes, type(None)})
_LEAST_INT, _MOST_INT = -(2**63), 2**63 - 1


def text_of(value: Any) -> str:
    """Return the text of any value, whatever its `__str__` does."""
    try:
        return str.__str__(value) if isinstance(value, str) else str.__str__(str(value))
    except JobInterrupted:
        raise
    except BaseException:  # also SystemExit: the value raised it, the process is not ending
        return f"<{type.__getattribute__(type(value), '__name__')}>"


def name_of(value: Any) -> str:
    """Return the text without lone surrogates, which would make the encoding of a whole batch fail."""
    text = text_of(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def value_of(value: Any) -> Any:
    """Return the value as an attribute that OTLP supports; any other value becomes its text."""
    kind = type(value)
    if kind in _PLAIN or (kind is int and _LEAST_INT <= value <= _MOST_INT):
        return value
    try:
        return _nested(value, _DEEPEST, [_MOST_PARTS])
    except JobInterrupted:
        raise
    except BaseException:
        return name_of(value)


def _nested(value: Any, deepest: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0 or deepest < 0:
        return "…"
    match value:
        case None | bool():
            return value
        case str():
            return name_of(value)
        case int():
            number = int.__add__(value, 0)
            return number if _LEAST_INT <= number <= _MOST_INT else name_of(number)
        case float():
            return float.__add__(value, 0.0)
        case bytes():
            return bytes(value)
        case Mapping():
            pairs = list(value.items())[: max(0, left[0])]
            return {name_of(key): _nested(item, deepest - 1, left) for key, item in pairs}
        case list() | tuple():
            return [_nested(item, deepest - 1, left) for item in value[: max(0, left[0])]]
    return name_of(value)


def attributes_of(values: Any) -> dict[str, Any]:
    """Return the attributes of a span, an event or a link; empty where `values` is not a mapping."""
    try:
        pairs = list(values.items()) if values else []
        return {name_of(key): value_of(value) for key, value in pairs}
    except JobInterrupted:
        raise
    except BaseException:
        return {}


def time_of(value: Any) -> int | None:
    """Return a time in ns since the epoch; None where OTLP cannot carry it."""
    return value if type(value) is int and 0 <= value < 2**64 else None
