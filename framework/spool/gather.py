"""Threads that enqueue at the same time share one commit: the first stores what has come together meanwhile.

While a leader waits for the disk the others prepare their jobs and wait in line; when it is done the first in line
leads the next batch. A thread that is alone leads a batch of one and waits for nobody; where many came last time they
are expected again, for a moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from framework.errors import EnqueueError, EnqueueUncertain
from framework.job import Job, JobId
from framework.spool import flocks

MANY = 4  # jobs in a batch from which on the next leader waits for company
MOMENT = 0.0005  # seconds that it waits: about what one flush of a fast disk takes


class Ticket:
    """One thread's job. `turn` opens when it is stored, refused, or to lead the next batch."""

    __slots__ = ("done", "error", "job", "turn")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = False
        self.error: EnqueueError | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class Gather:
    """The line of one queue in one process.

    Args:
        store: stores jobs in order; ids that are safely queued join the list, also when it raises an EnqueueError.
        most: jobs in a batch.
    """

    def __init__(self, store: Callable[[Sequence[Job], list[JobId]], None], *, most: int) -> None:
        self._store = store
        self._most = most
        flocks.in_child(self)
        self.after_fork()

    def after_fork(self) -> None:
        """Who stood in line is a thread of the parent."""
        self._lock = threading.Lock()
        self._line: list[Ticket] = []
        self._led = False
        self._came = 0  # jobs of the last batch
        self._inside: set[int] = set()

    def put(self, job: Job) -> None:
        """Returns when it is durable. Raises the EnqueueErrors, of this job alone."""
        thread = threading.get_ident()
        if thread in self._inside:  # a signal handler, on top of its own thread's place in line
            self._store([job], [])
            return
        ticket = Ticket(job)
        self._inside.add(thread)
        try:
            self._stand_in_line(ticket)
        finally:
            self._inside.discard(thread)
        if ticket.error is None:
            return
        if isinstance(ticket.error, EnqueueUncertain):
            raise ticket.error
        self._store([job], [])  # refused together with others, stored nothing: alone it gets its own answer

    def _stand_in_line(self, ticket: Ticket) -> None:
        with self._lock:
            self._line.append(ticket)
            leads, self._led = not self._led, True
        if not leads:
            ticket.turn.acquire()
        if not ticket.done:
            self._lead()

    def _lead(self) -> None:
        """Stores the first in line, ours among them; then lets them go, and the next in line lead."""
        if self._came >= MANY and len(self._line) < self._came:
            time.sleep(MOMENT)
        with self._lock:
            batch = self._line[: self._most]
            self._came = len(batch)
        try:
            self._store_all(batch)
        finally:
            with self._lock:
                del self._line[: len(batch)]
                self._led = bool(self._line)
                following = self._line[:1]
            for ticket in batch:
                ticket.done = True
            for ticket in (*batch[1:], *following):
                ticket.turn.release()

    def _store_all(self, batch: Sequence[Ticket]) -> None:
        stored: list[JobId] = []
        failed: EnqueueError | None = None
        try:
            self._store([ticket.job for ticket in batch], stored)
        except EnqueueError as error:
            if len(batch) == 1:
                raise
            failed = error
        except BaseException as error:  # Ctrl-C in the leader: the others must not wait for ever
            failed = EnqueueUncertain(f"interrupted by {type(error).__name__}", job_id=batch[0].job.id)
            raise
        finally:
            if failed is not None:
                for ticket in batch:
                    if ticket.job.id not in stored:
                        ticket.error = _error_of(ticket.job, failed)


def _error_of(job: Job, failed: EnqueueError) -> EnqueueError:
    """What a batch's failure means for one of its jobs. Behind an uncertain one nothing is certain either."""
    if isinstance(failed, EnqueueUncertain):
        return EnqueueUncertain(f"job {job.id!r} may or may not be queued: {failed}", job_id=job.id)
    return failed
