"""Our service and its producer, with the defaults that a user has."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack

from pydantic import BaseModel

from bench.children.marks import hit
from bench.children.producing import LANES, Payload, Producer, serve
from framework import Queue, Settings, WorkerApp


class Job(BaseModel):
    seq: int
    sent: int
    text: str


class Bench(WorkerApp):
    # A limit stays in place, because users have one; the default would refuse a backlog of a million.
    jobs = Queue[Job]("jobs", max_length=10_000_000)

    @jobs.handler
    def work(self, job: Job) -> None:
        hit(job.seq, job.sent)


class Ours(Producer):
    """BENCH_TRACE: empty, `sampled` or `unsampled`: the trace context that the jobs carry."""

    def __init__(self) -> None:
        trace_jobs(os.environ.get("BENCH_TRACE", ""))
        self._open = ExitStack()
        self._open.enter_context(Bench.connect(Settings()))

    def put(self, item: Payload) -> None:
        Bench.jobs.enqueue(Job(**item))

    def single(self, items: Sequence[Payload]) -> None:
        for job in [Job(**item) for item in items]:
            Bench.jobs.enqueue(job)

    def coroutines(self, items: Sequence[Payload]) -> None:
        async def lane(number: int) -> None:
            for item in items[number::LANES]:
                await Bench.jobs.aenqueue(Job(**item))

        async def lanes() -> None:
            await asyncio.gather(*(lane(number) for number in range(LANES)))

        asyncio.run(lanes())

    def bulk(self, items: Sequence[Payload]) -> None:
        Bench.jobs.enqueue_many(Job(**item) for item in items)

    def close(self) -> None:
        self._open.close()


def trace_jobs(how: str) -> None:
    """A host's tracer provider, without an exporter: what is measured is the worker's side."""
    if not how:
        return
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_ON if how == "sampled" else ALWAYS_OFF))


if __name__ == "__main__":
    # Under its importable name: the app of this file and that of the workers are one class.
    from bench.children import ours

    serve(ours.Ours())
