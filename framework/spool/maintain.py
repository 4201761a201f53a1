"""Housekeeping of one queue. Every step is idempotent, any number of processes may do it, and one that fails does not
keep the others from their turn.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Callable

from framework.queues import QueueOptions
from framework.spool import frame, ids, names
from framework.spool.census import Census
from framework.spool.claim import Claim
from framework.spool.clock import Clock
from framework.spool.disk import Disk
from framework.spool.layout import QueueDir
from framework.spool.listing import Names
from framework.spool.names import Name
from framework.spool.recover import recover_all
from framework.spool.ripen import Ripen

DEPTH_EVERY = 0.9  # seconds
BUCKET_KEPT = 60_000_000_000  # nanoseconds of stamp time after its end
DRAFT_KEPT = 60  # seconds; a living publisher needs a moment
MOST_EXPIRED = 1000  # in one call: each may cost an fsync


class Maintain:
    """Recovers tmp, ripens, expires, publishes the depth, removes what is empty or stale. One thread at a time."""

    def __init__(
        self,
        disk: Disk,
        queue: QueueDir,
        clock: Clock,
        *,
        ripen: Ripen,
        census: Census,
        claim: Claim,
        ring: Callable[[], None],
        counts: Counter[str],
    ) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
        self._ripen = ripen
        self._census = census
        self._claim = claim
        self._ring = ring
        self._counts = counts
        self._drafts = Names(disk, f"{queue.base}/tmp")
        self._ids = Names(disk, f"{queue.base}/ids")
        self._published = -DEPTH_EVERY
        self._swept = 0

    def __call__(self) -> OSError | None:
        """Does what there is to do; the first error, if there was one."""
        first: OSError | None = None
        steps = (self._recover, self._ripen.now, self._expire, self._delete_letters)
        for step in (*steps, self._publish, self._remove_buckets, self._sweep_ids):
            try:
                step()
            except OSError as error:
                first = first or error
        return first

    def _recover(self) -> None:
        promoted = 0
        for entry in self._drafts():
            promoted += recover_all(self._disk, self._clock, self._queue, entry)
        if promoted:
            self._counts["recovered"] += promoted
            self._ring()

    def _expire(self) -> None:
        for path in self._census.expired(self._clock.micros())[:MOST_EXPIRED]:
            name = names.parse(os.path.basename(path))
            if name is not None:
                self._claim.expire(path, name)

    def _delete_letters(self) -> None:
        """Letters at rest are kept for their queue's ttl, from when they came to rest."""
        ttl = self._queue.options.ttl
        if ttl is None or not self._queue.options.is_dead_letter:
            return
        over = self._clock.micros() - names.micros(ttl)
        for entry in self._disk.listdir(f"{self._queue.base}/dead"):
            name = names.parse(entry)
            if name is not None and (name.not_before or 0) <= over:
                self._delete_letter(self._queue.path("dead", entry), name, over)

    def _delete_letter(self, path: str, name: Name, over: int) -> None:
        found = self._disk.stat(path)
        if found is None or not stat.S_ISREG(found.st_mode) or names.micros(found.st_ctime) > over:  # a rename sets it
            return
        try:
            with self._disk.opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
                _, job = frame.read(lambda n, at: self._disk.calls.pread(fd, n, at), found.st_size)
        except (frame.Damaged, FileNotFoundError):
            return
        if job.queue == self._queue.name:
            return  # no letter: a job that died on this queue is kept
        home = QueueDir(QueueOptions(job.queue))
        chosen = name.chosen
        done = ids.unlink(self._disk, path, home, job.id, found.st_ino) if chosen else self._disk.unlink(path)
        self._counts["letters_over"] += done

    def _publish(self) -> None:
        """Ready, delayed, stamp time: what producers of a queue with a limit trust for a second."""
        if time.monotonic() < self._published + DEPTH_EVERY:
            return
        stamp = self._clock.now()  # before the count: it must not look fresher than it is
        text = f"{self._census.ready().count} {self._census.delayed().count} {stamp}\n"
        draft = f"{self._queue.base}/.depth.{os.urandom(6).hex()}"
        try:
            with self._disk.opened(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
                self._disk.write_all(fd, text.encode())
            self._disk.rename(draft, self._queue.depth)
        finally:
            self._disk.unlink(draft)
        self._published = time.monotonic()
        self._clear_drafts()

    def _clear_drafts(self) -> None:
        """Of publishers that were killed."""
        for entry in self._disk.listdir(self._queue.base):
            if entry.startswith(".depth."):
                found = self._disk.stat(f"{self._queue.base}/{entry}")
                if found is not None and found.st_mtime < time.time() - DRAFT_KEPT:
                    self._disk.unlink(f"{self._queue.base}/{entry}")

    def _remove_buckets(self) -> None:
        """Only those whose time has passed: producers use the others. A rename back makes its bucket again.

        Batches are removed by whoever finds them empty; see `listing`.
        """
        limit = f"{max(0, self._clock.now() - BUCKET_KEPT):020d}"[: names.BUCKET_DIGITS]
        for bucket in self._census.buckets.all():
            if bucket < limit and names.published(bucket) is None:
                self._disk.rmdir(f"{self._queue.base}/ready/{bucket}")

    def _sweep_ids(self) -> None:
        """One directory in each call: entries that killed acks left keep the space of their jobs."""
        directories = self._ids()
        if directories:
            self._swept = (self._swept + 1) % len(directories)
            self._counts["ids_swept"] += ids.sweep(self._disk, f"{self._queue.base}/ids/{directories[self._swept]}")
