"""From keys and values to one line of bytes: JSON for machines, columns for people. Neither can be forged or raise."""

from __future__ import annotations

import json
import re
from collections.abc import MutableMapping
from typing import Any

import structlog

Keys = MutableMapping[str, Any]

# C0 and C1 controls, DEL, line separators and the marks that reorder text on a terminal.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_BLOCK_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_TRACES = ("exception", "traceback", "stack")
_KEPT = 120


class JsonRenderer:
    """One JSON object per line.

    Args:
        limit: bytes of a line, newline included; where it is longer, its longest texts are cut. None = any length.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    def __call__(self, _logger: object, _method: str, keys: Keys) -> bytes:
        data = _json(keys)
        return data if self._limit is None or len(data) <= self._limit else self._cut(dict(keys), data)

    def _cut(self, keys: dict[str, Any], data: bytes) -> bytes:
        limit = self._limit or 0
        keys = {str(key): _plain(value) for key, value in keys.items()} | {"truncated": True}
        data = _json(keys)
        for name in sorted(keys, key=lambda name: len(str(keys[name])), reverse=True):
            excess = len(data) - limit
            if excess <= 0:
                break
            text = str(keys[name])
            # Escapes take up to 12 bytes for a character: cut in proportion to what the value takes in the line.
            share = max(1.0, (len(_json({name: text})) - len(name) - 7) / max(1, len(text)))
            keep = max(_KEPT, len(text) - int(excess / share) - 8)
            # The end of a traceback is what one wants to read, of all else the beginning.
            keys[name] = "…" + text[-keep:] if name in _TRACES else text[:keep] + "…"
            data = _json(keys)
        if len(data) > limit:
            data = _json({name: str(keys[name])[:_KEPT] for name in ("event", "level", "timestamp") if name in keys})
        return data


def _json(keys: Keys) -> bytes:
    try:
        text = _ENCODE(keys)
    except (ValueError, TypeError, RecursionError):  # NaN, a cycle, an odd key
        text = _ENCODE({str(key): _plain(value) for key, value in keys.items()})
    if not text.isprintable():  # what is, has none of them
        text = _CONTROLS.sub(_escape_json, text)
    # A lone surrogate becomes \udXXX, which is how JSON writes it too.
    return (text + "\n").encode("utf-8", "backslashreplace")


def _escape_json(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, str)) else _text(value)


def _text(value: Any) -> str:
    """Text of anything, whatever its __str__ does."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


class ConsoleRenderer:
    """Columns for a person, in colour on a terminal.

    Args:
        colors: whether to use them.
        limit: as for JsonRenderer.
    """

    def __init__(self, *, colors: bool, limit: int | None) -> None:
        self._limit = limit
        self._render = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
        )

    def __call__(self, logger: Any, method: str, keys: Keys) -> bytes:
        clean: dict[str, Any] = {}
        for key, value in keys.items():
            pattern = _BLOCK_CONTROLS if key in _TRACES else _CONTROLS
            shown = value if isinstance(value, (bool, int, float)) or value is None else _text(value)
            clean[_CONTROLS.sub(_escape_text, str(key))] = (
                pattern.sub(_escape_text, shown) if isinstance(shown, str) else shown
            )
        if "traceback" in clean:
            clean["exception"] = clean.pop("traceback")
        data = f"{self._render(logger, method, clean)}\n".encode("utf-8", "backslashreplace")
        if self._limit is not None and len(data) > self._limit:
            data = data[: self._limit - 4].decode("utf-8", "ignore").encode() + "…\n".encode()
        return data


def _escape_text(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_text).encode  # made once
