"""The refusal of services that replace the calls by which a supervisor waits for signals, children and moments."""

from __future__ import annotations

import _thread
import os
import select
import signal
import subprocess
import time

from framework.model.errors import UsageError
from framework.service.app import WorkerApp

# A replacement of any of these keeps the supervisor from noticing a death or a deadline.
_WAITING = ((os, "waitpid"), (os, "waitid"), (select, "poll"), (signal, "signal"), (time, "sleep"), (time, "monotonic"))
# Debuggers replace these too, which does no harm.
_STARTING = ((os, "fork"), (subprocess, "Popen"), (_thread, "start_new_thread"))
_OWN = ("posix", "os", "select", "signal", "_signal", "time", "_thread", "builtins")
_GREEN = ("gevent", "eventlet")


def refuse_patched(app: type[WorkerApp]) -> None:
    """Raise UsageError if an import of the service has replaced a call that the supervisor needs."""
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
    """Return the top package of what a name refers to. A call that this system lacks counts as the system's own."""
    found = getattr(module, name, os.fork)
    return str(getattr(found, "__module__", None) or type(found).__module__).partition(".")[0]
