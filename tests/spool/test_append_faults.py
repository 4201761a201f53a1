"""A segment that stays open: its writes fail, its writer dies, its file is damaged, replaced or removed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.segments import append, words
from framework.engine.spool.segments import format as bytes_of
from framework.model.errors import EnqueueFailed, EnqueueUncertain, QueueFull
from tests.support.settling import ack

from .seam import Seam, before, fail_calls, pass_on
from .segmented import appender, segments, vacant, words_of
from .world import broker, census, claim, dead_owner, dies_before, files, heal, ids, in_child, job, often


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


def test_it_is_closed_where_no_thread_can_be_had(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(append, "_closer", append.Closer())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    mine = often(broker(root, durability="process"))
    mine.enqueue([job("a")])
    assert (len(segments(root)), vacant(root)) == (1, 0)
    mine.close()
