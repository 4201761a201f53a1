"""The housekeeping of queues, in steps.

Every step is idempotent, any number of processes may do it, and a step that fails does not stop the others.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from framework.engine.spool.claim import markers
from framework.engine.spool.claim.claim import Claim
from framework.engine.spool.claim.listing import FEW, Names
from framework.engine.spool.claim.markers import Readers
from framework.engine.spool.claim.promote import Promote
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.disk import layout
from framework.engine.spool.disk.clock import Clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.enqueue import keys
from framework.engine.spool.enqueue.entries import Relink, sweep
from framework.engine.spool.enqueue.recover import recover_all
from framework.engine.spool.format import job_file, names
from framework.engine.spool.format.names import Name
from framework.engine.spool.segments.open import Segments
from framework.engine.spool.segments.upkeep import Upkeep
from framework.engine.spool.upkeep.counts import Counts
from framework.model.options import QueueOptions

DEPTH_EVERY = 0.9  # seconds between two publications of the depth
BUCKET_KEPT = 60_000_000_000  # nanoseconds of stamp time for which a bucket is kept after its end
TEMP_KEPT = 60  # seconds for which a temp file is kept; a living publisher needs a moment
SHARES = 5  # one step takes at most 1/SHARES of a call's time
TURN = 0.5  # seconds between two calls: how late a delayed job may be
IDLE_TURN = 2.0  # seconds between two calls while many queues are idle: waking up is most of their cost
READY_EVERY = 4.0  # seconds between two looks at ready/ and segments/ of an idle queue
# With many queues, a turn looks only at what may come to an idle queue at any moment, and rarely does all steps.
IDLE_EVERY = 60.0  # seconds between two turns of all steps
TEMPS_EVERY = 5.0  # seconds between two turns of all steps where a producer has files in tmp
EXPIRED_TOGETHER = 256  # jobs that are dead-lettered together and share their flushes

Step = Callable[[float], bool]  # works until the given monotonic time; returns whether nothing is left. Raises OSError


class Maintain:
    """The housekeeping of one queue. One thread at a time may use it.

    It recovers tmp, promotes due jobs, ends jobs past their ttl, publishes the depth, and removes empty or stale files.
    """

    def __init__(
        self,
        disk: Disk,
        queue: QueueDir,
        clock: Clock,
        promote: Promote,
        counts: Counts,
        claim: Claim,
        setbacks: Setbacks,
        tally: Counter[str],
        segments: Segments,
        *,
        ring: Callable[[], None],
        cancels: Step,
        marks: Step,
        fan_ins: Step,
    ) -> None:
        self._disk = disk
        self._queue = queue
        self._clock = clock
        self._promote = promote
        self._counts = counts
        self._claim = claim
        self._setbacks = setbacks
        self._expired: deque[str] = deque()
        self._ring = ring
        self._cancels, self._marks, self._fan_ins = cancels, marks, fan_ins
        self._tally = tally
        self._temps = Names(disk, f"{queue.base}/tmp")
        self._ids = Names(disk, f"{queue.base}/ids")
        self._relink = Relink(disk, queue, clock)
        self._upkeep = Upkeep(disk, queue, segments)
        self._segments = segments
        self._readers = Readers(disk, queue)
        self._published = -DEPTH_EVERY
        self._swept = 0
        self._in_a_row = 0  # steps that had nothing left
        # When an idle queue needs its next turn of all steps, and its next looks at tmp/ and at ready/.
        self._turn_at = self._temps_at = self._ready_at = 0.0
        self.steps = [partial(self._past_damage, step) for step in self._all_steps()]

    def is_idle(self) -> bool:
        """Return whether there is nothing to do now.

        An idle queue has no bucket of ready jobs and no delayed job that is due within the minute, and all its steps
        had their turn recently. The check is cheap: it looks at the time of delayed/, and every four seconds at
        those of ready/ and segments/.
        """
        now = time.monotonic()
        if now >= self._turn_at:
            return False
        self._in_a_row = 0
        try:
            if now >= self._ready_at:
                self._ready_at = now + READY_EVERY
                if self._counts.buckets.first() or self._counts.segments.entries():
                    self._turn_at = now
            due = self._counts.minutes.first()
            if due and due <= names.minute_of(self._clock.micros()):
                self._turn_at = now
            if now >= self._temps_at:
                self._temps_at = now + TEMPS_EVERY
                self._turn_at = now if self._temps() else self._turn_at
        except OSError:  # the step that meets the error reports it
            return False
        return now < self._turn_at

    def _all_steps(self) -> tuple[Step, ...]:
        """Return all steps, in order."""
        return (
            self._restore_directories,
            self._recover,
            lambda until: self._promote.now(until=until),
            self._restore_ids,
            self._expire,
            self._expire_segments,
            self._upkeep,
            self._delete_over,
            self._cancels,
            self._marks,
            self._fan_ins,
            self._publish,
            self._remove_buckets,
            self._sweep_ids,
        )

    def _past_damage(self, step: Step, until: float) -> bool:
        """Do a step. An error that names a file is noted as that file's setback, not as a failure of the engine."""
        try:
            done = step(until)
        except OSError as error:
            if not isinstance(error.filename, str):
                raise
            self._setbacks.add(error.filename, error)
            done = True
        self._in_a_row = self._in_a_row + 1 if done else 0
        if self._in_a_row >= len(self.steps):
            self._in_a_row, now = 0, time.monotonic()
            if not self._counts.buckets.known and not self._counts.segments.known:
                self._turn_at, self._temps_at = now + IDLE_EVERY, now + TEMPS_EVERY
        return done

    def _each(self, paths: Iterable[str], until: float, step: Callable[[str], object]) -> bool:
        """Do a step for each path until `until`, at least for one. Return whether all paths had their turn.

        A path that fails does not stop the others.
        """
        over = False
        for path in paths:
            if over:
                return False
            if self._setbacks.waits(path):
                continue
            self._setbacks.tried(path, step)
            over = time.monotonic() >= until
        return True

    def _restore_directories(self, _: float) -> bool:
        """Make directories anew that were removed while the service runs. Raises OSError to report it."""
        if not layout.is_complete(self._disk, self._queue):
            layout.make_queue(self._disk, self._queue)
            raise OSError(f"directories of queue {self._queue.name!r} were removed: they are made anew")
        return True

    def _recover(self, until: float) -> bool:
        before = self._tally["recovered"]
        try:
            return self._each((self._queue.path("tmp", entry) for entry in self._temps()), until, self._recover_one)
        finally:
            if self._tally["recovered"] > before:
                self._ring()

    def _recover_one(self, path: str) -> None:
        self._tally["recovered"] += recover_all(self._disk, self._clock, self._queue, os.path.basename(path))

    def _restore_ids(self, until: float) -> bool:
        if not self._relink.done:
            self._tally["ids_restored"] += self._relink(until)
        return self._relink.done

    def _expire(self, until: float) -> bool:
        """Dead-letter expired jobs, in parts of one list: making the list costs a look at every name of a bucket."""
        if not self._expired:
            self._expired.extend(self._counts.expired(self._clock.micros()))
        while self._expired:
            some = [self._expired.popleft() for _ in range(min(EXPIRED_TOGETHER, len(self._expired)))]
            known = [(path, name) for path in some if (name := names.parse(os.path.basename(path))) is not None]
            self._claim.expire((path, name) for path, name in known if not self._setbacks.waits(path))
            if time.monotonic() >= until:
                break
        return not self._expired

    def _expire_segments(self, until: float) -> bool:
        due = self._segments.expired(self._counts.segments.entries(), self._clock.micros())
        return self._each(map(self._segments.path, due), until, self._claim.expire_segment)

    def _delete_over(self, until: float) -> bool:
        """Delete archived dead letters once their queue's ttl is over, counted from when they were archived.

        Where no service handles the queue, this also deletes dead letters that wait longer than the ttl.
        """
        ttl = self._queue.options.ttl
        if ttl is None or not self._queue.options.is_dead_letter:
            return True
        over = self._clock.micros() - names.micros(ttl)
        due = {}
        for entry in self._disk.listdir(f"{self._queue.base}/dead"):
            name = names.parse(entry)
            if name is not None and (name.not_before or 0) <= over:
                due[self._queue.path("dead", entry)] = name
        if markers.keeps_dead_letters(self._disk, self._queue):
            due.update(self._counts.until(f"{max(0, self._clock.now() - round(ttl * 1e9)):020d}"))
        return self._each(due, until, lambda path: self._delete_one(path, due[path], over))

    def _delete_one(self, path: str, name: Name, over: int) -> None:
        found = self._disk.stat(path)
        # A rename sets the ctime, so it is the time at which the dead letter came here.
        if found is None or names.micros(found.st_ctime) > over:
            return
        try:
            job, _ = job_file.read(self._disk, path)
        except (job_file.Damaged, FileNotFoundError):
            return
        if job.queue == self._queue.name:
            return  # not a dead letter of another queue: a job of this queue itself that failed is kept
        home = QueueDir(QueueOptions(job.queue))
        done = keys.leave(self._disk, home, name, job.id, found.st_ino, lambda: self._disk.unlink(path))
        self._tally["letters_over"] += done

    def _publish(self, _: float) -> bool:
        """Publish the numbers of ready and delayed jobs and the stamp time.

        Producers of a queue with a limit trust this file for a moment, and other services take it as a sign of life.
        """
        if time.monotonic() < self._published + DEPTH_EVERY:
            return True
        self._readers.look(mark_if_all=True)
        stamp = self._clock.now()  # taken before the count, which must not look fresher than it is
        ready = self._counts.ready().count
        if ready:
            self._ring()  # their producer may have been killed before it notified, or the notified worker after it
        text = f"{ready} {self._counts.delayed().count} {stamp}\n"
        temp = f"{self._queue.base}/.depth.{os.urandom(6).hex()}"
        try:
            self._disk.write_new(temp, text.encode(), sync=False)
            self._disk.rename(temp, self._queue.depth)
        except OSError as error:
            error.filename = self._queue.depth  # not the temp file, which has another name each time
            raise
        finally:
            self._disk.unlink(temp)
        self._published = time.monotonic()
        left = (entry for entry in self._disk.listdir(self._queue.base) if entry.startswith(".depth."))
        return self._each((f"{self._queue.base}/{entry}" for entry in left), math.inf, self._clear_temp)

    def _clear_temp(self, path: str) -> None:
        """Remove the temp file of a publisher that was killed."""
        found = self._disk.stat(path)
        if found is not None and found.st_mtime < time.time() - TEMP_KEPT:
            self._disk.unlink(path)

    def _remove_buckets(self, until: float) -> bool:
        """Remove empty buckets whose time has passed; producers use the others.

        The few buckets of priorities stay. A job that goes back to a removed bucket makes it again.
        """
        limit = f"{max(0, self._clock.now() - BUCKET_KEPT):020d}"[: names.BUCKET_DIGITS]
        alone = (b for b in self._counts.buckets.all() if names.is_of_time(b))
        over = (bucket for bucket in alone if bucket < limit)
        return self._each((f"{self._queue.base}/ready/{bucket}" for bucket in over), until, self._disk.rmdir)

    def _sweep_ids(self, _: float) -> bool:
        """Sweep one directory of ids and keys in each call: an entry keeps the space of its job."""
        directories = self._ids() if self._relink.done else []
        if directories:
            self._swept = (self._swept + 1) % len(directories)
            path = f"{self._queue.base}/ids/{directories[self._swept]}"
            self._tally["ids_swept"] += sweep(self._disk, self._clock, path)
        return True


