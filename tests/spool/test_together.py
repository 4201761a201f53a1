"""A spool full of what versions before segments have stored: claimed in order, counted, recovered, removed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from framework.engine.spool.claim import listing
from framework.engine.spool.disk import clock
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.upkeep import maintain
from tests.support.settling import ack

from . import older as versions
from .older import play
from .seam import Seam, pass_on
from .together import directory
from .world import PLAIN, broker, claim, files, ids, job

MANY = [f"n{number:04}" for number in range(16)]


@pytest.mark.parametrize("older", [versions.BEFORE_SEGMENTS], indirect=True)
def test_what_the_version_before_stored_is_worked_off(root: Path, older: Path) -> None:
    act = "mine.enqueue([Job(str(n), os.urandom(16), 'jobs', b'{}', {}, time.time()) for n in range(40)])\n"
    play(older, root, act + act.replace("str(n)", "f'b{n}'"))
    assert any("," in path.name for path in (root / "jobs" / "ready").iterdir()), "it wrote no directories of its own"
    mine = broker(root, durability="process")
    assert mine.stats("jobs").ready == 80
    found = claim(mine, limit=100)
    assert ids(found) == [*map(str, range(40)), *(f"b{n}" for n in range(40))]
    ack(mine, found)
    mine.close()


def test_they_are_claimed_in_the_order_of_their_enqueue(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "ENOUGH", 5)
    mine = broker(root, durability="process")
    wanted: list[str] = []
    for number in range(4):
        mine.enqueue([job(f"alone {number}")])
        directory(root, *(some := [f"{number} {job_id}" for job_id in MANY]))
        wanted += [f"alone {number}", *some]
    assert mine.stats("jobs").ready == len(wanted)
    found: list[str] = []
    while leases := claim(mine, limit=7):
        found += ids(leases)
        ack(mine, leases)
    assert found == wanted
    mine.close()


def test_an_empty_one_is_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintain, "BUCKET_KEPT", -(10**11))
    mine = broker(root, durability="process")
    full, empty = directory(root, "a"), directory(root)
    empty = empty.rename(empty.with_name(empty.name[:-1] + "7"))
    mine.maintain()
    assert (full.exists(), empty.exists()) == (True, False)
    mine.close()


def test_that_of_a_living_writer_is_left_alone(root: Path) -> None:
    mine = broker(root)
    place = directory(root, "a", "b", state="tmp")
    fd = os.open(place, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    mine.maintain()
    assert len(list(place.iterdir())) == 2
    os.close(fd)
    mine.maintain()
    assert ids(claim(mine)) == ["a", "b"]
    mine.close()


def test_recovery_promotes_what_is_whole_and_durable(root: Path) -> None:
    broker(root).close()
    place = directory(root, *MANY, state="tmp")
    torn = min(place.iterdir())
    torn.write_bytes(torn.read_bytes()[:-1])
    (place / ".hidden").write_text("an editor's")
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(pass_on)
    mine.maintain()
    assert seam.names.index("syncfs") < seam.names.index("rename")
    seam.arm(pass_on)
    mine.maintain()
    assert "syncfs" not in seam.names, "what is nobody's costs no sync for ever"
    seam.disarm()
    assert ids(claim(mine)) == MANY[1:]
    assert [path.name for path in files(root, "jobs/tmp/*/*")] == [".hidden"], "what is nobody's job stays"
    mine.close()


def test_the_next_boot_stamps_behind_one_in_tmp(root: Path) -> None:
    """Verified: with tmp looked at one level deep, the clock of a boot whose wall clock was set back starts before."""
    broker(root).close()
    newest = max(path.name[:20] for path in directory(root, *MANY, state="tmp").iterdir())
    mine = broker(root)
    disk = mine._spool._disk
    assert isinstance(disk, Disk)
    assert clock.newest_stamp(disk) >= int(newest)
    assert clock.load(disk, boot="another", wall=lambda: 1.0).now() > int(newest)
    mine.close()


@pytest.mark.parametrize("place", ["tmp", "ready"])
@pytest.mark.parametrize("what", ["file", "symlink", "fifo"])
def test_what_is_planted_under_such_a_name_is_left_alone(root: Path, place: str, what: str) -> None:
    mine: SpoolEngine = broker(root, PLAIN, durability="process")
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
    mine.enqueue([job("a", queue="plain")])
    mine.maintain()
    assert mine.stats("plain").ready == 1
    assert ids(claim(mine, "plain")) == ["a"]
    assert planted.is_symlink() or planted.exists()
    assert len(list(outside.iterdir())) == 1
    mine.close()


def test_a_job_that_lies_in_another_bucket_than_its_name_says_is_claimed_there(root: Path) -> None:
    """Verified: sought where its name says, it is missed and listed again for ever."""
    mine = broker(root, durability="process")
    mine.enqueue([job("a")])
    (path,) = files(root, "jobs/ready/*/*")
    elsewhere = path.parent.with_name("0000001000")  # that of no priority
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    assert ids(claim(mine)) == ["a"]
    mine.close()
