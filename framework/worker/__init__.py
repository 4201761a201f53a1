"""The loop of one worker process: it runs jobs one at a time, in threads, or on an event loop, and settles them."""

from framework.worker.concurrent import AsyncWorker
from framework.worker.core import LeaveSignal, WorkerCore
from framework.worker.putback import stacks
from framework.worker.ruin import SelfCheck, descriptors
from framework.worker.sequential import SyncWorker
from framework.worker.threaded import ThreadWorker

__all__ = [
    "AsyncWorker",
    "LeaveSignal",
    "SelfCheck",
    "SyncWorker",
    "ThreadWorker",
    "WorkerCore",
    "descriptors",
    "stacks",
]
