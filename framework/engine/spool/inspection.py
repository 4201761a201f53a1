"""The verbs of the spool with which people look at jobs and act on them: `Inspector` of `framework.engine.port`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from framework.engine.port import JobView, State
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.store import Spool
from framework.engine.spool.upkeep.browse import Browse, Sight
from framework.engine.spool.upkeep.pages import position
from framework.model.options import QueueOptions


@dataclass(frozen=True, slots=True)
class SpoolView(JobView):
    """A view of a job, with the entry of its file."""

    sight: Sight | None = None


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
        for sight in self._sights(queue, state, after):
            yield self._view(queue, state, sight)

    def _sights(self, queue: str, state: State, after: str = "") -> Iterator[Sight]:
        with self._failing(f"looking at {queue!r}"):
            yield from self._browse().sights(self._spool.parts(queue).queue, state, after)

    def _view(self, queue: str, state: State, sight: Sight) -> SpoolView:
        attempt, delivery = (0, 0) if sight.name is None else (sight.name.attempt, sight.name.delivery)
        place = str(self.root / sight.path) if state == "bad" or sight.newer else ""
        cursor = position(os.path.basename(sight.path), state, sight.index)
        return SpoolView(
            sight.job, queue, state, attempt, delivery, sight.since, place, sight.flaw, sight.newer, cursor, sight=sight
        )

    def newer(self, queue: str) -> Iterator[JobView]:
        """Yield jobs that need a newer version, from the headers of a few files."""
        states: tuple[State, ...] = ("ready", "delayed", "in_flight", "dead")
        with self._failing(f"looking at {queue!r}"):
            for state in states:
                for sight in self._browse().newer(self._spool.parts(queue).queue, state):
                    yield self._view(queue, state, sight)

    def get(self, queues: Sequence[str], job_id: str) -> Iterator[JobView]:
        """Look for the id's time and entry in the names of files, and read few of them."""
        parts = [self._spool.parts(queue).queue for queue in queues]
        found: list[SpoolView] = []
        with self._failing(f"looking for {job_id[:100]!r}"):
            try:
                for queue, state, sight in self._browse().found(parts, job_id):
                    found.append(self._view(queue.name, cast("State", state), sight))
            finally:  # what was found is worth more than the error of another directory
                yield from sorted(found, key=lambda view: view.cursor)

    def find(self, queue: str, job_id: str, state: State) -> JobView | None:
        """Return the oldest job with this id, or None."""
        if state != "bad":
            return next((view for view in self.get([queue], job_id) if view.state == state), None)
        with self._failing(f"looking at {queue!r}"):
            found = next(self._browse().bad(self._spool.parts(queue).queue, job_id), None)
        return None if found is None else self._view(queue, state, found)

    def replay(self, view: JobView) -> bool:
        """Move a dead letter to its home queue, also where its dead-letter queue has not handled it yet."""
        if view.state in ("in_flight", "bad") or view.newer or not view.is_letter:
            return False
        return self._act(view, self._browse().replay)

    def discard(self, view: JobView) -> bool:
        """Unlink an unclaimed job."""
        return view.state != "in_flight" and not view.newer and self._act(view, self._browse().discard)

    def restore(self, view: JobView) -> str:
        """Rename a bad file back, under the lock of its id where the caller chose the id."""
        if view.state != "bad" or not isinstance(view, SpoolView) or view.sight is None:
            return "is no longer there"
        with self._failing(f"file {view.job.id!r}"):
            return self._browse().restore(self._spool.parts(view.queue).queue, view.sight)

    def _act(self, view: JobView, action: Callable[[Sight], bool]) -> bool:
        sight = view.sight if isinstance(view, SpoolView) else self._sight(view)
        with self._failing(f"job {view.job.id!r}"):
            return sight is not None and action(sight)

    def _sight(self, view: JobView) -> Sight | None:
        """Return the entry of a view that does not come from this engine; None: the job is not there."""
        for sight in self._sights(view.queue, view.state):
            if sight.name is not None and (sight.job.uid, sight.name.delivery) == (view.job.uid, view.delivery):
                return sight
        return None
