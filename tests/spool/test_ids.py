"""Ids that callers chose: one job of an id, whatever happens in between."""

from __future__ import annotations

import math
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.enqueue import ids as ids_module
from framework.model.errors import EnqueueFailed, QueueFull
from framework.model.options import QueueOptions
from tests.support.settling import ack, bury, rest

from .killed import killed_producers
from .seam import Seam, before, fail_calls, kill_at, pass_on
from .world import broker, census, claim, cut_at, failure, files, heal, ids, in_child, job, one


def entries(root: Path) -> list[Path]:
    return files(root, "*/ids/*/*")


def chosen(spool: SpoolEngine, *names: str, **options: Any) -> None:
    spool.enqueue([job(name, chosen=True, **options) for name in names])


class Rival:
    """Another process that tries to enqueue the same id, from some gap of ours."""

    def __init__(self, root: Path, act: Callable[[SpoolEngine], Any], *queues: QueueOptions) -> None:
        self._root = root
        self._queues = queues
        self._act = act
        self._read, self._write = os.pipe()
        self.child = 0

    def start(self) -> None:
        """Gives it time to come to its end, if nothing keeps it from that."""
        self.child = os.fork()
        if self.child == 0:
            try:
                mine = broker(self._root, *self._queues)
                self._act(mine)
                os.write(self._write, b"x")
            finally:
                os._exit(0)
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        poll.poll(150)  # not asserted: only lets an unlocked rival win

    def finish(self) -> None:
        if self.child:
            os.waitpid(self.child, 0)
        os.close(self._read)
        os.close(self._write)


def test_an_id_is_one_job(spool: SpoolEngine, root: Path) -> None:
    chosen(spool, "a")
    chosen(spool, "a", "a", "b")
    assert ids(claim(spool)) == ["a", "b"]
    assert len(entries(root)) == 2
    assert all(path.stat().st_nlink == 2 for path in entries(root))


@pytest.mark.parametrize("way", ["ack", "discard", "letter acked"])
def test_an_id_is_free_once_its_job_is_gone(spool: SpoolEngine, root: Path, way: str) -> None:
    chosen(spool, "a")
    lease = one(spool)
    if way == "ack":
        ack(spool, [lease])
    else:
        bury(spool, lease, failure=failure(lease))
        letter = one(spool, "letters")
        if way == "letter acked":
            ack(spool, [letter])
        else:
            rest(spool, letter)
            (view,) = spool.browse("letters", "dead")
            assert spool.discard(view)
    assert entries(root) == []
    chosen(spool, "a")
    assert one(spool).delivery == 1


def test_an_id_is_of_its_queue(spool: SpoolEngine) -> None:
    chosen(spool, "a")
    chosen(spool, "a", queue="plain")
    assert ids(claim(spool)) == ids(claim(spool, "plain")) == ["a"]


def test_ids_may_be_anything(spool: SpoolEngine) -> None:
    names = ["../../etc/passwd", "", "x" * 10_000, "ünï\ud800", "a\0b", "."]
    chosen(spool, *names, payload=b"x")
    chosen(spool, *names, payload=b"x")
    assert ids(claim(spool)) == names


def test_the_job_goes_before_its_entry(root: Path) -> None:
    """Killed between the two unlinks an ack leaves a link count of 1, which says that the job is gone.

    Verified: with the entry unlinked first, a kill leaves a job whose id enqueues a second one.
    """
    at, finished = 0, False
    while not finished:
        place = root / str(at)
        read, write = os.pipe()

        def live(place: Path = place, at: int = at, write: int = write) -> None:
            seam = Seam()
            mine = broker(place, calls=seam)
            chosen(mine, "a")
            lease = one(mine)
            seam.arm(kill_at(at))
            ack(mine, [lease])
            os.write(write, b"x")

        in_child(live)
        os.close(write)
        finished = os.read(read, 1) == b"x"
        os.close(read)
        chosen(broker(place), "a")  # before any maintenance gives the job its id back
        fresh = heal(place)
        assert census(fresh) == {"a": 1}, f"call {at}"
        fresh.close()
        at += 1


