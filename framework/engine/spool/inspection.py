"""The verbs of the spool with which people look at jobs and act on them, and with which services declare queues."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from framework.engine.declarations import Declaration
from framework.engine.inspector import Cancelled, JobView, Pause, State, without_replaced
from framework.engine.spool.claim import pausing
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.store import Spool
from framework.engine.spool.upkeep import declared
from framework.engine.spool.upkeep.browse import Browse, Stored
from framework.engine.spool.upkeep.pages import position
from framework.model.options import QueueOptions


@dataclass(frozen=True, slots=True)
class SpoolView(JobView):
    """A view of a job, with the entry of its file."""

    stored: Stored | None = None


class Inspection:
    """The part of `SpoolEngine` that people use."""

    root: Path
    _spool: Spool

    def _browse(self) -> Browse:
        spool = self._spool
        declared = [part.queue.name for part in spool.every()]
        return Browse(*spool.opened(), queue=spool.queue, declared=declared, ring=spool.ring)

    @contextlib.contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        """Turn an error of the operating system into an EngineUnavailable that says what failed."""
        try:
            yield
        except OSError as error:
            raise self._spool.unavailable(doing, error) from error

    def stored_queues(self) -> Sequence[str]:
        """Return the names of the directories that are queues."""
        with self._failing("looking for queues"):
            return self._browse().queues()

    def last_seen(self, queue: str) -> float | None:
        """Return when maintenance has published the queue's depth."""
        with self._failing(f"looking at {queue!r}"):
            return self._browse().reported(QueueDir(QueueOptions(queue)))

    def browse(self, queue: str, state: State, *, after: str = "") -> Iterator[JobView]:
        """Yield jobs: read each file, claim none."""
        for stored in self._stored_jobs(queue, state, after):
            yield self._view(queue, state, stored)

    def _stored_jobs(self, queue: str, state: State, after: str = "") -> Iterator[Stored]:
        with self._failing(f"looking at {queue!r}"):
            yield from self._browse().stored(self._spool.parts(queue).queue, state, after)

    def _view(self, queue: str, state: State, stored: Stored) -> SpoolView:
        attempt, delivery = (0, 0) if stored.name is None else (stored.name.attempt, stored.name.delivery)
        place = str(self.root / stored.path) if state == "bad" or stored.newer else ""
        cursor = position(os.path.basename(stored.path), state, stored.index)
        moment = stored.name.not_before if state == "delayed" and stored.name is not None else None
        return SpoolView(
            stored.job, queue, state, attempt, delivery, stored.since, place, stored.flaw, stored.newer, cursor,
            None if moment is None else moment / 1e6,
            stored=stored,
        )  # fmt: skip

    def newer(self, queue: str) -> Iterator[JobView]:
        """Yield jobs that need a newer version, from the headers of a few files."""
        states: tuple[State, ...] = ("ready", "delayed", "in_flight", "dead")
        with self._failing(f"looking at {queue!r}"):
            for state in states:
                for stored in self._browse().newer(self._spool.parts(queue).queue, state):
                    yield self._view(queue, state, stored)

    def get(self, queues: Sequence[str], job_id: str) -> Iterator[JobView]:
        """Look for the id's time and entry in the names of files, and read few of them."""
        parts = [self._spool.parts(queue).queue for queue in queues]
        found: list[SpoolView] = []
        with self._failing(f"looking for {job_id[:100]!r}"):
            try:
                for queue, state, stored in self._browse().found(parts, job_id):
                    found.append(self._view(queue.name, cast("State", state), stored))
            finally:  # what was found is worth more than the error of another directory
                yield from without_replaced(sorted(found, key=lambda view: view.cursor))

    def find(self, queue: str, job_id: str, state: State) -> JobView | None:
        """Return the oldest job with this id, or None."""
        if state != "bad":
            views = self.browse(queue, state) if state == "cancelled" else self.get([queue], job_id)
            return next((view for view in views if view.job.id == job_id and view.state == state), None)
        with self._failing(f"looking at {queue!r}"):
            found = next(self._browse().bad(self._spool.parts(queue).queue, job_id), None)
        return None if found is None else self._view(queue, state, found)

    def replay(self, view: JobView) -> bool:
        """Move a dead letter to its home queue, also where its dead-letter queue has not handled it yet."""
        if view.state in ("in_flight", "bad") or view.newer or not view.is_dead_letter:
            return False
        return self._act(view, self._browse().replay)

    def discard(self, view: JobView) -> bool:
        """Unlink an unclaimed job."""
        done = view.state != "in_flight" and not view.newer and self._act(view, self._browse().discard)
        if done:
            with self._failing(f"job {view.job.id!r}"):
                self._spool.ends.end(view.job.queue, view.job.extras, "discarded")
        return done

    def cancel(self, view: JobView) -> Cancelled:
        """Move the job's file out of its queue, or mark the job for its worker."""
        if view.state == "bad" or view.newer:
            return "gone"
        with self._failing(f"job {view.job.id!r}"):
            return self._spool.parts(view.queue).cancel(view.job.uid, view.job.id, view.job)

    def restore(self, view: JobView) -> str:
        """Rename a bad file back, under the lock of its id where the caller chose the id."""
        if view.state != "bad" or not isinstance(view, SpoolView) or view.stored is None:
            return "is no longer there"
        with self._failing(f"file {view.job.id!r}"):
            return self._browse().restore(self._spool.parts(view.queue).queue, view.stored)

    def _act(self, view: JobView, action: Callable[[Stored], bool]) -> bool:
        stored = view.stored if isinstance(view, SpoolView) else self._stored(view)
        with self._failing(f"job {view.job.id!r}"):
            return stored is not None and action(stored)

    def _stored(self, view: JobView) -> Stored | None:
        """Return the entry of a view that does not come from this engine; None: the job is not there."""
        for stored in self._stored_jobs(view.queue, view.state):
            if stored.name is not None and (stored.job.uid, stored.name.delivery) == (view.job.uid, view.delivery):
                return stored
        return None

    def pause(self, queue: str, by: str) -> bool:
        """Put a file into ready/."""
        disk, here = self._spool.opened()
        with self._failing(f"pausing {queue!r}"):
            return pausing.pause(disk, self._spool.parts(queue).queue, by, here.wall())

    def resume(self, queue: str, by: str) -> bool:
        """Remove that file, and notify the workers."""
        disk, here = self._spool.opened()
        with self._failing(f"resuming {queue!r}"):
            done = pausing.resume(disk, self._spool.parts(queue).queue, by, here.wall())
        self._spool.ring(queue)
        return done

    def paused(self, queue: str) -> Pause | None:
        """Read what is in that file."""
        disk, _ = self._spool.opened()
        with self._failing(f"looking at {queue!r}"):
            return pausing.latest(disk, self._spool.parts(queue).queue)

    def declare(self, said: Declaration) -> None:
        """Write the file of the service."""
        with self._failing("declaring the queues"):
            declared.declare(*self._spool.opened(), said)

    def withdraw(self, service: str) -> None:
        """Note in that file that the service has stopped."""
        with self._failing("declaring the queues"):
            declared.withdraw(self._spool.opened()[0], service)

    def declarations(self) -> Sequence[Declaration]:
        """Read the files of all services."""
        with self._failing("looking for declarations"):
            return declared.declarations(*self._spool.opened())
