"""Where jobs with a priority lie, how soon they are found, and what versions that know no priorities do with them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from framework.engine.port import NO_JOBS
from framework.engine.spool.claim import listing
from framework.engine.spool.format import names
from framework.engine.spool.segments import write
from framework.model.job import Job
from tests.support.settling import ack, bury, retry

from .older import DRAIN, INTOLERANT, TOLERANT, play
from .world import body, broker, claim, dead_owner, failure, files, heal, ids, in_segments, job, one, pass_time

JOIN = "now = time.time()\nmine.enqueue([Job('theirs', os.urandom(16), 'jobs', b'{}', {}, now)])\n"
CLAIM = "print(*(lease.job.id for lease in mine.claim('jobs', limit=100, wait=0)), sep='\\n')\n"
HANDLE = """
for lease in mine.claim("jobs", limit=100, wait=0):
    if lease.job.id == "urgent":
        mine.retry(lease, delay=0.01, failure=Failure(1, "error", "x", queue="jobs", delivery=lease.delivery))
    else:
        mine.release([lease])
time.sleep(0.05)
mine.maintain()
"""


def with_priority(job_id: str, priority: int, **fields: Any) -> Job:
    return job(job_id, priority=priority, **fields)


@pytest.mark.parametrize(("priority", "bucket"), [(0, "0000000000"), (4, "0000000004"), (6, "9999999996")])
def test_the_name_carries_it_and_its_bucket_is_its_own(root: Path, priority: int, bucket: str) -> None:
    mine = broker(root)
    mine.enqueue([with_priority("a", priority, ttl=60.0, chosen=True)])
    (path,) = files(root, "jobs/ready/*/*")
    assert path.parent.name == bucket
    assert f",p{priority},i" in path.name
    name = names.parse(path.name)
    assert name is not None
    assert (name.priority, name.chosen, str(name), names.priority_of(path.name)) == (
        priority,
        True,
        path.name,
        priority,
    )
    mine.close()


def test_many_of_one_call_make_no_batch(root: Path) -> None:
    """A segment stands among the jobs of its time, where urgent ones would be found late."""
    mine = in_segments(broker(root))
    mine.enqueue([with_priority(f"{n}", 4) for n in range(3 * write.LEAST)])
    assert {path.parent.name for path in files(root, "jobs/ready/*/*")} == {"0000000004"}
    mine.close()


def test_buckets_sort_as_their_jobs_are_claimed() -> None:
    levels = [names.bucket_of(level) for level in range(5)]
    levels += [f"{time.time_ns():020d}"[:10], f"{time.time_ns():020d}.abcdef01.1.0123456789ab,16"]
    levels += [names.bucket_of(level) for level in range(6, 10)]
    assert levels == sorted(levels)
    assert [names.is_of_time(bucket) for bucket in levels] == [False] * 5 + [True] * 2 + [False] * 4
    assert all(names.BUCKET.fullmatch(bucket) for bucket in levels), "older versions look into them"


@pytest.mark.parametrize("alone", [True, False], ids=["one by one", "in segments"])
def test_an_urgent_job_is_found_before_many_others(root: Path, alone: bool) -> None:
    """More than one listing takes up, and the urgent one came last. So did one that is due."""
    mine, other = broker(root, durability="process"), broker(root, durability="process")
    most = 5 * listing.ENOUGH
    if not alone:
        in_segments(mine)
    for start in range(0, most, 1024):
        mine.enqueue([job(f"{n}", payload=b"") for n in range(start, start + 1024)])
    assert ids(claim(mine, limit=3)) == ["0", "1", "2"]
    other.enqueue([with_priority("urgent", 4), with_priority("patient", 6), job("last")])
    other.enqueue([with_priority("due", 3, delay=0.5)])
    pass_time(other, 1)
    other.maintain()
    deadline, got = time.monotonic() + 20, []
    while "urgent" not in got and time.monotonic() < deadline:  # what comes meanwhile is bounded by time
        time.sleep(listing.LEAST_AGE)
        got += ids(claim(mine, limit=3))
    assert {"due", "urgent"} <= set(got)
    assert got.index("due") == got.index("urgent") - 1
    assert len(got) < most / 10
    mine.close()
    other.close()


def test_an_urgent_due_job_is_promoted_before_many_others(root: Path) -> None:
    mine = broker(root, durability="process")
    mine.enqueue([job(f"{n}", delay=0.01, payload=b"") for n in range(600)])
    mine.enqueue([with_priority("urgent", 4, delay=0.02), with_priority("patient", 6, delay=0.001)])
    time.sleep(0.05)
    assert ids(claim(mine, limit=2))[0] == "urgent"
    left = [lease.job.id for _ in range(100) for lease in claim(mine, limit=50)]
    mine.maintain()
    left += [lease.job.id for _ in range(20) for lease in claim(mine, limit=50)]
    assert left[-1] == "patient"
    mine.close()


def test_counts_and_housekeeping_see_them(root: Path) -> None:
    mine = broker(root)
    for level in (0, 4, 6, 9):
        mine.enqueue([with_priority(f"{level}", level), with_priority(f"over {level}", level, ttl=0.01)])
    pass_time(mine, 1)
    assert mine.stats("jobs").ready == 8
    for _ in range(3):
        mine.maintain()
    assert (mine.stats("jobs").ready, mine.stats("letters").ready) == (4, 4)
    leases = claim(mine)
    assert ids(leases) == ["0", "4", "6", "9"]
    ack(mine, leases)
    mine.maintain()
    assert mine.stats("jobs") == NO_JOBS
    mine.enqueue([with_priority("again", 0)])
    assert ids(claim(mine)) == ["again"]
    mine.close()


def test_what_a_killed_producer_left_is_promoted_to_its_priority(root: Path) -> None:
    mine = broker(root)
    mine.enqueue([with_priority("urgent", 1), job("usual")])
    (path,) = files(root, "jobs/ready/0000000001/*")
    path.rename(root / "jobs" / "tmp" / path.name.replace(",p1", ""))  # its name in tmp is made before the job is known
    mine.maintain()
    assert ids(claim(mine)) == ["urgent", "usual"]
    mine.close()


def test_a_lost_race_skips_nothing_between_two_priorities(root: Path) -> None:
    """Others have taken what is less urgent before; that run of gone names must not carry over what is urgent."""
    mine, other = broker(root), broker(root)
    mine.enqueue([job(f"{n}") for n in range(12)])
    mine.enqueue([with_priority(f"u{n}", 4) for n in range(5)])
    assert ids(claim(mine, limit=1)) == ["u0"]
    for path in [*files(root, "jobs/ready/0000000004/*")[:2], *files(root, "jobs/ready/0[1-9]*/*")[:9]]:
        path.unlink()
    assert ids(claim(mine, limit=3)) == ["u3", "u4", "9"]
    other.close()
    mine.close()


def test_a_look_for_urgent_ones_alone_loses_and_doubles_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was listed and is left stays in its order behind them, and they replace what was known of their kind."""
    monkeypatch.setattr(listing, "LEAST_AGE", 600.0)  # no look comes by itself
    mine, other = broker(root), broker(root)
    other.enqueue([with_priority("u0", 4), with_priority("u1", 4), with_priority("p", 6)])
    other.enqueue([job("a"), job("b")])
    assert ids(claim(mine, limit=1)) == ["u0"]
    other.enqueue([with_priority("u2", 0)])
    kept = mine._spool.parts("jobs").listing
    assert len(kept) == 4
    kept._urgent_due = 0.0
    assert ids(claim(mine, limit=1)) == ["u2"]
    assert len(kept) == 4
    assert ids(claim(mine)) == ["u1", "a", "b", "p"]
    other.close()
    mine.close()