def test_a_duplicate_is_not_answered_while_the_first_is_taken_back(root: Path) -> None:
    """The first is in its place, one too many, and about to be taken back. In that gap a second one asks for the id.

    Verified: without the lock the second is told that it is queued, and no job is there.
    """
    tight = QueueOptions("tight", max_length=1)
    seam = Seam()
    mine, other = broker(root, tight, calls=seam), broker(root, tight)
    told = root / "told"

    def ask(asking: SpoolEngine) -> None:
        chosen(asking, "a", queue="tight")
        told.write_text("queued")

    rival = Rival(root, ask, tight)

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "rename" and not other.stats("tight").ready:
            other.enqueue([job("other", queue="tight")])
        if name == "unlink" and "/ready/" in str(args[0]) and not rival.child:
            rival.start()
        return real(*args, **kwargs)

    seam.arm(hook)
    with pytest.raises(QueueFull):
        chosen(mine, "a", queue="tight")
    seam.disarm()
    rival.finish()
    assert rival.child
    assert not told.exists(), "told queued, and it is not"
    assert ids(claim(mine, "tight")) == ["other"]
    mine.close()
    other.close()


@pytest.mark.parametrize("gap", ["fsync", "unlink"])
def test_a_duplicate_is_not_answered_while_the_first_fails(root: Path, gap: str) -> None:
    """The first is linked, then its fsync fails, and it is removed. Meanwhile a second one asks, and gets its turn."""
    seam = Seam()
    mine = broker(root, calls=seam)
    told = root / "told"

    def ask(asking: SpoolEngine) -> None:
        chosen(asking, "a")
        told.write_text("queued")

    rival = Rival(root, ask)

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == gap and not rival.child and "link" in seam.names:
            rival.start()
        if name == "fsync" and seam.names[-2:-1] == ["link"]:
            raise OSError(5, "injected")
        return real(*args, **kwargs)

    seam.arm(hook)
    with pytest.raises(EnqueueFailed):
        chosen(mine, "a")
    seam.disarm()
    rival.finish()
    assert told.read_text() == "queued"
    mine.maintain()
    assert census(mine) == {"a": 1}
    mine.close()


def test_two_that_find_a_stale_entry_and_a_third_that_links_in_the_gap(root: Path) -> None:
    """Both see the entry of a finished job; one unlinks and links its own; the other unlinks that one's.

    Verified: without the lock two jobs of the id exist.
    """
    mine = broker(root)
    chosen(mine, "a")
    (entry,) = entries(root)
    os.link(entry, root / "kept")
    ack(mine, claim(mine))
    (root / "kept").rename(entry)  # as a killed ack leaves it
    assert entry.stat().st_nlink == 1
    seam = Seam()
    slow = broker(root, calls=seam)
    rival = Rival(root, lambda other: chosen(other, "a"))
    seam.arm(before("unlink", rival.start, when=lambda args: "/ids/" in str(args[0])))
    chosen(slow, "a")
    seam.disarm()
    rival.finish()
    assert census(mine) == {"a": 1}
    assert [path.stat().st_nlink for path in entries(root)] == [2]
    slow.close()
    mine.close()


