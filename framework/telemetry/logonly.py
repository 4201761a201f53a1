"""Tracing for processes that make no spans. It does not load the SDK."""

from __future__ import annotations

from typing import Any

from framework.model.attempt import UNTRACED, Attempt, SpanIdentity
from framework.model.job import Lease
from framework.model.jobscope import keys_of, running
from framework.service.app import Logger
from framework.telemetry.logs.logs import Logs


class LogOnlyTracing:
    """Tracing without spans (OTEL_SDK_DISABLED=true). Log lines still name their job."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        return UNTRACED

    def enter(self, attempt: Attempt) -> Any:
        return running.set(attempt.lease)

    def leave(self, attempt: Attempt, entered: Any) -> None:
        if not attempt.own_context:
            running.reset(entered)

    def logger(self, attempt: Attempt) -> Logger:
        return self._logs.bound(keys_of(attempt.lease))

    def settled(self, queue: str, verb: str, seconds: float) -> bool:
        return False
