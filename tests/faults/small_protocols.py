"""The small protocols, for the explorer: who does what at the same time on one root, and what must be true then."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

from framework.engine.spool.engine import SpoolEngine, connect
from framework.model.errors import EnqueueFailed
from framework.model.job import Lease
from tests.spool.seam import Seam
from tests.spool.world import JOBS, census, cut_at, dead_owner, files, job, one, settle_orphan
from tests.support.settling import ack

from .ledger_protocols import LEDGER_PROTOCOLS
from .protocol import QUEUES, Protocol, racing
from .scheduler import Turns
from .segment_protocols import SEGMENT_PROTOCOLS
from .two_threads import MainAndHelper


class BirthAndRescue(Protocol):
    """A worker is born and claims while somebody rescues: nobody takes anything from the living."""

    rescuers = 1

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.alone().enqueue([job("a")])
        worker = self.opened("worker")
        others = [self.opened(f"rescuer{n}") for n in range(self.rescuers)]
        self.works = [racing(worker, one), *(racing(other, lambda b: b.rescue()) for other in others)]

    def check(self, turns: Turns) -> None:
        lease: Lease = turns.processes[0].result
        assert [list(p.result) for p in turns.processes[1:]] == [[]] * self.rescuers, "rescued from the living"
        owner = lease.token.owner
        assert os.fstat(owner.fd).st_nlink == 1, "the lock of a living worker is gone"
        assert (self.root / lease.token.path).exists()
        assert list(self.alone().rescue()) == []
        ack(self.brokers[1], [lease])


class BirthAndTwoRescues(BirthAndRescue):
    """The same with two that rescue."""

    rescuers = 2


class TwoBirths(Protocol):
    """Two processes that believe they are the same incarnation, and one that rescues."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.alone().enqueue([job("a"), job("b")])
        births = [self.opened("twin"), self.opened("twin")]
        self.works = [racing(made, lambda b: b._spool.parts("jobs").owner()) for made in births]

    def check(self, turns: Turns) -> None:
        first, second = (p.result for p in turns.processes)
        assert first.wid != second.wid
        for owner in (first, second):
            assert os.fstat(owner.fd).st_nlink == 1
            assert (self.root / owner.base).is_dir()
        assert list(self.alone().rescue()) == []


class TwoRescuers(Protocol):
    """Two find the same dead worker, and settle what they get."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        dead_owner(root, lambda mine: (mine.enqueue([job("a")]), one(mine)), *QUEUES)
        self.works = [racing(self.opened(), self.rescue) for _ in range(2)]

    @staticmethod
    def rescue(mine: SpoolEngine) -> int:
        orphans = mine.rescue()
        for orphan in orphans:
            settle_orphan(mine, orphan)
        return len(orphans)

    def check(self, turns: Turns) -> None:
        assert sum(p.result for p in turns.processes) == 1, "not exactly once"
        look = self.alone()
        assert dict(census(look)) == {"a": 1}
        assert list(look.rescue()) == []
        assert files(self.root, "jobs/claimed/**/*") == [], "a rescue leaves something"


class TwoRescuersWithoutLock(TwoRescuers):
    """The dead worker's lock is lost, its directory is there."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (lock,) = (root / "jobs" / "claimed").glob("*.lock")
        lock.unlink()

    def check(self, turns: Turns) -> None:
        look = self.alone()
        assert sum(p.result for p in turns.processes) + self.rescue(look) == 1
        assert dict(census(look)) == {"a": 1}


