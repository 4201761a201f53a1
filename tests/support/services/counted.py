"""A service that says what its processes hold. It imports nothing that a service does not need."""

from __future__ import annotations

import json
import os
import sys
import threading

from framework import Queue, WorkerApp
from tests.support.ledger import note


class Counted(WorkerApp):
    """Its handlers say what their process holds."""

    sync = Queue[int]("sync")
    many = Queue[int]("many", concurrency=3)

    @sync.handler
    def look(self, number: int) -> None:
        held("sync")

    @many.handler
    async def look_async(self, number: int) -> None:
        held("many")


def held(queue: str) -> None:
    supervisor = os.getppid()
    found = {
        "sdk": [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))],
        "wire": [name for name in ("requests", "grpc", "google.protobuf") if name in sys.modules],
        "threads": [thread.name for thread in threading.enumerate()],
        "tasks": {
            "worker": len(os.listdir("/proc/self/task")),
            "supervisor": len(os.listdir(f"/proc/{supervisor}/task")),
        },
    }
    note(f"{queue} {json.dumps(found)}")
