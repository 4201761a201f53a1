"""Batches in tmp: never mistaken for a dead writer's while theirs lives; what is whole of a dead one is promoted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from framework.brokers.spool import SpoolBroker
from framework.spool import clock, names
from framework.spool.disk import Disk

from .seam import Seam, before, pass_on
from .test_batch import MANY, jobs
from .world import PLAIN, broker, claim, cut_at, files, heal, ids, job


def test_recovery_leaves_the_batch_of_a_living_writer(root: Path) -> None:
    """Verified: without the lock, the recoverer promotes what it finds, and the writer's rename fails."""
    seam = Seam()
    mine, other = broker(root, calls=seam), broker(root)
    seam.arm(before("syncfs", other.maintain))
    mine.enqueue(jobs())
    seam.disarm()
    assert ids(claim(mine, limit=1000)) == MANY
    assert other.counts.get("recovered", 0) == 0
    mine.close()
    other.close()


@pytest.mark.parametrize("call", ["open", "flock"])
def test_a_recoverer_that_is_faster_than_the_lock_costs_another_name(root: Path, call: str) -> None:
    """It takes the new directory for a dead writer's and removes it.

    Verified: without the look after the lock, the files go into a directory that nobody can reach.
    """
    seam = Seam()
    mine, other = broker(root, calls=seam), broker(root)
    seam.arm(before(call, other.maintain, when=lambda args: call == "flock" or names.BATCH.search(args[0]) is not None))
    mine.enqueue(jobs())
    assert seam.names.count("mkdir") == 2
    seam.disarm()
    assert ids(claim(mine, limit=1000)) == MANY
    mine.close()
    other.close()


def test_recovery_does_not_follow_a_batch_that_its_writer_has_just_published(root: Path) -> None:
    """It opened the directory in tmp, and has the lock when the writer has let it go.

    Verified: without the comparison of the two, it syncs and lists what is in ready/.
    """
    seam = Seam()
    mine, other = broker(root), broker(root, calls=seam)
    other.maintain()
    mine_seam = Seam()
    mine.close()
    mine = broker(root, calls=mine_seam)

    def recover_meanwhile() -> None:
        seam.arm(before("flock", mine_seam.disarm))
        other.maintain()

    mine_seam.arm(before("rename", recover_meanwhile))
    mine.enqueue(jobs())
    assert ids(claim(mine, limit=1000)) == MANY
    mine.close()
    other.close()


def test_what_is_nobodys_in_a_dead_batch_costs_no_sync_for_ever(root: Path) -> None:
    cut_at(root, "rename", lambda mine: mine.enqueue(jobs()))
    (path, *_) = files(root, "jobs/tmp/*/*")
    (path.parent / ".nfs000123").touch()
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.maintain()
    seam.arm(pass_on)
    mine.maintain()
    assert "syncfs" not in seam.names
    seam.disarm()
    mine.close()


def test_recovery_promotes_what_is_whole_of_a_dead_writers_batch(root: Path) -> None:
    cut_at(root, "rename", lambda mine: mine.enqueue(jobs()))
    torn, whole, *_ = files(root, "jobs/tmp/*/*")
    torn.write_bytes(torn.read_bytes()[:-1])
    (torn.parent / ".hidden").write_text("an editor's")
    fresh = heal(root)
    assert ids(claim(fresh, limit=1000)) == MANY[1:]
    assert [path.name for path in files(root, "jobs/tmp/*/*")] == [".hidden"], "what is nobody's job stays"
    assert whole.name[:20] > torn.name[:20]
    fresh.close()


def test_recovery_makes_a_batch_durable_before_it_promotes(root: Path) -> None:
    cut_at(root, "rename", lambda mine: mine.enqueue(jobs()))
    seam = Seam()
    fresh = broker(root, calls=seam)
    seam.arm(pass_on)
    fresh.maintain()
    assert seam.names.count("syncfs") == 1
    assert seam.names.index("syncfs") < seam.names.index("rename")
    seam.disarm()
    assert len(claim(fresh, limit=1000)) == len(MANY)
    fresh.close()


def test_the_next_boot_stamps_behind_a_batch_in_tmp(root: Path) -> None:
    """Verified: with tmp looked at one level deep, the clock of a boot whose wall clock was set back starts before."""
    cut_at(root, "rename", lambda mine: mine.enqueue(jobs()))
    newest = max(path.name[:20] for path in files(root, "jobs/tmp/*/*"))
    mine = broker(root)
    disk = mine._spool._disk
    assert isinstance(disk, Disk)
    assert clock.newest_stamp(disk) >= int(newest)
    assert clock.load(disk, boot="another", wall=lambda: 1.0).now() > int(newest)
    mine.close()


@pytest.mark.parametrize("place", ["tmp", "ready"])
@pytest.mark.parametrize("what", ["file", "symlink", "fifo"])
def test_what_is_planted_under_a_batchs_name_is_left_alone(root: Path, place: str, what: str) -> None:
    mine: SpoolBroker = broker(root, PLAIN, durability="process")
    planted = root / "plain" / place / ("00000000000000000001.e672c630.1.000000000001" + ",9" * (place == "ready"))
    outside = root.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "00000000000000000002.e672c630.2.000000000002,0.0").write_text("not ours")
    if what == "file":
        planted.write_text("garbage")
    elif what == "symlink":
        planted.symlink_to(outside)
    else:
        os.mkfifo(planted)
    os.utime(planted, ns=(1, 1), follow_symlinks=False)  # as if nobody had touched it
    mine.enqueue([job("a", queue="plain")])
    mine.maintain()
    assert mine.stats("plain").ready == 1
    assert ids(claim(mine, "plain")) == ["a"]
    assert planted.is_symlink() or planted.exists()
    assert len(list(outside.iterdir())) == 1
    mine.close()
