"""The contract's random walk, with what can happen to a directory: foreign files, damage, steps of the clock, reboots.

A crash of an owner, and a second supervisor's broker on the same root, are in the contract's walk already.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from framework.engine import flocks
from framework.engine.calls import Calls
from framework.engine.port import State
from framework.engine.spool.disk import clock
from framework.model.options import QueueOptions
from tests.contract.engines import ENGINES, SpoolEngine
from tests.contract.model import Known
from tests.contract.test_model import QUEUES, Walk, pick

STEP = 300.0  # seconds
PLACES = ("tmp", "ready/0000000000", "delayed/00000000001", "dead", "claimed", "ids/aa")
FOREIGN = (".hidden", "notes.txt~", "lost+found", "00000000000000000001.job", ".nfs0001")
GROUPS: tuple[tuple[str, tuple[State, ...]], ...] = (
    ("waiting", ("ready", "delayed")), ("in_flight", ("in_flight",)), ("dead", ("dead",)),
)  # fmt: skip


class StrangeEngine(SpoolEngine):
    """A spool whose wall clock can be set and whose machine can be booted again.

    Attributes:
        offset: seconds that the wall clock was set forward so far.
    """

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.offset = 0.0
        self.root = self._root
        self._boot = place / "boot_id"
        self._boots = 0
        self._kept = clock._BOOT_ID
        clock._BOOT_ID = self._boot
        self.boot()

    def now(self) -> float:
        return super().now() + self.offset

    def boot(self) -> None:
        """A new boot: the locks of all who lived are free, their files are as they were."""
        self._boots += 1
        self._boot.write_text(f"boot-{self._boots}\n")
        for broker in self._opened:
            for parts in broker._spool._parts.values():  # type: ignore[attr-defined]
                if parts._owner is not None:
                    flocks.drop(Calls(), parts._owner.fd)  # type: ignore[arg-type]
                parts.rescue.forget()
                parts.after_fork()

    def close(self) -> None:
        super().close()
        clock._BOOT_ID = self._kept


class SpoolWalk(Walk):
    """More rules, for a spool only."""

    soon = 0.01  # seconds, by themselves: while a job will be due within minutes, no clock is set

    def __init__(self) -> None:
        super().__init__("strange")
        self.damaged = 0

    @rule(place=st.sampled_from(PLACES), name=st.sampled_from(FOREIGN), queue=st.sampled_from(QUEUES))
    def plant_a_foreign_file(self, place: str, name: str, queue: QueueOptions) -> None:
        where = self.engine.root / queue.name / place  # type: ignore[attr-defined]
        where.mkdir(exist_ok=True, mode=0o700)
        (where / name).write_bytes(b"somebody else's")

    def _whole(self) -> list[Known]:
        """Jobs that may be damaged without an id or a limit coming into it."""
        waiting = self.model.where(state="waiting", queue="others")
        return [known for known in waiting if not known.job.chosen_id]

    @precondition(lambda self: self._whole())
    @rule(number=st.integers(0, 1000), cut=st.booleans(), at=st.floats(0, 1, exclude_max=True))
    def damage_a_file(self, number: int, cut: bool, at: float) -> None:
        """It is never handed out again, deleted never, and stops nobody."""
        known = pick(self._whole(), number)
        (view,) = [
            view for state in ("ready", "delayed") for view in self.owners["two"].browse("others", state)  # type: ignore[arg-type]
            if view.job.uid == known.job.uid
        ]  # fmt: skip
        path = self.engine.root / view.stored.path  # type: ignore[attr-defined]
        data = bytearray(path.read_bytes())
        end = data.index(known.job.payload, 64) + len(known.job.payload)  # behind it lies the history
        where = int(at * end)
        if cut:
            os.truncate(path, where)
        else:
            data[where] ^= 0x41
            path.write_bytes(data)
        self.model.remove(known)
        self.damaged += 1

    @precondition(lambda self: not any(0 < known.due[1] < self.engine.now() + 2 * STEP for known in self._waiting()))
    @rule(forward=st.booleans())
    def set_the_clock(self, forward: bool) -> None:
        """By minutes. What is due within that time would make the walk wait for it."""
        self.engine.offset += STEP if forward else -STEP  # type: ignore[attr-defined]

    def _waiting(self) -> list[Known]:
        return self.model.where(state="waiting")

    @rule(back=st.booleans())
    def reboot(self, back: bool) -> None:
        """Everybody is dead, the locks are gone, and the wall clock may have lost a second."""
        self.engine.boot()  # type: ignore[attr-defined]
        for known in self.held():
            known.holder, known.lease, known.rescued = "", None, False
        self.stale.clear()
        if back:
            self.engine.offset -= 0.01  # type: ignore[attr-defined]
        for name in ("one", "two"):
            self.be_born(name)

    @invariant()
    def every_job_is_where_it_must_be(self) -> None:
        """As in the contract; and what was damaged is in bad/, or has not been claimed yet."""
        broker = self.owners["two"]
        bad = 0
        for options in QUEUES:
            bad += len(list(broker.browse(options.name, "bad")))
            for state, places in GROUPS:
                views = [view for place in places for view in broker.browse(options.name, place)]
                known = {one.job.uid: one for one in self.model.where(queue=options.name, state=state)}
                assert sorted(view.job.uid for view in views) == sorted(known)
                for view in views:
                    known[view.job.uid].check_view(view)
        assert bad <= self.damaged


@pytest.fixture(autouse=True)
def strange(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.contract import test_model

    monkeypatch.setitem(ENGINES, "strange", StrangeEngine)
    monkeypatch.setitem(test_model.PATIENCE, "strange", 1.0)


@pytest.mark.timeout(400)  # for a failure: hypothesis shrinks it for up to five minutes
def test_a_spool_does_what_the_model_does_whatever_happens_to_it() -> None:
    walks = int(os.environ.get("WALKS", "8"))
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        SpoolWalk,
        settings=settings(
            max_examples=walks,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
