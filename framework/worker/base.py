"""The frame of every kind of worker: start and end, repair of the process, advice about mistakes."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from types import FrameType

from framework.model.attempt import Attempt
from framework.process.signals import ignore
from framework.service.app import Slot, WorkerApp
from framework.worker.core import WorkerCore
from framework.worker.executor import Executor
from framework.worker.putback import PutBack

SPARED = 4  # times in a row that an idle process is not looked at
# Seconds between two looks at the ledger: more than the supervisor needs to notice that the whole directory is gone,
# which is the better report.
LOOK_EVERY = 1.5
_ONLY_IN_MAIN = "signal only works in main thread"


class Worker:
    """The frame of a worker; it runs until it is told to leave. Use it in the main thread only.

    Args:
        core: connects the process to engine and board.
        app, slot: `app.lifespan(slot)` is open while the worker runs.
        unblock: unblocks signals once the signal handlers are installed.
    """

    # A terminal signals the whole group, and the supervisor decides. An alarm that a job set and forgot would end its
    # neighbours, too.
    ignored: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGALRM)
    installed: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, core: WorkerCore, app: WorkerApp, slot: Slot, *, unblock: Callable[[], None]) -> None:
        self._core = core
        self._app = app
        self._slot = slot
        self._unblock = unblock
        self._pid = os.getpid()
        self._next_look = 0.0  # at the ledger
        self._looked = (-1, 0)  # jobs at the last look at the process, and how many looks were skipped since

    def run(self) -> None:
        """Run until everything is settled or left behind on purpose. Raises what the lifespans raise."""
        signal.signal(signal.SIGTERM, lambda *_: self._on_term())
        ignore(*self.ignored)
        self._put_back = PutBack(self.installed, self._core.complain)
        self._core.blamed = self._blamed
        self._unblock()
        try:
            with self._app.lifespan(self._slot):
                self._live()
        finally:
            self._close()
            self._core.gate.close()

    def _live(self) -> None:
        """Serve jobs while the lifespan is open."""
        raise NotImplementedError

    def _on_term(self) -> None:
        """Begin the drain. This runs in a signal handler."""
        raise NotImplementedError

    def _blamed(self) -> int | None:
        """Return the row whose code ran last; None: unknown."""
        return 0

    def _close(self) -> None:
        """End the helpers, before the gate ends."""

    def _ready(self) -> None:
        self._put_back.remember()
        self._core.ready()

    def _repair(self, *, alone: bool) -> None:
        """Put back what jobs have changed in the process, and leave if something cannot be put back.

        Args:
            alone: no job runs now.
        """
        core = self._core
        self._look_after_ledger()
        if not (alone and self._is_idle()):
            cause = self._put_back.everything(alone=alone) or (core.check.changed() if alone else "")
            if cause:
                core.ruin(cause)
        if core.must_leave():  # a job may have taken the signal, or blocked it
            self._on_term()

    def _look_after_ledger(self) -> None:
        """Write the ledger again if it was deleted; check every other second."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY
        try:
            if self._core.ledger.restore():
                self._core.complain("the ledger of its runs was deleted: written anew")
        except OSError as error:
            self._core.complain(f"the ledger of its runs was deleted, and cannot be written anew: {error}")

    def _is_idle(self) -> bool:
        """Return whether no job has run since the last look at what jobs may have changed in the process. Every fifth
        time in a row the answer is no, because the service may also run code beside its jobs."""
        core, (jobs, spared) = self._core, self._looked
        idle = core.jobs == jobs and not core.used and not core.gate.failures and spared < SPARED
        self._looked = (core.jobs, spared + 1 if idle else 0)
        return idle

    def _explain(self, attempt: Attempt) -> None:
        """Report in one line the mistake of a failed sync handler, if its error shows it."""
        text = explain_missing(self._app, attempt) or explain_signal(attempt)
        if text:
            self._core.complain(text)


def explain_missing(app: WorkerApp, attempt: Attempt) -> str:
    """Return advice if a sync handler misses an attribute that only `alifespan` sets; empty otherwise."""
    error = attempt.error
    if error is None or not issubclass(type(error), AttributeError):
        return ""
    of, name = (vars(AttributeError)[member].__get__(error) for member in ("obj", "name"))
    if of is not app:
        return ""
    if type(app).alifespan is WorkerApp.alifespan:
        return ""
    return f"self.{name} does not exist: alifespan() is not entered for sync handlers; open it in lifespan()"


def explain_signal(attempt: Attempt) -> str:
    """Return advice if a handler in a thread has installed a signal handler; empty otherwise."""
    error = attempt.error
    if error is None or type(error) is not ValueError or not str(error).startswith(_ONLY_IN_MAIN):
        return ""
    return (
        "signal.signal() works in the main thread only, and a sync handler with concurrency above 1 runs in another: "
        "call it in lifespan(), or remove concurrency"
    )


def handler_line(executor: Executor, frame: FrameType | None) -> tuple[str, str]:
    """Return the handler as `Relay.deliver`, and the innermost line of its file on a stack.

    The line is, for example, `relay.py:41 requests.post`.
    """
    kind, name = type(executor.app), executor.handler.name
    code = getattr(getattr(kind, name), "__code__", None)
    return f"{kind.__name__}.{name}", _where(frame, code.co_filename if code else "")


def stack_of(frame: FrameType | None) -> str:
    """Return a thread's stack as text; empty without a frame, or if a loader fails when it is asked for source lines.
    The watching thread must not end because of what it looks at."""
    try:
        return "".join(traceback.format_stack(frame)) if frame is not None else ""
    except Exception:
        return ""


def _where(frame: FrameType | None, filename: str) -> str:
    while frame is not None and frame.f_code.co_filename != filename:
        frame = frame.f_back
    if frame is None:
        return ""
    line = f"{filename.rpartition('/')[2]}:{frame.f_lineno}"
    try:
        summary = traceback.extract_stack(frame, limit=1)[-1]
        return f"{line} {(summary.line or '').strip()[:80]}"
    except Exception:  # see stack_of
        return line
