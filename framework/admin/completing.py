"""Names of queues for the shell's completion, which must be quick and must never fail."""

from __future__ import annotations

import os
from pathlib import Path

from framework.service.settings import load_settings


def queue_names(url: str = "") -> list[str]:
    """Return the names of the queues in a spool, without opening it; of any other store none."""
    from framework.engine.spool.disk.layout import queue_of
    from framework.engine.spool.engine import directory

    try:
        root = directory((url or load_settings().engine_url).partition("?")[0])
        found = (queue_of(entry) for entry in os.listdir(root) if Path(root, entry, "ready").is_dir())
        return sorted(name for name in found if name is not None)
    except Exception:  # a mistake in a setting, a directory of another user: the shell completes nothing
        return []