class TwoOfOneId(Protocol):
    """Two enqueue one id."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        _warm(self.alone())
        self.works = [racing(self.opened(), lambda b: b.enqueue([job("x", chosen=True)])) for _ in range(2)]

    def check(self, turns: Turns) -> None:
        self.is_one(self.alone(), (1,))

    def is_one(self, look: SpoolEngine, counts: tuple[int, ...]) -> None:
        """As many jobs of the id as there may be; and one after the next enqueue of it."""
        look.maintain()
        assert census(look)["x"] in counts
        look.enqueue([job("x", chosen=True)])
        assert census(look)["x"] == 1
        assert len(files(self.root, "jobs/ids/*/*")) == 1


class IdAndAck(TwoOfOneId):
    """One enqueues an id while its job is acknowledged."""

    def __init__(self, root: Path) -> None:
        Protocol.__init__(self, root)
        self.alone().enqueue([job("x", chosen=True)])
        worker = self.opened()
        lease = one(worker[0])
        self.works = [
            racing(worker, lambda b: ack(b, [lease])),
            racing(self.opened(), lambda b: b.enqueue([job("x", chosen=True)])),
        ]

    def check(self, turns: Turns) -> None:
        self.is_one(self.alone(), (0, 1))


class IdAndRecovery(TwoOfOneId):
    """One enqueues an id whose first writer died before its rename, and somebody recovers."""

    dead_before = "rename"

    def __init__(self, root: Path) -> None:
        Protocol.__init__(self, root)
        _warm(self.alone())
        cut_at(root, self.dead_before, lambda b: b.enqueue([job("x", chosen=True)]), *QUEUES)
        self.works = [
            racing(self.opened(), lambda b: b.enqueue([job("x", chosen=True)])),
            racing(self.opened(), lambda b: b._spool.parts("jobs").maintain._recover(math.inf)),
        ]


class IdAndRecoveryBeforeLink(IdAndRecovery):
    """The same, but the first writer had not linked its id yet."""

    dead_before = "link"


class IdAndTakenBack(TwoOfOneId):
    """One is told *not queued* while another enqueues the same id: the other is told the truth."""

    def __init__(self, root: Path) -> None:
        Protocol.__init__(self, root)
        _warm(self.alone())
        loser = self.opened()
        loser[0]._spool._disk.sync = _fails  # type: ignore[union-attr, method-assign]

        def lose(b: SpoolEngine) -> bool:
            try:
                b.enqueue([job("x", chosen=True)])
            except EnqueueFailed:
                return False
            return True

        self.works = [racing(loser, lose), racing(self.opened(), lambda b: b.enqueue([job("x", chosen=True)]))]

    def check(self, turns: Turns) -> None:
        self.is_one(self.alone(), (1,))


class BucketAndEnqueue(Protocol):
    """A bucket is removed while a job is renamed into it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        look = self.alone()
        look.enqueue([job("before")])
        ack(look, [one(look)])
        bucket = next((root / "jobs" / "ready").iterdir()).name
        producer = self.opened()
        producer[0]._spool._clock.stamp = lambda: bucket.ljust(20, "0")  # type: ignore[union-attr, method-assign]
        sweepers = [self.opened() for _ in range(2)]
        self.works = [
            racing(producer, lambda b: b.enqueue([job("a")])),
            *(racing(s, lambda b: b._spool._disk.rmdir(f"jobs/ready/{bucket}")) for s in sweepers),  # type: ignore[union-attr]
        ]

    def check(self, turns: Turns) -> None:
        assert dict(census(self.alone())) == {"a": 1}


class BucketAndRelease(BucketAndEnqueue):
    """A bucket is removed while a job goes back to it."""

    def __init__(self, root: Path) -> None:
        Protocol.__init__(self, root)
        self.alone().enqueue([job("a")])
        worker = self.opened()
        lease = one(worker[0])
        bucket = next((root / "jobs" / "ready").iterdir()).name
        self.works = [
            racing(worker, lambda b: b.release([lease])),
            racing(self.opened(), lambda b: b._spool._disk.rmdir(f"jobs/ready/{bucket}")),  # type: ignore[union-attr]
        ]


class EnqueueAndRecovery(Protocol):
    """A recoverer comes while a producer writes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        look = self.alone()
        look.enqueue([job("before")])
        ack(look, [one(look)])
        self.works = [
            racing(self.opened(), lambda b: b.enqueue([job("a")])),
            racing(self.opened(), lambda b: b._spool.parts("jobs").maintain._recover(math.inf)),
        ]

    def check(self, turns: Turns) -> None:
        assert dict(census(self.alone())) == {"a": 1}
        assert files(self.root, "jobs/tmp/*") == []


class TwoFirstOpens(Protocol):
    """Two supervisors open a root that is not there yet."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, clock=False)
        self.works = [self.open, self.open]

    def open(self, seam: Seam) -> SpoolEngine:
        made = connect(
            f"spool:{self.root}", incarnation=f"s{id(seam)}", durability="process", calls=seam  # type: ignore[arg-type]
        )  # fmt: skip
        self.brokers.append(made)
        made.open([JOBS])
        return made

    def check(self, turns: Turns) -> None:
        first, second = (p.result for p in turns.processes)
        for process in turns.processes:
            process.seam.disarm()
        assert first._spool._clock.offset == second._spool._clock.offset, "two clocks"
        first.enqueue([job("a")])
        second.enqueue([job("b")])
        assert dict(census(first)) == {"a": 1, "b": 1}
        assert not list(self.root.glob(".clock.*"))


def _fails(fd: int) -> None:
    raise OSError(errno.EIO, "injected")


def _warm(made: SpoolEngine) -> None:
    """The directory of the id is there: its making is no part of the race."""
    made.enqueue([job("x", chosen=True)])
    ack(made, [one(made)])


PROTOCOLS: dict[str, type[Protocol]] = {
    "birth and rescue": BirthAndRescue,
    "birth and two rescues": BirthAndTwoRescues,
    "two births of one incarnation": TwoBirths,
    "two rescuers": TwoRescuers,
    "two rescuers, the lock is lost": TwoRescuersWithoutLock,
    "two enqueue one id": TwoOfOneId,
    "an id and its ack": IdAndAck,
    "an id and its recovery": IdAndRecovery,
    "an id and its recovery, before the link": IdAndRecoveryBeforeLink,
    "an id that is taken back": IdAndTakenBack,
    "a bucket and an enqueue": BucketAndEnqueue,
    "a bucket and a release": BucketAndRelease,
    "an enqueue and a recovery": EnqueueAndRecovery,
    "two first opens": TwoFirstOpens,
    "main and helper thread": MainAndHelper,
    **LEDGER_PROTOCOLS,
    **SEGMENT_PROTOCOLS,
}
