"""The names of job files. A name is all that a listing knows of a job: its order, counts, due time and expiry.

`<stamp>.<producer>.<counter>.<random>,<attempt>.<delivery>[,n<not before>][,x<expires>][,p<priority>][,<other>…][,i]`

stamp: 20 digits, nanoseconds; producer, counter, random: hexadecimal; not before and expires: microseconds since the
epoch; priority: only where it is not 5; `i`: the caller chose the id. Other fields come from newer versions: a field
that begins with a small letter is kept and has no meaning here, but for four. `o<hex>` is the first stamp of a job
with a new one, which has the time of the job's id; `u<hash>` tells the unique key of a job that can hold one while it
lives, and `w<hash>` one that it holds for a time; `g<hash>` tells its group. A field that begins with a capital needs a
newer reader, and its file is left alone. A file whose name does not fit the pattern is not the spool's, and is never
touched.

Runnable jobs are in buckets, whose names sort in the order of claims: first one bucket for each priority below 5, then
the buckets of ten seconds and the batches, then one for each priority above 5. So an urgent job is found however many
others wait.
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64encode
from functools import lru_cache
from hashlib import blake2b
from itertools import count
from typing import NamedTuple

from framework.engine import flocks
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
BATCH = re.compile(rf"\d{{20}}\.{_TAIL}", re.ASCII)  # a batch's directory in tmp, a mark: the stem of a job's name
SEGMENT_END = ",seg"
_SEGMENT = re.compile(rf"(\d{{20}})\.({_TAIL}),([1-9]\d{{0,3}})(?:,x(0|[1-9]\d{{0,17}}))?{SEGMENT_END}", re.ASCII)
# A bucket of ten seconds, or a batch: many jobs that a version before segments stored together.
BUCKET = re.compile(rf"\d{{{BUCKET_DIGITS}}}|\d{{20}}\.{_TAIL},[1-9]\d{{0,8}}(?:,x(?:0|[1-9]\d{{0,17}}))?", re.ASCII)
# The buckets of the priorities 0 to 4 are 0000000000 to 0000000004, those of 6 to 9 are 9999999996 to 9999999999. As
# times these are in the years 1970 and 5138.
BEGIN, END = "0000000005", "9999999996"  # buckets of ten seconds are in [BEGIN, END)
_PRIORITY = re.compile(r"\d{20}\.[^,]*,[^,]*(?:,n\d+)?(?:,x\d+)?,p([0-46-9])(?:,|$)", re.ASCII)
MINUTE = re.compile(r"\d{11}", re.ASCII)
GROUP = ",g"  # no other part of a name begins so
_HASH = 16  # characters of a hash
KEY = re.compile(r",u([0-9A-Za-z_-]{16})(?:,|$)", re.ASCII)


class Name(NamedTuple):
    """A parsed file name.

    Attributes:
        stamp: 20 digits; names sort by it.
        tail: producer, counter and random bits; stamp and tail stay the same until a replay.
        attempt: runs charged to the job.
        delivery: claims so far, never reset.
        not_before: microseconds since the epoch; kept after it has passed, because wait and ttl count from it.
        expires: microseconds since the epoch.
        chosen: the caller chose the id.
        other: fields of newer versions, each with its comma.
        priority: lower numbers are claimed first.
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
        """Return the name after one more claim. (`_replace` takes twice as long.)"""
        delivery = min(MOST_NUMBER, self[3] + 1)
        return Name(self[0], self[1], self[2], delivery, self[4], self[5], self[6], self[7], self[8])

    def retried(self, due: int) -> Name:
        """Return the name after one more attempt; `due` is in microseconds since the epoch."""
        return self._replace(attempt=min(MOST_NUMBER, self.attempt + 1), not_before=min(MAX_TIME, due))

    def restamped(self, stamp: str) -> Name:
        """Return the name with a new stamp. It keeps the first one, as the job's id was made at its time."""
        keeps = ",o" in self.other or self.other.count(",") > 3
        return self._replace(stamp=stamp, other=self.other if keeps else f"{self.other},o{int(self.stamp):016x}")

    @property
    def key(self) -> str:
        """Return the hash of the unique key that the job can hold while it lives; "": there is none."""
        found = KEY.search(self.other) if self.other else None
        return "" if found is None else found[1]

    @property
    def group(self) -> str:
        """Return the hash of the job's group; "": it has none."""
        return group_of(self.other)

    @property
    def stem(self) -> str:
        """Return the part of the name that identifies the job in a run record."""
        return f"{self.stamp}.{self.tail}"

    @property
    def bucket(self) -> str:
        """Return the job's directory in ready/, where it did not come with a batch."""
        return self.stamp[:BUCKET_DIGITS] if self.priority == USUAL else bucket_of(self.priority)

    @property
    def minute(self) -> str:
        """Return the job's directory in delayed/."""
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
    """Return the name under which a job is enqueued; a `not_before` earlier than the enqueue is left out."""
    later = job.not_before is not None and job.not_before > job.enqueued_at
    not_before = micros(job.eligible_at) if later else None
    expires = None if job.ttl is None else micros(job.eligible_at + job.ttl)
    return Name(stamp, tail, 0, 0, not_before, expires, job.chosen_id, fields(job), job.extras.priority)


