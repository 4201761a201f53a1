"""Foreign, truncated and planted things in any directory: counted, kept, never followed, never a hang."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format.names import parse

from .world import broker, census, claim, dead_owner, files, heal, ids, job, one, settle_orphan


def name(number: int = 0, rest: str = ",0.0") -> str:
    made = f"0000000000{number:010d}.e672c630.1.{number:012x}{rest}"
    assert parse(made)
    return made


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(300))


def _empty(path: Path) -> None:
    path.touch()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


def _symlink(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _socket(path: Path) -> None:
    made = socket.socket(socket.AF_UNIX)
    old = os.getcwd()
    os.chdir(path.parent)
    made.bind(path.name)
    os.chdir(old)
    made.close()


def _giant(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


PLANTS: list[Callable[[Path], None]] = [_garbage, _empty, _fifo, _directory, _symlink, _dangling, _socket, _giant]


@pytest.fixture
def planted(spool: SpoolEngine) -> SpoolEngine:
    spool.enqueue([job("a")])
    spool.enqueue([job("later", delay=3600)])
    return spool


@pytest.mark.parametrize("plant", PLANTS)
def test_planted_in_ready_goes_to_bad(planted: SpoolEngine, root: Path, plant: Callable[[Path], None]) -> None:
    """Regression of the seed: one corrupt file stopped every start.

    Verified: without O_NONBLOCK the FIFO hangs, without S_ISREG the directory
    raises; a claim that raises for a damaged file claims nothing behind it.
    """
    bucket = root / "jobs" / "ready" / "0000000000"
    bucket.mkdir()
    plant(bucket / name(1))
    assert ids(claim(planted)) == ["a"]
    assert planted.stats("jobs").bad == 1
    (bad,) = (root / "jobs" / "bad").iterdir()
    assert bad.name == name(1, ",0.1")
    (view,) = planted.browse("jobs", "bad")
    assert view.job.id == bad.name
    assert not planted.replay(view)


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize(
    "place", ["tmp", "delayed/00000000001", "dead", "claimed", "claimed/w", "ids/aa", "bad", "ready"]
)
def test_planted_anywhere_else_stops_nothing(
    planted: SpoolEngine, root: Path, plant: Callable[[Path], None], place: str
) -> None:
    where = root / "jobs" / place
    where.mkdir(exist_ok=True)
    plant(where / name(1))
    planted.maintain()
    for orphan in planted.rescue():
        settle_orphan(planted, orphan)
    assert ids(claim(planted)) == ["a"]
    assert "a" in census(planted)
    planted.stats("jobs")
    fresh = broker(root)
    assert fresh.stats("jobs").delayed == 1
    fresh.close()


def test_a_link_to_a_real_job_is_not_followed(planted: SpoolEngine, root: Path) -> None:
    """Whoever can plant a link could have another queue's job read. Verified: without O_NOFOLLOW it is claimed."""
    (elsewhere,) = files(root, "jobs/delayed/*/*")
    bucket = root / "jobs" / "ready" / "0000000000"
    bucket.mkdir()
    (bucket / name(1)).symlink_to(elsewhere)
    assert ids(claim(planted)) == ["a"]
    assert planted.stats("jobs").bad == 1
    assert elsewhere.exists()


FOREIGN = [".hidden", "notes.txt~", "#draft#", ".nfs00000001", "core", "x" * 200, "job.json", "lost+found"]


@pytest.mark.parametrize(
    "place", ["tmp", "ready/0000000000", "delayed/00000000001", "claimed/w", "dead", "bad", "ids/aa"]
)
def test_foreign_files_are_never_touched(planted: SpoolEngine, root: Path, place: str) -> None:
    """Verified: a recovery that unlinks whatever it cannot read deletes them from tmp."""
    where = root / "jobs" / place
    where.mkdir(exist_ok=True)
    for foreign in FOREIGN:
        (where / foreign).write_text("mine")
    for _ in range(2):
        planted.maintain()
        planted.rescue()
    assert ids(claim(planted)) == ["a"]
    assert {path.name for path in where.iterdir()} == set(FOREIGN)
    assert planted.stats("jobs").ready == 0


def _outside(root: Path, mine: SpoolEngine) -> Path:
    """A job's file that somebody has saved elsewhere."""
    mine.enqueue([job("saved")])
    (path,) = files(root, "jobs/ready/*/*")
    return path.rename(root / "saved")


def test_a_foreign_name_in_the_own_claims_is_looked_at_again(root: Path) -> None:
    """Ignored as long as it is foreign, and a lease once it has a job's name.

    Verified: where a name is remembered as foreign by its file, or the look comes only once, it is never claimed.
    """
    mine = broker(root)
    saved = _outside(root, mine)
    mine.enqueue([job("a")])
    (lease,) = claim(mine)
    own = root / lease.token.owner.base
    foreign = saved.rename(own / "saved.bak")
    look = mine._spool.parts("jobs").claim.look_again
    for _ in range(2):
        look()
        assert claim(mine) == []
    assert foreign.exists()
    foreign.rename(own / name(1))
    look()
    assert ids(claim(mine)) == ["saved"]
    mine.close()


