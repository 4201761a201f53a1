"""Plans: the schedules of a service's queues, with their payloads encoded, as the maintenance process fires them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from framework.model.errors import DeclarationError, InvalidArgument, InvalidPayload
from framework.model.extras import Extras
from framework.model.job import Job
from framework.model.options import QueueOptions
from framework.model.schedules import Cron, Every, named
from framework.service.codec import CONTENT_TYPE, codec_for
from framework.service.keys import group_of
from framework.service.queues import DeadLetter, Queue
from framework.service.request import new_ids


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule of a queue.

    Attributes:
        options: the queue's, after settings.
        key: identity of the schedule within the queue.
        payload: encoded.
        extras: what the records of its jobs have in common.
    """

    options: QueueOptions
    key: str
    schedule: Cron[Any] | Every[Any]
    payload: bytes
    extras: Extras

    @property
    def queue(self) -> str:
        """Return the queue's name."""
        return self.options.name

    def job(self, tick: float, now: float) -> Job:
        """Return the job of a tick."""
        job_id, uid = new_ids()
        headers, ttl = {"content-type": CONTENT_TYPE}, self.options.ttl
        return Job(job_id, uid, self.queue, self.payload, headers, now, ttl=ttl, scheduled_for=tick, extras=self.extras)


def plans_of(queues: Iterable[Queue[Any]], options: Mapping[str, QueueOptions]) -> list[Plan]:
    """Return the plans of these queues. Raises DeclarationError: a payload does not fit its queue."""
    found: list[Plan] = []
    for queue in queues:
        if not queue.schedules:
            continue
        if queue.payload_type is DeadLetter:
            raise DeclarationError(f"{queue.location}: dead-letter queue {queue.name!r} cannot have schedules")
        given = options[queue.name]
        codec = codec_for(queue.payload_type, queue=queue.name, full_errors=given.full_errors)
        extras = Extras(priority=given.priority, fingerprint=codec.fingerprint, version=given.version or None)
        for one in named(queue.schedules):
            try:
                data = codec.encode(one.schedule.payload)
                keys: dict[str, Any] = (
                    {} if queue.group is None else {"group": group_of(queue.group, codec.decode(data), queue.name)}
                )
            except (InvalidPayload, InvalidArgument) as error:
                raise DeclarationError(f"{queue.location}: schedule {one.key!r}: {error}") from None
            if len(data) > (most := given.max_payload_bytes):
                what = f"its payload has {len(data):,} bytes, max_payload_bytes is {most:,}"
                raise DeclarationError(f"{queue.location}: schedule {one.key!r}: {what}")
            found.append(Plan(given, one.key, one.schedule, data, replace(extras, **keys)))
    return found
