"""Storing a job: write it in tmp, make it durable, rename it into its place. Three ways to end, and no fourth:
it returns, it raises *not queued*, or it raises *uncertain* with the id.

One order of calls: fsync(file), rename, no fsync of the directory. On a journal that fsync commits the name in tmp;
if a power cut undoes the rename, recovery finds the whole file in tmp and promotes it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial

from framework.errors import EnqueueFailed, PayloadTooLarge
from framework.extras import USUAL
from framework.job import Job, JobId
from framework.spool import batch, frame, ids, names
from framework.spool.batch import Batch
from framework.spool.blanks import PAGE, Blanks
from framework.spool.calls import HAS_SYNCFS
from framework.spool.clock import Clock
from framework.spool.disk import TOO_MANY_FILES, Disk
from framework.spool.draft import Draft, Gone, close, create, place
from framework.spool.layout import QueueDir
from framework.spool.limits import Limits
from framework.spool.recover import recover
from framework.spool.segments import write
from framework.spool.segments.format import MOST, build
from framework.spool.undo import Undo

CHUNK = 256  # descriptors
SYNCFS_FROM = 4  # files; below, an fsync of each is cheaper than one of the whole file system


class Enqueue:
    """The producers' side of one queue. Any thread may call; nothing is locked around a write or an fsync."""

    least_segment = write.LEAST

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock, *, ring: Callable[[], None]) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
        self._ring = ring
        self._limits = Limits(disk, queue, clock)
        self._undo = Undo(disk, queue, self._limits)
        self._create = partial(create, disk, queue, clock)
        self._blanks = Blanks(disk, self._create)
        self._least_batch = batch.LEAST if HAS_SYNCFS or not disk.power else batch.MOST + 1

    def put(self, jobs: Sequence[Job], done: list[JobId]) -> None:
        """Stores jobs in order, up to the first that is refused; ids that are safely queued join `done`.

        Raises the EnqueueErrors.
        """
        at = 0
        while at < len(jobs):
            self._check_size(jobs[at], done)
            if jobs[at].chosen_id:
                self._put_chosen(jobs[at], done)
                at += 1
                continue
            run = self._run(jobs, at)
            alike = self._kind(run[0]) == (False, False)
            if alike and len(run) >= self.least_segment and self._may_write_segments():
                at += self._put_segments(run, done)
            elif len(run) >= self._least_batch and alike:
                at += self._put_batch(run, done)
            else:
                at += self._put_chunk(run[:CHUNK], done)

    def _may_write_segments(self) -> bool:
        """Return whether all workers of the queue read them, as far as is known."""
        try:
            return self._disk.stat(self._queue.segmented) is not None
        except OSError:
            return False

    def _run(self, jobs: Sequence[Job], at: int) -> Sequence[Job]:
        """Those from here on that may be stored together: with a place in one kind of directory, like the first."""
        end, kind = at + 1, self._kind(jobs[at])
        most = min(len(jobs), at + (batch.MOST if kind == (False, False) else CHUNK))
        while end < most and self._kind(job := jobs[end]) == kind and not job.chosen_id and self._fits(job):
            end += 1
        return jobs[at:end]

    @staticmethod
    def _kind(job: Job) -> tuple[bool, bool]:
        """Return whether a job waits for its time, and whether it has another priority than 5: no batch takes it."""
        return job.not_before is not None, job.extras.priority != USUAL

    def _fits(self, job: Job) -> bool:
        return len(job.payload) <= self._queue.options.max_payload_bytes

    def _check_size(self, job: Job, done: Sequence[str]) -> None:
        if not self._fits(job):
            most = self._queue.options.max_payload_bytes
            raise PayloadTooLarge(
                f"queue {self._queue.name!r} takes payloads of {most} bytes, that of job {job.id!r} has "
                f"{len(job.payload)}: enqueue a reference to it, or raise max_payload_bytes",
                enqueued=done,
            )

    def _put_chunk(self, jobs: Sequence[Job], done: list[JobId]) -> int:
        """Stores as many of the jobs as descriptors allow, at least one; how many."""
        drafts: list[Draft] = []
        try:
            with self._undo.before_publishing(drafts, jobs[0], done):
                files = [frame.encode(job) for job in jobs]
                count_again = self._limits.admit(len(jobs), sum(map(len, files)))
                if len(jobs) > 1 or not self._overwrite(jobs[0], files[0], drafts):
                    self._write_some(jobs, files, drafts)
                self._make_durable(drafts)
            self._publish(drafts, done)
            if count_again or (len(drafts) > 1 and self._limits.near(len(drafts))):
                self._undo.take_back_excess(drafts, done)
        finally:
            close(self._disk, drafts)
        self._ring()
        if len(jobs) == 1:
            self._prepare()
        return len(drafts)

    def _prepare(self) -> None:
        """Files for the jobs to come. Where the disk refuses, they get files of their own."""
        blanks = self._blanks.begin() if HAS_SYNCFS else []
        if blanks:
            try:
                self._disk.calls.syncfs(self._disk.fd)
            except OSError:
                self._blanks.drop(blanks)
            else:
                self._blanks.keep(blanks)

    def _put_segments(self, jobs: Sequence[Job], done: list[JobId]) -> int:
        """Stores them in order, as many in a file as it takes; how many."""
        at = 0
        while at < len(jobs):
            at += self._put_segment(jobs[at : at + write.together(jobs[at : at + MOST])], done)
        return at

    def _put_segment(self, jobs: Sequence[Job], done: list[JobId]) -> int:
        """Stores all of them, or none; how many."""
        drafts: list[Draft] = []
        try:
            with self._undo.before_publishing(drafts, jobs[0], done):
                data = build(jobs)
                count_again = self._limits.admit(len(jobs), len(data))
                drafts.append(write.create(self._disk, self._queue, self._clock, jobs))
                self._disk.write_all(drafts[0].fd, data)
                self._disk.sync(drafts[0].fd)
            try:
                write.publish(self._disk, self._queue, self._clock, drafts[0], len(jobs))
            except (OSError, Gone) as error:
                self._undo.uncertain(jobs[0], error, done, behind=len(jobs) - 1)
            done += [JobId(job.id) for job in jobs]
            if count_again or self._limits.near(MOST):
                take_back = partial(write.take_back, self._disk, drafts[0].path)
                self._undo.take_back_records(jobs, take_back, done)
        finally:
            close(self._disk, drafts)
        self._ring()
        return len(jobs)

    def _put_batch(self, jobs: Sequence[Job], done: list[JobId]) -> int:
        """Stores all of them, or none; how many."""
        drafts: list[Draft] = []
        made: Batch | None = None
        try:
            with self._undo.before_publishing(drafts, jobs[0], done):
                files = [frame.encode(job) for job in jobs]
                count_again = self._limits.admit(len(jobs), sum(map(len, files)))
                made = Batch(self._disk, self._queue, self._clock)
                made.write(jobs, files, drafts)
                if self._disk.power:
                    self._disk.calls.syncfs(self._disk.fd)
            try:
                made.publish(drafts)
            except (OSError, Gone) as error:
                self._undo.give_up(drafts)
                self._undo.uncertain(jobs[0], error, done, behind=len(jobs) - 1)
            done += [JobId(job.id) for job in jobs]
            if count_again or self._limits.near(batch.MOST):
                self._undo.take_back_excess(drafts, done)
        finally:
            if made is not None:
                made.close()
        self._ring()
        return len(jobs)

    def _put_chosen(self, job: Job, done: list[JobId]) -> None:
        """One job under the lock of its id, from the look until after the rename."""
        try:
            with ids.locked(self._disk, ids.directory(self._queue, job.id)):
                if ids.judge(self._disk, self._queue, job.id, self._recover) == "free":
                    self._put_linked(job, done)
                else:
                    done.append(JobId.taken(job.id))
        except ids.IdBusy:
            raise EnqueueFailed(f"the lock of job id {job.id!r} was held for {ids.WAIT:g} s", enqueued=done) from None
        except OSError as error:
            self._undo.not_queued([], job, error, done)

    def _put_linked(self, job: Job, done: list[JobId]) -> None:
        drafts: list[Draft] = []
        try:
            with self._undo.before_publishing(drafts, job, done):
                data = frame.encode(job)
                count_again = self._limits.admit(1, len(data))
                self._write_some([job], [data], drafts)
                wanted = ids.entry(self._queue, job.id)
                if not self._disk.link(drafts[0].path, wanted):  # before the fsync, which commits it too
                    raise OSError(errno.EEXIST, "another job took the id, though its lock was ours")
                drafts[0].entry = wanted
                self._make_durable(drafts)
            self._publish(drafts, done)
            if count_again:
                self._undo.take_back_excess(drafts, done)
        finally:
            close(self._disk, drafts)
        self._ring()

    def _recover(self, entry: str) -> ids.Recovery:
        return recover(self._disk, self._clock, self._queue, entry, id_locked=True)

    def _write_some(self, jobs: Sequence[Job], files: Sequence[bytes], drafts: list[Draft]) -> None:
        for job, data in zip(jobs, files, strict=True):
            try:
                made = self._create(chosen=job.chosen_id)
            except OSError as error:
                if error.errno in TOO_MANY_FILES and drafts:
                    return  # a smaller chunk; the rest comes with the next
                raise
            drafts.append(Draft(job, made.name, made.path, made.fd))
            self._disk.write_all(made.fd, data)

    def _overwrite(self, job: Job, data: bytes, drafts: list[Draft]) -> bool:
        """Into a prepared file. False: there is none, or the job does not fit. Raises OSError."""
        blank = self._blanks.take() if len(data) <= PAGE else None
        if blank is None:
            return False
        drafts.append(Draft(job, blank.name, blank.path, blank.fd, prepared=True))
        self._disk.calls.pwrite(blank.fd, data, 0)
        return True

    def _make_durable(self, drafts: Sequence[Draft]) -> None:
        if drafts[0].prepared:
            self._disk.calls.fdatasync(drafts[0].fd)
            return
        if self._disk.power and HAS_SYNCFS and len(drafts) >= SYNCFS_FROM:
            self._disk.calls.syncfs(self._disk.fd)
        else:
            for draft in drafts:
                self._disk.sync(draft.fd)

    def _publish(self, drafts: Sequence[Draft], done: list[JobId]) -> None:
        """Renames in order, each with a stamp made after the one before was in place: see `listing`."""
        for at, draft in enumerate(drafts):
            draft.name = names.first(draft.job, self._clock.stamp(), draft.name.tail)
            target = self._queue.waiting(draft.name, self._clock.micros())
            try:
                place(self._disk, draft.path, target)
            except (OSError, Gone) as error:
                self._undo.give_up(drafts[at + 1 :])
                self._undo.uncertain(draft.job, error, done)
            draft.path = target
            done.append(JobId(draft.job.id))

    def close(self) -> None:
        """Lets go of what was prepared. Idempotent."""
        self._blanks.close()
