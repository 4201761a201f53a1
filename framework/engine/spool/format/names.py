"""The name of a job's file. It is all that a listing knows: order, counts, when it is due, when it expires.

`<stamp>.<producer>.<counter>.<random>,<attempt>.<delivery>[,n<not before>][,x<expires>][,p<priority>][,<other>…][,i]`

stamp: 20 digits, nanoseconds; producer, counter, random: hexadecimal; not before and expires: microseconds since the
epoch; priority: where it is not 5; `i`: the caller chose the id. Other fields are of newer versions: one that begins
with a small letter is kept and has no meaning here; one that begins with a capital needs a newer reader, and its file
is left alone. A name that does not fit the pattern belongs to somebody else: never touched.

Runnable jobs lie in buckets, whose names sort as their jobs are claimed: those of ten seconds and batches between those
of the priorities below and above 5, of which there is one each. So an urgent job is found however many others wait.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple

from framework.engine.spool.disk import flocks
from framework.model.extras import USUAL
from framework.model.job import Job

MAX_TIME = 10**18 - 1  # microseconds: 18 digits, some 31,000 years
MOST_NUMBER = 10**9 - 1  # of an attempt or a delivery: nine digits
BUCKET_DIGITS = 10  # of the stamp: a bucket spans ten seconds

_COUNT = r"(0|[1-9]\d{0,8})"
_TAIL = r"[0-9a-f]{8}\.[0-9a-f]{1,16}\.[0-9a-f]{12}"
_PATTERN = re.compile(
    rf"(\d{{20}})\.({_TAIL}),{_COUNT}\.{_COUNT}"
    r"(?:,n(0|[1-9]\d{0,17}))?(?:,x(0|[1-9]\d{0,17}))?(?:,p([0-46-9]))?"
    r"((?:,[a-hj-mo-wyz][0-9A-Za-z_-]{0,16}){0,4})(,i)?",
    re.ASCII,
)
_NEWER = re.compile(rf"\d{{20}}\.{_TAIL},{_COUNT}\.{_COUNT}(?:,[0-9A-Za-z_-]{{1,41}})*,[A-Z][0-9A-Za-z_,-]*", re.ASCII)
BATCH = re.compile(rf"\d{{20}}\.{_TAIL}", re.ASCII)  # a directory of those jobs in tmp: the stem of a name
SEGMENT_END = ",seg"
_SEGMENT = re.compile(rf"(\d{{20}})\.({_TAIL}),([1-9]\d{{0,3}})(?:,x(0|[1-9]\d{{0,17}}))?{SEGMENT_END}", re.ASCII)
# Of ten seconds, or one in which a version before segments has stored many jobs together.
BUCKET = re.compile(rf"\d{{{BUCKET_DIGITS}}}|\d{{20}}\.{_TAIL},[1-9]\d{{0,8}}(?:,x(?:0|[1-9]\d{{0,17}}))?", re.ASCII)
# Buckets of the priorities 0 to 4 are 0000000000 to 0000000004, of 6 to 9 9999999996 to 9999999999: years 1970, 5138.
BEGIN, END = "0000000005", "9999999996"  # where those of ten seconds begin, and where they have ended
_PRIORITY = re.compile(r"\d{20}\.[^,]*,[^,]*(?:,n\d+)?(?:,x\d+)?,p([0-46-9])(?:,|$)", re.ASCII)
MINUTE = re.compile(r"\d{11}", re.ASCII)


class Name(NamedTuple):
    """A parsed file name.

    Attributes:
        stamp: 20 digits; names sort by it.
        tail: producer, counter and random bits; with the stamp it is the same through a job's life until a replay.
        attempt: runs charged to the job.
        delivery: claims so far, never reset.
        not_before: microseconds since the epoch; kept after it has passed, wait and ttl count from it.
        expires: microseconds since the epoch.
        chosen: the caller chose the id.
        other: fields of newer versions, each with its comma.
        priority: lower ones are claimed first.
    """

    stamp: str
    tail: str
    attempt: int = 0
    delivery: int = 0
    not_before: int | None = None
    expires: int | None = None
    chosen: bool = False
    other: str = ""
    priority: int = USUAL

    def claimed(self) -> Name:
        """The name after one claim more. (`_replace` takes twice as long.)"""
        delivery = min(MOST_NUMBER, self[3] + 1)
        return Name(self[0], self[1], self[2], delivery, self[4], self[5], self[6], self[7], self[8])

    def retried(self, due: int) -> Name:
        """Return the name after one attempt more, due in microseconds since the epoch."""
        return self._replace(attempt=min(MOST_NUMBER, self.attempt + 1), not_before=min(MAX_TIME, due))

    @property
    def stem(self) -> str:
        """What names the job in a run record."""
        return f"{self.stamp}.{self.tail}"

    @property
    def bucket(self) -> str:
        """The directory in ready/ where jobs lie that came without a batch."""
        return self.stamp[:BUCKET_DIGITS] if self.priority == USUAL else bucket_of(self.priority)

    @property
    def minute(self) -> str:
        """The directory in delayed/."""
        return minute_of(self.not_before or 0)

    def __str__(self) -> str:
        text = f"{self.stamp}.{self.tail},{self.attempt}.{self.delivery}"
        if self.not_before is not None:
            text += f",n{self.not_before}"
        if self.expires is not None:
            text += f",x{self.expires}"
        if self.priority != USUAL:
            text += f",p{self.priority}"
        text += self.other
        return text + ",i" if self.chosen else text


def first(job: Job, stamp: str, tail: str) -> Name:
    """The name under which a job is enqueued. Its wait never begins before that, whatever moment it was meant for."""
    later = job.not_before is not None and job.not_before > job.enqueued_at
    not_before = micros(job.eligible_at) if later else None
    expires = None if job.ttl is None else micros(job.eligible_at + job.ttl)
    return Name(stamp, tail, 0, 0, not_before, expires, job.chosen_id, "", job.extras.priority)


def parse(text: str) -> Name | None:
    """The name, or None: not ours."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    stamp, tail, attempt, delivery, not_before, expires, priority, other, chosen = match.groups()
    return Name(
        stamp,
        tail,
        int(attempt),
        int(delivery),
        None if not_before is None else int(not_before),
        None if expires is None else int(expires),
        chosen is not None,
        other,
        USUAL if priority is None else int(priority),
    )


