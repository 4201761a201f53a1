"""Names of queues for the shell's completion, which must be quick and must never fail."""

from __future__ import annotations

import secrets

from framework.admin.store import is_missing, root_of
from framework.engine.port import Inspector, open_engine
from framework.service.settings import load_settings


def queue_names(url: str = "") -> list[str]:
    """Return the names of the queues in a store on this machine; of any other store none: it may be far away."""
    try:
        url = url or load_settings().engine_url
        engine = open_engine(url, incarnation=f"c{secrets.token_hex(8)}")
        if not engine.features.local or not isinstance(engine, Inspector) or is_missing(url, root_of(url)):
            return []
        engine.open([])
        try:
            return list(engine.stored_queues())
        finally:
            engine.close()
    except Exception:  # a mistake in a setting, a directory of another user: the shell completes nothing
        return []