class Rounds:
    """The steps of all queues in turn. Each has a share of the time, so that no step and no queue delays the others.

    Attributes:
        idle: at the last call there were many queues, and all were idle.
    """

    def __init__(self) -> None:
        self._next = 0
        self._done = 0  # steps in a row that had nothing left
        self.idle = False

    def __call__(self, queues: Sequence[Maintain], seconds: float) -> tuple[bool, list[OSError]]:
        """Do all steps once, or as many as fit into `seconds` and at least one, from where the last call stopped.

        Return whether nothing is left to do, and the errors.
        """
        idle = {queue for queue in queues if queue.is_idle()} if len(queues) > FEW else set()
        self.idle = bool(idle) and len(idle) == len(queues)
        if self.idle:
            return True, []
        steps = [(queue, step) for queue in queues for step in queue.steps]
        began = now = time.monotonic()
        self._done %= len(steps)  # if no step had anything left, a new round begins
        errors: list[OSError] = []
        for _ in steps:
            (queue, step), self._next = steps[self._next % len(steps)], (self._next + 1) % len(steps)
            if queue in idle:
                self._done += 1
                continue
            try:
                self._done = self._done + 1 if step(now + seconds / SHARES) else 0
            except OSError as error:
                errors.append(error)
            now = time.monotonic()
            if now >= began + seconds:
                break
        return self._done >= len(steps) or bool(errors), errors
