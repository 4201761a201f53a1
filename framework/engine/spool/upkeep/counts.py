"""The counts of a queue's jobs by state, which list a directory again only when it has changed."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass

from framework.engine.spool.claim.listing import Buckets, Names
from framework.engine.spool.claim.setbacks import Setbacks
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.disk.layout import QueueDir
from framework.engine.spool.format import names
from framework.engine.spool.segments.upkeep import Words, first_free
from framework.engine.spool.segments.words import is_free, is_owned

_NOT_BEFORE = re.compile(r",n(\d+)")
_EXPIRES = re.compile(r",x(\d+)")
# A cheap test for counts; parsing a million names would take seconds. Names are parsed before a job is acted on.
_LOOKS_LIKE_JOB = re.compile(r"^\d{20}\..{27,}$", re.ASCII | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Summary:
    """The facts that a set of job names tells.

    Attributes:
        count: number of jobs.
        oldest_stamp: oldest stamp of the jobs without a not-before; "" if there is none.
        oldest_due: smallest not-before in microseconds since the epoch; None if there is none.
        first_expiry: smallest expiry in microseconds since the epoch; None if there is none.
    """

    count: int = 0
    oldest_stamp: str = ""
    oldest_due: int | None = None
    first_expiry: int | None = None

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.count + other.count,
            min(filter(None, (self.oldest_stamp, other.oldest_stamp)), default=""),
            _least(self.oldest_due, other.oldest_due),
            _least(self.first_expiry, other.first_expiry),
        )


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def summarize(entries: list[str]) -> Summary:
    """Summarize sorted names, without the foreign ones."""
    jobs = _jobs(entries)
    text = "\n".join(jobs)
    due = [int(found) for found in _NOT_BEFORE.findall(text)] if ",n" in text else []
    expiries = [int(found) for found in _EXPIRES.findall(text)] if ",x" in text else []
    oldest = next((entry[:20] for entry in jobs if ",n" not in entry), "")
    return Summary(len(jobs), oldest, min(due, default=None), min(expiries, default=None))


def _jobs(entries: list[str]) -> list[str]:
    return _LOOKS_LIKE_JOB.findall("\n".join(entries))


class Counts:
    """The counts of one queue.

    Attributes:
        buckets: the buckets of ready/. minutes: the minutes of delayed/.
    """

    def __init__(self, disk: Disk, queue: QueueDir, *, setbacks: Setbacks | None = None) -> None:
        self._disk = disk
        self._queue = queue
        self._setbacks = setbacks or Setbacks()
        self.buckets = Buckets(disk, f"{queue.base}/ready", setbacks=self._setbacks)
        self.minutes = Buckets(disk, f"{queue.base}/delayed", names.MINUTE, setbacks=self._setbacks)
        self.segments = Words(disk, queue, self._setbacks)
        self._listed: dict[str, Names] = {}  # directories without buckets
        self._known: dict[str, tuple[list[str], Summary]] = {}  # what the entries of a directory told, by its path

    def ready(self) -> Summary:
        """Summarize the ready jobs. Raises OSError."""
        return self._sum("ready", self.buckets) + self._in_segments()

    def _in_segments(self) -> Summary:
        """Summarize the claimable jobs in segments. `first_expiry` may be that of a job that is settled already."""
        found = Summary()
        for entry, words in self.segments.all().items():
            name, free = names.segment(entry), sum(map(is_free, words))
            if free and name is not None:
                found += Summary(free, first_free(name, words), None, name.expires)
        return found

    def delayed(self) -> Summary:
        """Summarize the delayed jobs. Raises OSError."""
        return self._sum("delayed", self.minutes)

    def in_flight(self) -> int:
        """Count the claimed jobs of all owners. Raises OSError."""
        base = f"{self._queue.base}/claimed"
        owners = {f"{base}/{o}" for o in self._entries(base) if not o.endswith(".lock")}
        self._forget(base, owners)
        claimed = sum(sum(map(is_owned, words)) for words in self.segments.all().values())
        return claimed + sum(map(self._jobs_in, owners))

    def dead(self) -> int:
        """Count the jobs in dead/. Raises OSError."""
        return self._jobs_in(f"{self._queue.base}/dead")

    def bad(self) -> int:
        """Count all entries of bad/. Raises OSError."""
        return len(self._entries(f"{self._queue.base}/bad"))

    def expired(self, now: int) -> list[str]:
        """Return the paths of ready and delayed jobs whose ttl was over at `now` (microseconds since the epoch).

        Raises OSError.
        """
        found: list[str] = []
        for path, entries in self._waiting():
            summary = self._summary(path, entries)
            if summary.first_expiry is None or summary.first_expiry > now:
                continue
            for entry in entries:
                name = names.parse(entry)
                if name is not None and name.expires is not None and name.expires <= now:
                    found.append(f"{path}/{entry}")
        return found

    def until(self, stamp: str) -> dict[str, names.Name]:
        """Return the names of ready and delayed jobs with stamps before `stamp`, by their paths. Raises OSError."""
        found: dict[str, names.Name] = {}
        for path, entries in self._waiting(stamp):
            for entry in entries:
                name = names.parse(entry) if entry[: len(stamp)] < stamp else None
                if name is not None:
                    found[f"{path}/{entry}"] = name
        return found

    def _waiting(self, until: str = "") -> Iterator[tuple[str, list[str]]]:
        """Yield the path and the entries of each directory of ready and delayed jobs. Raises OSError.

        Args:
            until: pass over the buckets of ready/ whose jobs have later stamps; empty: all directories.
        """
        for state, buckets in (("ready", self.buckets), ("delayed", self.minutes)):
            for bucket in buckets.all():
                if not until or state == "delayed" or bucket <= until or not names.is_of_time(bucket):
                    yield f"{self._queue.base}/{state}/{bucket}", buckets.names(bucket)

    def _jobs_in(self, path: str) -> int:
        return self._summary(path, self._entries(path)).count

    def _entries(self, path: str) -> list[str]:
        """Return the entries of a directory, none if it is damaged: the counts of the others go on. Raises OSError."""
        try:
            return self._listed.setdefault(path, Names(self._disk, path))()
        except OSError as error:
            self._setbacks.add(path, error)
            return []

    def _sum(self, state: str, buckets: Buckets) -> Summary:
        base = f"{self._queue.base}/{state}"
        here = {f"{base}/{bucket}": bucket for bucket in buckets.all()}
        self._forget(base, here)
        return sum((self._summary(path, buckets.names(bucket)) for path, bucket in here.items()), Summary())

    def _forget(self, base: str, here: Container[str]) -> None:
        """Forget the directories below `base` that are gone."""
        for known in (self._listed, self._known):
            for gone in [key for key in known if key.startswith(f"{base}/") and key not in here]:
                del known[gone]

    def _summary(self, path: str, entries: list[str]) -> Summary:
        known = self._known.get(path)
        if known is None or known[0] is not entries:
            known = self._known[path] = entries, summarize(entries)
        return known[1]


def read_depth(disk: Disk, queue: QueueDir) -> tuple[int, int] | None:
    """Return (ready and delayed jobs, stamp time in ns) as maintenance last published them. Raises OSError.

    None: it has published none.
    """
    fields = (disk.read_small(queue.depth, 200) or b"").split()
    if len(fields) != 3 or not all(f.isdigit() for f in fields):
        return None
    return int(fields[0]) + int(fields[1]), int(fields[2])
