"""Jobs that share a file: in order, claimed in ranges, each settled alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.engine.spool.claim import listing
from framework.engine.spool.segments import file, write
from framework.engine.spool.segments import format as bytes_of
from framework.model.errors import QueueFull
from framework.model.options import QueueOptions
from tests.support.settling import ack, bury, retry

from .seam import Seam, pass_on
from .segmented import MANY, segments, stored
from .world import JOBS, LETTERS, broker, census, claim, failure, ids, in_segments, job, one, pass_time


def test_many_jobs_cost_one_file_one_flush_and_one_rename(root: Path) -> None:
    seam = Seam()
    mine = in_segments(broker(root, calls=seam))
    seam.arm(pass_on)
    mine.enqueue([job(job_id) for job_id in MANY])
    assert [seam.names.count(name) for name in ("open", "write", "fsync", "rename", "syncfs")] == [1, 1, 1, 1, 0]
    assert seam.names.index("fsync") < seam.names.index("rename")
    seam.disarm()
    assert ids(claim(mine, limit=1000)) == MANY
    mine.close()


def test_a_claim_and_an_ack_write_words_and_nothing_else(root: Path) -> None:
    """By pwrite: a store into a map makes the next flush of that file commit the journal."""
    seam = Seam()
    mine = in_segments(broker(root, calls=seam, durability="process"))
    mine.enqueue([job(job_id) for job_id in MANY])
    first = claim(mine, limit=5)
    seam.arm(pass_on)
    ack(mine, claim(mine, limit=5))
    assert seam.changes == ["pwrite"] * 2, "five jobs that follow each other are claimed by one write, and end by one"
    seam.disarm()
    ack(mine, first)
    mine.close()


def test_alone_and_together_keep_the_order_of_their_enqueue(root: Path) -> None:
    mine = in_segments(broker(root, durability="process"), least=3)
    mine.enqueue([job("first")])
    mine.enqueue([job(job_id) for job_id in MANY])
    mine.enqueue([job("between")])
    mine.enqueue([job(f"m{n}") for n in range(300)])
    mine.enqueue([job("last")])
    wanted = ["first", *MANY, "between", *(f"m{n}" for n in range(300)), "last"]
    found: list[str] = []
    while leases := claim(mine, limit=7):
        found += ids(leases)
        ack(mine, leases)
    assert found == wanted
    assert segments(root) == []
    mine.close()


def test_a_segment_is_claimed_before_later_jobs_of_a_deep_queue(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verified: with segments listed behind all buckets, the jobs of the first ten seconds come first."""
    monkeypatch.setattr(listing, "ENOUGH", 5)
    mine = in_segments(broker(root, durability="process"), least=20)
    clock = mine._spool._clock
    assert clock is not None
    wanted = [f"s{n}" for n in range(20)]
    mine.enqueue([job(job_id) for job_id in wanted])
    for second in range(3):
        clock.offset += 10_000_000_000
        wanted += [f"{second}.{n}" for n in range(7)]
        mine.enqueue([job(job_id) for job_id in wanted[-7:]])
    found: list[str] = []
    while leases := claim(mine, limit=6):
        found += ids(leases)
    assert found == wanted
    mine.close()


def test_what_has_a_place_of_its_own_comes_in_no_segment(root: Path) -> None:
    mine = in_segments(broker(root, durability="process"))
    mine.enqueue([job("chosen", chosen=True), job("later", delay=3600), job("urgent", priority=1)])
    assert segments(root) == []
    mine.close()


def test_two_owners_share_a_segment_and_no_job_of_it(root: Path) -> None:
    mine, other = stored(root), broker(root, durability="process")
    first, second = claim(mine, limit=10), claim(other, limit=10)
    assert (ids(first), ids(second)) == (MANY[:10], MANY[10:20])
    mine.release(first)
    assert ids(claim(other, limit=10)) == MANY[:10], "what is given back comes first again"
    mine.close()
    other.close()


def test_what_fails_leaves_its_segment_and_the_others_stay(root: Path) -> None:
    mine = stored(root)
    leases = claim(mine, limit=5)
    retry(mine, leases[0], delay=3600, failure=failure(leases[0]))
    bury(mine, leases[1], failure=failure(leases[1]))
    mine.release([leases[2]], delay=3600)
    ack(mine, leases[3:])
    stats = mine.stats("jobs")
    assert (stats.ready, stats.in_flight, stats.delayed, mine.stats("letters").ready) == (35, 0, 2, 1)
    letter = next(mine.browse("letters", "ready"))
    assert (letter.job.id, letter.job.history[-1].message, letter.delivery) == ("n001", "broken", 1)
    assert [view.job.id for view in mine.browse("jobs", "ready")] == MANY[5:]
    mine.close()


