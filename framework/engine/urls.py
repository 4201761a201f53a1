"""The URLs of engines: which engine one names, and how one is shown."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from framework.model.errors import SettingsError
from framework.model.text.redaction import HIDDEN, address

if TYPE_CHECKING:
    from framework.engine.port import Engine

ENGINES = {
    "spool": "framework.engine.spool.engine",
    "memory": "framework.engine.memory.engine",
    "postgresql": "framework.engine.postgres",
}
PLAIN = ("durability", "network_file_system")  # engine options whose values may be shown


def shown(url: str) -> str:
    """Return a URL without secrets: a directory as it is, host and port of a server, no value of an unknown option."""
    if not url.startswith(("spool:", "memory:")):
        return address(url) if "//" in url or "@" in url else url
    place, mark, query = url.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    options = (f"{name}{eq}{text if name in PLAIN or not eq else HIDDEN}" for name, eq, text in pairs)
    return place + mark + "&".join(options)


def scheme_of(url: str) -> str:
    """Return the scheme of an engine's URL. Raises SettingsError: no engine has that scheme."""
    found = re.match(r"([a-z][a-z0-9+.-]*):", url, re.IGNORECASE | re.ASCII)
    scheme = found[1].lower() if found else ""
    if scheme not in ENGINES:
        known = ", ".join(f"{name}:" for name in ENGINES)
        hint = f"; did you mean spool:{url}?" if not scheme and url.startswith(("/", ".")) else ""
        wrong = f"no engine {scheme!r}; there are" if scheme else "this is no URL of an engine; it begins with one of"
        raise SettingsError(f"WORKER_ENGINE_URL={shown(url)!r}: {wrong} {known}{hint}")
    return scheme


def engine_module(url: str) -> Any:
    """Return the module of the engine that a URL names. Raises SettingsError: no engine has that scheme."""
    return importlib.import_module(ENGINES[scheme_of(url)])


def open_engine(url: str, *, incarnation: str, **options: Any) -> Engine:
    """Return the engine that a URL names, not opened yet.

    Args:
        url: `spool:DIR`, `postgresql://...` or `memory:`.
        incarnation: name of this process, never reused; kill reasons and rescued leases refer to it.
        options: settings of the engine.

    Raises:
        SettingsError: no engine has that scheme.
    """
    engine: Engine = engine_module(url).connect(url, incarnation=incarnation, **options)
    return engine
