"""Tracing for processes that make no spans. It does not load the SDK."""

from __future__ import annotations

from framework.model.attempt import Attempt, NoTracing
from framework.model.job import keys_of
from framework.service.app import Logger
from framework.telemetry.logs.logs import Logs


class LogOnlyTracing(NoTracing):
    """Tracing without spans (OTEL_SDK_DISABLED=true). Log lines still name their job."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def logger(self, attempt: Attempt) -> Logger:
        return self._logs.bound(keys_of(attempt.lease))
