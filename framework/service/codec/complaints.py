"""Messages about a payload that does not fit, which do not quote it.

Messages reach logs, dead letters and spans, which more people may read than the payload. So they contain only what is
in the service's code: names of declared fields and pydantic's error types. pydantic's own texts quote keys of mappings,
names of extra fields, tags of unions, and the messages of validators.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticSerializationError, core_schema

from framework.model.text.exceptions import describe

MISTAKES = (PydanticUserError, PydanticUndefinedAnnotation)  # in the payload type itself; they know no payload
MOST = 3  # complaints in one message
HIDDEN = "*"
_TYPES = frozenset(get_args(core_schema.ErrorType))
_ALIASES = ("validation_alias", "alias", "discriminator")
_NOT_NAMES = frozenset({"metadata", "default", "expected", "serialization", "function", "config"})
# Messages of a failed serialization that may be shown: a type, a serializer with its error's class, or a fixed text.
_SAFE = re.compile(
    r"Error calling function `\w+`: \w+|Unable to serialize unknown type: <class '[\w.<>]+'>"
    r"|(?:NaN|-?Infinity) is not JSON|surrogates not allowed"
    r"|invalid utf-8 sequence of \d+ bytes from index \d+|Circular reference detected"
)


def declared_names(schema: Any) -> frozenset[str]:
    """Return every name that a payload type declares: fields, aliases, tags and members of unions."""
    names: set[str] = {"[key]"}
    todo: list[Any] = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, (list, tuple)):
            todo += node
        elif isinstance(node, Mapping):
            names |= _names_in(node)
            todo += [value for key, value in node.items() if key not in _NOT_NAMES]
    return frozenset(names)


def _names_in(node: Mapping[str, Any]) -> set[str]:
    found = [node.get("type"), node.get("name"), getattr(node.get("cls"), "__name__", None)]
    for key in ("fields", "choices"):
        if isinstance(node.get(key), Mapping):
            found += map(_tag, node[key])
    for key in _ALIASES:
        found += _flat(node.get(key))
    return {name for name in found if isinstance(name, str)}


def _tag(value: Any) -> str:
    return str(getattr(value, "value", value))


def _flat(alias: Any) -> list[Any]:
    return [part for item in alias for part in _flat(item)] if isinstance(alias, (list, tuple)) else [alias]


def explain(error: ValidationError, names: frozenset[str], payload: Any = None) -> str:
    """Return the first errors as `path: error type`, with `*` for names that are not declared.

    Args:
        names: the result of `declared_names`.
        payload: the value that was validated; None for JSON, where keys are text and every number is an index.
    """
    items = error.errors(include_url=False, include_input=False, include_context=False)
    texts = []
    for item in items[:MOST]:
        kind = item["type"] if item["type"] in _TYPES else "custom_error"
        texts.append(f"{_path(item['loc'], names, payload)}: {kind}")
    return _joined(texts, len(items))


def explain_fully(error: ValidationError) -> str:
    """Return the first errors in pydantic's words, which may quote the payload."""
    items = error.errors(include_url=False, include_input=False, include_context=False)
    texts = [f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['msg']}" for item in items[:MOST]]
    return _joined(texts, len(items))


def explain_other(error: Exception) -> str:
    """Return why a payload cannot be written as JSON, or that a validator failed."""
    if isinstance(error, MISTAKES):
        return str(error).partition("\n")[0]
    found = _SAFE.search(describe(error)[0]) if isinstance(error, (PydanticSerializationError, ValueError)) else None
    return found[0] if found else f"{type(error).__name__} in a validator or serializer"


def _joined(texts: list[str], count: int) -> str:
    return "; ".join(texts) + (f" (and {count - MOST} more)" if count > MOST else "")


def _path(loc: tuple[int | str, ...], names: frozenset[str], payload: Any) -> str:
    at, shown = payload, []
    for part in loc:
        index = isinstance(part, int) and (payload is None or isinstance(at, (list, tuple, deque)))
        shown.append(str(part) if index or part in names else HIDDEN)
        at = _inside(at, part)
    return ".".join(shown) or "payload"


def _inside(value: Any, part: int | str) -> Any:
    """Return the value at a part of a path; the value itself if the part names a member of a union."""
    try:
        return value[part]
    except Exception:
        return getattr(value, part, value) if isinstance(part, str) else value
