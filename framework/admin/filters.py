"""Texts of a filter as people write them, on the command line and on the page."""

from __future__ import annotations

import re
from typing import get_args

from framework.model.errors import UsageError
from framework.model.job import Reason

REASONS: tuple[Reason, ...] = get_args(Reason)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def age_of(text: str, option: str = "") -> float | None:
    """Return the seconds of an age such as `90`, `30m`, `2h` or `7d`; None for an empty text. Raises UsageError.

    `option` names in the error where the text stands.
    """
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", text, re.ASCII)
    if found is None:
        raise UsageError(f"{option} {text[:60]!r} is no age: write it as 90, 30m, 2h or 7d".lstrip())
    return float(found[1]) * _UNITS[found[2] or "s"]


def field_of(text: str, option: str) -> tuple[str, str]:
    """Return the place in a payload and its text from `PATH=TEXT`. Raises UsageError, which names `option`."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UsageError(f"{option} {text[:60]!r}: write it as PATH=TEXT, for instance address.city=Berlin")
    return path, value
