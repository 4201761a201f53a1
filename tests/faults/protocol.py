"""What the small protocols have in common: a root, brokers that race on it, and time that passes by turns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from framework.engine import flocks
from framework.engine.ledger import dead
from framework.engine.spool.disk import clock as clock_of_boot
from framework.engine.spool.engine import SpoolEngine, connect
from framework.engine.spool.enqueue import recover
from framework.engine.spool.format import names
from framework.engine.spool.segments import file
from tests.spool.seam import Seam
from tests.spool.world import JOBS, LETTERS, broker

from .baton import Turns

BUCKET = 10 ** (20 - names.BUCKET_DIGITS)  # nanoseconds
Work = Callable[[Seam], Any]
QUEUES = (JOBS, LETTERS)


class Protocol:
    """One scenario on one fresh root.

    Attributes:
        works: what the processes do, one each; system calls go through the seam they are given.
    """

    works: list[Work]

    def __init__(self, root: Path, *, clock: bool = True) -> None:
        self.root = root
        self.brokers: list[SpoolEngine] = []
        if clock:
            self._begin_a_bucket()

    def _begin_a_bucket(self) -> None:
        """The spool's clock begins with a bucket: a run that met the next one would take other steps than the rest."""
        self.root.mkdir(mode=0o700, exist_ok=True)
        stamp = (time.time_ns() // BUCKET) * BUCKET + BUCKET // 10
        (self.root / f"clock.{clock_of_boot.boot_id()}").write_text(f"{stamp - clock_of_boot.boottime_ns()}\n")

    def opened(self, name: str = "") -> tuple[SpoolEngine, Seam]:
        """A broker that is open before the race begins, and the seam to arm when it does."""
        made = connect(
            f"spool:{self.root}", incarnation=name or f"p{len(self.brokers)}", durability="process", calls=_Late()
        )
        made.open(QUEUES)
        self.brokers.append(made)
        return made, made._spool._calls  # type: ignore[return-value]

    def check(self, turns: Turns) -> None:
        """After a schedule. Raises AssertionError."""
        raise NotImplementedError

    def close(self) -> None:
        """All brokers."""
        for made in self.brokers:
            made.close()

    def alone(self) -> SpoolEngine:
        """Another broker, to look."""
        made = broker(self.root, *QUEUES, durability="process")
        self.brokers.append(made)
        return made


class _Late(Seam):
    """A seam whose calls are real until a process takes them over."""

    def take_over(self, seam: Seam) -> None:
        """From now on they are that process's."""
        self.__dict__["hook"] = lambda name, args, kwargs, real: getattr(seam, name)(*args, **kwargs)


def racing(made: tuple[SpoolEngine, Any], act: Callable[[SpoolEngine], Any]) -> Work:
    """A process's work with a broker that was open before."""

    def work(seam: Seam) -> Any:
        made[1].take_over(seam)
        return act(made[0])

    return work


class Time:
    """In the place of the module `time` where the spool waits: by turns, not by the clock."""

    def __init__(self) -> None:
        self.turns: Turns | None = None

    def monotonic(self) -> float:
        """Passes when everybody waits."""
        return self.turns.clock if self.turns is not None else time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Until somebody else has made a step."""
        if self.turns is not None:
            self.turns.sleep(seconds)


@contextlib.contextmanager
def waiting_by_turns() -> Iterator[Time]:
    """Whoever waits for a lock goes on when somebody else has made a step."""
    instead = Time()
    flocks.time = recover.time = dead.time = file.time = instead  # type: ignore[attr-defined, assignment]
    try:
        yield instead
    finally:
        flocks.time = recover.time = dead.time = file.time = time  # type: ignore[attr-defined, assignment]
