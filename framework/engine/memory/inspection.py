"""The views and acts of a person on the jobs in memory, and the declarations of services."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from framework.engine.declarations import Declaration
from framework.engine.inspector import without_replaced
from framework.engine.memory.store import MemoryStore
from framework.engine.port import Cancelled, JobView, Pause, State
from framework.model.errors import UsageError


class MemoryInspection:
    """The `Inspector` and the declarations of an engine on a `MemoryStore`."""

    store: MemoryStore
    _clock: Callable[[], float]

    def declare(self, said: Declaration) -> None:
        """Keep the declaration and the time."""
        with self.store.lock:
            self.store.declared[said.service] = said, self._clock()

    def withdraw(self, service: str) -> None:
        """Forget the time."""
        with self.store.lock:
            if service in self.store.declared:
                self.store.declared[service] = self.store.declared[service][0], None

    def declarations(self) -> list[Declaration]:
        """Return the declarations in the order of services' names."""
        with self.store.lock:
            known, now = sorted(self.store.declared.items()), self._clock()
        return [replace(said, silent=None if at is None else now - at) for _, (said, at) in known]

    def stored_queues(self) -> Sequence[str]:
        """Return the names of all declared queues: others cannot hold jobs."""
        return self.store.queues()

    def last_seen(self, queue: str) -> float | None:
        """Return None: no service outlives the store."""
        return None

    def browse(self, queue: str, state: State, *, after: str = "") -> Iterator[JobView]:
        """Return an iterator over a copy of the current jobs, in the order of the queue."""
        least = _position(after)
        with self.store.lock:
            rows = [row for row in self.store.shelf(queue).rows.values() if self.store.state_of(row) == state]
            return iter([row.view(state) for row in sorted(rows, key=lambda row: row.position) if row.position > least])

    def newer(self, queue: str) -> Iterator[JobView]:
        """Return nothing: all jobs in memory are of this version."""
        return iter(())

    def get(self, queues: Sequence[str], job_id: str) -> Iterator[JobView]:
        """Return an iterator over the jobs of an id; all jobs are looked at."""
        with self.store.lock:
            rows = [row for queue in queues for row in self.store.shelf(queue).rows.values() if row.job.id == job_id]
            views = [row.view(self.store.state_of(row)) for row in sorted(rows, key=lambda row: row.position)]
            return iter(without_replaced(views))

    def find(self, queue: str, job_id: str, state: State) -> JobView | None:
        """Return the oldest job of an id in a state, or None."""
        return next((view for view in self.browse(queue, state) if view.job.id == job_id), None)

    def replay(self, view: JobView) -> bool:
        """Send a dead letter home, also one that its dead-letter queue has not handled yet."""
        with self.store.lock:
            row = self.store.seen(view)
            if row is None or not (row.state == "dead" or row.is_dead_letter):
                return False
            self.store.send_home(row, now=self._clock())
            self.store.notify()
            return True

    def discard(self, view: JobView) -> bool:
        """Delete a job that is not claimed."""
        with self.store.lock:
            row = self.store.seen(view)
            if row is None:
                return False
            self.store.remove(row)
            self.store.fans.end(row.job.extras, "discarded", self._clock())
            self.store.notify()
            return True

    def cancel(self, view: JobView) -> Cancelled:
        """Move the job to state cancelled, or set its flag."""
        with self.store.lock:
            done = self.store.cancel(view, now=self._clock())
            self.store.notify()  # of a follow-up
            return done

    def pause(self, queue: str, by: str) -> bool:
        """Set the queue's flag."""
        with self.store.lock:
            return self.store.pause(queue, by, self._clock(), paused=True)

    def resume(self, queue: str, by: str) -> bool:
        """Clear the queue's flag, and notify the claims that wait."""
        with self.store.lock:
            done = self.store.pause(queue, by, self._clock(), paused=False)
            self.store.notify()
        return done

    def paused(self, queue: str) -> Pause | None:
        """Return the latest pause or resumption."""
        with self.store.lock:
            self.store.shelf(queue)
            return self.store.pauses.get(queue)

    def restore(self, view: JobView) -> str:
        """Return a refusal: in memory, no job is ever bad."""
        return "is no longer there"


def _position(cursor: str) -> int:
    if cursor and not (cursor.isascii() and cursor.isdigit()):
        raise UsageError(f"{cursor[:100]!r} is no position in a list: take one that a page has returned")
    return int(cursor or 0)