def bucket_of(priority: int) -> str:
    """Return the bucket of all jobs of a priority that is not 5."""
    return f"{priority:010d}" if priority < USUAL else f"999999999{priority}"


def is_of_time(bucket: str) -> bool:
    """Return whether a bucket's jobs came within ten seconds or in one batch; False: it is that of a priority."""
    return BEGIN <= bucket < END or len(bucket) != BUCKET_DIGITS


def priority_of(entry: str) -> int:
    """Return the priority that a name says, without parsing it; most names say none."""
    found = _PRIORITY.match(entry) if ",p" in entry else None
    return USUAL if found is None else int(found[1])


def order(entry: str) -> tuple[int, str]:
    """Return what names are claimed by: first the priority, then the stamp."""
    return priority_of(entry), entry


def needs_newer(text: str) -> bool:
    """Return whether a name is that of a job which needs a newer reader."""
    return _NEWER.fullmatch(text) is not None


class SegmentName(NamedTuple):
    """The name of a segment: a file that holds many jobs. Its jobs have names too, which follow from it.

    Attributes:
        stamp: of its first job; the next ones have the next numbers.
        tail: as in `Name`; it begins and ends those of its jobs.
        jobs: how many it was made with.
        expires: the first of theirs, in microseconds since the epoch; None: none expires.
    """

    stamp: str
    tail: str
    jobs: int
    expires: int | None = None

    @property
    def last_stamp(self) -> str:
        """Return that of its last job."""
        return f"{int(self.stamp) + self.jobs - 1:020d}"

    def of_job(self, index: int, delivery: int, expires: int | None) -> Name:
        """Return the name of one of its jobs."""
        first, begin, end = _parts(self.stamp, self.tail)
        return Name(f"{first + index:020d}", f"{begin}{index:03x}{end}", 0, delivery, None, expires)

    def __str__(self) -> str:
        expires = "" if self.expires is None else f",x{self.expires}"
        return f"{self.stamp}.{self.tail},{self.jobs}{expires}{SEGMENT_END}"


@lru_cache(maxsize=64)
def _parts(stamp: str, tail: str) -> tuple[int, str, str]:
    producer, number, random = tail.split(".")
    return int(stamp), f"{producer}.{number}", f".{random}"


@lru_cache(maxsize=4096)
def segment(entry: str) -> SegmentName | None:
    """Return what a segment's name says; None: it is something else."""
    match = _SEGMENT.fullmatch(entry)
    if match is None:
        return None
    stamp, tail, jobs, expires = match.groups()
    return SegmentName(stamp, tail, int(jobs), None if expires is None else int(expires))


def index_in_segment(name: Name) -> int:
    """Return the place that a job which came out of a segment had there."""
    return int(name.tail.split(".")[1][-3:], 16)


def micros(seconds: float) -> int:
    """Seconds since the epoch as the microseconds of a name; what does not fit becomes the nearest that does."""
    if seconds >= MAX_TIME / 1e6:
        return MAX_TIME
    return max(0, round(seconds * 1e6))


def minute_of(when: int) -> str:
    """The directory in delayed/ of a moment in microseconds since the epoch."""
    return f"{when // 60_000_000:011d}"


class Tails:
    """Makes the part of a name that tells producers apart; one per process, another after a fork."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Another producer from here on."""
        self._producer = os.urandom(4).hex()
        self._numbers = count(1)  # needs no lock, which a signal handler could find held by its own thread

    def next(self) -> str:
        """A tail that nobody else has."""
        return self.many(1)[0]

    def many(self, most: int) -> list[str]:
        """So many; one draw is enough to tell them from all others."""
        random = os.urandom(6).hex()
        return [f"{self._producer}.{number:x}.{random}" for number in islice(self._numbers, most)]


tails = Tails()
flocks.in_child(tails)
