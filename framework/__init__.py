"""A worker framework for Python services: durable jobs, supervised processes, every attempt in a trace."""

from framework import app as _app
from framework import connecting as _connecting
from framework import queues as _queues
from framework.app import Slot, WorkerApp
from framework.errors import (
    Duplicate,
    EnqueueError,
    EnqueueFailed,
    EnqueueUncertain,
    InvalidArgument,
    InvalidPayload,
    PayloadTooLarge,
    QueueFull,
    WorkerError,
)
from framework.job import Context, Failure, JobId, Logger
from framework.outcome import Discard, JobInterrupted, Reject, RetryLater, Snooze
from framework.pools import Pool
from framework.queues import Cron, DeadLetter, Every, Queue
from framework.retry import RetryPolicy
from framework.settings import Settings
from framework.slo import Slo

_queues.opener = _connecting.process_producer
_app.connector = _connecting.connect

__all__ = [
    "Context",
    "Cron",
    "DeadLetter",
    "Discard",
    "Duplicate",
    "EnqueueError",
    "EnqueueFailed",
    "EnqueueUncertain",
    "Every",
    "Failure",
    "InvalidArgument",
    "InvalidPayload",
    "JobId",
    "JobInterrupted",
    "Logger",
    "PayloadTooLarge",
    "Pool",
    "Queue",
    "QueueFull",
    "Reject",
    "RetryLater",
    "RetryPolicy",
    "Settings",
    "Slo",
    "Slot",
    "Snooze",
    "WorkerApp",
    "WorkerError",
]
