"""Backups and restores of a spool: a link count proves neither that a job of an id is there nor that it is gone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.enqueue import ids as ids_module
from framework.model.errors import LeaseLost
from tests.support.settling import ack, bury, rest, retry

from .seam import Moving, Seam, fail_calls, pass_on
from .world import broker, census, claim, failure, files, ids, job, one


def chosen(spool: SpoolEngine, *names: str, **options: Any) -> None:
    spool.enqueue([job(name, chosen=True, **options) for name in names])


def _waits(mine: SpoolEngine) -> None:
    chosen(mine, "a")


def _delayed(mine: SpoolEngine) -> None:
    chosen(mine, "a", delay=3600)


def _retried(mine: SpoolEngine) -> None:
    chosen(mine, "a")
    lease = one(mine)
    retry(mine, lease, delay=3600, failure=failure(lease))


def _claimed(mine: SpoolEngine) -> None:
    chosen(mine, "a")
    one(mine)


def _letter(mine: SpoolEngine) -> None:
    chosen(mine, "a")
    lease = one(mine)
    bury(mine, lease, failure=failure(lease))


def _rested(mine: SpoolEngine) -> None:
    _letter(mine)
    rest(mine, one(mine, "letters"))


def _dead(mine: SpoolEngine) -> None:
    chosen(mine, "a", queue="plain")
    lease = one(mine, "plain")
    bury(mine, lease, failure=failure(lease))


STATES = (_waits, _delayed, _retried, _claimed, _letter, _rested, _dead)


def _copy(root: Path, *options: str) -> Path:
    copy = root.with_name("copy")
    subprocess.run(["cp", *options, root, copy], check=True)
    return copy


@pytest.mark.parametrize("state", STATES)
def test_a_backup_of_hard_links_hides_no_job(root: Path, state: Callable[[SpoolEngine], None]) -> None:
    """The id is taken as long as its job lives, in whatever state, and free once it has ended."""
    mine = broker(root)
    state(mine)
    _copy(root, "-al")
    queue = "plain" if state is _dead else "jobs"
    chosen(mine, "a", queue=queue)
    assert census(mine) == {"a": 1}
    for path in files(root, "*/*/**/*,i"):
        path.unlink()  # as somebody does who clears a spool by hand
    for _ in range(2):
        chosen(mine, "a", queue=queue)
        (lease,) = claim(mine, queue)
        ack(mine, [lease])
    assert files(root, "*/ids/*/*") == []
    mine.close()


@pytest.mark.parametrize("how", ["whole", "without the lock"])
def test_an_id_is_free_after_its_job_though_a_backup_has_it(
    root: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified: with the link count as the proof every further enqueue is taken for a duplicate, for ever."""
    monkeypatch.setattr(ids_module, "ACK_WAIT", 0.01)
    seam = Seam()
    mine = broker(root, calls=seam)
    chosen(mine, "a")
    backup = _copy(root, "-al")
    (lease,) = claim(mine)
    if how == "without the lock":  # as a kill between the two unlinks leaves it
        seam.arm(fail_calls(11, "flock"))
    ack(mine, [lease])
    seam.disarm()
    assert len(files(root, "jobs/ids/*/*")) == (how != "whole")
    for _ in range(2):
        chosen(mine, "a")
        leases = claim(mine)
        assert ids(leases) == ["a"]
        ack(mine, leases)
    assert [path.read_bytes() for path in files(backup, "jobs/ready/*/*")] != []
    mine.close()


def test_a_job_that_moves_while_it_is_looked_for_is_found(root: Path) -> None:
    """Others claim it whenever the look comes to its bucket, and release it whenever it comes to claimed/.

    Verified: with the first look as the answer, the id has two jobs.
    """
    seam = Seam()
    mine, worker = broker(root, calls=seam), broker(root)
    chosen(mine, "a")
    _copy(root, "-al")
    moving = Moving(lambda: one(worker), lambda lease: worker.release([lease]))
    seam.arm(moving)
    chosen(mine, "a")
    seam.disarm()
    assert moving.moves == 6
    assert census(mine) == {"a": 1}
    mine.close()
    worker.close()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("lost", ["links", "entries", "ids"])
def test_a_restore_without_hard_links_forgets_no_id(
    root: Path, state: Callable[[SpoolEngine], None], lost: str
) -> None:
    """Verified: with an entry of one link taken for that of a finished job, the id has two jobs."""
    old = broker(root)
    state(old)
    queue = "plain" if state is _dead else "jobs"
    copy = _copy(root, "-r")
    for path in copy.glob("*/ids" if lost == "ids" else "*/ids/*"):
        if lost != "links":
            shutil.rmtree(path)
    mine = broker(copy)
    if lost != "links":
        mine.maintain()
    chosen(mine, "a", queue=queue)
    assert census(mine) == {"a": 1}
    mine.maintain()
    mine.maintain()
    assert [path.stat().st_nlink for path in files(copy, "*/ids/*/*")] == [2]
    chosen(mine, "a", queue=queue)
    assert census(mine) == {"a": 1}
    mine.close()
    old.close()


def test_the_end_of_a_copy_leaves_the_id_to_the_original(root: Path) -> None:
    """Somebody has put a job's file back beside it. Verified: without the look at the inode the id is forgotten."""
    mine = broker(root)
    chosen(mine, "a")
    (path,) = files(root, "jobs/ready/*/*")
    shutil.copy(path, path.with_name(path.name.replace(",0.0", ",0.7")))
    original, copy = sorted(claim(mine), key=lambda lease: lease.delivery)
    ack(mine, [copy])
    mine.release([original])
    chosen(mine, "a")
    assert census(mine) == {"a": 1}
    mine.close()


def test_an_ack_that_lost_its_claim_leaves_the_id(root: Path) -> None:
    """The job is elsewhere, and lives. Verified: where the entry goes all the same, the id has two jobs."""
    mine = broker(root)
    chosen(mine, "a")
    lease = one(mine)
    bucket = root / "jobs" / "ready" / lease.token.name.bucket
    (root / lease.token.path).rename(bucket / lease.token.entry)
    with pytest.raises(LeaseLost):
        ack(mine, [lease])
    chosen(mine, "a")
    assert census(mine) == {"a": 1}
    mine.close()


def test_a_restore_repairs_ids_in_steps(root: Path) -> None:
    """And sweeps no entry before. Verified: where the sweep comes first, the entries of the restore are gone."""
    old = broker(root)
    chosen(old, *map(str, range(3)))
    mine = broker(_copy(root, "-r"))
    done = False
    while not done:
        done = mine.maintain(seconds=1e-9)
        assert len(files(mine.root, "*/ids/*/*")) == 3
    assert [path.stat().st_nlink for path in files(mine.root, "*/ids/*/*")] == [2, 2, 2]
    assert mine.counts["ids_restored"] == 3
    mine.close()
    old.close()


def test_a_restore_of_many_ids_looks_at_the_jobs_a_few_times_only(root: Path) -> None:
    """An entry whose file has no other name belongs to no job, which needs no look at all jobs."""
    mine = broker(root)
    chosen(mine, *(f"n{number}" for number in range(30)))
    mine.close()
    other = broker(_copy(root, "-r"), calls=(seam := Seam()))
    seam.arm(pass_on)
    other.maintain()
    assert seam.names.count("listdir") < 200, "of 30 ids; 1,144 where each one looks"
    seam.disarm()
    chosen(other, *(f"n{number}" for number in range(30)))
    assert len(claim(other)) == 30
    other.close()
