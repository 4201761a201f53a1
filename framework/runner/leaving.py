"""The end of a process as Python promises it, within a time limit: non-daemon threads end, and atexit hooks run."""

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

WITHIN = 1.2  # seconds; with the end of an event loop, a process whose jobs are settled is gone within 2 s
_imported_by = os.getpid()


def forget_parent() -> None:
    """Drop the supervisor's atexit hooks in a forked child: they are its own (they remove its temporary directories).

    What this process registers after this runs at its end.
    """
    if os.getpid() == _imported_by:
        return
    atexit._clear()
    atexit.register(logging.shutdown)
    for inherited in getattr(weakref.finalize, "_registry", ()):
        inherited.atexit = False
    setattr(weakref.finalize, "_registered_with_atexit", False)  # noqa: B010 - the next one registers anew


def run_hooks(budget: float, late: Callable[[], None]) -> None:
    """Wait for the threads and run the hooks, in the main thread as Python does.

    Args:
        budget: seconds for all of them.
        late: called in another thread when these seconds are over; it ends the process.
    """
    done = threading.Event()

    def watch() -> None:
        if not done.wait(budget):
            late()

    try:
        threading.Thread(target=watch, name="leaving", daemon=True).start()
    except RuntimeError:  # no thread can be started: without a time limit, run no hooks
        return
    with parent_goes_on(), suppress(BaseException):  # a hook's error is printed where it happens
        getattr(threading, "_shutdown")()  # noqa: B009 - private, but what multiprocessing calls in its children, too
        atexit._run_exitfuncs()
    done.set()


def end_threads(code: int) -> None:
    """End the supervisor's threads, as its last step. A thread that the service's import started must not prevent its
    end."""
    run_hooks(WITHIN, late=lambda: exit_after(lambda: None, code))


def exit_after(last: Callable[[], None], code: int) -> None:
    """End the process without waiting for anything but one last call."""
    with suppress(BaseException):
        last()
    with suppress(BaseException):
        stdio.flush(FLUSH)
    os._exit(code)
