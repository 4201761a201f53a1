"""Jobs that come one by one share a segment that stays open for a while."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import append, file, words
from framework.engine.spool.segments import format as bytes_of
from framework.model.errors import EnqueueFailed, EnqueueUncertain, QueueFull
from framework.model.options import QueueOptions
from tests.support.settling import ack

from .seam import Seam, before, fail_calls, pass_on
from .segmented import segments, words_of
from .world import LETTERS, broker, census, claim, dead_owner, dies_before, files, heal, ids, in_child, job, often, one

PATIENCE = 60.0  # seconds


@pytest.fixture
def seam() -> Seam:
    return Seam()


@pytest.fixture
def mine(root: Path, seam: Seam) -> Iterator[SpoolEngine]:
    """A producer whose first job has opened a segment."""
    made = often(broker(root, calls=seam))
    made.enqueue([job("a")])
    assert len(segments(root)) == 1
    yield made
    seam.disarm()
    made.close()


def appender(broker: SpoolEngine) -> append.Appender:
    return broker._spool.parts("jobs").enqueue._appender


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def vacant(root: Path) -> int:
    return sum(word == words.VACANT for path in segments(root) for word in words_of(path))


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
    monkeypatch.setattr(append, "time", Clock(lambda: now))
    for number in range(20):
        now += 0.2
        mine.enqueue([job(f"j{number}")])
    assert segments(root) == []
    mine.close()


class Clock:
    """In the place of the module `time`."""

    sleep = staticmethod(time.sleep)

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic


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
    until(lambda: appender(mine).segment is None)
    ack(mine, claim(mine))
    until(lambda: not segments(root))
    until(lambda: not [one for one in threading.enumerate() if one.name == "enqueue-closer"])


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
    time.sleep(0.005)
    mine.maintain()
    assert mine.expired() == {"jobs": 1}
    mine.enqueue([job("b", ttl=0.01)])

    def expired() -> bool:
        mine.maintain()
        return mine.expired() == {"jobs": 1}

    until(expired)
    mine.close()


def test_who_has_claimed_all_sees_what_comes(mine: SpoolEngine, root: Path) -> None:
    """Without opening it again. Verified: with records read once for all, they are damaged."""
    worker_seam = Seam()
    worker = broker(root, calls=worker_seam)
    ack(worker, claim(worker))
    for number in range(5):
        mine.enqueue([job(f"b{number}"), job(f"c{number}")])
        time.sleep(0.11)  # the next listing
        worker_seam.arm(fail_calls(errno.EIO, "open", when=lambda args: args[0].endswith(names.SEGMENT_END)))
        found = claim(worker)
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


def test_what_cannot_be_written_is_not_queued_and_the_next_is(root: Path, mine: SpoolEngine, seam: Seam) -> None:
    seam.arm(fail_calls(errno.ENOSPC, "pwrite", times=1))
    with pytest.raises(QueueFull):
        mine.enqueue([job("b")])
    mine.enqueue([job("c")])
    assert vacant(root) == 15, "of the new one alone"
    assert ids(claim(heal(root))) == ["a", "c"]


def test_of_what_was_written_before_the_write_failed_nothing_stays(root: Path, mine: SpoolEngine, seam: Seam) -> None:
    """Its words alone would not do: whoever reads a damaged segment goes by the records."""

    def late(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        result = real(*args, **kwargs)
        if name == "pwrite" and b"the-late-one" in args[1]:
            raise OSError(errno.EIO, "injected")
        return result

    seam.arm(late)
    with pytest.raises(EnqueueFailed):
        mine.enqueue([job("the-late-one")])
    assert all(b"the-late-one" not in path.read_bytes() for path in segments(root))


def test_what_cannot_be_flushed_is_uncertain_and_never_flushed_again(root: Path, mine: SpoolEngine, seam: Seam) -> None:
    seam.arm(fail_calls(errno.EIO, "fdatasync", times=1))
    with pytest.raises(EnqueueUncertain) as caught:
        mine.enqueue([job("b"), job("c")])
    assert (caught.value.job_id, "c" in str(caught.value.enqueued)) == ("b", False)
    mine.enqueue([job("d")])
    assert ids(claim(mine)) == ["a", "d"], "the place of what was not flushed is closed"


def test_what_cannot_be_shown_is_uncertain_and_runs_when_its_writer_is_gone(
    root: Path, mine: SpoolEngine, seam: Seam
) -> None:
    seam.arm(fail_calls(errno.EIO, "pwrite", when=lambda args: len(args[1]) == words.SIZE))
    with pytest.raises(EnqueueUncertain):
        mine.enqueue([job("b")])
    seam.disarm()
    mine.maintain()
    assert ids(claim(mine)) == ["a", "b"]


@pytest.mark.parametrize("call", ["open", "write"])
def test_where_no_segment_can_be_opened_a_job_gets_a_file(root: Path, call: str) -> None:
    """There may be room for one job on a full disk, and none for sixteen."""
    seam = Seam()
    mine = often(broker(root, calls=seam))
    seam.arm(fail_calls(errno.ENOSPC, call, times=1))
    mine.enqueue([job("a")])
    seam.arm(fail_calls(errno.ENOSPC, call, times=2))
    with pytest.raises(QueueFull):
        mine.enqueue([job("b")])
    seam.disarm()
    assert (dict(census(mine)), segments(root), files(root, "jobs/tmp/*")) == ({"a": 1}, [], [])
    mine.close()


def test_a_dead_producers_last_job_counts_where_it_is_whole(root: Path) -> None:
    def live(theirs: SpoolEngine) -> None:
        often(theirs).enqueue([job("a")])
        dies_before(theirs, "pwrite", 2).enqueue([job("b"), job("c")])

    dead_owner(root, live)
    (path,) = segments(root)
    data = path.read_bytes()
    torn = data.replace(b"payload of c ", bytes(13))
    path.write_bytes(torn)
    mine = broker(root, durability="process")
    assert mine.stats("jobs").ready == 1
    mine.maintain()
    assert (mine.stats("jobs").ready, vacant(root), mine.stats("jobs").bad) == (2, 0, 0)
    found = claim(mine)
    assert ids(found) == ["a", "b"]
    ack(mine, found)
    assert segments(root) == []
    mine.close()


def test_half_a_word_of_a_place_without_a_job_makes_no_job(root: Path) -> None:
    """A power cut has kept half of what closed it. Verified: taken for a claim of nobody, it becomes a bad file."""
    dead_owner(root, lambda theirs: often(theirs).enqueue([job("a")]))
    (path,) = segments(root)
    torn = words.DONE & 0xFFFFFFFF | words.VACANT & ~0xFFFFFFFF
    with path.open("r+b") as found:
        found.seek(bytes_of.WORDS_AT + 5 * words.SIZE)
        found.write(words.pack([torn]))
    mine = broker(root, durability="process")
    mine.maintain()
    assert ids(claim(mine)) == ["a"]
    assert (mine.stats("jobs").bad, vacant(root)) == (0, 0)
    mine.close()


def test_what_maintenance_shows_is_flushed_before(root: Path) -> None:
    """Verified: else a power cut leaves a word that says that a job is there, and no job."""

    def live(theirs: SpoolEngine) -> None:
        often(theirs).enqueue([job("a")])
        dies_before(theirs, "fdatasync").enqueue([job("b")])

    dead_owner(root, live)
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(pass_on)
    mine.maintain()
    assert seam.names.index("fdatasync") < seam.names.index("pwrite")
    seam.disarm()
    mine.close()


def test_a_stopped_producer_is_alive(root: Path) -> None:
    ready, child = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            often(broker(root)).enqueue([job("a")])
            os.write(child, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.read(ready, 1)
    os.kill(pid, signal.SIGSTOP)
    mine = broker(root, durability="process")
    try:
        ack(mine, claim(mine))
        mine.maintain()
        assert (vacant(root), len(segments(root))) == (15, 1)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    mine._spool.parts("jobs").maintain._upkeep._at = 0.0
    mine.maintain()
    mine._spool.parts("jobs").maintain._upkeep._at = 0.0
    mine.maintain()
    assert segments(root) == []
    mine.close()
    os.close(ready)
    os.close(child)


def test_a_forked_child_neither_appends_nor_keeps_its_parent_alive(root: Path, mine: SpoolEngine) -> None:
    (path,) = segments(root)
    in_child(lambda: mine.enqueue([job("child")]))
    assert sum(word != words.VACANT for word in words_of(path)) == 1
    mine.enqueue([job("b")])
    assert sorted(census(mine)) == ["a", "b", "child"]


def test_a_number_that_is_somebody_elses_file_by_now_is_not_written(root: Path, mine: SpoolEngine) -> None:
    """Code that closes what is not its own leaves us numbers."""
    segment = appender(mine).segment
    assert segment is not None
    other = root.parent / "other"
    other.write_bytes(bytes(9000))
    foreign = os.open(other, os.O_RDWR)
    os.dup2(foreign, segment._fd)
    mine.enqueue([job("b")])
    mine.maintain()
    assert other.read_bytes() == bytes(9000)
    assert ids(claim(mine)) == ["a", "b"]
    assert os.fstat(segment._fd).st_size == 9000, "it was not ours to close"
    os.close(segment._fd)
    os.close(foreign)


def test_no_job_goes_into_a_segment_that_was_removed(root: Path, mine: SpoolEngine, seam: Seam) -> None:
    """Nobody would find it there. Verified: without the look behind the flush, it is told as queued."""
    shutil.rmtree(root / "jobs" / "segments")
    mine.enqueue([job("b")])
    assert dict(census(mine)) == {"b": 1}
    seam.arm(before("fdatasync", lambda: shutil.rmtree(root / "jobs" / "segments")))
    with pytest.raises(EnqueueUncertain):
        mine.enqueue([job("c")])


def test_a_hard_link_of_a_backup_ends_nothing(root: Path, mine: SpoolEngine) -> None:
    (path,) = segments(root)
    os.link(path, root.parent / "backup")
    mine.enqueue([job("b")])
    assert len(segments(root)) == 1


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


def test_an_interrupt_leaves_no_half_told_job_behind(root: Path, mine: SpoolEngine, seam: Seam) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    seam.arm(before("fdatasync", interrupt))
    with pytest.raises(KeyboardInterrupt):
        mine.enqueue([job("b")])
    seam.disarm()
    mine.enqueue([job("c")])
    mine.maintain()
    assert ids(claim(mine)) == ["a", "c"]


def test_a_damaged_record_hides_none_behind_it(root: Path, mine: SpoolEngine) -> None:
    mine.enqueue([job("b"), job("c")])
    (path,) = segments(root)
    data = bytearray(path.read_bytes())
    data[data.index(b"payload of b ")] ^= 1
    with path.open("r+b") as found:
        found.write(data)
    mine.enqueue([job("d")])
    assert ids(claim(mine)) == ["a", "c", "d"]
    assert mine.stats("jobs").bad == 1


def test_one_with_a_damaged_head_is_put_aside_and_restored(root: Path, mine: SpoolEngine) -> None:
    mine.enqueue([job("b")])
    (path,) = segments(root)
    with path.open("r+b") as found:
        found.seek(20)
        found.write(b"\xff")
    mine.close()
    other = broker(root, durability="process")
    assert claim(other) == []
    (view,) = other.browse("jobs", "bad")
    assert other.restore(view) == ""
    assert ids(claim(other)) == ["a", "b"]
    assert vacant(root) == 0
    other.close()


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


def test_it_is_closed_where_no_thread_can_be_had(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(append, "_closer", append.Closer())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    mine = often(broker(root, durability="process"))
    mine.enqueue([job("a")])
    assert (len(segments(root)), vacant(root)) == (1, 0)
    mine.close()
