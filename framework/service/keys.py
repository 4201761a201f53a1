"""Keys of jobs: unique ones and those of groups, and what an enqueue says where another job has the key or the id."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from framework.model.errors import DeclarationError, Duplicate, InvalidArgument, caller_location, location
from framework.model.extras import FIELDS
from framework.model.job import JobId, running
from framework.model.retry import LONGEST

if TYPE_CHECKING:
    from framework.service.queues import Queue

P = TypeVar("P")
log = logging.getLogger("framework")
UNTIL = ("started", "done")
CHANGES = ("replace", "postpone")


@dataclass(frozen=True)
class Unique(Generic[P]):
    """The rule by which a queue's jobs are unique: `Queue[Mail]("mails", unique=Unique(key=lambda mail: mail.to))`.

    While a job holds a key, enqueueing another with the same key stores nothing and returns the id of the first one,
    with `duplicate` set.

    Attributes:
        key: returns the key of a payload: text of 1 to 255 characters.
        until: how long a job holds its key. "started": while it waits for a worker, also for a retry. "done": until it
            has succeeded, was discarded or became a dead letter. A timedelta: so long from its enqueue, whatever
            becomes of the job.

    Raises:
        DeclarationError: an option is wrong; the message names file and line.
    """

    key: Callable[[P], str]
    until: Literal["started", "done"] | timedelta = "done"

    def __post_init__(self) -> None:
        where, until = caller_location(), self.until
        if not callable(self.key):
            raise DeclarationError(f"{where}: key={self.key!r:.60}: write a function, as in Unique(key=lambda m: m.id)")
        if isinstance(until, timedelta):
            if not 0 < until.total_seconds() <= LONGEST:
                raise DeclarationError(f"{where}: until={until}: must be more than 0 and at most {LONGEST:g} s")
        elif until not in UNTIL:
            raise DeclarationError(f"{where}: until={until!r:.60}: write 'started', 'done' or a timedelta")

    @property
    def scope(self) -> str:
        """Return how long a job holds its key, as it is stored with the job."""
        return repr(self.until.total_seconds()) if isinstance(self.until, timedelta) else self.until

    def key_of(self, payload: Any, queue: str) -> str:
        """Return the key of a payload. Raises InvalidArgument, which does not quote the payload."""
        return key_by(self.key, payload, "unique_key", f"queue {queue!r}: the function of its unique key")


def keys_of(queue: Queue[Any], payload: Any) -> dict[str, Any]:
    """Return the unique key and the group of a payload, by the names of their extras. Raises InvalidArgument."""
    found: dict[str, Any] = {}
    if queue.unique is not None:
        found |= {"unique_key": queue.unique.key_of(payload, queue.name), "unique_scope": queue.unique.scope}
    if queue.group is not None:
        found["group"] = group_of(queue.group, payload, queue.name)
    return found


def checked(unique: Unique[P] | None) -> Unique[P] | None:
    """Return the `unique` of a queue if it is one. Raises DeclarationError."""
    given: object = unique  # without a type checker a caller may pass anything
    if not isinstance(given, Unique | None):
        raise DeclarationError(f"{caller_location()}: unique={given!r:.60}: write Unique(key=...)")
    return unique


def check_conflict(on_conflict: str, queue: Queue[Any]) -> None:
    """Raise InvalidArgument for a value that `on_conflict` cannot have."""
    if on_conflict in ("keep", "raise") or (queue.unique is not None and on_conflict in CHANGES):
        return
    given = f"on_conflict={on_conflict!r:.60}"
    if queue.unique is not None:
        raise InvalidArgument(f"{given}: write 'keep', 'raise', 'replace' or 'postpone'")
    more = f"; {on_conflict} needs a queue with unique=" if on_conflict in CHANGES else ""
    raise InvalidArgument(f"{given}: write 'keep' or 'raise'{more}")


def check_id(queue: Queue[Any]) -> None:
    """Raise InvalidArgument: the jobs of a queue with unique keys cannot have chosen ids as well."""
    if queue.unique is not None:
        raise InvalidArgument(f"queue {queue.name!r} has unique=, so its jobs get no job_id of your own: leave it out")


def holder(queue: Queue[Any], job_id: str) -> str:
    """Return a phrase for the job whose id or unique key another enqueue asks for."""
    return f"a job of id {job_id!r} exists" if queue.unique is None else f"job {job_id!r} has the unique key"


def tell_of_duplicates(queue: Queue[Any], stored: Sequence[JobId], on_conflict: str) -> None:
    """Raise Duplicate for the first of them, if the caller asked for it.

    Warn a job that enqueues its successor under its own id or key, because such a successor is never stored.
    """
    found = [job_id for job_id in stored if job_id.duplicate]
    if not found:
        return
    what = "id" if queue.unique is None else "key"
    if on_conflict == "raise":
        many = f"{len(found)} of {len(stored)} jobs not queued, `enqueued` has the ids of the others, too"
        left = "nothing was queued" if len(stored) == 1 else many
        said = f"queue {queue.name!r}: {holder(queue, found[0])} already: {left}"
        raise Duplicate(said, job_id=found[0])
    lease = running.get()
    if lease is not None and lease.job.queue == queue.name and lease.job.id in found:
        log.warning(
            "queue %r: job %r enqueued another under its own %s, which it holds as long as it exists: nothing was "
            "queued; give the other one of its own, or raise Snooze to run this one again",
            queue.name,
            lease.job.id,
            what,
        )


def checked_group(group: Callable[[P], str] | None) -> Callable[[P], str] | None:
    """Return the `group` of a queue if it can be one. Raises DeclarationError."""
    if group is not None and not callable(group):
        raise DeclarationError(
            f"{caller_location()}: group={group!r:.60}: write a function, as in group=lambda message: message.customer"
        )
    return group


def group_of(function: Callable[[Any], str], payload: Any, queue: str) -> str:
    """Return the key of a payload's group. Raises InvalidArgument."""
    return key_by(function, payload, "group", f"queue {queue!r}: the function of its group")


def key_by(function: Callable[[Any], str], payload: Any, field: str, what: str) -> str:
    """Return the key that a function makes of a payload. Raises InvalidArgument, which does not quote the payload.

    Args:
        field: the field of a job's extras for which the key is. what: words for the function.
    """
    code = getattr(function, "__code__", None)
    what += f" ({location(code.co_filename, code.co_firstlineno)})" if code is not None else ""
    try:
        key: object = function(payload)
    except Exception as error:
        raise InvalidArgument(f"{what} raised {type(error).__name__}") from error
    if not FIELDS[field].check(key):
        returned = f"text of {len(key):,} characters" if isinstance(key, str) else type(key).__name__
        raise InvalidArgument(f"{what} returned {returned}: must be {FIELDS[field].be}")
    return str(key)
