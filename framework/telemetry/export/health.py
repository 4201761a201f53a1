"""The state of sending: counts of what was dropped, and the collector's state, logged once and not per batch.

The SDK logs every failed attempt of every batch of every signal in every process. Here each failed export is noticed
(`watched`), everything that is logged during an export is suppressed, and one line for the whole process tree says that
the collector cannot be reached; another says that it can be reached again.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Sequence, Sized
from contextlib import suppress
from typing import Any, Final, Protocol

from framework.model.text.redaction import redact
from framework.process.nameless import shared_memory

SIGNALS: Final = ("traces", "metrics", "logs")
OUTAGE: Final = "outage"  # stored beside the signals: when the last line said that the collector cannot be reached
OK, UNREACHABLE, REFUSED = 0, 1, 2
# A collector that fails from time to time gets at most one line a minute, not one per batch.
QUIET_SECONDS: Final = 60.0

_exporting = threading.local()


class Drops:
    """Counts of lost items of telemetry by signal; `worker.telemetry.dropped` reads them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a line lost in a signal handler may interrupt another count in this thread
        self._counts = dict.fromkeys(SIGNALS, 0)
        self._also: Callable[[str, int], None] = lambda signal, items: None

    def add(self, signal: str, items: int = 1) -> None:
        with self._lock:
            self._counts[signal] += items
            self._also(signal, items)

    def hand_on(self, to: Callable[[str, int], None]) -> None:
        """Hand on what was counted so far, and everything that is counted from now on."""
        with self._lock:
            self._also = to
            for signal, items in self._counts.items():
                to(signal, items)

    def counts(self) -> dict[str, int]:
        """Return the items by signal, zeros included."""
        with self._lock:
            return dict(self._counts)


class SharedState:
    """A state and a time for each signal, in memory that a forked tree shares: the first to fail logs it for all."""

    _record = struct.Struct("=Bd")

    def __init__(self) -> None:
        self._fd, self._memory = shared_memory("telemetry", mmap.PAGESIZE)

    def states(self) -> dict[str, tuple[int, float]]:
        """Return by signal its state and when it was last logged (monotonic clock, which all processes share)."""
        return {name: self._record.unpack_from(self._memory, 16 * i) for i, name in enumerate((*SIGNALS, OUTAGE))}

    def set(self, signal: str, state: int, said_at: float) -> None:
        self._record.pack_into(self._memory, 16 * (*SIGNALS, OUTAGE).index(signal), state, said_at)

    def locked(self) -> bool:
        """Take the tree's lock if it is free. It is a record lock: it ends with the process that holds it."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def unlock(self) -> None:
        with suppress(OSError):
            fcntl.lockf(self._fd, fcntl.LOCK_UN)


class Say(Protocol):
    def __call__(self, level: str, event: str, **keys: object) -> None: ...


def say_off(say: Say, signal: str, error: Exception) -> None:
    """Write the line that says which signal is off, and why."""
    hint = "jobs run without it; the variables are those that begin with OTEL_"
    say("error", "telemetry_off", signal=signal, cause=redact(f"{type(error).__name__}: {error}"), hint=hint)


class CollectorHealth:
    """A filter that turns the results of exports into at most one line per change.

    Args:
        shared: the tree's state.
        say: writes a log line.
        clock: monotonic seconds.
    """

    def __init__(self, shared: SharedState, say: Say, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared = shared
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()

    def failed(self, signal: str, *, endpoint: str, cause: str, unreachable: bool) -> None:
        """Note a failed export. A collector that cannot be reached is logged once, whichever signals notice it."""
        state = UNREACHABLE if unreachable else REFUSED
        with self._lock:
            if not self._shared.locked():
                return  # another process is about to log it; the next failed batch checks again
            try:
                speak = self._noted(signal, state)
            finally:
                self._shared.unlock()
        if speak:
            where = "cannot be reached" if unreachable else f"refuses {signal}"
            hint = (
                "jobs run as usual; OTEL_EXPORTER_OTLP_ENDPOINT names the collector, OTEL_SDK_DISABLED=true ends this"
            )
            self._say(
                "warning", "telemetry_unreachable", endpoint=endpoint, problem=where, cause=redact(cause), hint=hint
            )

    def _noted(self, signal: str, state: int) -> bool:
        """Note a failure in the tree's state; return whether it must be logged."""
        states, now = self._shared.states(), self._clock()
        before, said_at = states[signal]
        everyone = state == UNREACHABLE
        spoken = states[OUTAGE][1] if everyone else said_at
        if before != OK or (everyone and any(s == UNREACHABLE for s, _ in states.values())):
            self._shared.set(signal, before or state, said_at)
            return False
        if spoken and now - spoken < QUIET_SECONDS:  # it fails from time to time: left as OK, so recovery logs nothing
            return False
        self._shared.set(signal, state, said_at if everyone else now)
        if everyone:
            self._shared.set(OUTAGE, OK, now)
        return True

    def worked(self, signal: str) -> None:
        """Note a successful export."""
        if self._shared.states()[signal][0] == OK:
            return
        with self._lock:
            if not self._shared.locked():
                return
            try:
                states = self._shared.states()
                before, said_at = states[signal]
                self._shared.set(signal, OK, said_at)
                others = any(s == UNREACHABLE for name, (s, _) in states.items() if name != signal)
            finally:
                self._shared.unlock()
        if before == REFUSED or (before == UNREACHABLE and not others):
            self._say("info", "telemetry_recovered", signal=signal)


