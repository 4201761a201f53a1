"""Ending claims: what is durable when, what may be repeated, what is never refused."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import history, job_file
from framework.model.errors import EngineUnavailable, LeaseLost
from tests.settling import ack, bury, rest, retry

from .seam import Seam, before, fail_calls, pass_on
from .world import JOBS, LETTERS, PLAIN, broker, claim, failure, files, ids, job, one


@pytest.mark.parametrize("queue", ["jobs", "plain"])
def test_the_last_record_of_a_dead_letter_is_durable_before_it_moves(root: Path, queue: str) -> None:
    """Without that no dead letter had its last record after a power cut.

    Verified: without the fsync before the rename the order is another.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a", queue=queue)])
    lease = one(mine, queue)
    seam.arm(pass_on)
    bury(mine, lease, failure=failure(lease))
    calls = [name for name in seam.names if name in ("pwrite", "fsync", "rename")]
    assert calls[:3] == ["pwrite", "fsync", "rename"]
    assert calls[-1] == "fsync"
    mine.close()


def test_nothing_else_waits_for_the_disk(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job(name) for name in "abcd"])
    a, b, c, d = claim(mine)
    seam.arm(pass_on)
    ack(mine, [a])
    mine.release([c])
    assert "fsync" not in seam.names
    retry(mine, b, delay=1, failure=failure(b))
    mine.release([d], delay=3600)
    assert seam.names.count("fsync") <= 2  # new minutes in delayed/
    mine.close()


def test_a_repeated_settling_writes_its_record_once(root: Path) -> None:
    """The record is written, the rename fails; the caller tries again.

    Verified: without the look for this delivery's record the history has it twice.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a")])
    lease = one(mine)
    for _ in range(4):
        seam.arm(fail_calls(errno.ENOSPC, "rename"))
        with pytest.raises(EngineUnavailable, match="free some space"):
            retry(mine, lease, delay=0, failure=failure(lease))
        seam.disarm()
    retry(mine, lease, delay=0, failure=failure(lease))
    assert len(one(mine).job.history) == 1
    mine.close()


def test_a_batch_that_failed_in_part_may_be_repeated(root: Path) -> None:
    """The second of three fails: the others are settled, and the same call again settles the rest.

    Verified: without forgiveness the repetition reports the settled ones as lost.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a"), job("b"), job("c")])
    leases = claim(mine)
    seam.arm(fail_calls(errno.EIO, "unlink", when=lambda args: str(args[0]).endswith(leases[1].token.entry)))
    with pytest.raises(EngineUnavailable):
        ack(mine, leases)
    seam.disarm()
    assert mine.stats("jobs").in_flight == 1
    ack(mine, leases)
    assert mine.stats("jobs").in_flight == 0
    with pytest.raises(LeaseLost) as lost:
        ack(mine, leases)
    assert set(lost.value.job_ids) == {"a", "b", "c"}
    mine.close()


def test_a_failed_settling_leaves_the_lease_and_nobody_gets_it_twice(root: Path) -> None:
    """Verified: with the lease dropped before its rename the next claim hands the job out a second time."""
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a")])
    lease = one(mine)
    seam.arm(fail_calls(errno.EIO, "unlink"))
    with pytest.raises(EngineUnavailable):
        ack(mine, [lease])
    seam.disarm()
    assert claim(mine) == []
    ack(mine, [lease])
    mine.close()


def test_a_lost_claim_is_told_and_the_others_are_settled(spool: SpoolEngine, root: Path) -> None:
    spool.enqueue([job("a"), job("b")])
    a, b = claim(spool)
    (root / a.token.path).unlink()
    with pytest.raises(LeaseLost) as lost:
        ack(spool, [a, b])
    assert lost.value.job_ids == ("a",)
    assert spool.stats("jobs").in_flight == 0
    assert spool.counts["lost"] == 1


