"""A fan-in: jobs that were enqueued together, its members, and the job that follows once all of them have ended.

The id of the follow-up is the name of the fan-in. Members are numbered from 0. How a member ended counts once, whatever
becomes of its job later: a dead letter that is replayed stays one that ended as a dead letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from framework.model.extras import Extras
from framework.model.job import Job
from framework.model.outcome import Kind

How = Literal["succeeded", "discarded", "dead", "cancelled", "unknown"]
HOWS: tuple[How, ...] = ("succeeded", "discarded", "dead", "cancelled", "unknown")
# How a member ends by the outcome of a run; the other outcomes end none.
ENDS: Mapping[Kind, How] = {
    Kind.SUCCEEDED: "succeeded",
    Kind.DISCARDED: "discarded",
    Kind.DEAD_LETTERED: "dead",
    Kind.CANCELLED: "cancelled",
}
GIVEN_UP = 86_400.0  # seconds after which a fan-in whose producer has gone silent before its end is deleted
MEND_AFTER = 60.0  # seconds without an end of a member, after which members are looked for that left unseen
NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Ended:
    """How the members of a fan-in have ended, as the handler of its follow-up gets it.

    Attributes:
        succeeded, discarded, dead, cancelled: members by how they ended; dead: as dead letters.
        unknown: members whose end no process has seen, because their job was removed by hand, could not be read, or was
            run by a version that knows no fan-ins.
    """

    succeeded: int = 0
    discarded: int = 0
    dead: int = 0
    cancelled: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """Return the number of members that have ended."""
        return self.succeeded + self.discarded + self.dead + self.cancelled + self.unknown

    @property
    def all_succeeded(self) -> bool:
        """Return whether no member has ended in another way than by success."""
        return self.total == self.succeeded


@dataclass(frozen=True, slots=True)
class FanIn:
    """The state of a fan-in whose follow-up is not enqueued yet.

    Attributes:
        members: how many it has so far. sealed: no member will be added any more.
        ended: how many of them have ended, by how.
    """

    members: int
    sealed: bool
    ended: Ended


def count(ends: Iterable[How]) -> Ended:
    """Return the counts of these ends."""
    found = dict.fromkeys(HOWS, 0)
    for how in ends:
        found[how] += 1
    return Ended(**found)


def member_of(extras: Extras) -> tuple[str, int] | None:
    """Return the fan-in of a job and its number there; None: the job is no member of one."""
    if extras.fan_in is None:
        return None
    name, _, number = extras.fan_in.partition("/")
    return name, int(number)


def as_member(job: Job, name: str, number: int) -> Job:
    """Return the job as a member of a fan-in."""
    return replace(job, extras=replace(job.extras, fan_in=f"{name}/{number}"))


def released(follow_up: Job, ended: Ended, now: float) -> Job:
    """Return the follow-up as it is enqueued at this moment."""
    counts = {name: number for name, number in asdict(ended).items() if number}
    return replace(follow_up, enqueued_at=now, extras=replace(follow_up.extras, ended=counts))
