"""SIGKILL around every change that an operation makes to the disk; then the next supervisor looks what is there."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.support.settling import ack

from .actor import RETURNED
from .cases import CASES
from .lean import lean
from .seam import NAMES, WRITES, Seam, pass_on
from .stage import Case
from .world import body, census, claim, files, heal, views


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_kill_around_any_change_loses_nothing(case: Case, root: Path) -> None:
    """Acknowledged jobs are there exactly once, nothing torn is handed out, and what the caller was told is true.

    Verified: without recovery, or with ack's entry unlinked before the job, cases of this test fail.
    """
    for number in range(400):
        if not _kill_once(case, root / str(number), number):
            break
    else:
        pytest.fail("the operation never ends")
    _kill_once(case, root / "whole", None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_kill_within_any_write_loses_nothing(case: Case, root: Path) -> None:
    """Half of what was to be written is there."""
    seam = Seam()
    stage = case.stage(root / "dry run", seam)
    seam.arm(pass_on)
    case.act(stage)
    seam.disarm()
    stage.broker.close()
    for number in [at for at, name in enumerate(seam.changes) if name in WRITES]:
        _kill_once(case, root / str(number), number, torn=True)


def test_every_call_of_the_seam_has_a_case(root: Path) -> None:
    """A call that no operation makes is not tried: write a case for it."""
    made: set[str] = set()
    for number, case in enumerate(CASES):
        seam = Seam()
        seam.arm(pass_on)
        stage = case.stage(root / str(number), seam)
        case.act(stage)
        stage.broker.close()
        made |= set(seam.names)
    assert made == set(NAMES)


def _kill_once(case: Case, root: Path, number: int | None, *, torn: bool = False) -> bool:
    """Kill the act before the change with this number, or leave it alone. Return whether it was in the act's midst."""
    stored, end = _live(case, root, number, torn)
    returned = end == RETURNED
    fresh = heal(root, *case.queues)
    try:
        found = census(fresh)
        for job_id in stored:
            least = 0 if job_id in case.deletes else 1
            most = 0 if job_id in case.deletes and returned else 2 if job_id in case.twice and not returned else 1
            assert least <= found[job_id] <= most, f"{job_id} is there {found[job_id]} times, killed at change {number}"
        if case.cancels:
            found_cancelled = Counter(view.job.id for view in views(fresh, "cancelled"))
            for job_id in case.deletes:
                assert found[job_id] + found_cancelled[job_id] == 1, f"{job_id}, killed at change {number}"
        for job_id in case.enqueues:
            assert found[job_id] <= 1, f"{job_id} is there {found[job_id]} times, killed at change {number}"
            assert found[job_id] == 1 or not returned, (
                f"{job_id} was acknowledged and is gone, killed at change {number}"
            )
        for job_id in case.refuses:
            assert found[job_id] <= (0 if returned else 1), f"{job_id} was not queued and is there, change {number}"
        assert set(found) <= {*stored, *case.enqueues, *case.refuses}
        assert sum(fresh.stats(q.name).bad for q in case.queues) <= case.bad
        for queue in (q.name for q in case.queues):
            for lease in claim(fresh, queue):
                assert lease.job.payload == body(lease.job.id)
                ack(fresh, [lease])
        assert not files(root, "*/tmp/*")
    finally:
        fresh.close()
        shutil.rmtree(root)
    return end == b""


def _live(case: Case, root: Path, number: int | None, torn: bool) -> tuple[list[str], bytes]:
    """(acknowledged ids, how the act ended) of a process that is killed at its change `number`, as `live` says it."""
    written, status = lean().run("tests.spool.actor", "live", case.name, root, number, torn)
    assert os.WIFSIGNALED(status) or status == 0, f"the actor failed: status {status}"
    with io.BytesIO(written) as pipe:
        return pickle.load(pipe), pipe.read()
