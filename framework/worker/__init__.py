"""The loop of one process: claim, start, run, settle; sync handlers one at a time, async ones up to `concurrency`."""

from framework.worker.concurrent import AsyncWorker
from framework.worker.core import LeaveSignal, WorkerCore
from framework.worker.putback import stacks
from framework.worker.ruin import SelfCheck, descriptors
from framework.worker.sequential import SyncWorker

__all__ = ["AsyncWorker", "LeaveSignal", "SelfCheck", "SyncWorker", "WorkerCore", "descriptors", "stacks"]