def key_field(job: Job) -> str:
    """Return the field for a job's unique key, with its comma; "": it has none."""
    extras = job.extras
    if extras.unique_key is None or job.chosen_id:
        return ""
    return f",{'u' if extras.window is None else 'w'}{key_hash(extras.unique_key)}"


def fields(job: Job) -> str:
    """Return the fields for a job's unique key and its group, with their commas."""
    group = job.extras.group
    return key_field(job) if group is None else f"{key_field(job)}{GROUP}{key_hash(group)}"


def group_of(entry: str) -> str:
    """Return the hash of the group in a name or its fields, without parsing it; "": there is none."""
    _, found, rest = entry.partition(GROUP)
    return rest[:_HASH] if found else ""


def key_hash(key: str) -> str:
    """Return the hash of a key: 96 bits in 16 characters."""
    return urlsafe_b64encode(blake2b(key.encode(), digest_size=12).digest()).decode()


def parse(text: str) -> Name | None:
    """Return the parsed name; None: it is not a job's."""
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
    """Return the bucket for all jobs of one priority, where that is not 5."""
    return f"{priority:010d}" if priority < USUAL else f"999999999{priority}"


def is_of_time(bucket: str) -> bool:
    """Return whether a bucket's jobs came within ten seconds or in one batch; False: it is a priority's bucket."""
    return BEGIN <= bucket < END or len(bucket) != BUCKET_DIGITS


def priority_of(entry: str) -> int:
    """Return the priority in a name, without parsing it; most names have none."""
    found = _PRIORITY.match(entry) if ",p" in entry else None
    return USUAL if found is None else int(found[1])


def order(entry: str) -> tuple[int, str]:
    """Return the sort key for claims: first the priority, then the stamp."""
    return priority_of(entry), entry


def needs_newer(text: str) -> bool:
    """Return whether this is the name of a job that needs a newer reader."""
    return _NEWER.fullmatch(text) is not None


class SegmentName(NamedTuple):
    """The parsed name of a segment: a file that holds many jobs. The names of its jobs follow from it.

    Attributes:
        stamp: the stamp of its first job; the next jobs have the next numbers.
        tail: as in `Name`; the tails of its jobs begin and end with its parts.
        jobs: the number of jobs that the segment has room for.
        expires: the earliest expiry of its jobs, in microseconds since the epoch; None: no job expires.
    """

    stamp: str
    tail: str
    jobs: int
    expires: int | None = None

    @property
    def last_stamp(self) -> str:
        """Return the stamp of its last job."""
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
    """Return a segment's parsed name; None: it is something else."""
    match = _SEGMENT.fullmatch(entry)
    if match is None:
        return None
    stamp, tail, jobs, expires = match.groups()
    return SegmentName(stamp, tail, int(jobs), None if expires is None else int(expires))


def index_in_segment(name: Name) -> int:
    """Return the index that a job had in its segment."""
    return int(name.tail.split(".")[1][-3:], 16)


def micros(seconds: float) -> int:
    """Return seconds since the epoch as microseconds, limited to what a name can hold."""
    if seconds >= MAX_TIME / 1e6:
        return MAX_TIME
    return max(0, round(seconds * 1e6))


def minute_of(when: int) -> str:
    """Return the directory in delayed/ for a moment in microseconds since the epoch."""
    return f"{when // 60_000_000:011d}"


class Tails:
    """A source of tails, the part of a name that is unique to its producer; each process has its own."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Become another producer."""
        self._producer = os.urandom(4).hex()
        self._numbers = count(1)  # needs no lock: a signal handler could find one held by its own thread

    def next(self) -> str:
        """Return a unique tail."""
        return f"{self._producer}.{next(self._numbers):x}.{os.urandom(6).hex()}"


tails = Tails()
flocks.in_child(tails)
