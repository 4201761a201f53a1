"""The configuration of structlog and the standard library's logging: one renderer writes both to standard output.

It applies only in the processes of `worker`; elsewhere the host's configuration is used. With OTEL_LOGS_EXPORTER=otlp
each line also goes to the collector. Unlike the SDK's, the default is `none`, because most places collect standard
output already.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

import structlog
from opentelemetry import trace

from framework.model.job import current_job, running
from framework.model.outcome import JobInterrupted
from framework.model.text.redaction import hider
from framework.service.app import Logger
from framework.service.settings import Settings
from framework.telemetry.export.health import swallowed
from framework.telemetry.logs.keys import Keys, extra_of, renamed, respected
from framework.telemetry.logs.render import ConsoleRenderer, JsonRenderer
from framework.telemetry.logs.values import text_of
from framework.telemetry.logs.writer import LineWriter

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# At info they log a line per HTTP request, often one per job, without new information.
_CHATTY = ("httpx", "httpcore", "urllib3", "asyncio")

# Their messages contain the address to which telemetry goes.
_LIBRARIES = ("urllib3", "requests", "grpc", "opentelemetry", "framework")

_configured: Logs | None = None


class Output:
    """The line logger at the end of structlog's chain. It takes bytes at any level."""

    def __init__(self, logs: Logs) -> None:
        self.logs = logs
        self.msg = logs.put

    def __getattr__(self, _level: str) -> Callable[[bytes], None]:
        return self.msg


class Logs:
    """The renderer and writer of one process's log lines.

    Args:
        settings: log_level, log_format, log_keys and log_successes.
        writer: takes the lines.
        process: the slot, named in every line.
        hide: removes the secrets of the environment from a text.
    """

    def __init__(
        self, settings: Settings, writer: LineWriter, *, process: str, hide: Callable[[str], str] | None = None
    ) -> None:
        self.level = LEVELS[settings.log_level]
        self._process = process
        self._names = settings.log_keys
        self.successes = settings.log_successes
        self.writer = writer
        self._hide = hide or hider(os.environ)
        console = settings.log_format == "console" or (settings.log_format == "auto" and writer.is_terminal)
        self._renderer: Callable[[Any, str, Keys], bytes] = (
            ConsoleRenderer(colors=writer.is_terminal, limit=writer.limit) if console else JsonRenderer(writer.limit)
        )
        self.remember: Callable[[str, int, bytes], None] | None = None  # takes what jobs log
        self.also: Callable[[Keys], None] | None = None  # the OTLP logs exporter, when it is asked for
        writer.notice = self._lost
        self._processors: list[Any] = [
            structlog.contextvars.merge_contextvars,
            respected,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            self._complete,
            self._render,
        ]
        self.logger: Any = structlog.wrap_logger(
            Output(self),
            processors=self._processors,
            wrapper_class=_lenient_class(self.level),
            context_class=dict,
        ).bind()

    def configure(self) -> None:
        """Make structlog and logging of this process use it. A structlog that the service has configured stays."""
        global _configured
        if _configured is not None or not structlog.is_configured():
            _configured = self
            structlog.configure(
                processors=self._processors,
                wrapper_class=_lenient_class(self.level),
                logger_factory=lambda *_: Output(self),
                context_class=dict,
                cache_logger_on_first_use=False,  # a logger made before the fork must not keep the parent's chain
            )
        root = logging.getLogger()
        root.handlers[:] = [handler for handler in root.handlers if not _is_ours_or_standard(handler)]
        root.addHandler(RecordHandler(self))
        if root.level != self.level:  # it clears the caches of all loggers, whose memory children share
            root.setLevel(self.level)
        for name in _CHATTY:
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET and self.level > logging.DEBUG:
                logger.setLevel(logging.WARNING)

    def unreadable(self, event: object, args: object, **keys: object) -> None:
        """Write a line whose text cannot be formatted, as its separate parts."""
        parts = args if isinstance(args, tuple) else (args,)
        texts = [text_of(part)[:200] for part in parts[:20]]
        self.say("warning", "log_record_unreadable", **keys, template=text_of(event)[:200], args=texts)

    def put(self, line: bytes) -> None:
        """Write a line of the service. What a job logs is also remembered, in case its process is killed."""
        if self.remember is not None and (lease := running.get()) is not None:
            self.remember(lease.job.id, lease.delivery, line)
        self.writer.write(line)

    def say(self, level: str, event: str, **keys: object) -> None:
        """Write one of the framework's own lines."""
        if self.passes(LEVELS[level]):
            keys["event"], keys["level"] = event, level
            self.writer.write(self._rendered(level, keys))

    def bound(self, keys: dict[str, object]) -> Logger:
        """Return a logger whose lines carry these keys: `ctx.log`."""
        return cast("Logger", self.logger.bind(**keys))

    def passes(self, level: int) -> bool:
        return level >= self.level

    def _complete(self, _logger: object, _method: str, keys: Keys) -> Keys:
        """Add time, process, job and trace, the most common keys first. A key that is there stays."""
        first: dict[str, Any] = {
            "timestamp": keys.pop("timestamp", None) or datetime.now(UTC).isoformat(timespec="microseconds"),
            "level": keys.pop("level", "info"),
            "event": keys.pop("event", ""),
            "process": self._process,
            **(current_job() or {}),
        }
        if not keys.get("trace_id") and (span := trace.get_current_span().get_span_context()).is_valid:
            keys["trace_id"], keys["span_id"] = f"{span.trace_id:032x}", f"{span.span_id:016x}"
        first.update(keys)
        return first

    def _render(self, logger: object, method: str, keys: Keys) -> bytes:
        if self.also is not None:
            self.also(keys)
        return self._renderer(logger, method, renamed(keys, self._names) if self._names else keys)

    def say_lost(self) -> None:
        """Write how many lines were dropped, as soon as a line can be written."""
        self.writer.say_lost()

    def _lost(self, lines: int) -> bytes:
        keys = self._complete(None, "warning", {"event": "log_lines_lost", "level": "warning", "lines": lines})
        return self._renderer(None, "warning", renamed(keys, self._names))

    def write_record(self, record: logging.LogRecord) -> None:
        """Write a record of the standard library's logging, with its `extra`, as a line like any other."""
        level = record.levelname.lower()
        told = record.name.partition(".")[0] in _LIBRARIES  # what these say may have addresses in it
        extra = {} if told else respected(None, level, extra_of(record))
        keys: dict[str, Any] = {
            **extra,
            "event": record.getMessage(),
            "level": "error" if level == "critical" else level,
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
        }
        if record.exc_info:
            keys["exc_info"] = record.exc_info
        keys = dict(structlog.processors.format_exc_info(None, level, keys))
        if told:
            keys |= {key: self._hide(text_of(keys[key])) for key in ("event", "exception") if key in keys}
        self.put(self._rendered(level, keys))

    def _rendered(self, level: str, keys: Keys) -> bytes:
        """Process a line as structlog's chain does for its own loggers."""
        around = respected(None, level, structlog.contextvars.get_contextvars())
        return self._render(None, level, self._complete(None, level, {**around, **keys}))


