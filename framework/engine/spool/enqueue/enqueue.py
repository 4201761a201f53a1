"""Storage of new jobs: write the job in tmp, make it durable, rename it into place.

A call can end in three ways only: it returns, it raises *not queued*, or it raises *uncertain* with the id.

The order of calls is fsync(file), rename, and no fsync of the directory. On a journaling file system that fsync commits
the name in tmp; if a power cut undoes the rename, recovery finds the whole file in tmp and promotes it.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from framework.engine.calls import HAS_SYNCFS
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import TOO_MANY_FILES, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids
from framework.engine.spool.enqueue.draft import Draft, Gone, close, create, place
from framework.engine.spool.enqueue.limits import Limits
from framework.engine.spool.enqueue.undo import Undo
from framework.engine.spool.format import frame, names
from framework.engine.spool.format.names import Name
from framework.engine.spool.segments import write
from framework.engine.spool.segments.append import TOGETHER, Appender, Doubt, Open
from framework.engine.spool.segments.format import MOST, build
from framework.engine.spool.upkeep.recover import recover
from framework.model.errors import EnqueueFailed, PayloadTooLarge, QueueFull
from framework.model.extras import USUAL
from framework.model.job import Job, JobId

CHUNK = 256  # descriptors
SYNCFS_FROM = 4  # files; below, an fsync of each is cheaper than one of the whole file system


class Enqueue:
    """The producers' side of one queue. Any thread may call it; no lock is held during a write or an fsync."""

    least_segment = write.LEAST

    def __init__(self, disk: Disk, queue: QueueDir, clock: Clock, *, ring: Callable[[], None]) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
        self._ring = ring
        self._limits = Limits(disk, queue, clock)
        self._undo = Undo(disk, queue, self._limits)
        self._appender = Appender(disk)

    def put(self, jobs: Sequence[Job], done: list[JobId]) -> None:
        """Store jobs in order, up to the first that is refused; add the ids that are safely queued to `done`.

        Raises the EnqueueErrors.
        """
        at = 0
        while at < len(jobs):
            self._check_size(jobs[at], done)
            if jobs[at].chosen_id:
                with self._elsewhere(forget=True):
                    self._put_chosen(jobs[at], done)
                at += 1
                continue
            run = self._run(jobs, at)
            if self._kind(run[0]) != (False, False):
                at += self._put_chunk(run, done)
            elif self._appender.is_worth(run) and self._may_write_segments() and self._append(run, done):
                at += len(run)
            else:
                with self._elsewhere(forget=len(run) > TOGETHER):
                    if len(run) >= self.least_segment and self._may_write_segments():
                        at += self._put_segment(run[: write.together(run)], done)
                    else:
                        at += self._put_chunk(run, done)

    @contextlib.contextmanager
    def _elsewhere(self, *, forget: bool) -> Iterator[None]:
        """Wrap the storage of jobs outside the open segment, and let no later job join that segment.

        The segment has an older stamp, so a later job in it would overtake these jobs.
        """
        try:
            yield
        finally:  # at the end, because another thread may open a segment meanwhile
            self._appender.retire(forget=forget)

    def _may_write_segments(self) -> bool:
        """Return whether all workers of the queue read segments, as far as is known."""
        try:
            return self._disk.stat(self._queue.segmented) is not None
        except OSError:
            return False

    def _run(self, jobs: Sequence[Job], at: int) -> Sequence[Job]:
        """Return the jobs from `at` on that may be stored together, as they go into one kind of directory."""
        end, kind = at + 1, self._kind(jobs[at])
        most = min(len(jobs), at + CHUNK)
        while end < most and self._kind(job := jobs[end]) == kind and not job.chosen_id and self._fits(job):
            end += 1
        return jobs[at:end]

    @staticmethod
    def _kind(job: Job) -> tuple[bool, bool]:
        """Return whether a job waits for its time, and whether its priority is not 5; no segment takes either."""
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
        """Store as many of the jobs as descriptors allow, at least one; return how many."""
        drafts: list[Draft] = []
        try:
            with self._undo.before_publishing(drafts, jobs[0], done):
                files = [frame.encode(job) for job in jobs]
                count_again = self._limits.admit(len(jobs), sum(map(len, files)))
                self._write_some(jobs, files, drafts)
                self._make_durable(drafts)
            self._publish(drafts, done)
            if count_again or (len(drafts) > 1 and self._limits.near(len(drafts))):
                self._undo.take_back_excess(drafts, done)
        finally:
            close(self._disk, drafts)
        self._ring()
        return len(drafts)

    def _append(self, jobs: Sequence[Job], done: list[JobId]) -> bool:
        """Store all of the jobs behind those of earlier calls, or none; False: they must be stored elsewhere."""
        here = self._appender
        if not here.enter():
            return False
        try:
            with self._undo.before_publishing((), jobs[0], done):
                records = None if here.segment is None else here.segment.takes(jobs)
            if here.segment is None or records is None:
                here.close()
                return self._open(jobs, done)
            self._put_records(here.segment, jobs, records, done)
        except BaseException:  # also Ctrl-C: an unacknowledged record may stand where the next job would go
            here.close()
            raise
        finally:
            here.leave()
        return True

    def _open(self, jobs: Sequence[Job], done: list[JobId]) -> bool:
        """Store the jobs in a new segment; False: it could not be made, but there may be room for the jobs alone."""
        before = len(done)
        try:
            self._put_segment(jobs, done, self._appender.slots(jobs))
        except (QueueFull, EnqueueFailed):
            if len(done) > before:
                raise
            return False
        return True

    def _put_records(self, segment: Open, jobs: Sequence[Job], records: bytes, done: list[JobId]) -> None:
        try:
            with self._undo.before_publishing((), jobs[0], done):
                count_again = self._limits.admit(len(jobs), len(records))
                first = segment.append(records, len(jobs))
        except Doubt as error:
            self._undo.uncertain(jobs[0], error, done, behind=len(jobs) - 1)
        done += [JobId(job.id) for job in jobs]
        self._take_back_excess(jobs, segment.path, first, done, count_again=count_again)
        self._ring()

    def _take_back_excess(
        self, jobs: Sequence[Job], path: str, first: int, done: list[JobId], *, count_again: bool
    ) -> None:
        if count_again or self._limits.near(MOST):
            take_back = partial(write.take_back, self._disk, path, range(first, first + len(jobs)))
            self._undo.take_back_records({first + at: job for at, job in enumerate(jobs)}, take_back, done)

    def _put_segment(self, jobs: Sequence[Job], done: list[JobId], slots: int = 0) -> int:
        """Store all of the jobs in one segment, or none; return how many.

        Args:
            slots: jobs that the segment has room for; the next calls append to the slots that are left.
        """
        drafts: list[Draft] = []
        try:
            with self._undo.before_publishing(drafts, jobs[0], done):
                data, end = build(jobs, slots)
                count_again = self._limits.admit(len(jobs), len(data))
                drafts.append(write.begin(self._disk, self._queue, self._clock, jobs, max(slots, len(jobs))))
                self._disk.write_all(drafts[0].fd, data)
                self._disk.sync(drafts[0].fd)
            try:
                write.publish(self._disk, self._queue, self._clock, drafts[0])
            except (OSError, Gone) as error:
                self._undo.uncertain(jobs[0], error, done, behind=len(jobs) - 1)
            done += [JobId(job.id) for job in jobs]
            path = drafts[0].path
            if slots > len(jobs):
                with contextlib.suppress(OSError):  # after an error no job joins it, and maintenance closes it
                    here = self._appender
                    here.begin(Open(self._disk, drafts[0], len(jobs), end, len(data), age=here.age))
                    drafts.clear()
            close(self._disk, drafts)  # where only whole files can be locked, this lets workers claim
            self._take_back_excess(jobs, path, 0, done, count_again=count_again)
        finally:
            close(self._disk, drafts)
        self._ring()
        return len(jobs)

    def _put_chosen(self, job: Job, done: list[JobId]) -> None:
        """Store one job under the lock of its id, which is held from the look until after the rename."""
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
                if not self._disk.link(drafts[0].path, wanted):  # before the fsync, which also commits the link
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
                made = create(self._disk, self._queue, job, partial(self._name, chosen=job.chosen_id))
            except OSError as error:
                if error.errno in TOO_MANY_FILES and drafts:
                    return  # this chunk is smaller; the other jobs come with the next
                raise
            drafts.append(made)
            self._disk.write_all(made.fd, data)

    def _name(self, *, chosen: bool) -> Name:
        """Return a new name for a temp file; all that it says of the job is whether its id was chosen."""
        return Name(self._clock.stamp(), names.tails.next(), chosen=chosen)

    def _make_durable(self, drafts: Sequence[Draft]) -> None:
        if self._disk.power and HAS_SYNCFS and len(drafts) >= SYNCFS_FROM:
            self._disk.calls.syncfs(self._disk.fd)
        else:
            for draft in drafts:
                self._disk.sync(draft.fd)

    def _publish(self, drafts: Sequence[Draft], done: list[JobId]) -> None:
        """Rename in order; each stamp is made after the job before is in place: see `listing`."""
        for at, draft in enumerate(drafts):
            name = names.first(draft.job, self._clock.stamp(), draft.name.tail)
            target = self._queue.waiting(name, self._clock.micros())
            try:
                place(self._disk, draft.path, target)
            except (OSError, Gone) as error:
                self._undo.give_up(drafts[at + 1 :])
                self._undo.uncertain(draft.job, error, done)
            draft.path = target
            done.append(JobId(draft.job.id))

    def close(self) -> None:
        """Close the open segment. Idempotent."""
        self._appender.retire()
