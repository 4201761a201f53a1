"""The keys of a line: which are the framework's, what a caller adds, and the names under which they are written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from framework.model.job import current_job

Keys = MutableMapping[str, Any]
GIVEN: Final = "given_"
_OF_JOB: Final = frozenset({"queue", "job_id", "attempt"})
_OURS: Final = frozenset({"timestamp", "level", "event", "process", "logger", "trace_id", "span_id"})
# Every record has these, or those of OpenTelemetry's instrumentation, so they are no `extra` of its caller.
_OF_RECORD: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
    | {"otelTraceID", "otelSpanID", "otelTraceSampled", "otelServiceName"}
)


def respected(_logger: object, _method: str, keys: Keys) -> Keys:
    """Put what a caller gave under a name of the framework's under `given_NAME`. This is a processor of structlog.

    A logger that is bound to the running job says the same as the framework. Without a running job it is the only one
    that knows it, so its keys stay.
    """
    job = current_job()
    for name in _OURS.intersection(keys) - {"event"}:
        _set_aside(keys, name)
    if job is not None:
        for name in _OF_JOB.intersection(keys):
            if keys[name] != job[name]:
                _set_aside(keys, name)
    return keys


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller of a logger of the standard library gave as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _OF_RECORD and name[:1] != "_"}


def renamed(keys: Keys, names: Mapping[str, str]) -> Keys:
    """Return the keys under other names (`WORKER_LOG_KEYS`). A key that has the new name already is set aside."""
    changes = {key: names[key] for key in keys if key in names}
    taken = set(changes.values())
    found: dict[str, Any] = {}
    for key, value in keys.items():
        found[changes[key] if key in changes else GIVEN + key if key in taken else key] = value
    return found


def _set_aside(keys: Keys, name: str) -> None:
    value = keys.pop(name)
    keys.setdefault(GIVEN + name, value)
