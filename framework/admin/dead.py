"""Dead letters: which there are, some of them by their ids, and groups of them by their error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from framework.admin import jobs
from framework.admin.jobs import Filter
from framework.admin.store import Store
from framework.engine.port import JobView
from framework.model.errors import UsageError, WorkerError

Key = tuple[str, bytes, int]
MOST_GROUPS = 1000


@dataclass(slots=True)
class Group:
    """Dead letters of one queue with one reason and one type of error.

    Attributes:
        queue: their home queue.
        first, last: when they came into their state, in seconds since the epoch.
        message, example: the error's text and the id of the last one.
    """

    queue: str
    reason: str
    error_type: str
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    message: str = ""
    example: str = ""


def each(store: Store, wanted: Filter) -> Iterator[JobView]:
    """Yield the dead letters that pass, oldest first within each queue and state."""
    return jobs.each(store, replace(wanted, dead_letters=True))


def chosen(store: Store, ids: Iterable[str], home: str = "") -> list[JobView]:
    """Return the dead letters with these ids, each once.

    Raises WorkerError: one is missing; UsageError: two have the same id.

    Args:
        home: name of their home queue, or of the dead-letter queue where they lie.
    """
    found: list[JobView] = []
    missing: list[str] = []
    for job_id in dict.fromkeys(ids):
        here = [view for view in jobs.find(store, job_id, home) if view.is_dead_letter]
        if len({view.job.uid for view in here}) > 1:
            queues = " and of ".join(dict.fromkeys(view.job.queue for view in here))
            raise UsageError(f"{job_id} is a dead letter of {queues}: choose with --queue")
        found += here[:1]
        missing += [job_id] * (not here)
    if missing:
        where = f" of {home}" if home else ""
        more = f" (nor {len(missing) - 1} more of those given)" if len(missing) > 1 else ""
        raise WorkerError(f"there is no dead letter {missing[0][:100]!r}{where}{more}: see `worker dead list`")
    return found


def key_of(view: JobView) -> Key:
    """Return a key of a dead letter that differs from the key of a later one with the same id."""
    return view.queue, view.job.uid, view.delivery


def again(store: Store, wanted: Filter, keys: set[Key]) -> Iterator[JobView]:
    """Yield those that pass and whose keys were noted before. One that died again meanwhile is left alone."""
    left = set(keys)
    for view in each(store, wanted):
        if key_of(view) in left:
            left.discard(key_of(view))
            yield view


def groups(store: Store, wanted: Filter, most: int | None = None) -> Sequence[Group]:
    """Return the dead letters that pass in groups, the largest first. What is beyond 1,000 groups is one group.

    Args:
        most: jobs that are looked at, filtered ones included; None: all.
    """
    found: dict[tuple[str, str, str], Group] = {}
    listed = islice(jobs.browse(store, replace(wanted, dead_letters=True)), most)
    for view in (view for _, view in listed if view is not None):
        failure = jobs.last_failure(view)
        key = (view.job.queue, failure.reason if failure else "", failure.error_type if failure else "")
        if key not in found and len(found) >= MOST_GROUPS:
            key = ("", "", "")
        group = found.setdefault(key, Group(*key, first=view.since))
        group.count += 1
        group.first, group.last = min(group.first, view.since), max(group.last, view.since)
        if view.since == group.last:
            group.message, group.example = failure.message if failure else view.flaw, view.job.id
    return sorted(found.values(), key=lambda group: -group.count)