class RecordHandler(logging.Handler):
    """A handler for the records of libraries, including the SDK. Records of an export are not shown."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs
        self._repeated = Repeated()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not swallowed(record) and not self._repeated(record):
                self._logs.write_record(record)
        except JobInterrupted:
            raise
        except BaseException:  # a record that cannot be formatted must not stop the code that logged it
            self._logs.unreadable(record.msg, record.args, logger=text_of(record.name))


@cache
def _lenient_class(level: int) -> Any:
    """Return structlog's logger class with methods that write a line whatever arguments they get.

    The supervisor makes it for its children: that touches much of structlog's memory, which they share.
    """
    kind: Any = structlog.make_filtering_bound_logger(level)
    levels = (*LEVELS, "warn", "err", "critical", "fatal", "exception", "msg", "log")
    names = [name for each in levels for name in (each, f"a{each}") if hasattr(kind, name)]
    return type(kind.__name__, (kind,), {name: _lenient(getattr(kind, name)) for name in names})


def _lenient(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of structlog's logger, so that arguments that do not fit the text cannot stop the caller."""

    def log(self: Any, *args: Any, **keys: Any) -> Any:
        try:
            return method(self, *args, **keys)
        except JobInterrupted:
            raise
        except BaseException:
            _unreadable(self, args)

    async def log_async(self: Any, *args: Any, **keys: Any) -> None:
        try:
            await method(self, *args, **keys)
        except (JobInterrupted, asyncio.CancelledError):
            raise
        except BaseException:
            _unreadable(self, args)

    return log_async if asyncio.iscoroutinefunction(method) else log


def _unreadable(logger: Any, args: tuple[Any, ...]) -> None:
    logs = getattr(logger._logger, "logs", _configured)  # the service may wrap a logger of its own
    if logs is not None:
        logs.unreadable(args[0] if args else "", args[1:])


class Repeated:
    """A filter for messages of the SDK that were logged before: it warns once per span that it drops."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def __call__(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry"):
            return False
        key = (record.name, text_of(record.msg))
        if key in self._said:
            return True
        if len(self._said) < 1000:
            self._said.add(key)
        return False


def _is_ours_or_standard(handler: logging.Handler) -> bool:
    """Return whether a handler would write each line a second time. What the service sends elsewhere stays."""
    if isinstance(handler, RecordHandler):
        return True
    return isinstance(handler, logging.StreamHandler) and getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
