"""A file without a name, in memory where the system offers that: what the processes of a tree share ends with them."""

from __future__ import annotations

import os
import tempfile


def nameless_file(what: str) -> int:
    """Return a descriptor. Args: what: shown in /proc."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(what)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
