"""The standard streams of a process: descriptors that are always open, and flushes that do not wait for a reader."""

from __future__ import annotations

import os
import select
import sys
import threading
from contextlib import suppress

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by descriptor


def fill_closed() -> None:
    """Open /dev/null for each standard descriptor that is closed. Call this before anything opens a file.

    Otherwise the next file gets the lowest free number: a scoreboard with number 1 would receive the log, one with
    number 2 the tracebacks.
    """
    for descriptor, (name, mode) in enumerate(_STREAMS):
        if not _is_open(descriptor):
            _open_null(descriptor)
        if getattr(sys, name) is None:  # the interpreter found it closed
            stream = open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open_null(descriptor: int) -> None:
    try:
        found = os.open(os.devnull, os.O_RDWR)
    except OSError:  # no /dev here: a directory holds the number, and nothing can be written to it
        found = os.open("/", os.O_RDONLY)
    if found != descriptor:  # a thread has just taken the number, or freed a lower one
        os.dup2(found, descriptor)
        os.close(found)
    os.set_inheritable(descriptor, True)


def flush(patience: float) -> bool:
    """Flush Python's streams within `patience` seconds. Return False if something is left.

    A full pipe takes nothing while its reader stands still, and another thread may hold the stream's lock just as long.
    """
    done: list[bool] = []
    helper = threading.Thread(target=lambda: done.append(_flush()), name="flush", daemon=True)
    try:
        helper.start()
    except RuntimeError:  # no thread can be started
        return False
    helper.join(patience)
    return done == [True]


def _flush() -> bool:
    whole = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # replaced, broken, closed
            whole = False
    return whole


def settle(patience: float | None) -> None:
    """Flush Python's streams into their descriptors, and discard what the descriptors do not take.

    Every forked child would write what is left in a stream once more, and a failing flush at the end of the interpreter
    turns any exit code into 120.

    Args:
        patience: seconds to wait for room; None: as long as the reader takes.
    """
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if patience is None or _has_room(descriptor, patience):
                stream.flush()
                continue
        except (AttributeError, OSError, ValueError):  # replaced, broken, closed
            pass
        _discard(descriptor)


def _has_room(descriptor: int, patience: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(patience * 1000))


def _discard(descriptor: int) -> None:
    """Flush the stream of this descriptor into /dev/null."""
    if not _is_open(descriptor):
        _open_null(descriptor)
    with suppress(AttributeError, OSError, ValueError):
        kept, null = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        try:
            (sys.stdout if descriptor == 1 else sys.stderr).flush()
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)
            os.close(null)
