"""Jobs that come one by one share a segment that stays open for a while: when, in which order, and until when."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import append, file
from framework.engine.spool.segments import format as bytes_of
from framework.model.errors import QueueFull
from framework.model.job import Lease
from framework.model.options import QueueOptions
from tests.support.processes import wait_until
from tests.support.settling import ack

from .seam import Seam, before, fail_calls, pass_on
from .segmented import appender, segments
from .world import LETTERS, broker, census, claim, files, ids, job, often, one, pass_time

PATIENCE = 60.0  # seconds


def test_one_more_costs_one_flush_and_no_new_name(seam: Seam, mine: SpoolEngine) -> None:
    """By pwrite, records before words: a store into a map makes the next flush commit the journal."""
    seam.arm(pass_on)
    mine.enqueue([job("b"), job("c")])
    assert seam.changes == ["pwrite", "pwrite"]
    assert [name for name in seam.names if "sync" in name] == ["fdatasync"]
    assert (
        seam.names.index("pwrite") < seam.names.index("fdatasync") < len(seam.names) - seam.names[::-1].index("pwrite")
    )
    seam.disarm()
    assert ids(claim(mine)) == ["a", "b", "c"]


def test_a_lone_job_has_a_file_of_its_own_until_many_come(root: Path) -> None:
    mine = broker(root, durability="process")
    mine.maintain()  # says that all workers read segments
    wanted = [f"j{number:02}" for number in range(60)]
    for job_id in wanted:
        mine.enqueue([job(job_id)])
    assert len(files(root, "jobs/ready/*/*")) >= append.WORTH - 1
    assert segments(root), "sixty jobs in a row"
    assert ids(claim(mine, limit=100)) == wanted
    mine.close()


def test_slow_producers_open_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = broker(root, durability="process")
    mine.maintain()
    now = time.monotonic()
    monkeypatch.setattr(append, "time", SimpleNamespace(sleep=time.sleep, monotonic=lambda: now))
    for number in range(20):
        now += 0.2
        mine.enqueue([job(f"j{number}")])
    assert segments(root) == []
    mine.close()


def test_segments_grow_with_what_comes(root: Path) -> None:
    mine = often(broker(root, durability="process"))
    for number in range(500):
        mine.enqueue([job(f"{number}")])
    made = [names.segment(path.name) for path in segments(root)]
    assert [name.jobs for name in made if name] == [16, 64, 256, 256]
    assert ids(claim(mine, limit=1000)) == [f"{number}" for number in range(500)]
    mine.close()


def test_it_is_closed_when_it_is_old_and_goes_with_its_last_job(root: Path, mine: SpoolEngine) -> None:
    """Also when no further job comes: nothing is left of an idle producer but what it stored."""
    ack(mine, claim(mine))
    assert len(segments(root)) == 1, "others may come"
    appender(mine).age = append.AGE
    mine.enqueue([job("b")])
    appender(mine).segment._until = 0.0  # type: ignore[union-attr]
    assert wait_until(lambda: appender(mine).segment is None, PATIENCE)
    ack(mine, claim(mine))
    assert wait_until(lambda: not segments(root), PATIENCE)
    assert wait_until(lambda: not [one for one in threading.enumerate() if one.name == "enqueue-closer"], PATIENCE)


def test_what_keeps_an_order_with_them_comes_between(root: Path, mine: SpoolEngine) -> None:
    """Trap: the third joined the older segment and overtook the second."""
    wanted = ["a"]
    for number, chosen in enumerate((True, False, True)):
        often(mine)
        mine.enqueue([job(f"one {number}")])
        if chosen:
            mine.enqueue([job(f"other {number}", chosen=True)])
            others = [f"other {number}"]
        else:
            others = [f"other {number} {n}" for n in range(append.TOGETHER + 1)]
            mine.enqueue([job(job_id) for job_id in others])
        wanted += [f"one {number}", *others]
    often(mine)
    mine.enqueue([job("last")])
    assert ids(claim(mine, limit=1000)) == [*wanted, "last"]


def test_delayed_and_urgent_jobs_close_none(root: Path, mine: SpoolEngine) -> None:
    mine.enqueue([job("later", delay=3600)])
    mine.enqueue([job("urgent", priority=1)])
    mine.enqueue([job("b")])
    assert len(segments(root)) == 1
    assert ids(claim(mine)) == ["urgent", "a", "b"]


def test_one_that_expires_earlier_begins_another(root: Path, mine: SpoolEngine) -> None:
    """The name of a segment says when its first job expires."""
    for job_id, ttl in (("b", 3600.0), ("c", None), ("d", 7200.0), ("e", 1800.0)):
        mine.enqueue([job(job_id, ttl=ttl)])
    found = [names.segment(path.name) for path in segments(root)]
    assert [name.expires is not None for name in found if name] == [False, True, True]
    assert ids(claim(mine)) == ["a", "b", "c", "d", "e"]


def test_one_that_comes_later_expires_in_its_time(root: Path) -> None:
    """Verified: with what was found out before it came, nobody looks for it."""
    mine = often(broker(root, durability="process"))
    mine.enqueue([job("a", ttl=0.001)])
    pass_time(mine, 1)
    mine.maintain()
    assert mine.expired() == {"jobs": 1}
    mine.enqueue([job("b", ttl=60)])
    pass_time(mine, 60)

    def expired() -> bool:
        mine.maintain()
        return mine.expired() == {"jobs": 1}

    assert wait_until(expired, PATIENCE)
    mine.close()


def test_who_has_claimed_all_sees_what_comes(mine: SpoolEngine, root: Path) -> None:
    """Without opening it again. Verified: with records read once for all, they are damaged."""
    worker_seam = Seam()
    worker = broker(root, calls=worker_seam)
    ack(worker, claim(worker))
    for number in range(5):
        mine.enqueue([job(f"b{number}"), job(f"c{number}")])
        worker_seam.arm(fail_calls(errno.EIO, "open", when=lambda args: args[0].endswith(names.SEGMENT_END)))
        found: list[Lease] = []
        assert wait_until(lambda: found.extend(claim(worker)) or len(found) == 2, PATIENCE), "with the next listing"
        ack(worker, found)
        assert ids(found) == [f"b{number}", f"c{number}"]
    worker_seam.disarm()
    worker.close()


def test_counts_and_looks_know_only_what_is_there(mine: SpoolEngine) -> None:
    mine.enqueue([job("b")])
    stats = mine.stats("jobs")
    assert (stats.ready, stats.in_flight) == (2, 0)
    lease = one(mine)
    stats = mine.stats("jobs")
    assert (stats.ready, stats.in_flight) == (1, 1)
    assert [view.job.id for view in mine.browse("jobs", "ready")] == ["b"]
    assert [view.job.id for view in mine.browse("jobs", "in_flight")] == ["a"]
    (view,) = mine.browse("jobs", "ready")
    assert mine.discard(view)
    ack(mine, [lease])
    assert mine.stats("jobs").ready == 0
    mine.enqueue([job("c")])
    assert dict(census(mine)) == {"c": 1}


def test_of_too_many_only_those_of_the_call_are_taken_back(root: Path) -> None:
    """However many others came meanwhile. Verified: with the last ones of the segment, an acknowledged one goes."""
    mine = often(broker(root, QueueOptions("jobs", dead_letter="letters", max_length=3), LETTERS))
    mine.enqueue([job("a")])
    mine.enqueue([job("b")])
    limits = mine._spool.parts("jobs").enqueue._limits
    limits.excess = lambda: 3  # type: ignore[method-assign]
    with pytest.raises(QueueFull) as caught:
        mine.enqueue([job("c"), job("d")])
    assert list(caught.value.enqueued) == []
    assert dict(census(mine)) == {"a": 1, "b": 1}
    mine.close()


def test_a_job_that_comes_in_the_midst_of_another_has_a_place_of_its_own(
    root: Path, mine: SpoolEngine, seam: Seam
) -> None:
    """In a signal handler, or in another thread: nobody waits, and what comes later overtakes neither."""
    seam.arm(before("fdatasync", lambda: mine.enqueue([job("on top")]) and None))
    mine.enqueue([job("b")])
    seam.disarm()
    mine.enqueue([job("c")])
    assert ids(claim(mine)) == ["a", "b", "on top", "c"]
    assert len(segments(root)) == 2, "the first is closed"


def test_what_is_stored_elsewhere_while_a_segment_begins_is_not_overtaken(root: Path) -> None:
    """The segment has its stamp, and nobody else sees it yet. Verified: else `after` joins it, and comes before."""
    seam = Seam()
    mine = often(broker(root, calls=seam))
    others = [f"other {number:02}" for number in range(append.TOGETHER + 1)]
    seam.arm(before("rename", lambda: mine.enqueue([job(job_id) for job_id in others]) and None))
    mine.enqueue([job("first")])
    seam.disarm()
    often(mine).enqueue([job("after")])
    assert ids(claim(mine)) == ["first", *others, "after"]
    mine.close()


def test_a_segment_that_begins_while_another_job_is_stored_lets_none_overtake_that(root: Path) -> None:
    """It has its stamp before the other one. Verified: with the segments closed before, `after` comes first."""
    seam = Seam()
    mine = often(broker(root, calls=seam))
    seam.arm(before("link", lambda: often(mine).enqueue([job("on top")]) and None))
    mine.enqueue([job("chosen", chosen=True)])
    seam.disarm()
    often(mine).enqueue([job("after")])
    assert ids(claim(mine)) == ["on top", "chosen", "after"]
    mine.close()


def test_threads_and_a_bulk_lose_nothing_and_keep_their_order(root: Path) -> None:
    mine = often(broker(root, durability="process"))

    def produce(name: str) -> None:
        for number in range(40):
            mine.enqueue([job(f"{name} {number:03} {n:03}") for n in range(80 if number % 10 == 9 else 1)])

    threads = [threading.Thread(target=produce, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    found: list[str] = []
    while leases := claim(mine, limit=64):
        found += ids(leases)
        ack(mine, leases)
    for name in "abc":
        assert (own := [job_id for job_id in found if job_id[0] == name]) == sorted(own)
    assert len(found) == 3 * (36 + 4 * 80)
    mine.close()
    assert segments(root) == []


def test_only_what_the_version_before_cannot_read_is_new_to_it() -> None:
    traced = job("a")
    traced.headers["traceparent"] = f"00-{'a' * 32}-{'b' * 16}-01"
    for jobs, slots, version in (([job("a")], 0, 1), ([job("a")], 2, 2), ([job("b"), traced], 0, 2)):
        data, _ = bytes_of.build(jobs, slots)
        assert int.from_bytes(data[8:10], "little") == version


def test_large_jobs_and_btrfs_and_a_full_table_of_descriptors_open_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = often(broker(root, durability="process"))
    assert appender(mine).is_worth([job("a")])
    often(mine)
    assert not appender(mine).is_worth([job("a", payload=bytes(append.MOST_BYTES // 8))])
    often(mine)
    disk = mine._spool._disk
    assert disk is not None
    disk.forgetful = True
    assert not appender(mine).is_worth([job("a")])
    disk.forgetful = False
    monkeypatch.setattr(append, "MOST_KEPT", -1)
    assert not appender(mine).is_worth([job("a")])
    monkeypatch.undo()
    monkeypatch.setattr(file, "OFD", None)
    assert not appender(mine).is_worth([job("a")])
    mine.close()


def test_jobs_larger_than_the_first_fill_it_earlier(root: Path) -> None:
    mine = often(broker(root, durability="process"))
    wanted = [f"j{number}" for number in range(20)]
    mine.enqueue([job(wanted[0])])
    for job_id in wanted[1:]:
        mine.enqueue([job(job_id, payload=bytes(5000))])
    assert [lease.job.id for lease in claim(mine)] == wanted
    assert len(segments(root)) > 2
    mine.close()


def test_a_moved_head_of_a_growing_segment_says_so() -> None:
    data, end = bytes_of.build([job("a"), job("b")], 16)
    head = bytes_of.head(data)
    assert (head.jobs, head.grows, head.size) == (16, True, len(data))
    assert end < len(data)
    whole, _ = bytes_of.build([job("a"), job("b")])
    assert not bytes_of.head(whole).grows
    with pytest.raises(job_file.Damaged):
        bytes_of.head(data[:100])