def test_a_released_patient_job_comes_after_what_came_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LEAST_AGE", 600.0)
    mine, other = broker(root), broker(root)
    other.enqueue([with_priority("p", 6)])
    lease = one(mine)
    other.enqueue([job("a")])
    mine.release([lease])
    assert ids(claim(mine)) == ["a", "p"]
    other.close()
    mine.close()


@pytest.mark.parametrize("older", [INTOLERANT, TOLERANT], indirect=True)
def test_an_older_version_serves_its_own_beside_them(root: Path, older: Path) -> None:
    """The oldest passes them by, the tolerant one serves them; neither loses one or takes it for damaged."""
    mine = broker(root)
    mine.enqueue([with_priority("urgent", 2), with_priority("patient", 8, chosen=True), job("ours")])
    mine.enqueue([with_priority("later", 3, delay=0.01)])
    printed = set(play(older, root, JOIN + DRAIN).split("\n")) - {""}
    assert {"ours", "theirs"} <= printed
    left = {"urgent", "patient", "later"} - printed
    assert f"bad 0 left {len(left)}" in printed
    assert len(left) in (0, 3)
    assert {lease.job.id for lease in claim(mine)} == left
    mine.close()


@pytest.mark.parametrize("older", [TOLERANT], indirect=True)
def test_what_an_older_version_has_put_back_elsewhere_keeps_its_priority(root: Path, older: Path) -> None:
    mine = broker(root)
    mine.enqueue([job("ours"), with_priority("urgent", 2), with_priority("patient", 8)])
    mine.close()
    play(older, root, HANDLE)
    assert not files(root, "jobs/ready/0000000002/*")
    mine = heal(root)
    assert ids(claim(mine)) == ["urgent", "ours", "patient"]
    mine.close()


@pytest.mark.parametrize("older", [INTOLERANT, TOLERANT], indirect=True)
def test_what_an_older_version_has_stored_is_claimed_after_what_is_urgent(root: Path, older: Path) -> None:
    play(older, root, JOIN)
    mine = broker(root)
    mine.enqueue([with_priority("patient", 6), with_priority("urgent", 4)])
    assert ids(claim(mine)) == ["urgent", "theirs", "patient"]
    mine.close()


def test_a_dead_owner_leaves_them_in_their_order(root: Path) -> None:
    dead_owner(root, lambda b: (b.enqueue([job("a"), with_priority("u", 4)]), claim(b)))
    mine = heal(root)
    assert ids(claim(mine)) == ["u", "a"]
    mine.close()


def test_a_retry_and_a_burial_keep_the_field(root: Path) -> None:
    mine = broker(root)
    mine.enqueue([with_priority("a", 9)])
    lease = one(mine)
    retry(mine, lease, delay=0.01, failure=failure(lease))
    pass_time(mine, 1)
    mine.maintain()
    bury(mine, one(mine), failure=failure())
    (path,) = files(root, "letters/ready/*/*")
    assert path.parent.name == "9999999999"
    assert "p9" in path.name.split(",")
    assert one(mine, "letters").job.payload == body("a")
    mine.close()
