"""Engine options in the query of a URL (`spool:./var/spool?durability=process`). Each engine names its own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from framework.engine.port import shown
from framework.model.errors import SettingsError

Reader = Callable[[str], Any]  # raises ValueError: what to write


def split(url: str, readers: Mapping[str, Reader]) -> tuple[str, dict[str, Any]]:
    """Return the URL without its query, and the options in it.

    Args:
        readers: for each option of the engine, the function that turns its text into its value.

    Raises:
        SettingsError: an option that the engine does not have (the message says the nearest name), an option that
            stands there twice, or a value that the option does not take.
    """
    place, _, query = url.partition("?")
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in readers:
            raise SettingsError(f"WORKER_ENGINE_URL={shown(url)!r}: {_unknown(name, readers)}")
        if name in options:
            raise SettingsError(f"WORKER_ENGINE_URL={shown(url)!r}: the option {name} stands there twice")
        try:
            options[name] = readers[name](text)
        except ValueError as error:
            raise SettingsError(f"WORKER_ENGINE_URL={shown(url)!r}: {name}={text!r}: write {error}") from None
    return place, options


def one_of(*words: str) -> Reader:
    """Return a reader that accepts one of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return read


def flag(text: str) -> bool:
    """Read a boolean. Raises ValueError."""
    found = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if found is None:
        raise ValueError("true or false")
    return found


def _unknown(name: str, readers: Mapping[str, Reader]) -> str:
    has = f"it has {', '.join(readers)}" if readers else "it has none"
    near = difflib.get_close_matches(name[:100].lower(), readers, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"the engine has no option {name[:100]!r}{hint} ({has})"
