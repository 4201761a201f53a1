"""A span of the SDK that accepts any value from a handler.

No value of an attribute, an event or a link raises in the handler or makes a span that exporters cannot encode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from opentelemetry.trace import Span, Status

from framework.telemetry.logs.values import attributes_of, name_of, time_of, value_of

log = logging.getLogger("framework.telemetry")

# By method, a function that makes its arguments harmless.
_HARMLESS: Final[dict[str, Callable[..., tuple[Any, ...]]]] = {
    "set_attribute": lambda key, value: (name_of(key), value_of(value)),
    "set_attributes": lambda attributes: (attributes_of(attributes),),
    "add_event": lambda name, attributes=None, timestamp=None: (
        name_of(name), attributes_of(attributes), time_of(timestamp),
    ),
    "add_link": lambda context, attributes=None: (context, attributes_of(attributes)),
    "update_name": lambda name: (name_of(name),),
    "set_status": lambda status, description=None: _status(status, description),
    "record_exception": lambda exception, attributes=None, timestamp=None, escaped=False: (
        exception, attributes_of(attributes), time_of(timestamp), escaped,
    ),
    "end": lambda end_time=None: (time_of(end_time),),
}  # fmt: skip


def _status(status: Any, description: Any) -> tuple[Any, Any]:
    if isinstance(status, Status):
        status, description = status.status_code, status.description
    return status, description and name_of(description)


def guarded(span: Span) -> Span:
    """Return the same span. Its methods are replaced on the instance, because other code checks for the SDK's class."""
    for name, harmless in _HARMLESS.items():
        setattr(span, name, partial(_call, getattr(span, name), harmless))
    return span


def _call(method: Callable[..., Any], harmless: Callable[..., tuple[Any, ...]], *args: Any, **kwargs: Any) -> Any:
    try:
        return method(*harmless(*args, **kwargs))
    except Exception:
        log.debug("what a handler did with its span was left out", exc_info=True)
