"""The keys of jobs that a function of the service makes from their payloads: of its group, and unique ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from framework.model.errors import DeclarationError, InvalidArgument, caller_location, location
from framework.model.extras import FIELDS

P = TypeVar("P")


def checked_group(group: Callable[[P], str] | None) -> Callable[[P], str] | None:
    """Return the `group` of a queue if it can be one. Raises DeclarationError."""
    if group is not None and not callable(group):
        raise DeclarationError(
            f"{caller_location()}: group={group!r:.60}: write a function, as in group=lambda message: message.customer"
        )
    return group


def group_of(function: Callable[[Any], str], payload: Any, queue: str) -> str:
    """Return the key of a payload's group. Raises InvalidArgument."""
    return key_by(function, payload, "group", f"queue {queue!r}: the function of its group")


def key_by(function: Callable[[Any], str], payload: Any, field: str, what: str) -> str:
    """Return the key that a function makes of a payload. Raises InvalidArgument, which does not quote the payload.

    Args:
        field: the field of a job's extras for which the key is. what: words for the function.
    """
    code = getattr(function, "__code__", None)
    what += f" ({location(code.co_filename, code.co_firstlineno)})" if code is not None else ""
    try:
        key: object = function(payload)
    except Exception as error:
        raise InvalidArgument(f"{what} raised {type(error).__name__}") from error
    if not FIELDS[field].check(key):
        returned = f"text of {len(key):,} characters" if isinstance(key, str) else type(key).__name__
        raise InvalidArgument(f"{what} returned {returned}: must be {FIELDS[field].be}")
    return str(key)
