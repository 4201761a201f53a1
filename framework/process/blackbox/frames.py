"""The frames of a job in a dump of stacks: which thread runs it, and which of its frames are the handler's."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

_THREAD: Final = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+) .*\(most recent call first\):")
_FRAME: Final = re.compile(r'  File "(.*)", line (\d+) in (.*)')
# (end of the file's name, function) of the frame that calls a handler, or a callback of the event loop.
_BORDERS: Final = (
    ("framework/worker/interrupts/interrupt.py", "invoke"),
    ("framework/worker/interrupts/blocking.py", "__await__"),
    ("asyncio/events.py", "_run"),
)

_FRAMEWORK: Final = str(Path(__file__).parents[2]) + os.sep
_STANDARD: Final = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))
_INSTALLED: Final = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))


class Frame(NamedTuple):
    """A frame of a stack."""

    file: str
    line: int
    function: str


def threads_of(dump: str) -> dict[int, list[Frame]]:
    """Return the frames of each thread of faulthandler's dump, the innermost first; the main thread is the last."""
    found: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in dump.splitlines():
        if thread := _THREAD.match(line):
            frames = found[int(thread[1], 16)] = []
        elif frame := _FRAME.fullmatch(line):
            frames.append(Frame(frame[1], int(frame[2]), frame[3]))
    return found


def of_handler(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames of the handler and of what it called; all of them where no frame shows who called it."""
    for depth, frame in enumerate(frames):
        if any(frame.function == name and frame.file.endswith(file) for file, name in _BORDERS):
            return list(frames[:depth])
    return list(frames)


def innermost(frames: Sequence[Frame]) -> Frame:
    """Return the innermost frame of the service's own code, which says more than `sleep` or `recv`.

    Where there is none, return the innermost of all. Of an installed service, its own code is what is installed with
    its handler, the outermost frame.
    """
    service = _installed(frames[-1].file)
    own = (frame for frame in frames if not _is_library(frame.file) and _installed(frame.file) in ("", service))
    return next(own, frames[0])


def _installed(file: str) -> str:
    """Return the directory or module below site-packages to which a file belongs; empty: it is not there."""
    for prefix in _INSTALLED:
        if file.startswith(prefix):
            return file[len(prefix) :].partition(os.sep)[0]
    return ""


def _is_library(file: str) -> bool:
    """Return whether a file belongs to Python or to the framework."""
    return file.startswith(("<", _FRAMEWORK)) or (file.startswith(_STANDARD) and not _installed(file))


def of_notes(text: str) -> list[Frame]:
    """Return the frames that `Notes.frames` was given, the innermost first."""
    parts = (line.split("\0") for line in text.split("\n"))
    return [Frame(part[0], int(part[1]), part[2]) for part in parts if len(part) == 3 and part[1].isdigit()]


def shown(frames: Sequence[Frame]) -> str:
    """Return the frames as Python prints a traceback: the innermost last."""
    return "".join(f'  File "{frame.file}", line {frame.line}, in {frame.function}\n' for frame in reversed(frames))
