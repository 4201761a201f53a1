"""Storage of new jobs: write the job in tmp, make it durable, rename it into place.

A call can end in three ways only: it returns, it raises *not queued*, or it raises *uncertain* with the id.

The order of calls is fsync(file), rename, and no fsync of the directory. On a journaling file system that fsync commits
the name in tmp; if a power cut undoes the rename, recovery finds the whole file in tmp and promotes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from framework.engine.calls import HAS_SYNCFS
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import TOO_MANY_FILES, Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import ids, keys
from framework.engine.spool.enqueue.change import Change
from framework.engine.spool.enqueue.limits import Limits
from framework.engine.spool.enqueue.recover import holder
from framework.engine.spool.enqueue.temp_files import Gone, Rollback, TempFile, close, create, rename_into_place
from framework.engine.spool.format import job_file, names
from framework.engine.spool.format.names import Name
from framework.engine.spool.segments import write
from framework.engine.spool.segments.append import TOGETHER, Appender, Doubt, Open
from framework.engine.spool.segments.format import MOST, build
from framework.model.errors import EnqueueFailed, PayloadTooLarge, QueueFull
from framework.model.extras import USUAL
from framework.model.job import Job, JobId

CHUNK = 256  # descriptors
LOOKS = 50  # at a job that is to be changed, and moves meanwhile
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
        self._rollback = Rollback(disk, queue)
        self._change = Change(disk, queue, clock, ring=ring)
        self._appender = Appender(disk)

    def put(self, jobs: Sequence[Job], done: list[JobId]) -> None:
        """Store jobs in order, up to the first that is refused; add the ids that are safely queued to `done`.

        Raises the EnqueueErrors.
        """
        at = 0
        while at < len(jobs):
            self._check_size(jobs[at], done)
            if jobs[at].excludes:
                with self._elsewhere(forget=True):
                    self._put_exclusive(jobs[at], done)
                at += 1
                continue
            run = self._run(jobs, at)
            if self._kind(run[0]) != (False, False):
                at += self._put_files(run, done)
            elif self._appender.is_worth(run) and self._may_write_segments() and self._append(run, done):
                at += len(run)
            else:
                with self._elsewhere(forget=len(run) > TOGETHER):
                    if len(run) >= self.least_segment and self._may_write_segments():
                        at += self._put_segment(run[: write.together(run)], done)
                    else:
                        at += self._put_files(run, done)

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
        while end < most and self._kind(job := jobs[end]) == kind and not job.excludes and self._fits(job):
            end += 1
        return jobs[at:end]

    @staticmethod
    def _kind(job: Job) -> tuple[bool, bool]:
        """Return whether a job waits for its time, and whether its name tells its turn; no segment takes either."""
        return job.not_before is not None, job.extras.priority != USUAL or job.extras.group is not None

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

    def _put_files(self, jobs: Sequence[Job], done: list[JobId]) -> int:
        """Store as many of the jobs as descriptors allow, at least one, in files of their own; return how many.

        Where the first has a chosen id or a unique key, it is the only one, and this process holds the lock of that.
        """
        files: list[TempFile] = []
        published = False
        try:
            with self._rollback.before_publishing(files, jobs[0], done):
                contents = [job_file.encode(job) for job in jobs]
                count_again = self._limits.admit(len(jobs), sum(map(len, contents)))
                self._write_some(jobs, contents, files)
                if jobs[0].excludes:
                    self._link(files[0])
                self._make_durable(files)
            self._publish(files, done)
            published = True
            if count_again or (len(files) > 1 and self._limits.near(len(files))):
                self._rollback.take_back(files, self._limits.excess(), done)
        finally:
            close(self._disk, files)
            if published:  # also where only some of them fit into the queue
                self._ring()
        return len(files)

    def _append(self, jobs: Sequence[Job], done: list[JobId]) -> bool:
        """Store all of the jobs behind those of earlier calls, or none; False: they must be stored elsewhere."""
        here = self._appender
        if not here.enter():
            return False
        try:
            with self._rollback.before_publishing((), jobs[0], done):
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
            with self._rollback.before_publishing((), jobs[0], done):
                count_again = self._limits.admit(len(jobs), len(records))
                first = segment.append(records, len(jobs))
        except Doubt as error:
            self._rollback.uncertain(jobs[0], error, done, behind=len(jobs) - 1)
        done += [JobId(job.id) for job in jobs]
        self._take_back_excess(jobs, segment.path, first, done, count_again=count_again)
        self._ring()

    def _take_back_excess(
        self, jobs: Sequence[Job], path: str, first: int, done: list[JobId], *, count_again: bool
    ) -> None:
        if count_again or self._limits.near(MOST):
            take_back = partial(write.take_back, self._disk, path, range(first, first + len(jobs)))
            known = {first + at: job for at, job in enumerate(jobs)}
            self._rollback.take_back_records(known, take_back, self._limits.excess(), done)

    def _put_segment(self, jobs: Sequence[Job], done: list[JobId], slots: int = 0) -> int:
        """Store all of the jobs in one segment, or none; return how many.

        Args:
            slots: jobs that the segment has room for; the next calls append to the slots that are left.
        """
        files: list[TempFile] = []
        try:
            with self._rollback.before_publishing(files, jobs[0], done):
                data, end = build(jobs, slots)
                count_again = self._limits.admit(len(jobs), len(data))
                files.append(write.begin(self._disk, self._queue, self._clock, jobs, max(slots, len(jobs))))
                self._disk.write_all(files[0].fd, data)
                self._disk.sync(files[0].fd)
            try:
                write.publish(self._disk, self._queue, self._clock, files[0])
            except (OSError, Gone) as error:
                self._rollback.uncertain(jobs[0], error, done, behind=len(jobs) - 1)
            done += [JobId(job.id) for job in jobs]
            path = files[0].path
            if slots > len(jobs):
                with contextlib.suppress(OSError):  # after an error no job joins it, and maintenance closes it
                    here = self._appender
                    here.begin(Open(self._disk, files[0], len(jobs), end, len(data), age=here.age))
                    files.clear()
            close(self._disk, files)  # where only whole files can be locked, this lets workers claim
            self._take_back_excess(jobs, path, 0, done, count_again=count_again)
        finally:
            close(self._disk, files)
        self._ring()
        return len(jobs)

    def _put_exclusive(self, job: Job, done: list[JobId]) -> None:
        """Store one job under the lock of its id or key, which is held from the look until after the rename."""
        try:
            with ids.locked(self._disk, os.path.dirname(keys.entry_of(self._queue, job))):
                for _ in range(LOOKS):
                    found = holder(self._disk, self._clock, self._queue, job)
                    if found is None:
                        self._put_files([job], done)
                        return
                    if not job.changes_another or self._change(job, done):
                        done.append(JobId.taken(found))
                        return
                raise ids.IdBusy(job.id)
        except ids.IdBusy:
            what = f"job id {job.id!r}" if job.chosen_id else f"the unique key of job {job.id!r}"
            raise EnqueueFailed(f"the lock of {what} was held for {ids.WAIT:g} s", enqueued=done) from None
        except OSError as error:
            self._rollback.not_queued([], job, error, done)

    def _link(self, file: TempFile) -> None:
        wanted = keys.entry_of(self._queue, file.job)
        if not self._disk.link(file.path, wanted):  # before the fsync, which also commits the link
            raise OSError(errno.EEXIST, "another job took the id or key, though its lock was ours")
        file.entry = wanted

    def _write_some(self, jobs: Sequence[Job], contents: Sequence[bytes], files: list[TempFile]) -> None:
        for job, data in zip(jobs, contents, strict=True):
            try:
                made = create(self._disk, self._queue, job, self._name)
            except OSError as error:
                if error.errno in TOO_MANY_FILES and files:
                    return  # these are stored without the others, which come with the next call
                raise
            files.append(made)
            self._disk.write_all(made.fd, data)

    def _name(self, job: Job) -> Name:
        """Return a new name for a temp file; all that it says of the job is its keys and whether its id was chosen."""
        return Name(self._clock.stamp(), names.tails.next(), chosen=job.chosen_id, other=names.fields(job))

    def _make_durable(self, files: Sequence[TempFile]) -> None:
        if self._disk.power and HAS_SYNCFS and len(files) >= SYNCFS_FROM:
            self._disk.calls.syncfs(self._disk.fd)
        else:
            for file in files:
                self._disk.sync(file.fd)

    def _publish(self, files: Sequence[TempFile], done: list[JobId]) -> None:
        """Rename in order; each stamp is made after the job before is in place: see `listing`."""
        for at, file in enumerate(files):
            name = names.first(file.job, self._clock.stamp(), file.name.tail)
            target = self._queue.waiting(name, self._clock.micros())
            try:
                rename_into_place(self._disk, file.path, target)
            except (OSError, Gone) as error:
                self._rollback.uncertain(file.job, error, done, unused=files[at + 1 :])
            file.path = target
            done.append(JobId(file.job.id))

    def close(self) -> None:
        """Close the open segment. Idempotent."""
        self._appender.retire()
