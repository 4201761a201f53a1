"""Tasks of every kind of worker besides its jobs: it repairs the process, and explains mistakes of the service."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import FrameType

from framework.model.attempt import Attempt
from framework.model.events import ServiceMistake
from framework.service.app import WorkerApp
from framework.worker.core import WorkerCore
from framework.worker.executor import Executor
from framework.worker.putback import PutBack

_ONLY_IN_MAIN = "signal only works in main thread"


def look_around(core: WorkerCore, put_back: PutBack, on_term: Callable[[], None], *, alone: bool) -> None:
    """Put back what jobs have changed in the process, and leave if something cannot be put back.

    Args:
        on_term: the worker's handler of SIGTERM: a job may have taken the signal, or blocked it.
        alone: no job runs now.
    """
    core.look_after_ledger()
    if alone and core.rests():
        if core.told():
            on_term()
        return
    cause = put_back.everything(alone=alone) or (core.check.changed() if alone else "")
    if cause:
        core.ruin(cause)
    if core.told():
        on_term()


def explain(core: WorkerCore, app: WorkerApp, attempt: Attempt) -> None:
    """Report in one line the mistake of a failed sync handler, if its error shows it."""
    text = explain_missing(app, attempt) or explain_signal(attempt)
    if text:
        core.emit(ServiceMistake(core.process, f"{core.process}: {text}"))


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
    place = f"{filename.rpartition('/')[2]}:{frame.f_lineno}"
    try:
        summary = traceback.extract_stack(frame, limit=1)[-1]
        return f"{place} {(summary.line or '').strip()[:80]}"
    except Exception:  # see stack_of
        return place
