"""What Python promises of a process's end also holds for a worker: threads that are not daemons end, and atexit hooks
run. But within a bound, whatever handlers have left behind."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

from framework.process import stdio
from framework.process.forks import parent_goes_on
from framework.process.supervisor import FLUSH

WITHIN = 1.2  # seconds; with what an event loop leaves, a process whose jobs are settled is gone within 2 s
_imported_by = os.getpid()


def forget_parent() -> None:
    """In a forked child: hooks that the supervisor has registered are its own (they remove its temporary directories).
    What this process registers from now on runs at its end."""
    if os.getpid() == _imported_by:
        return
    atexit._clear()
    atexit.register(logging.shutdown)
    for inherited in getattr(weakref.finalize, "_registry", ()):
        inherited.atexit = False
    setattr(weakref.finalize, "_registered_with_atexit", False)  # noqa: B010 - the next one registers anew


def run_hooks(budget: float, late: Callable[[], None]) -> None:
    """Waits for the threads and runs the hooks, in the main thread as Python does.

    Args:
        budget: seconds.
        late: called in another thread when they are over; it ends the process.
    """
    done = threading.Event()

    def watch() -> None:
        if not done.wait(budget):
            late()

    try:
        threading.Thread(target=watch, name="leaving", daemon=True).start()
    except RuntimeError:  # no more threads to be had: no bound, so no hooks
        return
    with parent_goes_on(), suppress(BaseException):  # a hook's error is printed where it happens
        getattr(threading, "_shutdown")()  # noqa: B009 - private, but what multiprocessing calls in its children, too
        atexit._run_exitfuncs()
    done.set()


def end_threads(code: int) -> None:
    """By the supervisor, last of all: a thread that the import of the service started must not keep it from its end."""
    run_hooks(WITHIN, late=lambda: exit_after(lambda: None, code))


def exit_after(last: Callable[[], None], code: int) -> None:
    """Ends the process without waiting for anything but a last call."""
    with suppress(BaseException):
        last()
    with suppress(BaseException):
        stdio.flush(FLUSH)
    os._exit(code)
