"""The interfaces on the way of a job into the engine: what a queue needs from a producer, and that from telemetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Protocol

from framework.model.job import JobId

if TYPE_CHECKING:
    from framework.service.queues import Queue
    from framework.service.request import Request, Requests

CancelAnswer = Literal["cancelled", "stopping", "dead", "unknown"]


class Sender(Protocol):
    """The interface that `Queue` needs from a producer."""

    def enqueue(self, asked: Request) -> JobId: ...
    async def aenqueue(self, asked: Request) -> JobId: ...
    def enqueue_batch(self, asked: Requests) -> list[JobId]: ...
    async def aenqueue_batch(self, asked: Requests) -> list[JobId]: ...
    def cancel(self, queue: Queue[Any], job_id: str) -> CancelAnswer: ...


class Sending(Protocol):
    """The interface that the producer needs from telemetry."""

    def one(self, queue: str, job_id: str, size: int) -> AbstractContextManager[Mapping[str, str]]:
        """Open the `send` span of one job; the block gets the headers that carry its context."""

    def many(self, queue: str, job_ids: Sequence[str]) -> AbstractContextManager[Sequence[Mapping[str, str]]]:
        """Open a `create` span for each job, and one `send` span that links to them; the block gets the headers."""


class NoSending:
    """Sending without telemetry: no spans and no headers."""

    def one(self, queue: str, job_id: str, size: int) -> AbstractContextManager[Mapping[str, str]]:
        return nullcontext({})

    def many(self, queue: str, job_ids: Sequence[str]) -> AbstractContextManager[Sequence[Mapping[str, str]]]:
        return nullcontext([{} for _ in job_ids])
