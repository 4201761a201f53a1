"""Refuses a service that replaces the calls by which a supervisor waits for signals, children and moments."""

from __future__ import annotations

import _thread
import os
import select
import signal
import subprocess
import time

from framework.model.errors import UsageError
from framework.service.app import WorkerApp

# A replacement of these by anything keeps the supervisor from a death or a deadline.
_WAITING = ((os, "waitpid"), (os, "waitid"), (select, "poll"), (signal, "signal"), (time, "sleep"), (time, "monotonic"))
# These are replaced by debuggers, too, which do no harm.
_STARTING = ((os, "fork"), (subprocess, "Popen"), (_thread, "start_new_thread"))
_OWN = ("posix", "os", "select", "signal", "_signal", "time", "_thread", "builtins")
_GREEN = ("gevent", "eventlet")


def refuse_patched(app: type[WorkerApp]) -> None:
    """Raises UsageError where an import of the service has replaced what the supervisor stands on."""
    by: dict[str, list[str]] = {}
    for module, name in (*_WAITING, *_STARTING):
        owner = _owner(module, name)
        if owner in _GREEN or (owner not in _OWN and (module, name) in _WAITING):
            by.setdefault(owner, []).append(f"{module.__name__.strip('_')}.{name}")
    if by:
        owner, names = max(by.items(), key=lambda item: len(item[1]))
        raise UsageError(
            f"{app.__name__} is patched by {owner} ({', '.join(names)}): a supervisor needs the system's own, or it "
            "never sees a process die. Import the service without the patch, and use async handlers"
        )


def _owner(module: object, name: str) -> str:
    """Returns the top package of what stands under a name; one that this system lacks is nobody's."""
    found = getattr(module, name, os.fork)
    return str(getattr(found, "__module__", None) or type(found).__module__).partition(".")[0]
