"""Renderers that turn keys and values into one line of bytes: JSON for machines, columns for people.

Their lines cannot be forged, and they never raise.
"""

from __future__ import annotations

import json
import re
from collections.abc import MutableMapping
from typing import Any

import structlog

from framework.model.outcome import JobInterrupted
from framework.model.text.printable import HIDDEN, block, is_plain, visible
from framework.telemetry.logs.values import text_of

Keys = MutableMapping[str, Any]

_TRACES = ("exception", "traceback", "stack")
_KEPT = 120
_MOST_BITS = 1024  # of a number; Python refuses to print very long ones


class JsonRenderer:
    """A renderer that writes one JSON object per line.

    Args:
        limit: bytes of a line, newline included; in a longer line the longest texts are cut. None = any length.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    def __call__(self, _logger: object, _method: str, keys: Keys) -> bytes:
        data = _json(keys)
        return data if self._limit is None or len(data) <= self._limit else self._cut(dict(keys), data)

    def _cut(self, keys: dict[str, Any], data: bytes) -> bytes:
        limit = self._limit or 0
        keys = {text_of(key): _plain(value) for key, value in keys.items()} | {"truncated": True}
        data = _json(keys)
        for name in sorted(keys, key=lambda name: len(str(keys[name])), reverse=True):
            excess = len(data) - limit
            if excess <= 0:
                break
            text = str(keys[name])
            # An escape takes up to 12 bytes per character: cut in proportion to the value's bytes in the line.
            share = max(1.0, (len(_json({name: text})) - len(name) - 7) / max(1, len(text)))
            keep = max(_KEPT, len(text) - int(excess / share) - 8)
            # The end of a traceback is the useful part; for any other text it is the beginning.
            keys[name] = "…" + text[-keep:] if name in _TRACES else text[:keep] + "…"
            data = _json(keys)
        if len(data) > limit:
            data = _json({name: str(keys[name])[:_KEPT] for name in ("event", "level", "timestamp") if name in keys})
        return data


def _json(keys: Keys) -> bytes:
    try:
        text = _ENCODE(keys)
    except JobInterrupted:
        raise
    except Exception:  # NaN, a cycle, an invalid key, a number that is too long
        text = _ENCODE({text_of(key): _plain(value) for key, value in keys.items()})
    if not is_plain(text):
        text = HIDDEN.sub(_escape_json, text)
    # A lone surrogate becomes \udXXX, which is also how JSON writes it.
    return (text + "\n").encode("utf-8", "backslashreplace")


def _escape_json(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\u{0xD7C0 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"  # a pair of surrogates


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    return value if type(value) is int and value.bit_length() < _MOST_BITS else text_of(value)


class ConsoleRenderer:
    """A renderer that writes columns for a person, in colour on a terminal.

    Args:
        colors: whether to use colours.
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
            if key in _TRACES:
                clean[key] = block(text_of(value))
                continue
            shown = text_of(value) if key == "level" else value if type(value) is float else _plain(value)
            clean[visible(text_of(key))] = visible(shown) if isinstance(shown, str) else shown
        if "traceback" in clean:
            clean["exception"] = clean.pop("traceback")
        data = f"{self._render(logger, method, clean)}\n".encode("utf-8", "backslashreplace")
        if self._limit is not None and len(data) > self._limit:
            data = data[: self._limit - 4].decode("utf-8", "ignore").encode() + "…\n".encode()
        return data


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=text_of).encode  # made once
