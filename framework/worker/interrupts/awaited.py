"""Where a suspended job stands: the frames of its coroutines, which no stack of a thread shows."""

from __future__ import annotations

import asyncio
from types import FrameType
from typing import Any

from framework.worker.interrupts.blocking import Tracked
from framework.worker.interrupts.interrupt import invoke

_MOST = 100  # frames
_FRAME = ("cr_frame", "gi_frame", "ag_frame")
_NEXT = ("cr_await", "gi_yieldfrom", "ag_await")


def awaited(task: asyncio.Task[Any]) -> list[FrameType]:
    """Return the frames of a job's handler and of what it awaits, also in tasks that it made; the innermost is the
    last. Call it on the loop, while the task is suspended."""
    found: list[FrameType] = []
    waiting: Any = task
    while isinstance(waiting, asyncio.Task) and len(found) < _MOST:
        _follow(waiting.get_coro(), found)
        waiting = _waits_for(waiting)
    return found


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


def handlers_frames(frame: FrameType | None) -> list[FrameType]:
    """Return the frames of a handler and of what it called, from the innermost one; the innermost is the last."""
    found: list[FrameType] = []
    while frame is not None and frame.f_code is not invoke.__code__ and len(found) < _MOST:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]


def noted(frames: list[FrameType]) -> str:
    """Return frames as `Notes.frames` takes them, the innermost first."""
    return "\n".join(f"{frame.f_code.co_filename}\0{frame.f_lineno}\0{frame.f_code.co_name}" for frame in frames[::-1])
