"""Reading exceptions that a service raised. Their classes are foreign code: any attribute or method may raise, return
something false or never end. So the functions here bypass overrides, and none of them raises."""

from __future__ import annotations

import inspect
import sys
import traceback
from contextlib import suppress

MESSAGE, TRACE = 1000, 2000  # characters
LONGEST_NAME = 200  # bytes of a name that becomes an attribute of a series or stands in a record
CONCEALED = "__worker_concealed__"  # an attribute of an exception whose text may quote a payload
_FRAMES = 50  # innermost frames of a traceback that are formatted: more than its tail can show
_MOST_RELATED = 100  # exceptions that are formatted together; beyond that, only the one that was raised
_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_LINKS = ("__cause__", "__context__")
_EXCEPTIONS = vars(BaseExceptionGroup)["exceptions"]
_READ = (*_LINKS, "__traceback__", "__suppress_context__")  # by the traceback module


def error_type(error: BaseException) -> str:
    """Return the qualified name of the class, in the form of telemetry's `error.type`; builtins without a module."""
    kind = type(error)
    # A metaclass may override these names, so they are read through `type`.
    name, module = (vars(type)[attribute].__get__(kind) for attribute in ("__qualname__", "__module__"))
    return cut(name if type(module) is not str or module == "builtins" else f"{module}.{name}", LONGEST_NAME)


def describe(error: BaseException, *, limit: int = TRACE) -> tuple[str, str]:
    """Return the message and the tail of the traceback."""
    if _is_concealed(error):
        return f"{error_type(error)} in a validator of the payload", _tail(_text(_stack(error)), limit)
    message = _message(error)
    return message, _tail(_text(_trace(error, message)), limit)


def _tail(text: str, limit: int) -> str:
    """Return the last whole lines that fit into `limit` characters; a part of the last line if it alone is longer."""
    tail = text[-limit:]
    if len(text) == len(tail) or text[-limit - 1] == "\n":
        return tail
    return tail.partition("\n")[2] or tail


def _is_concealed(error: BaseException) -> bool:
    try:
        return getattr(error, CONCEALED, False) is True
    except BaseException:
        return False


def cut(text: str, most: int) -> str:
    """Return the text cut to at most `most` bytes of UTF-8, at a character, without lone surrogates."""
    data = text[:most].encode("utf-8", "replace")
    return data[:most].decode("utf-8", "ignore")


def release(error: BaseException) -> None:
    """Free the frames, with their locals, that the exception and the exceptions chained to it hold.

    Otherwise they live until a garbage collection: a frame that keeps its exception in a variable is a cycle.
    """
    related, circular = _related(error)
    for one in related:
        BaseException.with_traceback(one, None)
        if circular:
            for link in _LINKS:
                vars(BaseException)[link].__set__(one, None)


def clear_locals(error: BaseException | None) -> None:
    """Free the locals of the frames and keep their lines, for an exception that a test may still read."""
    for one in _related(error)[0] if error is not None else ():
        trace = vars(BaseException)["__traceback__"].__get__(one)
        while trace is not None:
            frame = trace.tb_frame
            # Before 3.13 this would end a generator that is only suspended.
            if sys.version_info >= (3, 13) or not frame.f_code.co_flags & _SUSPENDABLE:
                with suppress(RuntimeError):  # it runs
                    frame.clear()
            trace = trace.tb_next


def _related(error: BaseException) -> tuple[list[BaseException], bool]:
    """Return the exception with all that it is chained to or groups, and whether one of them was reached twice."""
    seen = {id(error): error}
    waiting = [error]
    twice = False
    while waiting:
        one = waiting.pop()
        for other in (*_chained(one), *_members(one)):
            if id(other) in seen:
                twice = True
            else:
                seen[id(other)] = other
                waiting.append(other)
    return list(seen.values()), twice


def _message(error: BaseException) -> str:
    try:
        # A subclass of str could override the slicing.
        return _text(str.__getitem__(str(error), slice(MESSAGE))) or _name(error)
    except BaseException:
        return f"{_name(error)} (its __str__ failed)"


def _name(error: BaseException) -> str:
    return error_type(error).rpartition(".")[2]


def _trace(error: BaseException, message: str) -> str:
    frames = vars(BaseException)["__traceback__"].__get__(error)
    try:
        if _is_formattable(error):
            parts = traceback.format_exception(type(error), error, frames, limit=-_FRAMES)
            # A message of many megabytes must not push the stack out of the tail.
            return "".join(part if len(part) <= MESSAGE else f"{part[:MESSAGE]}…\n" for part in parts)
    except BaseException:
        pass
    return f"{_stack(error)}{error_type(error)}: {message}\n"


def _stack(error: BaseException) -> str:
    try:
        frames = vars(BaseException)["__traceback__"].__get__(error)
        return "".join(traceback.format_tb(frames, limit=-_FRAMES))
    except BaseException:
        return ""


def _is_formattable(error: BaseException) -> bool:
    """Return whether formatting ends soon: it repeats exceptions that are in several groups, and calls overrides."""
    seen: set[int] = set()
    waiting = [error]
    visits = 0
    while waiting:
        one = waiting.pop()
        visits += 1
        members = _members(one)
        names = (*_READ, "exceptions") if members else _READ
        if visits > _MOST_RELATED or any(getattr(type(one), n) is not getattr(BaseExceptionGroup, n) for n in names):
            return False
        chained = [other for other in _chained(one) if id(other) not in seen]
        seen.update(map(id, chained))
        waiting += (*chained, *members)
    return True


def _chained(error: BaseException) -> list[BaseException]:
    links = [vars(BaseException)[link].__get__(error) for link in _LINKS]
    if links[0] is links[1]:  # raise … from …
        del links[1]
    return [link for link in links if link is not None]


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    members: tuple[BaseException, ...] = _EXCEPTIONS.__get__(error)
    return members


def _text(value: str) -> str:
    """Return the text without lone surrogates (file names may have some), which neither JSON nor a span can carry."""
    return value.encode("utf-8", "replace").decode()
