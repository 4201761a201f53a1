"""Inspection of callables through their decorators."""

from __future__ import annotations

import contextlib
import inspect
from functools import partial, partialmethod
from typing import Any


def bare(fn: Any) -> Any:
    """Return the function behind partials and partialmethods."""
    while True:
        if isinstance(fn, (partial, partialmethod)):
            fn = fn.func
        elif (method := getattr(fn, "_partialmethod", None) or getattr(fn, "__partialmethod__", None)) is not None:
            fn = method  # a partialmethod that was looked up in its class
        else:
            return fn


def gives_coroutine(fn: Any) -> bool:
    """Return whether calling it returns a coroutine, by its own code and not by what it wraps."""
    fn = bare(fn)
    if any(getattr(fn, mark, None) is not None for mark in ("_is_coroutine", "_is_coroutine_mark")):
        return True
    called = getattr(type(fn), "__call__", None)  # noqa: B004 - of an object; a function has none of its own
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(called)


def wrapped_by_contextlib(fn: Any) -> Any:
    """Return the generator function under @contextmanager or @asynccontextmanager; None if there is none."""
    code = getattr(fn, "__code__", None)
    made = code is not None and code.co_filename == contextlib.__file__
    return getattr(fn, "__wrapped__", None) if made else None