def test_a_retried_job_keeps_what_it_was(root: Path) -> None:
    mine = stored(root, ttl=3600.0)
    lease = one(mine)
    retry(mine, lease, delay=0, failure=failure(lease))
    mine.maintain()
    again = next(found for found in claim(broker(root), limit=100) if found.job.id == MANY[0])
    assert (again.attempt, again.delivery, again.job.uid) == (2, 2, lease.job.uid)
    assert (again.job.ttl, again.job.headers, again.job.payload) == (3600.0, lease.job.headers, lease.job.payload)
    assert len(again.job.history) == 1
    mine.close()


def test_an_expired_job_of_a_segment_becomes_a_dead_letter(root: Path) -> None:
    mine = in_segments(broker(root, durability="process"))
    mine.enqueue([job("a"), job("short", ttl=0.001), job("b", ttl=3600.0)])
    pass_time(mine, 1)
    mine.maintain()
    assert [view.job.id for view in mine.browse("letters", "ready")] == ["short"]
    assert mine.expired() == {"jobs": 1}
    assert mine.stats("jobs").ready == 2
    mine.close()


def test_one_too_many_is_taken_back_from_the_end(root: Path) -> None:
    small = QueueOptions("jobs", dead_letter="letters", max_length=3)
    mine = in_segments(broker(root, small, LETTERS))
    mine.enqueue([job("z")])
    limits = mine._spool.parts("jobs").enqueue._limits
    with pytest.raises(Exception, match="full") as caught:
        mine.enqueue([job("a"), job("b"), job("c"), job("d")])
    assert list(caught.value.enqueued) == ["a", "b"]  # type: ignore[attr-defined]
    assert limits.excess() == 0
    assert dict(census(mine)) == {"z": 1, "a": 1, "b": 1}
    mine.close()


def test_too_many_are_taken_back_where_only_whole_files_can_be_locked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified: while the writer has its lock, nobody has that of a claim."""
    monkeypatch.setattr(file, "OFD", None)
    mine = in_segments(broker(root, QueueOptions("jobs", dead_letter="letters", max_length=1), LETTERS))
    with pytest.raises(QueueFull):
        mine.enqueue([job("a"), job("b")])
    assert dict(census(mine)) == {"a": 1}
    mine.close()


def test_dead_letters_that_nobody_handles_are_dead_in_a_segment_too(root: Path) -> None:
    letters = QueueOptions("letters", is_dead_letter=True, handled=False)
    mine = in_segments(broker(root, JOBS, letters, durability="process"))
    mine.enqueue([job("a", queue="letters"), job("b", queue="letters")])
    assert [view.job.id for view in mine.browse("letters", "dead")] == ["a", "b"]
    assert list(mine.browse("letters", "ready")) == []
    assert (mine.stats("letters").ready, mine.stats("letters").dead) == (0, 2)
    mine.close()


def test_claims_from_a_segment_outlive_the_directory_of_their_owner(root: Path) -> None:
    """Somebody has removed an empty directory. Verified: taken for its death, the jobs that run are run again."""
    mine = stored(root, ["a", "b", "c"])
    lease = one(mine)
    (owned,) = (path for path in (root / "jobs/claimed").iterdir() if path.is_dir())
    owned.rmdir()
    for number in range(5):  # enough lost races to look at itself
        mine._spool.parts("jobs").claim._missed(mine._spool.parts("jobs").owner(), f"jobs/ready/0/{number}")
    assert owned.is_dir()
    ack(mine, [lease])
    assert ids(claim(mine)) == ["b", "c"]
    mine.close()


def test_large_jobs_fill_a_segment_earlier(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bytes_of, "MOST_BYTES", 3000)
    assert write.together([job(f"{n}", payload=bytes(1000)) for n in range(9)]) == 3
    assert write.together([job("big", payload=bytes(5000)), job("a")]) == 1
    assert write.together([job(f"{n}", payload=b"") for n in range(999)]) == bytes_of.MOST


def test_maintenance_flushes_what_was_settled(root: Path) -> None:
    """Else a power cut brings back all that was settled since the kernel last wrote by itself."""
    seam = Seam()
    mine = in_segments(broker(root, calls=seam))
    mine.enqueue([job(job_id) for job_id in MANY])
    for flushes, act in ((0, lambda: None), (1, lambda: ack(mine, [one(mine)])), (0, lambda: None)):
        act()
        mine._spool.parts("jobs").maintain._upkeep._at = 0.0
        seam.arm(pass_on)
        mine.maintain()
        assert seam.names.count("fdatasync") == flushes
        seam.disarm()
    mine.close()
