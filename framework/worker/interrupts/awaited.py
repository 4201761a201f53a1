"""The frames of a handler: of its coroutines while it is suspended, which no stack of a thread shows, and of others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from framework.model.black_box import BlackBox
from framework.process.blackbox.frames import Frame, innermost
from framework.worker.interrupts.blocking import Tracked
from framework.worker.interrupts.interrupt import invoke

_MOST = 100  # frames
_FRAME = ("cr_frame", "gi_frame", "ag_frame")
_NEXT = ("cr_await", "gi_yieldfrom", "ag_await")


def awaited(task: asyncio.Task[Any]) -> list[Frame]:
    """Return the frames of a job's handler and of what it awaits, also in tasks that it made; the innermost is the
    first. Call it on the loop, while the task is suspended."""
    found: list[FrameType] = []
    waiting: Any = task
    while isinstance(waiting, asyncio.Task) and len(found) < _MOST:
        _follow(waiting.get_coro(), found)
        waiting = _waits_for(waiting)
    return [_frame(frame) for frame in reversed(found)]


def _follow(coroutine: Any, found: list[FrameType]) -> None:
    while coroutine is not None and len(found) < _MOST:
        frame = next((of for name in _FRAME if (of := getattr(coroutine, name, None)) is not None), None)
        if frame is None:
            return
        if frame.f_code is Tracked.__await__.__code__:  # it passes everything on by hand, and the handler begins here
            found.clear()
            coroutine = frame.f_locals["self"].awaitable
            continue
        found.append(frame)
        coroutine = next((of for name in _NEXT if (of := getattr(coroutine, name, None)) is not None), None)


def _waits_for(task: asyncio.Task[Any]) -> Any:
    """Return the task for which a task waits: the one that it awaits, or the first of those that it gathers. The
    attributes are asyncio's own; without them the frames end at the `await`."""
    future = getattr(task, "_fut_waiter", None)
    children = [child for child in getattr(future, "_children", None) or () if not child.done()]
    return children[0] if children else future


def handlers_frames(frame: FrameType | None) -> list[Frame]:
    """Return the frames of a handler and of what it called, from the innermost one, which is the first."""
    found: list[Frame] = []
    while frame is not None and frame.f_code is not invoke.__code__ and len(found) < _MOST:
        found.append(_frame(frame))
        frame = frame.f_back
    return found


def _frame(frame: FrameType) -> Frame:
    return Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def frames_of_traceback(trace: TracebackType | None) -> list[Frame]:
    """Return where the code stood that a traceback has passed, behind the beginning of the handler, innermost first."""
    found: list[Frame] = []
    inside = False
    while trace is not None:
        code = trace.tb_frame.f_code
        if code is Tracked.__await__.__code__:  # a cancellation passes it twice, on its way in and on its way out
            found = found if inside else []
            inside = True
        else:
            found.insert(0, Frame(code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    return found


def noted(frames: Sequence[Frame]) -> str:
    """Return frames as `Notes.frames` takes them."""
    return "\n".join(f"{frame.file}\0{frame.line}\0{frame.function}" for frame in frames)


def location_of(frames: Sequence[Frame]) -> str:
    """Return the line at which a handler stands, for example `fetch (relay.py:41)`; empty: unknown."""
    if not frames:
        return ""
    frame = innermost(frames)
    return BlackBox(frame.function, frame.file, frame.line).where
