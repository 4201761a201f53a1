"""What a callable is, whatever decorators have made of it."""

from __future__ import annotations

import contextlib
import inspect
from functools import partial, partialmethod
from typing import Any


def bare(fn: Any) -> Any:
    """What a partial or partialmethod calls."""
    while True:
        if isinstance(fn, (partial, partialmethod)):
            fn = fn.func
        elif (method := getattr(fn, "_partialmethod", None) or getattr(fn, "__partialmethod__", None)) is not None:
            fn = method  # a partialmethod that was looked up in its class
        else:
            return fn


def gives_coroutine(fn: Any) -> bool:
    """Whether calling it gives a coroutine, by its own code; what it wraps has no say."""
    fn = bare(fn)
    if any(getattr(fn, mark, None) is not None for mark in ("_is_coroutine", "_is_coroutine_mark")):
        return True
    called = getattr(type(fn), "__call__", None)  # noqa: B004 - of an object; a function has none of its own
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(called)


def wrapped_by_contextlib(fn: Any) -> Any:
    """The generator function under @contextmanager or @asynccontextmanager; None where there is none."""
    code = getattr(fn, "__code__", None)
    made = code is not None and code.co_filename == contextlib.__file__
    return getattr(fn, "__wrapped__", None) if made else None
