"""Source locations (`file.py:line`) for messages."""

from __future__ import annotations

import os
import sys


def caller_place() -> str:
    """Return `file.py:line` of the nearest frame outside framework, typing and contextlib."""
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).split(".")[0] in ("framework", "typing", "contextlib"):
        frame = frame.f_back
    return place_of(frame.f_code.co_filename, frame.f_lineno)


def place_of(filename: str, line: int) -> str:
    """Return `file.py:line`, with a relative path if the file is below the working directory."""
    here = os.getcwd() + os.sep
    return f"{filename.removeprefix(here)}:{line}"
