"""Where something was written, for messages that name it."""

from __future__ import annotations

import os
import sys


def caller_place() -> str:
    """`file.py:line` of the nearest frame outside framework and typing, for messages."""
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).split(".")[0] in ("framework", "typing", "contextlib"):
        frame = frame.f_back
    return place_of(frame.f_code.co_filename, frame.f_lineno)


def place_of(filename: str, line: int) -> str:
    """`file.py:line`, the file relative to the working directory where it lies below it."""
    here = os.getcwd() + os.sep
    return f"{filename.removeprefix(here)}:{line}"
