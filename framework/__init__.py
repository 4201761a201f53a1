"""A worker framework for Python services: durable jobs, supervised processes, every attempt in a trace."""

from framework.model.errors import (
    DeclarationError,
    Duplicate,
    EngineError,
    EnqueueError,
    EnqueueFailed,
    EnqueueUncertain,
    InvalidArgument,
    InvalidPayload,
    PayloadTooLarge,
    QueueFull,
    SettingsError,
    WorkerError,
)
from framework.model.fan_in import Ended
from framework.model.handling import Context, Running
from framework.model.job import Failure, JobId, Logger
from framework.model.limits import Breaker
from framework.model.options import Slo
from framework.model.outcome import Discard, JobInterrupted, Reject, RetryLater, Snooze
from framework.model.retry import RetryPolicy
from framework.model.schedules import Cron, Every
from framework.runner import connecting as _connecting
from framework.runner.beside import running as _running
from framework.service import app as _app
from framework.service import queues as _queues
from framework.service.app import Slot, WorkerApp
from framework.service.batching import Item
from framework.service.keys import Unique
from framework.service.queues import DeadLetter, Pool, Queue
from framework.service.settings import Settings

_queues.opener = _connecting.process_producer
_app.connector = _connecting.connect
_app.launcher = _running

__all__ = [
    "Breaker",
    "Context",
    "Cron",
    "DeadLetter",
    "DeclarationError",
    "Discard",
    "Duplicate",
    "Ended",
    "EngineError",
    "EnqueueError",
    "EnqueueFailed",
    "EnqueueUncertain",
    "Every",
    "Failure",
    "InvalidArgument",
    "InvalidPayload",
    "Item",
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
    "Running",
    "Settings",
    "SettingsError",
    "Slo",
    "Slot",
    "Snooze",
    "Unique",
    "WorkerApp",
    "WorkerError",
]

# Services, logs and traces name an exception as services import it, not by the module that defines its class.
for _name in __all__:
    _found = globals()[_name]
    if isinstance(_found, type) and issubclass(_found, BaseException):
        _found.__module__ = __name__
