"""The small protocols of segments that are open for more jobs, for the explorer."""

from __future__ import annotations

import contextlib
from pathlib import Path

from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import LeaseLost
from tests.spool.seam import Seam
from tests.spool.world import census, dead_owner, dies_before, files, in_segments, job, often
from tests.support.settling import ack

from .protocol import QUEUES, Protocol, racing
from .scheduler import Turns


class Appending(Protocol):
    """A producer has a segment of one job open, and appends to it."""

    def producer(self) -> tuple[SpoolEngine, Seam]:
        """One that has stored the first job."""
        made = self.opened()
        in_segments(made[0])
        often(made[0]).enqueue([job("a")])
        return made


def work_off(broker: SpoolEngine) -> list[str]:
    """Claim and end what is there now."""
    leases = broker.claim(["jobs"], limit=9, wait=0)
    with contextlib.suppress(LeaseLost):
        ack(broker, leases)
    return [lease.job.id for lease in leases]


class AppendAndClaim(Appending):
    """Its jobs are claimed and ended meanwhile, the last while it is closed: nothing is lost, and nothing is left."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)

        def act(b: SpoolEngine) -> None:
            b.enqueue([job("b"), job("c")])
            b._spool.parts("jobs").enqueue.close()

        self.works = [racing(self.producer(), act), racing(self.opened(), work_off)]

    def check(self, turns: Turns) -> None:
        ended: list[str] = turns.processes[1].result
        look = self.alone()
        left = dict(census(look))
        assert sorted([*ended, *left]) == ["a", "b", "c"]
        assert set(left.values()) <= {1}
        work_off(look)
        assert files(self.root, "jobs/segments/*") == []


class AppendAndUpkeep(Appending):
    """Maintenance takes no living producer's segment for a dead one's."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.works = [
            racing(self.producer(), lambda b: b.enqueue([job("b")])),
            racing(self.opened(), lambda b: b._spool.parts("jobs").maintain._upkeep(0.0)),
        ]

    def check(self, turns: Turns) -> None:
        assert dict(census(self.alone())) == {"a": 1, "b": 1}


class TwoAdopt(Appending):
    """Its producer died between flush and publishing: two close it, while a third claims what is published."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)

        def live(b: SpoolEngine) -> None:
            often(in_segments(b)).enqueue([job("a")])
            dies_before(b, "pwrite", 2).enqueue([job("b")])

        dead_owner(root, live, *QUEUES)
        upkeep = lambda b: b._spool.parts("jobs").maintain._upkeep(0.0)  # noqa: E731
        self.works = [racing(self.opened(), upkeep), racing(self.opened(), upkeep), racing(self.opened(), work_off)]

    def check(self, turns: Turns) -> None:
        look = self.alone()
        left = dict(census(look))
        assert sorted([*turns.processes[2].result, *left]) == ["a", "b"]
        assert set(left.values()) <= {1}
        work_off(look)
        look._spool.parts("jobs").maintain._upkeep(0.0)
        assert files(self.root, "jobs/segments/*") == []


SEGMENT_PROTOCOLS: dict[str, type[Protocol]] = {
    "an append and a claim": AppendAndClaim,
    "an append and maintenance": AppendAndUpkeep,
    "a dead producer's segment and two that close it": TwoAdopt,
}
