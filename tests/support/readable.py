"""Waiting for a descriptor of any number: `select.select` takes those below 1,024 only."""

from __future__ import annotations

import select


def readable(fd: int, seconds: float) -> bool:
    """Return whether something can be read within so many seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