def test_an_ack_does_not_unlink_the_entry_of_the_next_job(root: Path) -> None:
    """Between the ack's two unlinks the id is enqueued again.

    Verified: without the lock the ack unlinks the new job's entry, and a third enqueue makes a second job.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    chosen(mine, "a")
    lease = one(mine)
    rival = Rival(root, lambda other: chosen(other, "a"))
    seam.arm(before("unlink", rival.start, when=lambda args: "/ids/" in str(args[0])))
    ack(mine, [lease])
    seam.disarm()
    rival.finish()
    chosen(mine, "a")
    assert census(mine) == {"a": 1}
    assert [path.stat().st_nlink for path in entries(root)] == [2]
    mine.close()


def test_the_original_of_a_duplicate_is_recovered_first(root: Path) -> None:
    """Its writer died between link and rename. The duplicate's caller is told yes, so the original must be there.

    Verified: with a link count of 2 taken for a job in some state, the caller is told yes and no job is claimable.
    """
    cut_at(root, "rename", lambda mine: chosen(mine, "a"))
    assert len(files(root, "jobs/tmp/*")) == 1
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(pass_on)
    chosen(mine, "a")
    assert "fsync" in seam.names[: seam.names.index("rename")]
    assert ids(claim(mine)) == ["a"]
    assert files(root, "jobs/tmp/*") == []
    mine.close()


def test_a_torn_original_gives_way(root: Path) -> None:
    cut_at(root, "rename", lambda mine: chosen(mine, "a"))
    (torn,) = files(root, "jobs/tmp/*")
    torn.write_bytes(torn.read_bytes()[:-5])
    mine = broker(root)
    chosen(mine, "a")
    assert ids(claim(mine)) == ["a"]
    mine.close()


def test_recovery_links_what_was_not_linked_yet(root: Path) -> None:
    """Written, not linked, killed: recovery promotes it as the job of its id."""
    cut_at(root, "link", lambda mine: chosen(mine, "a"))
    assert entries(root) == []
    mine = broker(root)
    mine._spool.parts("jobs").maintain._recover(math.inf)
    chosen(mine, "a")
    assert census(mine) == {"a": 1}
    assert [path.stat().st_nlink for path in entries(root)] == [2]
    mine.close()


def test_recovery_removes_what_lost_its_id_to_another(root: Path) -> None:
    """Written, not linked, killed; then the caller tried again and was told yes.

    Verified: with a promotion that does not look at the entry the id has two jobs.
    """
    cut_at(root, "link", lambda mine: chosen(mine, "a"))
    other = broker(root)
    (draft,) = files(root, "jobs/tmp/*")
    draft.rename(root / "aside")
    chosen(other, "a")
    (root / "aside").rename(draft)
    other.maintain()
    assert census(other) == {"a": 1}
    assert files(root, "jobs/tmp/*") == []
    other.close()


def test_a_lock_that_is_held_too_long_is_not_queued(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = broker(root)
    chosen(mine, "a")
    place = root / ids_module.directory(mine._spool._parts["jobs"].queue, "b")
    place.mkdir(exist_ok=True)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        import fcntl

        fd = os.open(place, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(write, b"x")
        signal.pause()
    try:
        assert os.read(read, 1) == b"x"
        monkeypatch.setattr(ids_module, "WAIT", 0.05)
        with pytest.raises(EnqueueFailed, match="lock of job id 'b'"):
            mine._spool._parts["jobs"].enqueue.put([job("b", chosen=True)], [])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
    chosen(mine, "b")
    assert census(mine) == {"a": 1, "b": 1}
    mine.close()


def test_entries_that_killed_acks_left_are_swept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep the space of their jobs. A living job's entry stays."""
    monkeypatch.setattr(ids_module, "ACK_WAIT", 0.01)
    seam = Seam()
    mine = broker(root, calls=seam)
    chosen(mine, "a", "b")
    a, _ = claim(mine)
    seam.arm(fail_calls(11, "flock"))  # the lock cannot be had: the job goes, the entry stays
    ack(mine, [a])
    seam.disarm()
    assert sorted(path.stat().st_nlink for path in entries(root)) == [1, 2]
    for _ in range(3):
        mine.maintain()
    assert [path.stat().st_nlink for path in entries(root)] == [2]
    mine.close()


def test_one_too_many_of_a_chosen_id_is_taken_back_whole(root: Path) -> None:
    """Over the limit after the rename: job and entry go, and the id is free."""
    tight = QueueOptions("tight", max_length=1)
    seam = Seam()
    mine, other = broker(root, tight, calls=seam), broker(root, tight)

    def interfere() -> None:
        other.enqueue([job("other", queue="tight")])

    seam.arm(before("rename", interfere, when=lambda args: "/tmp/" in str(args[0])))
    with pytest.raises(QueueFull):
        chosen(mine, "a", queue="tight")
    seam.disarm()
    assert ids(claim(mine, "tight")) == ["other"]
    assert files(root, "tight/ids/*/*") == []
    mine.close()
    other.close()


def test_many_processes_enqueue_the_same_ids(root: Path) -> None:
    """Six producers, twenty ids, killed at random calls: one job of each id at most, and one of each acknowledged."""

    def lives(mine: SpoolEngine) -> Iterator[str]:
        for number in range(20):
            chosen(mine, f"id{number}")
            yield f"id{number}"

    told = killed_producers(root, 90, lives)
    fresh = heal(root)
    found = census(fresh)
    assert max(found.values()) == 1
    assert told <= set(found)
    fresh.close()
