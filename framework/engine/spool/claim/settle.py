"""The operations that end a claim: succeed, retry, dead-letter, archive, release and expire.

Each is one rename or unlink out of claimed/. An operation that fails leaves the lease as it was: the file has not
moved, so it can be repeated. Only dead-lettering calls fsync: a power cut may undo any other settlement, and the job
runs again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from framework.engine.calls import HAS_SYNCFS
from framework.engine.spool.claim.life import Held
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids
from framework.engine.spool.format import history
from framework.engine.spool.format.names import MAX_TIME, Name, micros
from framework.engine.spool.segments import copies
from framework.model.job import Failure


class Burial(NamedTuple):
    """A claim that is to be dead-lettered. `letter`: the job is a dead letter already."""

    held: Held
    failure: Failure
    letter: bool


class Settle:
    """The operations that `settlements.py` calls to settle single leases.

    Each returns False where the claim was lost, and raises OSError.
    """

    def __init__(
        self,
        disk: Disk,
        clock: Clock,
        *,
        queue: Callable[[str], QueueDir],
        ring: Callable[[str], None],
        put_back: Callable[[str, str], None],
        counts: Counter[str],
        expired: Counter[str],
    ) -> None:
        self._disk = disk
        self._clock = clock
        self._queue = queue
        self._ring = ring
        self._put_back = put_back
        self._counts = counts
        self._expired = expired

    def ack(self, held: Held, home: str, job_id: str) -> bool:
        """Delete the job."""
        if held.segment is not None and copies.forget(self._disk, held):
            return self._end(held, held.segment.store.finish(held))
        self._leave_segment(held)
        if held.name.chosen:
            found = ids.unlink(self._disk, held.path, self._queue(home), job_id, held.inode)
        else:
            found = self._disk.unlink(held.path)
        return self._end(held, found)

    def retry(self, held: Held, delay: float, failure: Failure) -> bool:
        """Store the failure, then move the job to delayed/ with one attempt more."""
        self._leave_segment(held)
        if not self.record(held, failure, "retried"):
            return self._end(held, False)
        now = self._clock.micros()
        name = held.name.retried(now + micros(delay))
        return self._move(held, held.owner.queue, name, held.owner.queue.waiting(name, now))

    def release(self, held: Held, delay: float) -> bool:
        """Move the job back to its bucket with its attempt unchanged; with a delay, move it to delayed/."""
        queue, name, now = held.owner.queue, held.name, self._clock.micros()
        if delay <= 0 and held.segment is not None and copies.forget(self._disk, held):
            return self._give_back(held)
        self._leave_segment(held)
        if delay > 0:
            name = name._replace(not_before=min(MAX_TIME, now + micros(delay)))
            return self._move(held, queue, name, queue.waiting(name, now))
        done = self._move(held, queue, name, queue.ready(name))
        if done:
            self._put_back(queue.name, str(name))
        return done

    def _give_back(self, held: Held) -> bool:
        """Give the job back to its place in its segment."""
        entry = held.segment.entry
        done: bool = held.segment.store.give_back(held)
        if done:
            self._put_back(held.owner.queue.name, entry)
            self._ring(held.owner.queue.name)
        return self._end(held, done)

    def _leave_segment(self, held: Held) -> None:
        """Copy a job out of its segment into a file of its own. Raises OSError."""
        if held.segment is not None:
            for _, error in copies.leave(self._disk, [held]):
                raise error

    def bury(self, dying: Sequence[Burial]) -> tuple[set[Held], list[tuple[Held, OSError]]]:
        """Move jobs to the dead-letter queue, or to the own dead/ where there is none.

        The record of each is durable before it moves; many jobs share their flushes. Return the jobs that moved, and
        those that failed and stay as they were; the claims of all others were lost.
        """
        failed = copies.leave(self._disk, [one.held for one in dying])
        stay = {held for held, _ in failed}
        dying = [one for one in dying if one.held not in stay]
        together = len(dying) > 1 and HAS_SYNCFS
        recorded = [
            one for one in dying if self._tried(one, lambda one: self._last_words(one, sync=not together), failed)
        ]
        if together and recorded and self._disk.power:
            try:
                self._disk.calls.syncfs(self._disk.fd)
            except OSError as error:
                failed += [(one.held, error) for one in recorded]
                recorded = []
        moved = {one.held: where for one in recorded if (where := self._tried(one, self._to_dead_letters, failed))}
        for directory in set(moved.values()):
            self._sync_after(directory)
        return set(moved), failed

    @staticmethod
    def _tried(one: Burial, step: Callable[[Burial], str], failed: list[tuple[Held, OSError]]) -> str:
        try:
            return step(one)
        except OSError as error:
            failed.append((one.held, error))
            return ""

    def _last_words(self, one: Burial, *, sync: bool) -> str:
        """Store why the job ends and return its path, or "" if the claim was lost."""
        if self.record(one.held, one.failure, "dead_lettered", sync=sync):
            return one.held.path
        self._end(one.held, False)
        return ""

    def _to_dead_letters(self, one: Burial) -> str:
        """Move a job whose record is durable. Return the directory that it is in now, or "" if the claim was lost."""
        held, queue = one.held, one.held.owner.queue
        target = None if one.letter else queue.options.dead_letter
        name = held.name._replace(
            stamp=self._clock.stamp(), attempt=0, not_before=self._clock.micros(), expires=None
        )  # a new stamp: dead letters are in the order in which they were dead-lettered
        if target is None:
            path = queue.path("dead", name)
        else:
            queue = self._queue(target)
            path = queue.ready(name)
        return os.path.dirname(path) if self._move(held, queue, name, path) else ""

    def rest(self, held: Held) -> bool:
        """Archive a handled dead letter: move it to its queue's dead/ and change nothing else."""
        self._leave_segment(held)
        return self._move(held, held.owner.queue, held.name, held.owner.queue.path("dead", held.entry))

    def expire(self, expired: Sequence[Held]) -> list[tuple[Held, OSError]]:
        """Dead-letter jobs past their ttl.

        Return those that failed: their files stay in the own directory without a lease.
        """
        moved, failed = self.bury([Burial(held, self._expiry(held), letter=False) for held in expired])
        for held in moved:
            self._expired[held.owner.queue.name] += 1
        for held, _ in failed:
            held.let_lie()
        return failed

    def _expiry(self, held: Held) -> Failure:
        now = self._clock.wall()
        return Failure(
            attempt=held.name.attempt,
            reason="expired",
            message=f"its time to live ended {now - (held.name.expires or 0) / 1e6:.3f} s before it was claimed",
            error_type="expired",
            queue=held.owner.queue.name,
            started_at=now,
            ended_at=now,
        )

    def record(self, held: Held, failure: Failure, outcome: str, *, sync: bool = False) -> bool:
        """Store a failure in the job's history before its outcome is carried out, so that a rescuer finds it.

        It takes a free slot or the oldest one, and is stored once for a delivery, so that a repetition is safe. Return
        False if the claim was lost.
        """
        try:
            with self._disk.opened(held.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
                delivery = held.name.delivery
                kept = history.records(self._disk.calls.pread(fd, history.SLOTS * history.SLOT, held.slots_at))
                if not any(r.delivery == delivery for r in kept):
                    sequence = kept[-1].sequence + 1 if kept else 0
                    slot = history.encode_record(sequence, delivery, failure, outcome)
                    self._disk.calls.pwrite(fd, slot, held.slots_at + history.offset(sequence))
                if sync:
                    self._disk.sync(fd)
        except FileNotFoundError:
            return False
        return True

    def _move(self, held: Held, queue: QueueDir, name: Name, target: str) -> bool:
        found = self._disk.move(held.path, target)
        if found and target == queue.ready(name):
            self._ring(queue.name)
        return self._end(held, found)

    def _sync_after(self, directory: str) -> None:
        try:
            self._disk.sync_dir(directory)
        except OSError:
            # The job has moved, and its record is durable: a power cut may bring the claim back, but not lose the job.
            self._counts["unsynced"] += 1

    def _end(self, held: Held, found: bool) -> bool:
        held.done()
        if not found:
            self._counts["lost"] += 1
        return found
