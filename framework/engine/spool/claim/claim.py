"""Claims of single jobs: a claim renames a file from ready/ into the process's own directory, then reads it once.

A claim that stops half-way leaves its file in the own directory, which no other process may touch while this one
lives. So that the file is not stranded, this process turns entries that are not leases yet into leases, once a minute
and after every error.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from framework.engine.spool.claim import order
from framework.engine.spool.claim.life import Owner, Token
from framework.engine.spool.claim.settle import Settle
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.format import job_file, names
from framework.engine.spool.format.names import Name
from framework.engine.spool.segments import copies
from framework.model.job import Job, Lease

if TYPE_CHECKING:
    from framework.engine.spool.store import Parts

LOOK = 60.0  # seconds between two looks into the own directory
SOON = 1.0  # seconds between two looks while a file there waits for its next try
FIRST_READ = 1 << 14  # bytes; enough for most jobs, also with some history
MOST_MISSES = 3  # lost races in a row, after which the process checks whether its own directory is gone
MOST_TRIES = 3  # failed reads after which a file goes to bad/
MOST_EXPIRED = 64  # expired jobs in one claim: each may cost an fsync, and the caller has a deadline
MOST_LOST = 1024  # lost races in one claim: the caller has a deadline
log = logging.getLogger("framework")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class Reader:
    """The reader that turns a file in a claimed directory into a lease."""

    def __init__(self, disk: Disk, counts: Counter[str]) -> None:
        self._disk = disk
        self._counts = counts
        self._tries: Counter[str] = Counter()
        self._warned: set[str] = set()  # fields for which the warning was logged

    def lease(self, owner: Owner, entry: str, name: Name) -> Lease | None:
        """Return the lease, or None if the file is gone, or was bad and has been moved to bad/. Raises OSError."""
        token = Token(owner, name, entry)
        job: Job | None = None
        try:
            job = self._read(token)
        except FileNotFoundError:
            return None
        except job_file.Damaged:
            pass
        except OSError as error:
            if error.errno not in job_file.PLANTED and not self._unreadable(entry, error):
                raise
        if job is None:
            self._disk.move(token.path, owner.queue.path("bad", entry))
            with contextlib.suppress(OSError):  # then maintenance removes the mark
                order.ends(self._disk, owner.queue, name)
            self._tries.pop(entry, None)
            self._counts["bad"] += 1
            return None
        owner.tokens[entry] = token
        if job.extras.ignored:
            self._warn_of_ignored(job)
        eligible = job.eligible_at
        if name.not_before is not None and name.not_before != names.micros(eligible):
            eligible = max(job.enqueued_at, name.not_before / 1e6)
        return Lease(job, owner.queue.name, name.attempt + 1, name.delivery, eligible, token)

    def _warn_of_ignored(self, job: Job) -> None:
        """Warn about ignored fields, once for each field and process: the cause usually affects many jobs."""
        self._counts["ignored_fields"] += 1
        for name in set(job.extras.ignored) - self._warned:
            self._warned.add(name)
            log.warning(
                "queue %r: job %r was stored with a value of %s that no job can have: it is ignored, and the job runs",
                job.queue, job.id, name,
            )  # fmt: skip

    def _read(self, token: Token) -> Job:
        """Return the job of a claimed file.

        Nearly every job needs one call only; the file's size and inode are asked for only where they are needed.
        """
        disk, calls = self._disk, self._disk.calls
        fd = disk.open(token.path, _OPEN)
        try:
            data = calls.pread(fd, FIRST_READ, 0)
            if len(data) < FIRST_READ and not (token.name.chosen or token.name.key):
                where = job_file.layout(data)
                job = job_file.decode(data, where)
            else:
                found = calls.fstat(fd)
                token.inode = found.st_ino
                where, job = job_file.content(disk, fd, found.st_size)
        finally:
            calls.close(fd)
            disk.reserve()
        token.slots_at = where.slots_at
        return job

    def _unreadable(self, entry: str, error: OSError) -> bool:
        """Return whether a file could not be read so often that it counts as bad.

        A bad sector must not stop the queue for ever; a full table of descriptors says nothing about the file.
        """
        if error.errno not in (errno.EIO, errno.EACCES):
            return False
        self._tries[entry] += 1
        return self._tries[entry] >= MOST_TRIES


class Claim:
    """The claims of one process on one queue. One thread at a time may use it.

    Attributes:
        error: the error that ended the last claim early, if there was one.
    """

    def __init__(self, part: Parts, disk: Disk, clock: Clock, settle: Settle, counts: Counter[str]) -> None:
        self._part = part
        self._disk = disk
        self._clock = clock
        self._settle = settle
        self._counts = counts
        self._listing = part.listing
        self._setbacks = part.setbacks
        self._look_at = time.monotonic() + LOOK
        self._misses = 0
        self.error: OSError | None = None

    def __call__(self, limit: int) -> list[Lease]:
        """Return up to `limit` leases. `error` is set where something ended the claim early."""
        self.error, limits = None, self._part.limits
        groups = self._part.queue.options.groups
        if groups is None or groups.limit is None:
            return self._within_limits(limit) if limits.apply else self._claimed(limit)
        try:
            with limits.alone() as alone:
                if not alone:
                    return []
                self._listing.begin(self._part.owner(), stranded=time.monotonic() >= self._look_at)
                leases = self._within_limits(limit)
                limits.wait = min(limits.wait, self._listing.patience)
                return leases
        except OSError as error:
            self.error = error
            return []

    def _within_limits(self, limit: int) -> list[Lease]:
        limits = self._part.limits
        leases: list[Lease] = []
        try:
            room = limits.take(limit)
            try:
                leases = self._claimed(room.jobs) if room.jobs else []
            finally:
                limits.leave(room, len(leases))
        except OSError as error:
            self.error = error
        return [replace(lease, canary=True) for lease in leases] if leases and room.canary else leases

    def _claimed(self, limit: int) -> list[Lease]:
        leases: list[Lease] = []
        expired: list[Token] = []
        lost = 0
        waiting: Counter[str] = Counter()

        def enough() -> bool:
            # Where the listing is used up, the next claim lists again: jobs that are claimed need not wait for that.
            return len(leases) >= limit or len(expired) >= MOST_EXPIRED or (leases != [] and not len(self._listing))

        try:
            self._part.owner()  # made at the first claim, not with the first job, which should not wait for it
            self._stranded(leases, expired, limit)
            for path, name in self._entries(enough, waiting):
                if name is None:
                    spent = not self._from_segment(path, limit - len(leases), leases, expired)
                    self._listing.note(os.path.basename(path), spent=spent)
                    waiting[path] += spent  # others have claimed all of its jobs
                    continue
                try:
                    lease = self._one(path, name)
                except OSError as error:
                    if not self._disk.is_there(path) and not isinstance(error, job_file.Newer):
                        raise  # the file is claimed and cannot be read: the next claim begins with it, in order
                    self._set_back(path, error)  # where the error is about this one file, the claim goes on
                    continue
                self._setbacks.clear(path)
                if lease is not None:
                    self._sort((lease,), leases, expired)
                elif (lost := lost + 1) > MOST_LOST:
                    break
            self._expire(expired)
        except OSError as error:
            self.error = error
            self.look_again()
        return leases

    def _from_segment(self, path: str, limit: int, leases: list[Lease], expired: list[Token]) -> bool:
        """Claim from a segment and return whether there was something to claim. Raises OSError."""
        try:
            now = self._clock.micros()
            limit = self._listing.share(limit)
            found, left = self._part.segments.claim(self._part.owner(), os.path.basename(path), limit, now)
        except OSError as error:
            self._set_back(path, error)
            return False
        self._setbacks.clear(path)
        self._sort(found, leases, expired)
        if left:
            self._listing.untake()
        return bool(found) or left  # with no lease and jobs left: all claimed jobs were damaged, and put aside

    def expire_segment(self, path: str) -> None:
        """Dead-letter the jobs of a segment whose time to live is over. Raises OSError, as `expire` does."""
        owner, entry, now, left = self._part.owner(), os.path.basename(path), self._clock.micros(), True
        while left:
            found, left = self._part.segments.claim(owner, entry, MOST_EXPIRED, now, expired=True)
            if not self._expire([_as_expired(lease) for lease in found]):
                break  # these jobs stay claimed, and the loop would meet them again
        self._part.segments.look_for_expiry(entry, owner.tag)

    def _entries(self, enough: Callable[[], bool], waiting: Counter[str]) -> Iterator[tuple[str, Name | None]]:
        """Yield path and name of the listed entries until there is enough; skip those that wait for their next try.

        The name of a segment is None. Raises OSError.

        Args:
            waiting: how often this claim has met each path from which it can claim nothing now.
        """
        while not enough() and (entry := self._listing.take()) is not None:
            name, path = names.parse(entry), self._listing.path(entry)
            if name is None and names.segment(entry) is None:  # this version does not know it, or needs a newer worker
                if names.needs_newer(entry):
                    self._setbacks.add(path, job_file.Newer(job_file.VERSION + 1))
                self._listing.hide(entry)
            elif waiting[path]:
                waiting[path] += 1
                if name is not None or waiting[path] > 2 or self._listing.is_spent():
                    return  # only waiting files are left; a spent segment may have hidden others in the first listing
            elif not self._setbacks.waits(path):
                yield path, name
            else:
                waiting[path] += 1

    def _sort(self, found: Iterable[Lease], leases: list[Lease], expired: list[Token]) -> None:
        """Append each lease to `leases`, or to `expired` where its time to live is over."""
        for lease in found:
            token: Token = lease.token
            if token.name.expires is None or token.name.expires > self._clock.micros():
                leases.append(lease)
            else:
                expired.append(_as_expired(lease))

    def _set_back(self, path: str, error: OSError) -> None:
        """Note that a file is to be tried again later. Raises the error where it is not about this file."""
        self.look_again()  # the error may have come after the rename
        self._setbacks.add(path, error)

    def _expire(self, expired: list[Token]) -> bool:
        """Dead-letter expired jobs and return whether all of them moved.

        Raises OSError where the failure is not about a single file.
        """
        if not expired:
            return True
        inside = {token: token.segment.entry for token in expired if token.segment is not None}
        failed = self._settle.expire(expired)
        for token, _ in failed:
            if token in inside:
                self._part.segments.keep_expired(inside[token])
        for token, error in failed:
            self._set_back(token.path, error)
        return not failed

    def look_again(self) -> None:
        """Let the next claim look into the own directory: it may hold entries that are not leases yet."""
        self._look_at = 0.0

    def expire(self, entries: Iterable[tuple[str, Name]]) -> None:
        """Claim entries of ready/ or delayed/ and dead-letter those whose time to live is over.

        Raises OSError where the error is not about a single file. The next call looks for what is claimed by then.
        """
        leases: list[Lease] = []
        expired: list[Token] = []
        self._stranded(leases, expired, MOST_EXPIRED)
        for path, name in entries:
            try:
                lease = self._one(path, name)
            except OSError as error:
                self._set_back(path, error)
                continue
            self._setbacks.clear(path)
            if lease is not None:
                self._sort((lease,), leases, expired)
        self._expire(expired)
        for lease in leases:
            self._settle.release(lease.token, 0, unseen=True)

    def _one(self, source: str, name: Name) -> Lease | None:
        owner = self._part.owner()
        name = name.claimed()
        while (claimed := str(name)) in owner.tokens:
            # The source is a hard link to a claimed file: a rename would report success and do nothing. Or it is a
            # restored copy, which is a job of its own: a rename would replace the claimed file with it.
            self._disk.drop_twin(source, f"{owner.base}/{claimed}")
            if self._disk.stat(source) is None:
                return None
            name = name.claimed()
        try:
            self._disk.rename(source, f"{owner.base}/{claimed}")
        except FileNotFoundError:
            self._missed(owner, source)
            return None
        self._misses = 0
        try:
            return self._part.reader.lease(owner, claimed, name)
        except job_file.Newer:
            self._disk.rename(f"{owner.base}/{claimed}", source)  # as if it had never been claimed
            raise

    def _missed(self, owner: Owner, source: str) -> None:
        """Handle ENOENT: another process was faster, or our own directory is gone.

        Without its directory this owner's claims are not safe, so the process starts anew as another owner.
        """
        self._misses += 1
        self._counts["missed"] += 1
        self._listing.gone()
        if self._misses == 2:
            self._listing.skip_gone()
        fenced = self._misses >= MOST_MISSES or self._disk.stat(source) is not None
        if fenced and self._disk.stat(owner.base) is None:
            self._misses = 0
            self._part.renew()

    def _stranded(self, leases: list[Lease], expired: list[Token], limit: int) -> None:
        """Turn entries of the own directory that are not leases into leases, when the next look is due."""
        if time.monotonic() < self._look_at:
            return
        owner = self._part.owner()
        self._look_at = time.monotonic() + LOOK
        entries = self._disk.listdir(owner.base)
        if any(map(copies.is_copy, entries)):  # copies of expired jobs whose lease is gone: only this look finds them
            copies.settle_copies(self._disk, owner, self._part.segments)
            entries = self._disk.listdir(owner.base)
        for entry in sorted(entries):
            name = names.parse(entry)
            path = f"{owner.base}/{entry}"
            if name is None or entry in owner.tokens:
                continue
            if self._setbacks.waits(path):
                self._look_at = time.monotonic() + SOON
                continue
            if len(leases) >= limit:
                self.look_again()
                return
            try:
                lease = self._part.reader.lease(owner, entry, name)
            except OSError as error:
                self.error = error  # the other entries go on; this one is tried again later
                self._set_back(path, error)
                continue
            if lease is not None:
                self._sort((lease,), leases, expired)
                self._counts["stranded"] += 1


def _as_expired(lease: Lease) -> Token:
    """Return the token of an expired job; its settlement needs the extras."""
    token: Token = lease.token
    token.extras = lease.job.extras
    return token