def test_settling_into_a_bucket_that_vanishes(root: Path) -> None:
    """Somebody removes the empty bucket just before the rename.

    Verified: with ENOENT always read as a lost claim the job strands: 61 of 30,000 did.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    for verb in ("release", "retry", "bury", "replay"):
        mine.enqueue([job(verb)])
        lease = one(mine)

        def remove() -> None:
            for bucket in (*root.glob("*/ready/*"), *root.glob("*/delayed/*")):
                if not list(bucket.iterdir()):
                    bucket.rmdir()

        seam.arm(before("rename", remove))
        if verb == "release":
            mine.release([lease])
        elif verb == "retry":
            retry(mine, lease, delay=0, failure=failure(lease))
        else:
            bury(mine, lease, failure=failure(lease))
        if verb == "replay":
            seam.arm(before("rename", remove))
            (view,) = mine.browse("letters", "ready")
            assert mine.replay(view)
        seam.disarm()
        queue = "letters" if verb == "bury" else "jobs"
        assert ids(claim(mine, queue)) == [verb]
    mine.close()


def test_release_from_many_threads(spool: SpoolEngine) -> None:
    spool.enqueue([job(f"n{n:03}") for n in range(120)])
    leases = claim(spool, limit=120)
    threads = [threading.Thread(target=spool.release, args=(leases[n::6],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids(claim(spool, limit=200)) == [f"n{n:03}" for n in range(120)]


def test_retry_release_bury_and_replay_are_never_refused(root: Path) -> None:
    """The queue is full and the job is as large as it may be."""
    tight = replace(JOBS, max_length=2, max_payload_bytes=1000)
    mine = broker(root, tight, LETTERS)
    mine.enqueue([job("a", payload=bytes(1000)), job("b")])
    lease = one(mine)
    mine.enqueue([job("c")])
    retry(mine, lease, delay=0, failure=failure(lease))
    lease = one(mine)
    bury(mine, lease, failure=failure(lease))
    (view,) = mine.browse("letters", "ready")
    assert mine.replay(view)
    assert mine.stats("jobs").ready == 3
    mine.close()


def test_an_expired_job_is_buried_with_its_reason_never_deleted(root: Path) -> None:
    """Regression of the seed: the time to live deleted jobs."""
    mine = broker(root, JOBS, PLAIN, LETTERS)
    mine.enqueue([job("a", ttl=1e-6), job("b", ttl=1e-6, queue="plain"), job("kept", ttl=3600)])
    assert ids(claim(mine)) == ["kept"]
    assert claim(mine, "plain") == []
    (letter,) = claim(mine, "letters")
    (dead,) = mine.browse("plain", "dead")
    for found in (letter.job, dead.job):
        (last,) = found.history
        assert (last.reason, last.attempt) == ("expired", 0)
        assert "\n" not in last.message
    mine.close()


def test_a_replay_starts_again_and_keeps_who_it_is(spool: SpoolEngine) -> None:
    made = job("a", ttl=3600)
    spool.enqueue([made])
    lease = one(spool)
    retry(spool, lease, delay=0, failure=failure(lease))
    lease = one(spool)
    bury(spool, lease, failure=failure(lease))
    letter = one(spool, "letters")
    assert (letter.attempt, letter.delivery) == (1, 3)
    rest(spool, letter)
    (view,) = spool.browse("letters", "dead")
    assert spool.replay(view)
    assert not spool.replay(view)
    again = one(spool)
    assert (again.attempt, again.delivery, again.job.id, again.job.uid) == (1, 4, "a", made.uid)
    assert len(again.job.history) == 2


def test_a_repetition_after_a_kill_between_record_and_rename(root: Path) -> None:
    """The record is there, the rename is not: the rescuer's own record of that delivery is not added."""
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a")])
    lease = one(mine)
    seam.arm(fail_calls(errno.EIO, "rename"))
    with pytest.raises(EngineUnavailable):
        retry(mine, lease, delay=0, failure=failure(lease, message="mine"))
    seam.disarm()
    mine.close()
    fresh = broker(root)
    (orphan,) = fresh.rescue()
    retry(fresh, orphan.lease, delay=0, failure=failure(orphan.lease, message="its worker died"))
    fresh.maintain()
    assert [f.message for f in one(fresh).job.history] == ["mine"]
    fresh.close()


def test_records_are_pages_behind_the_body(spool: SpoolEngine, root: Path) -> None:
    spool.enqueue([job("a", payload=bytes(10_000))])
    lease = one(spool)
    retry(spool, lease, delay=0, failure=failure(lease))
    (path,) = files(root, "jobs/ready/*/*")
    where = job_file.layout(path.read_bytes())
    assert where.slots_at % history.SLOT == 0
    assert where.end <= where.slots_at < where.end + history.SLOT
    assert path.stat().st_size <= where.whole