def test_a_foreign_name_among_the_claims_of_the_dead_is_looked_at_again(root: Path) -> None:
    """The directory and its lock stay for it; once it has a job's name it is rescued, and both go.

    Verified: where the directory is given up, or the name remembered, the job stays there for ever.
    """
    saved = _outside(root, broker(root))
    dead_owner(root, lambda mine: (mine.enqueue([job("a")]), one(mine)))
    (own,) = (path for path in (root / "jobs" / "claimed").iterdir() if path.is_dir() and any(path.iterdir()))
    foreign = saved.rename(own / "saved.bak")
    mine = broker(root)
    for _ in range(2):
        for orphan in mine.rescue():
            settle_orphan(mine, orphan)
    assert ids(claim(mine)) == ["a"]
    assert foreign.exists()
    assert own.with_name(own.name + ".lock").exists()
    foreign.rename(own / name(1))
    (orphan,) = mine.rescue()
    assert orphan.lease.job.id == "saved"
    settle_orphan(mine, orphan)
    assert not own.exists()
    mine.close()


def test_a_foreign_name_in_claimed_may_become_an_owner(root: Path) -> None:
    """A file is nobody's claims; a directory of that name is. Verified: where the name is remembered it stays."""
    mine = broker(root)
    saved = _outside(root, mine)
    place = root / "jobs" / "claimed" / "notes"
    place.touch()
    for _ in range(2):
        assert list(mine.rescue()) == []
    place.unlink()
    place.mkdir()
    saved.rename(place / name(1))
    (orphan,) = mine.rescue()
    assert orphan.lease.job.id == "saved"
    settle_orphan(mine, orphan)
    assert not place.exists()
    mine.close()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("chattr") is None, reason="needs root and chattr")
def test_a_file_that_cannot_be_moved_does_not_stop_the_others(tmp_path: Path) -> None:
    """Immutable: rename() fails for this file, every time.

    Verified: with every error of rename ending the claim nothing is claimed behind it.
    """
    mine = broker(tmp_path)
    mine.enqueue([job("stuck"), job("a")])
    (stuck, _) = files(tmp_path, "jobs/ready/*/*")
    if subprocess.run(["chattr", "+i", stuck], capture_output=True).returncode:
        pytest.skip("no chattr +i here")
    try:
        assert ids(claim(mine)) == ["a"]
    finally:
        subprocess.run(["chattr", "-i", stuck], check=True)
    assert ids(claim(mine)) == ["stuck"]
    mine.close()


def test_a_real_job_truncated_anywhere_is_put_aside(root: Path) -> None:
    mine = broker(root)
    mine.enqueue([job("a")])
    (path,) = files(root, "jobs/ready/*/*")
    whole = path.read_bytes()
    for number, length in enumerate(range(0, len(whole), 37)):
        (path.parent / name(number + 1).replace("0" * 10, path.name[:10], 1)).write_bytes(whole[:length])
    assert ids(claim(mine)) == ["a"]
    assert mine.stats("jobs").bad == len(range(0, len(whole), 37))
    mine.close()


def test_bad_files_are_kept_listed_and_can_be_discarded(spool: SpoolEngine, root: Path) -> None:
    bucket = root / "jobs" / "ready" / "0000000000"
    bucket.mkdir()
    (bucket / name(1)).write_bytes(b"what was this")
    claim(spool)
    for _ in range(3):
        spool.maintain()
    (view,) = spool.browse("jobs", "bad")
    assert (root / "jobs" / "bad" / view.job.id).read_bytes() == b"what was this"
    assert spool.discard(view)
    assert not spool.discard(view)
    assert list(spool.browse("jobs", "bad")) == []


def test_a_bad_file_of_a_dead_owner_does_not_stop_the_rescue(root: Path) -> None:
    def live(mine: SpoolEngine) -> None:
        mine.enqueue([job("a"), job("b")])
        claim(mine)
        (first, _) = files(root, "jobs/claimed/*/*")
        first.write_bytes(b"overwritten")

    dead_owner(root, live)
    fresh = heal(root)
    assert ids(claim(fresh)) == ["b"]
    assert fresh.stats("jobs").bad == 1
    assert list((root / "jobs" / "claimed").glob("test-*")) != []  # the claim above is ours
    fresh.close()


def test_a_planted_depth_notifier_or_clock_is_survived(root: Path) -> None:
    first = broker(root)
    first.close()
    for planted in (root / "jobs" / "doorbell", root / "jobs" / "depth"):
        planted.unlink(missing_ok=True)
        planted.symlink_to("/etc/passwd")
    mine = broker(root)
    mine.enqueue([job("a")])
    mine.maintain()
    assert ids(mine.claim(["jobs"], limit=1, wait=0.01)) == ["a"]
    assert Path("/etc/passwd").read_text().startswith("root")
    mine.close()


def test_a_directory_in_the_way_of_a_birth(root: Path) -> None:
    """A directory where the lock file of the next owner would be: it takes another name."""
    mine = broker(root)
    incarnation = mine._spool.incarnation
    (root / "jobs" / "claimed" / f"{incarnation}.lock").mkdir()
    mine.enqueue([job("a")])
    assert one(mine).job.id == "a"
    mine.maintain()
    mine.rescue()
    mine.close()
