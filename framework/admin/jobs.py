"""Jobs of every state: pages with filters, one job by its id, and all that can be said of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from framework.admin.store import Store
from framework.engine.port import JobView, State
from framework.model.errors import UsageError, WorkerError
from framework.model.job import Failure
from framework.service.codec import parse_lenient

STATES: tuple[State, ...] = ("ready", "in_flight", "delayed", "dead", "cancelled")
MOST_LOOKED = 20_000  # jobs that a page with filters looks at, before it returns what it has


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs a list shows; an empty field lets all pass.

    Attributes:
        queues: names of the queues where they lie; empty: all of the store.
        states: in the order in which they are listed.
        home: name of their home queue, or of the dead-letter queue where they lie.
        dead_letters: only dead letters.
        reason: why the last attempt failed, as `timeout`.
        error: a part of that error's type or message, in any case.
        older, younger: seconds since they came into their state.
        fields: texts that the payload must have at these places, as `{"address.city": "Berlin"}`.
        error_type: that error's type, exactly; empty: it has none; None lets all pass.
    """

    queues: Sequence[str] = ()
    states: Sequence[State] = STATES
    home: str = ""
    dead_letters: bool = False
    reason: str = ""
    error: str = ""
    older: float | None = None
    younger: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    error_type: str | None = None

    def passes(self, view: JobView, now: float) -> bool:
        """Return whether a job is to be shown at this time (seconds since the epoch)."""
        if self.dead_letters and not (view.is_dead_letter or view.newer):
            return False
        if self.home and self.home not in (view.job.queue, view.queue):
            return False
        if (self.reason or self.error or self.error_type is not None) and not self._failed_so(last_failure(view)):
            return False
        age = now - view.since
        if (self.older is not None and age < self.older) or (self.younger is not None and age > self.younger):
            return False
        return not self.fields or _has(view, self.fields)

    def _failed_so(self, failure: Failure | None) -> bool:
        if failure is None or (self.reason and failure.reason != self.reason):
            return False
        if self.error_type is not None and failure.error_type != self.error_type:
            return False
        return self.error.lower() in f"{failure.error_type}: {failure.message}".lower()


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a list.

    Attributes:
        after: where the next page begins; empty: this is the last one.
        looked: jobs that were looked at, filtered ones included.
    """

    jobs: Sequence[JobView]
    after: str = ""
    looked: int = 0


def last_failure(view: JobView) -> Failure | None:
    """Return the failure that a person asks for first.

    For a dead letter this is the one that made it one: the last on its home queue. Its handler's failures come after
    it. For any other job it is the last one; None: it has not failed.
    """
    history = view.job.history
    if view.is_dead_letter:
        return next((one for one in reversed(history) if one.queue in ("", view.job.queue)), None)
    return history[-1] if history else None


def browse(store: Store, wanted: Filter, after: str = "") -> Iterator[tuple[str, JobView | None]]:
    """Yield the position behind each job, and the job, or None where it does not pass the filter.

    Oldest first within each queue and state. Failed reads are noted in the store. Raises UsageError: no such queue, or
    `after` is no position of this list.
    """
    queues = [store.name(name) for name in wanted.queues] or store.names()
    places = [(queue, state) for queue in queues for state in wanted.states]
    here, cursor = _position(after)
    if after:
        begin = next((at for at, place in enumerate(places) if ":".join(place) == here), None)
        if begin is None or not cursor:
            raise UsageError(f"{after[:100]!r} is no position in this list: take one that a page of it has returned")
        places = places[begin:]
    now = time.time()
    for queue, state in places:
        dead_letters = store.holds_dead_letters(queue)
        if wanted.dead_letters and not dead_letters and state != "dead":
            continue
        for view in store.each(store.engine.browse(queue, state, after=cursor)):
            yield f"{queue}:{state}:{view.cursor}", view if wanted.passes(view, now) else None
        cursor = ""


def _position(after: str) -> tuple[str, str]:
    """Return queue and state of a position, and the engine's cursor in them."""
    queue, _, rest = after.partition(":")
    state, _, cursor = rest.partition(":")
    return f"{queue}:{state}", cursor


def each(store: Store, wanted: Filter, after: str = "") -> Iterator[JobView]:
    """Yield the jobs that pass, however many are looked at. Raises UsageError, as `browse`."""
    return (view for _, view in browse(store, wanted, after) if view is not None)


def page(store: Store, wanted: Filter, *, after: str = "", limit: int = 100, most: int = MOST_LOOKED) -> Page:
    """Return up to `limit` jobs behind a position. Raises UsageError, as `browse`.

    Where few jobs pass, a page may have fewer: it ends once it has looked at `most`, and says where to go on.
    """
    jobs: list[JobView] = []
    looked, behind = 0, after
    listed = browse(store, wanted, after)
    for position, view in islice(listed, most):
        looked, behind = looked + 1, position
        if view is not None:
            jobs.append(view)
            if len(jobs) >= limit:
                break
    more = looked >= most or (len(jobs) >= limit and next(listed, None) is not None)
    return Page(jobs, behind if more else "", looked)


def find(store: Store, job_id: str, queue: str = "") -> list[JobView]:
    """Return the jobs of this id in any state but bad, in all queues or in those that `queue` is the home or place of.

    Raises UsageError: no such queue.
    """
    names = store.names()
    if queue:
        store.name(queue)
    for name in names:
        store.holds_dead_letters(name)  # as such it may show another state
    found = list(store.each(store.engine.get(names, job_id)))
    return [view for view in found if queue in ("", view.queue, view.job.queue)]


def one(store: Store, job_id: str, queue: str = "") -> JobView:
    """Return the job of this id. Raises WorkerError: there is none; UsageError: several, name the queue."""
    found = find(store, job_id, queue)
    if not found:
        where = f" on {queue}" if queue else ""
        raise WorkerError(f"there is no job {job_id[:100]!r}{where}: it has ended, or was never in this store")
    if len({view.job.uid for view in found}) > 1:
        queues = " and of ".join(sorted({view.job.queue for view in found}))
        raise UsageError(f"{job_id[:100]!r} is a job of {queues}: choose with --queue")
    return found[0]


def payload(view: JobView) -> Any:
    """Return the payload as it was enqueued: the value of its JSON, or text where it is none."""
    return parse_lenient(view.job.payload)


def _has(view: JobView, fields: Mapping[str, str]) -> bool:
    value = payload(view)
    return all(_text(_at(value, path)) == text for path, text in fields.items())


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None or isinstance(value, (dict, list)) else str(value)
