"""The acts of people on jobs and queues: each says why nothing changed, is noted with its actor, may keep to a rate."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any, Literal

from framework.admin.store import Store
from framework.engine.port import JobView
from framework.model.errors import EngineUnavailable, UsageError, WorkerError
from framework.model.events import Event, OperatorActed
from framework.model.extras import Extras, with_saved
from framework.model.job import Job, JobId
from framework.process import journal
from framework.service.codec import parse_strict
from framework.service.request import new_ids

log = logging.getLogger("framework")
Verb = Literal["replay", "discard", "cancel", "restore", "edit", "pause", "resume"]
GONE = "is no longer there"


def noted(store: Store) -> Callable[[Event], None]:
    """Return what takes the acts on a store: the journal that the next maintenance on this machine logs and counts."""

    def note(event: Event) -> None:
        try:
            journal.append(store.engine.local_dir, asdict(event))
        except OSError as error:
            log.warning("what was done cannot be noted for the log: %s", error)

    return note


@dataclass
class Done:
    """The result of an act on many jobs.

    Attributes:
        count: how many were done. stays: (job, why it stays) of the others. stopped: it ended before the last one.
    """

    count: int = 0
    stays: list[tuple[JobView, str]] = field(default_factory=list)
    stopped: bool = False


class Acts:
    """The acts of one person on an opened store. It is a context manager: at its end it tells what was done.

    Args:
        who: as `actor` returns it.
        emit: takes one OperatorActed for each verb and queue.

    Attributes:
        stopping: jobs that `cancel` found running. Each may end as a success before it is stopped.
    """

    def __init__(self, store: Store, who: str, emit: Callable[[Event], None]) -> None:
        self._store = store
        self._who = who
        self._emit = emit
        self._counts: Counter[tuple[Verb, str]] = Counter()
        self._last: dict[tuple[Verb, str], str] = {}
        self.stopping = 0

    def __enter__(self) -> Acts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for (verb, queue), count in self._counts.items():
            job_id = self._last[verb, queue] if count == 1 else ""
            self._emit(OperatorActed(verb, queue, count, self._who, job_id, time.time()))
        self._counts.clear()

    def pause(self, queue: str) -> str:
        """Stop a queue: its workers take no more jobs. Return why nothing has changed; empty: it is done.

        Raises WorkerError: there is no store, or it refuses the queue. EngineError.
        """
        if self._store.notes:
            raise WorkerError(f"{queue} is not paused: there is no store")
        return self._queue("pause", queue, self._store.engine.pause, "is paused already")

    def resume(self, queue: str) -> str:
        """End the pause of a queue. Return why nothing has changed; empty: it is done. Raises as `pause`."""
        return self._queue("resume", queue, self._store.engine.resume, "is not paused")

    def _queue(self, verb: Verb, queue: str, act: Callable[[str, str], bool], why: str) -> str:
        """Do an act on a queue, and note it at once: maintenance may not see a pause that ends soon."""
        if queue in self._store.refused:
            raise self._store.refused[queue]
        if not act(queue, self._who):
            return why
        self._emit(OperatorActed(verb, queue, 0, self._who, at=time.time()))
        return ""

    def replay(self, view: JobView) -> str:
        """Return a dead letter to the end of its home queue. Return why it stays; empty: it is done."""
        if view.state == "in_flight":
            return "is being handled right now: try again"
        if not view.is_dead_letter and not view.newer:
            how = "never runs again" if view.state == "cancelled" else "runs by itself"
            return f"is {view.state}, no dead letter: it {how}"
        return self._done("replay", view, _newer(view) or self._or_gone(self._store.engine.replay, view))

    def discard(self, view: JobView) -> str:
        """Delete a job or a bad file for ever. Return why it stays; empty: it is done."""
        if view.state == "in_flight":
            return "is being handled right now: try again"
        return self._done("discard", view, _newer(view) or self._or_gone(self._store.engine.discard, view))

    def cancel(self, view: JobView) -> str:
        """Cancel a job that waits or runs. Return why it stays; empty: it is done, or its worker stops it soon."""
        if view.is_dead_letter:
            return "is a dead letter, which does not run: delete it with discard"
        return self._done("cancel", view, _newer(view) or self._or_gone(self._cancelled, view))

    def _cancelled(self, view: JobView) -> bool:
        answer = self._store.engine.cancel(view)
        self.stopping += answer == "stopping"
        return answer != "gone"

    def still_running(self) -> str:
        """Return the words for cancelled jobs that run until their worker stops them; empty: there are none."""
        if not self.stopping:
            return ""
        if self.stopping == 1:
            return "; 1 of them still runs until its worker stops it, or it ends"
        return f"; {self.stopping:,} of them still run until their workers stop them, or they end"

    def restore(self, view: JobView) -> str:
        """Put a bad file back among the jobs of its queue. Return why it stays; empty: it is done."""
        try:
            why = self._store.engine.restore(view)
        except EngineUnavailable as error:
            why = _stays(error)
        return self._done("restore", view, why)

    def edit(self, view: JobView, text: str, *, keep: bool = False) -> JobId:
        """Enqueue a copy of a job with another payload on its home queue, then delete the job.

        The copy has a new id, no unique key, no checkpoint, all its attempts and its full ttl; headers and priority
        stay. It is no member of a fan-in: the job ends as discarded there. If this process is killed in between, both
        exist.

        Args:
            text: the payload, strict JSON that fits the queue's payload type where the service declares the queue.
            keep: leave the job where it is.

        Raises:
            WorkerError: the payload does not fit, or the job is being handled or gone. EnqueueError: the copy is not
                stored.
        """
        if view.state == "in_flight" or view.newer:
            raise WorkerError(f"{view.job.id[:100]!r} {_newer(view) or 'is being handled right now: try again'}")
        (data, extras), queue = self._payload(view.job, text), view.job.queue
        job_id, uid = new_ids()
        copy = replace(
            view.job, id=job_id, uid=uid, payload=data, enqueued_at=time.time(), not_before=None, chosen_id=False,
            scheduled_for=None, history=(),
            extras=with_saved(replace(extras, unique_key=None, unique_scope=None, fan_in=None), "null"),
        )  # fmt: skip
        (stored,) = self._store.engine.enqueue([copy])
        self._done("edit", view, "")
        if not keep and (why := self._or_gone(self._store.engine.discard, view)):
            raise WorkerError(f"{view.job.id[:100]!r} {why}: the copy {stored} was queued on {queue}")
        return stored

    def _payload(self, job: Job, text: str) -> tuple[bytes, Extras]:
        """Return the new payload, and the extras, which name the model that it fits, if there is one."""
        declared, queue = self._store.declared, job.queue
        try:
            parse_strict(text)
        except ValueError as error:
            raise WorkerError(f"the payload is not strict JSON: {error}") from None
        if declared is not None and queue in declared.queues:
            from framework.service.codec import UndecodablePayload, codec_for

            one = declared.queues[queue]
            codec = codec_for(one.payload_type, queue=queue)
            try:
                codec.decode(text.encode())
            except UndecodablePayload as error:
                raise WorkerError(f"queue {queue!r}: payload does not fit: {error}") from None
            version = declared.options[queue].version or None
            return text.encode(), replace(job.extras, fingerprint=codec.fingerprint, version=version)
        return text.encode(), job.extras

    def many(
        self,
        views: Iterable[JobView],
        verb: Callable[[JobView], str],
        *,
        rate: float | None = None,
        stop_after: int | None = None,
        pause: Callable[[float], Any] = time.sleep,
    ) -> Done:
        """Do something to each of these jobs.

        Args:
            verb: `replay`, `discard`, `cancel` or `restore` of this object.
            rate: jobs a second at most.
            stop_after: stop once so many jobs in all have stayed.
            pause: waits for seconds.
        """
        done, began = Done(), time.monotonic()
        for number, view in enumerate(views):
            if rate is not None and (early := began + number / rate - time.monotonic()) > 0:
                pause(early)
            why = verb(view)
            if not why:
                done.count += 1
                continue
            done.stays.append((view, why))
            if stop_after is not None and len(done.stays) >= stop_after:
                done.stopped = True
                break
        return done

    def _or_gone(self, call: Callable[[JobView], bool], view: JobView) -> str:
        try:
            return "" if call(view) else GONE
        except EngineUnavailable as error:  # for this one only: the others may succeed
            return _stays(error)

    def _done(self, verb: Verb, view: JobView, why: str) -> str:
        if not why:
            self._counts[verb, view.queue] += 1
            self._last[verb, view.queue] = view.job.id
        return why


def rate_of(text: str) -> float:
    """Return jobs a second from `5/s`, `300/m` or `1000/h`. Raises UsageError."""
    number, slash, unit = text.partition("/")
    seconds = {"s": 1, "m": 60, "h": 3600}.get(unit if slash else "s")
    try:
        found = float(number)
    except ValueError:
        found = 0.0
    if seconds is None or not 0 < found < 1e9:
        raise UsageError(f"{text[:60]!r} is no rate: write it as 5/s, 300/m or 1000/h")
    return found / seconds


def _newer(view: JobView) -> str:
    return f"stays: {view.flaw}: use that version's command" if view.newer else ""


def _stays(error: EngineUnavailable) -> str:
    return f"stays: {str(error).removesuffix(': tried again')}"
