"""One line for threads and coroutines, on the engine in memory whose calls wait: for its tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from framework import Queue
from framework.engine.memory.engine import MemoryEngine, MemoryStore
from framework.model.job import Job, JobId
from framework.service.producer import Producer

PATIENCE = 60.0  # seconds; far more than anything here takes
where: ContextVar[str] = ContextVar("where", default="nowhere")


class Engine(MemoryEngine):
    """In memory; its calls are counted, and wait while the gate is closed."""

    def __init__(self, *, local: bool = True) -> None:
        super().__init__(MemoryStore(), incarnation="p")
        self.features = replace(self.features, local=local)
        self.calls: list[list[str]] = []
        self.contexts: list[str] = []
        self.threads: set[int] = set()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.errors: list[BaseException] = []

    def enqueue(self, jobs: Sequence[Job]) -> list[JobId]:
        self.calls.append([job.id for job in jobs])
        self.contexts.append(where.get())
        self.threads.add(threading.get_ident())
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if self.errors and len(jobs) > 1:
            raise self.errors.pop()
        return super().enqueue(jobs)

    def payloads(self, queue: str = "items") -> list[str]:
        return [view.job.payload.decode().strip('"') for view in self.browse(queue, "ready")]


class Spans:
    """Telemetry's side of an enqueue: which spans are open, and how they ended."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.ends: list[Any] = []

    def one(self, queue: str, job_id: str, size: int) -> Any:
        spans = self

        class Span:
            def __enter__(self) -> dict[str, str]:
                spans.open.add(job_id)
                self.before = where.set(f"span of {where.get()}")
                return {"traceparent": job_id}

            def __exit__(self, kind: Any, *_: Any) -> None:
                where.reset(self.before)  # raises in another context
                spans.open.discard(job_id)
                spans.ends.append(kind)

        return Span()

    def many(self, queue: str, job_ids: Sequence[str]) -> Any:
        raise NotImplementedError


class World:
    def __init__(self, *, local: bool = True) -> None:
        self.engine, self.spans = Engine(local=local), Spans()
        self.items = Queue[str]("items", max_length=None)
        self.others = Queue[str]("others", max_length=3)
        self.producer = Producer(self.engine, options=lambda queue: queue.options, sending=self.spans)
        self.items._connected.append(self.producer)
        self.others._connected.append(self.producer)
        self.items.enqueue("warm")
        self.others.enqueue("warm")
        self.engine.calls.clear()

    @property
    def line(self) -> list[Any]:
        return self.producer._line._state.line

    def hold(self) -> threading.Thread:
        """A thread leads, and its call does not end before `gate.set()`."""
        self.engine.entered.clear()
        self.engine.gate.clear()
        thread = threading.Thread(target=self.items.enqueue, args=("held",))
        thread.start()
        assert self.engine.entered.wait(PATIENCE)
        return thread

    async def until_in_line(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.line) < count:
                await asyncio.sleep(0.001)


def worlds(*, local: bool = True) -> Iterator[World]:
    """A world; at its end nothing waits any more."""
    made = World(local=local)
    yield made
    made.engine.gate.set()
    made.producer.close()
