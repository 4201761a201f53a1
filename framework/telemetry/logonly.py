"""Tracing where nothing is traced. Loads no SDK."""

from __future__ import annotations

from typing import Any

from framework.app import Logger
from framework.executor import UNTRACED, Attempt, SpanIdentity, enter_job, leave_job
from framework.job import Lease
from framework.jobscope import keys_of
from framework.telemetry.logs import Logs


class LogOnlyTracing:
    """Tracing without spans (OTEL_SDK_DISABLED=true): log lines still name their job."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def identify(self, lease: Lease, started_at: float) -> SpanIdentity:
        return UNTRACED

    def enter(self, attempt: Attempt) -> Any:
        return enter_job(attempt)

    def leave(self, attempt: Attempt, entered: Any) -> None:
        leave_job(attempt, entered)

    def logger(self, attempt: Attempt) -> Logger:
        return self._logs.bound(keys_of(attempt.lease))

    def settled(self, queue: str, verb: str, seconds: float) -> bool:
        return False
