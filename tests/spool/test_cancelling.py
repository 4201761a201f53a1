"""What lies in the directories of cancelled jobs: foreign files stay, and no mark stays for ever."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.upkeep.cancel import TORN, Cancel

from .seam import Seam
from .world import Cut, broker, claim, job, one


@pytest.fixture
def spool(root: Path) -> Iterator[SpoolEngine]:
    made = broker(root)
    yield made
    made.close()


def sweep(spool: SpoolEngine) -> None:
    """Maintenance whose time has come."""
    cancel: Cancel = spool._spool.parts("jobs").cancel
    cancel._tried, cancel._look_at = dict.fromkeys(os.listdir(spool.root / "jobs" / "cancels"), 0.0), 0.0
    assert cancel.sweep(float("inf"))


def cancel(spool: SpoolEngine, job_id: str) -> str:
    return spool.cancel(next(iter(spool.get(["jobs"], job_id))))


def test_what_is_not_the_spools_is_left_alone(spool: SpoolEngine, root: Path) -> None:
    spool.enqueue([job("waits"), job("runs")])
    assert cancel(spool, "waits") == "cancelled"
    lease = one(spool)
    assert cancel(spool, "runs") == "stopping"
    planted = [root / "jobs" / where / "notes.txt" for where in ("cancels", "cancelled")]
    for path in planted:
        path.write_bytes(b"x" * 40)
        os.utime(path, (0, 0))
    (root / "jobs" / "cancels" / ".hidden").symlink_to("/etc/passwd")
    (root / "jobs" / "cancelled" / "00000000000000000001.aaaaaaaa.1.bbbbbbbbbbbb,0.1").write_bytes(b"garbage")
    sweep(spool)
    assert [view.job.id for view in spool.browse("jobs", "cancelled")] == ["waits"]
    assert spool.cancelled([lease]) == [lease]
    assert all(path.exists() for path in planted)


def test_a_mark_goes_with_its_job_and_a_torn_one_after_a_minute(spool: SpoolEngine, root: Path) -> None:
    spool.enqueue([job("a")])
    lease = one(spool)
    assert cancel(spool, "a") == "stopping"
    torn = root / "jobs" / "cancels" / "00000000000000000001.aaaaaaaa.1.bbbbbbbbbbbb"
    torn.touch()
    sweep(spool)
    assert len(os.listdir(torn.parent)) == 2, "the job is still claimed, and the other one may be being written"
    spool.release([lease])
    os.utime(torn, (0, time.time() - TORN - 1))
    sweep(spool)
    assert os.listdir(torn.parent) == []


def test_what_a_worker_without_cancellations_puts_back_is_cancelled_by_maintenance(spool: SpoolEngine) -> None:
    spool.enqueue([job("a")])
    lease = one(spool)
    assert cancel(spool, "a") == "stopping"
    assert spool._spool.settle.release(lease.token, 0)
    sweep(spool)
    assert [view.job.id for view in spool.browse("jobs", "cancelled")] == ["a"]
    assert list(claim(spool)) == []


@pytest.mark.parametrize("how", ["replace", "postpone"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_job_whose_change_was_cut_short_is_cancelled(spool: SpoolEngine, root: Path, how: str, step: int) -> None:
    """From the first rename on the job is in tmp, with its old payload; before the third it has the new one."""
    spool.enqueue([job("a", key="k")])
    (view,) = spool.get(["jobs"], "a")
    seam = Seam()
    mine = broker(root, calls=seam)
    left = step

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        nonlocal left
        left -= name == "rename"
        if left < 0 and name == "rename":
            raise Cut
        return real(*args, **kwargs)

    seam.arm(hook)
    with pytest.raises(Cut):
        mine.enqueue([replace(job("b", key="k"), on_conflict=how)])
    seam.disarm()
    mine.close()
    assert spool.cancel(view) == "cancelled"
    assert [one.job.id for one in spool.browse("jobs", "cancelled")] == ["a"]
    spool.maintain()
    assert list(claim(spool)) == []
