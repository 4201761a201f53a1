"""The protocols of the ledger of runs, for the explorer: a worker, its rescuers and those that clean up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework.engine.ledger import Calls, DeadLedgers, Ledger
from framework.model.outcome import SUCCEEDED, Outcome
from tests.ledger.helpers import OWNER, died, files, found, lease, run
from tests.spool.seam import Seam

from .protocol import Protocol, Work
from .scheduler import Turns

LEASES = [lease(1), lease(2, queue="others"), lease(3)]


def on_ledgers(act: Callable[[Any], Any]) -> Work:
    """A process's work whose system calls are those of the ledger."""

    def work(seam: Seam) -> Any:
        seam.calls = Calls
        return act(seam)

    return work


class LedgerProtocol(Protocol):
    """Ledgers lie in a directory below the root."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.place = root / "ledgers"
        self.living: list[Ledger] = []

    def birth(self, seam: Any) -> Ledger:
        """A worker begins, and starts a job."""
        made = Ledger(self.place, "living", slots=2, calls=seam)
        self.living.append(made)
        made.begin(LEASES[2], run(LEASES[2]))
        return made

    def dead(self, *of: int) -> None:
        """A worker died under these jobs."""

        def live(ledger: Ledger) -> None:
            for number in of:
                ledger.begin(LEASES[number], run(LEASES[number]))

        died(self.place, live)

    def sweep(self, seam: Any) -> None:
        """What maintenance does every 30 seconds."""
        DeadLedgers(self.place, calls=seam).sweep({"jobs", "others"}, complete=True)

    def rescue(self, number: int) -> Work:
        """One job of the dead worker, from the look into its ledger to its settlement."""

        def act(seam: Any) -> Outcome | None:
            ledgers = DeadLedgers(self.place, calls=seam)
            dead = ledgers.of(OWNER)
            assert dead is not None, "its ledger is gone before its job is settled"
            entry = dead.entry(LEASES[number])
            assert entry is not None
            dead.resolve(LEASES[number], SUCCEEDED)
            dead.free(LEASES[number])
            ledgers.finished(OWNER)
            return entry.outcome

        return on_ledgers(act)

    def close(self) -> None:
        """The living, too."""
        for ledger in self.living:
            ledger._calls = Calls()
            ledger.close()
        super().close()


class LedgerBirthAndSweep(LedgerProtocol):
    """A worker is born while others clean up: its ledger keeps its name, and its lock."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.place.mkdir()
        self.works = [on_ledgers(self.birth), *[on_ledgers(self.sweep)] * 2]

    def check(self, turns: Turns) -> None:
        DeadLedgers(self.place).sweep({"jobs"}, complete=True)
        (entry,) = found(self.place, LEASES[2], owner="living")
        assert entry is not None, "the ledger of a living worker is gone"
        assert files(self.place) == ["living.ledger"]


class LedgerRestoredAndSwept(LedgerBirthAndSweep):
    """It was deleted, and its worker writes it anew while another one cleans up."""

    def __init__(self, root: Path) -> None:
        LedgerProtocol.__init__(self, root)
        made = self.birth(Calls())
        held = DeadLedgers(self.place)
        (self.place / "living.ledger").unlink()

        def restore(seam: Any) -> None:
            made._calls = seam
            assert made.restore()

        self.works = [on_ledgers(restore), on_ledgers(self.sweep)]
        held.close()


class TwoRescuersOfOneLedger(LedgerProtocol):
    """Two settle what one dead worker held on two queues: each finds its own, and the last removes the file."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.dead(0, 1)
        self.works = [self.rescue(0), self.rescue(1)]

    def check(self, turns: Turns) -> None:
        assert [process.result for process in turns.processes[:2]] == [None, None]
        assert files(self.place) == []


class RescueAndSweep(TwoRescuersOfOneLedger):
    """One rescues while others clean up."""

    def __init__(self, root: Path) -> None:
        LedgerProtocol.__init__(self, root)
        self.dead(0)
        self.works = [self.rescue(0), on_ledgers(self.sweep)]

    def check(self, turns: Turns) -> None:
        assert turns.processes[0].result is None
        DeadLedgers(self.place).sweep({"jobs"}, complete=True)
        assert files(self.place) == []


LEDGER_PROTOCOLS: dict[str, type[Protocol]] = {
    "a ledger's birth and two sweeps": LedgerBirthAndSweep,
    "a deleted ledger, its restoration and a sweep": LedgerRestoredAndSwept,
    "two rescuers of one ledger": TwoRescuersOfOneLedger,
    "a rescue and a sweep": RescueAndSweep,
}
