"""Who acts on a service: the person or the program behind a command."""

from __future__ import annotations

import os
import pwd

MOST = 100  # characters


def actor() -> str:
    """Return WORKER_ACTOR, else the name of the system's user; at most 100 printable characters."""
    found = os.environ.get("WORKER_ACTOR", "").strip() or _user()
    return "".join(one for one in found[:MOST] if one.isprintable())


def _user() -> str:
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container
        return f"uid {uid}"
