"""A short life of a spool for the model of the disk: what is recorded of it, and what was promised when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.engine import flocks
from framework.engine.spool.engine import SpoolEngine
from framework.model.options import QueueOptions
from tests.spool.seam import Seam, pass_on
from tests.spool.world import Cut, broker, failure, job, one
from tests.support.settling import bury

from .disk_states import Recorder

QUEUES = (
    QueueOptions("jobs", dead_letter="letters", max_length=None),
    QueueOptions("plain", max_length=None),
    QueueOptions("small", max_length=1),
    QueueOptions("letters", is_dead_letter=True),
)


@dataclass
class Promise:
    """`there`, `absent`, `letter` (it is a dead letter), `home` (it is none) or `cancelled`, between two moments.

    `saved 2`: it has its checkpoint 2, or a later one.

    Of a queue, in the place of a job: `paused by ada`, or `runs`.
    """

    what: str
    job_id: str
    since: int
    until: int | None = None

    def holds_at(self, moment: int) -> bool:
        """Whether it is given then."""
        return self.since <= moment and (self.until is None or moment < self.until)


class Life:
    """A spool under a recorder.

    Attributes:
        ours: jobs that may be there.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.recorder = Recorder(base)
        self.promises: list[Promise] = []
        self.ours: set[str] = set()
        self.hook: Callable[..., Any] | None = None
        self.seam = Seam()
        self.seam.arm(self._call)
        self.mine = self.born()

    def born(self) -> SpoolEngine:
        """Another process on the root, as far as the disk can tell."""
        return broker(self.base / "var" / "spool", *QUEUES, calls=self.seam)

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            return self.recorder(name, args, kwargs, real)

        return (self.hook or pass_on)(name, args, kwargs, recorded)

    def promise(self, what: str, *ids: str) -> None:
        """From now on."""
        self.promises += [Promise(what, job_id, self.recorder.moment) for job_id in ids]

    def ends(self, what: str, *ids: str) -> None:
        """Not promised any more, from before the next call on."""
        for promise in self.promises:
            if promise.what == what and promise.job_id in ids and promise.until is None:
                promise.until = self.recorder.moment + 1

    def enqueue(self, *ids: str, **options: Any) -> None:
        """And the promise that goes with it."""
        self.ours.update(ids)
        self.mine.enqueue([job(job_id, **options) for job_id in ids])
        self.promise("there", *ids)

    def bury(self, queue: str = "jobs") -> None:
        """The next job; from then on it is a dead letter."""
        lease = one(self.mine, queue)
        bury(self.mine, lease, failure=failure(lease, message="why"))
        self.promise("letter", lease.job.id)

    def tick(self, last: float | None, tick: float) -> None:
        """A tick of the schedule `hourly`, with a job that is named after it."""
        self.ours.add(f"tick-{tick:g}")
        assert self.mine.fire("jobs", "hourly", last, tick, job(f"tick-{tick:g}"))

    def cut_before(self, name: str, act: Callable[[], Any], number: int = 1) -> None:
        """The process dies before a call of this name, the first or a later one: its locks are free, and it is gone."""

        def hook(called: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
            nonlocal number
            number -= called == name and not cut
            if not number and not cut:
                cut.append(name)
                raise Cut
            if cut and called == "pwrite":  # the dead write nothing
                return len(args[1])
            return real(*args, **kwargs)

        cut: list[str] = []
        self.hook = hook
        try:
            act()
            raise AssertionError(f"no call of {name}")
        except Cut:
            self.hook = None
        self.die()

    def die(self) -> None:
        """Its claims stay, their lock is free; the next one takes its place."""
        for parts in self.mine._spool._parts.values():
            if parts._owner is not None:
                flocks.drop(self.seam, parts._owner.fd)  # type: ignore[arg-type]
            if (segment := parts.enqueue._appender.segment) is not None:
                flocks.drop(self.seam, segment._fd)  # type: ignore[arg-type]
            parts.enqueue._appender.after_fork()
            parts.after_fork()
        self.mine = self.born()
