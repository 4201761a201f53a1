"""A rolling upgrade: producers write segments only once all workers of the queue read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.engine.spool.format import runs
from framework.engine.spool.segments import write
from framework.engine.spool.upkeep import maintain
from tests.support.settling import ack

from . import older as versions
from .older import DRAIN, play
from .world import broker, claim, dead_owner, files, heal, ids, in_segments, job, often

DIE = """
queues = "jobs" if "queue" in mine.claim.__code__.co_varnames else ["jobs"]
mine.claim(queues, limit=1, wait=0)
os.kill(os.getpid(), 9)
"""
MANY = [f"n{number:02}" for number in range(write.LEAST)]


def segments(root: Path) -> list[Path]:
    return files(root, "jobs/segments/*")


def test_no_segment_is_written_before_maintenance_has_looked(root: Path) -> None:
    mine = broker(root, durability="process")
    mine.enqueue([job(f"early {job_id}") for job_id in MANY])
    assert segments(root) == []
    mine.maintain()
    mine.enqueue([job(job_id) for job_id in MANY])
    assert len(segments(root)) == 1
    assert ids(claim(mine, limit=100)) == [*(f"early {job_id}" for job_id in MANY), *MANY]
    mine.close()


def test_a_worker_of_this_version_says_that_it_reads_them(root: Path) -> None:
    mine = broker(root, durability="process")
    claim(mine)
    mine.maintain()
    assert (root / "jobs" / "segmented.2").exists()
    mine.close()


def test_a_lock_that_does_not_say_so_ends_it(root: Path) -> None:
    mine = broker(root, durability="process")
    mine.maintain()
    lock = runs.head("boot", 1.0)[: runs._HEAD.size].ljust(runs.ROW, b"\0")
    (root / "jobs" / "claimed" / "old.lock").write_bytes(lock)
    producer = broker(root, durability="process")
    producer.enqueue([job(job_id) for job_id in MANY])
    assert segments(root) == []
    mine.close()
    producer.close()


@pytest.mark.parametrize(
    "older",
    [versions.TOLERANT, versions.BEFORE_SEGMENTS, versions.BEFORE_OPEN],
    indirect=True,
    ids=["tolerant", "before segments", "before open ones"],
)
def test_a_worker_of_the_version_before_ends_it(root: Path, older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives, or died and is not rescued yet. Who opens the queue sees it, and maintenance."""
    monkeypatch.setattr(maintain, "DEPTH_EVERY", 0.0)
    mine = broker(root, durability="process")
    mine.maintain()
    play(older, root, DIE, killed=True)
    producer = broker(root, durability="process")
    producer.enqueue([job(job_id) for job_id in MANY])
    assert segments(root) == []
    mine.maintain()
    assert not (root / "jobs" / "segmented.2").exists()
    mine.rescue()
    mine.maintain()
    assert (root / "jobs" / "segmented.2").exists()
    mine.close()
    producer.close()


@pytest.mark.parametrize("older", [versions.TOLERANT], indirect=True)
def test_what_the_version_before_does_beside_a_segment_hurts_nothing(root: Path, older: Path) -> None:
    """It passes segments by, rescues the dead of this version, and leaves all for the next upgrade."""
    dead_owner(root, lambda mine: (in_segments(mine).enqueue([job("a"), job("b"), job("c")]), claim(mine, limit=2)))
    mine = broker(root, durability="process")
    mine.enqueue([job("alone")])
    printed = play(older, root, "mine.rescue()\n" + DRAIN).split("\n")
    assert printed[:2] == ["alone", "bad 0 left 0"]
    assert len(segments(root)) == 1
    fresh = heal(root)
    found = claim(fresh)
    assert sorted(ids(found)) == ["a", "b", "c"]
    ack(fresh, found)
    mine.close()
    fresh.close()


@pytest.mark.parametrize("older", [versions.BEFORE_OPEN], indirect=True)
def test_the_version_before_leaves_our_segments_alone_and_this_one_reads_theirs(root: Path, older: Path) -> None:
    """They stand in one directory. Which of the two a segment is, its head says."""
    mine = often(broker(root))
    mine.enqueue([job("a")])
    mine.enqueue([job("b")])
    act = """
mine.maintain()
now = time.time()
mine.enqueue([Job(f"theirs{n}", os.urandom(16), "jobs", b"{}", {}, now) for n in range(16)])
mine.claim(["jobs"], limit=4, wait=0)
print(len(os.listdir(mine.root / "jobs" / "segments")), mine.stats("jobs").bad)
print(*(view.newer for view in mine.browse("jobs", "ready") if view.newer))
"""
    assert play(older, root, act).split("\n")[:2] == ["2 0", "True"]
    mine.enqueue([job("c")])
    mine.close()
    fresh = heal(root)
    found = claim(fresh)
    assert sorted(ids(found)) == ["a", "b", "c", *sorted(f"theirs{n}" for n in range(16))]
    ack(fresh, found)
    assert segments(root) == []
    fresh.close()