class _Export:
    """The messages logged during one export of one signal, in this thread."""

    def __init__(self, signal: str, endpoint: str, health: CollectorHealth) -> None:
        self.signal = signal
        self.endpoint = endpoint
        self.health = health
        self.cause = "no cause given"
        self.unreachable = True  # until a message tells of an answer
        self.sent = False  # whether a message concerned the network, so that the batch itself is not the problem

    def heard(self, record: logging.LogRecord) -> None:
        """Read a message of the exporter: why it retries or gives up.

        An unreachable collector is reported at once, because the retries may last longer than the process.
        """
        arguments = record.args if isinstance(record.args, tuple) else ()
        if str(record.msg).startswith("Failed to encode"):
            self.unreachable, self.cause = False, record.getMessage()[:300]
            return
        self.sent = True
        if arguments:
            self.cause = record.getMessage()[:300]
        for argument in arguments:
            code = getattr(argument, "name", "")  # a grpc.StatusCode
            if isinstance(argument, BaseException) or code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                self.unreachable, self.cause = True, (code or str(argument))[:300]
                self.failed()
                return
            if code or isinstance(argument, (int, float)):  # a status, or the pause after one
                self.unreachable = False

    def failed(self) -> None:
        self.health.failed(self.signal, endpoint=self.endpoint, cause=self.cause, unreachable=self.unreachable)


def broken(error: BaseException) -> None:
    """Report, during an export in this thread, that the collector cannot be reached.

    The exporter retries, and logs this late or not at all.
    """
    export: _Export | None = getattr(_exporting, "now", None)
    if export is not None:
        export.unreachable, export.cause = True, str(error)[:300]
        export.failed()


def swallowed(record: logging.LogRecord) -> bool:
    """Return whether a record comes from an export in this thread. It is then read as a cause and not shown."""
    export: _Export | None = getattr(_exporting, "now", None)
    if export is None:
        return False
    if record.levelno >= logging.WARNING:
        export.heard(record)
    return True


def watched(
    exporter: Any, signal: str, *, endpoint: str, health: CollectorHealth, drops: Drops, owner: int | None = None
) -> Any:
    """Return the same exporter with a watched `export`: failed items are counted, failures reported to `health`.

    The method is replaced on the instance: a wrapper class for each signal would have to copy the SDK's private
    preferences of temporality and aggregation.

    Only one process sends metrics, its `owner`. When a handler forks, the SDK restarts its reader in the child under a
    new identity, which would report all counts so far a second time.
    """
    inner, owner = exporter.export, owner or os.getpid()

    def export(batch: Any, *args: Any, **kwargs: Any) -> Any:
        if signal == "metrics" and os.getpid() != owner:
            return None
        now = _exporting.now = _Export(signal, endpoint, health)
        result: Any = None
        try:
            result = inner(batch, *args, **kwargs)
        except Exception as error:
            now.cause = repr(error)[:300]
        finally:
            _exporting.now = None
        failed = getattr(result, "name", "FAILURE") != "SUCCESS"
        if failed and not now.sent and isinstance(batch, Sequence) and len(batch) > 1 and not _encodable(batch, signal):
            # A handler has made one item that cannot be encoded: the other items can still be sent.
            middle = len(batch) // 2
            export(batch[:middle], *args, **kwargs)
            return export(batch[middle:], *args, **kwargs)
        if not failed:
            health.worked(signal)
        else:
            drops.add(signal, items_of(batch))
            now.failed()
        return result

    exporter.export = export
    return exporter


def _encodable(batch: Sequence[Any], signal: str) -> bool:
    common = "opentelemetry.exporter.otlp.proto.common"
    module, name = {"traces": ("trace_encoder", "encode_spans"), "logs": ("_log_encoder", "encode_logs")}[signal]
    try:
        getattr(importlib.import_module(f"{common}.{module}"), name)(batch)
    except ImportError:
        return True
    except Exception:
        return False
    return True


def items_of(batch: Any) -> int:
    """Return the number of spans or log records in a batch, or of data points in a metrics export."""
    if isinstance(batch, Sized):
        return len(batch)
    return sum(
        len(metric.data.data_points)
        for resource in batch.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
