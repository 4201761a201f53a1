"""The traps of segments, each of which a spike or an attack has found."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import job_file, names
from framework.engine.spool.segments import file, words
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments.file import Segment
from framework.model.errors import EngineUnavailable, LeaseLost
from tests.support.processes import wait_until
from tests.support.settling import ack, retry

from .seam import Seam, before, fail_calls
from .segmented import MANY, segments, stored, words_of
from .world import broker, census, claim, dead_owner, failure, heal, ids, in_segments, job, one


def a_copy_of_the_dead(root: Path) -> tuple[Path, names.SegmentName]:
    """Leave a segment of `a` and `b` of which a dead owner had `a`, and a copy of that; return the segment."""
    dead_owner(root, lambda mine: (in_segments(mine).enqueue([job("a"), job("b")]), claim(mine, limit=1)))
    (path,) = segments(root)
    (base,) = [found for found in (root / "jobs/claimed").iterdir() if found.is_dir()]
    name = names.segment(path.name)
    assert name is not None
    (base / f".{name.of_job(0, 1, None)}~{path.name}~{5:09x}").write_bytes(job_file.encode(job("a")))
    return path, name


def test_a_copy_that_the_word_does_not_name_is_nobodys(root: Path) -> None:
    """Trap: "the word says moved" is not enough, the word names its copy."""
    path, _ = a_copy_of_the_dead(root)
    data = bytearray(path.read_bytes())
    data[bytes_of.WORDS_AT : bytes_of.WORDS_AT + 8] = words.pack([words.moved(1, 6)])
    path.write_bytes(bytes(data))
    mine = heal(root)
    assert dict(census(mine)) == {"b": 1}, "another copy was the job, and has been settled since"
    mine.close()


def test_a_lease_is_over_when_its_word_says_so(root: Path) -> None:
    """Verified: without the look at the word, what another owner has by now is ended."""
    mine = stored(root, ["a", "b"])
    lease = one(mine)
    (path,) = segments(root)
    data = bytearray(path.read_bytes())
    theirs = words.owned(2, 7)
    data[bytes_of.WORDS_AT : bytes_of.WORDS_AT + 8] = words.pack([theirs])
    with path.open("r+b") as file_:  # in its place: it is open
        file_.write(data)
    with pytest.raises(LeaseLost):
        ack(mine, [lease])
    assert words_of(path)[0] == theirs
    mine.close()


def test_the_copies_of_the_dead_are_settled_before_their_words(root: Path) -> None:
    """Trap: the other way round its word is free, or another's, when the copy is judged."""
    seam = Seam()
    mine = broker(root, calls=seam)

    def live(theirs: SpoolEngine) -> None:
        in_segments(theirs).enqueue([job("a"), job("b")])
        lease, deadly, disk = one(theirs), Seam(), theirs._spool._disk
        assert disk is not None
        disk.calls = deadly  # type: ignore[assignment]
        deadly.arm(before("rename", lambda: os.kill(os.getpid(), 9)))
        retry(theirs, lease, delay=0, failure=failure(lease))

    dead_owner(root, live)
    found = mine.rescue()
    assert ids(one.lease for one in found) == ["a"], "the copy is the job"
    assert words.is_settled(words_of(segments(root)[0])[0])
    mine.release([found[0].lease])
    assert dict(census(mine)) == {"a": 1, "b": 1}
    mine.close()


def test_a_copy_whose_segment_is_gone_is_the_job(root: Path) -> None:
    """All in it was settled, and a copy is removed before its job is settled in another way."""
    path, _ = a_copy_of_the_dead(root)
    path.unlink()
    mine = heal(root)
    assert dict(census(mine)) == {"a": 1}
    mine.close()


def test_a_job_that_ends_in_its_segment_leaves_no_copy(root: Path) -> None:
    """A retry came as far as its copy, then the job succeeded. Once the segment is gone, a copy would be the job."""

    def live(mine: SpoolEngine) -> None:
        in_segments(mine).enqueue([job("a"), job("b")])
        first, second = claim(mine)
        disk, seam = mine._spool._disk, Seam()
        assert disk is not None
        disk.calls, before = seam, disk.calls
        seam.arm(fail_calls(errno.EIO, "pwrite"))
        with suppress(EngineUnavailable):
            retry(mine, first, delay=0, failure=failure(first))
        disk.calls = before
        ack(mine, [first, second])

    dead_owner(root, live)
    for path in segments(root):
        path.unlink()  # as maintenance does with a segment whose jobs have all ended
    mine = heal(root)
    assert dict(census(mine)) == {}
    mine.close()


def test_a_copy_waits_for_a_segment_whose_rename_a_cut_has_undone(root: Path) -> None:
    """Trap: it is in tmp, not gone; its word tells. Verified: without the look there, `a` is there twice."""
    path, name = a_copy_of_the_dead(root)
    path.rename(root / "jobs/tmp" / str(name._replace(stamp=f"{int(name.stamp) - 9:020d}")))
    mine = broker(root)
    mine.rescue()
    mine.close()
    mine = heal(root)
    assert dict(census(mine)) == {"a": 1, "b": 1}
    mine.close()


def test_a_word_that_changed_since_the_look_is_not_freed(root: Path) -> None:
    """Trap: its owner has no lock any more, for a rescuer or the owner itself has settled it meanwhile."""
    mine = stored(root, ["a", "b"])
    other = broker(root, durability="process")
    lease = one(other)
    (path,) = segments(root)
    seam = Seam()
    disk = mine._spool._disk
    assert disk is not None
    disk.calls = seam  # type: ignore[assignment]

    def settled_and_gone() -> None:
        ack(other, [lease])
        other.close()

    claimed = f"{mine._spool.parts('jobs').queue.base}/claimed"
    seam.arm(before("open", settled_and_gone, when=lambda args: args[0] == claimed))
    part = mine._spool.parts("jobs")
    part.maintain._upkeep._free_unknown(path.name, words_of(path))
    seam.disarm()
    assert words.is_settled(words_of(path)[0])
    mine.close()


def test_what_nobody_owns_is_freed(root: Path) -> None:
    """After a power cut a word may name an owner of whom nothing is left; half a word is nobody's either."""
    mine = stored(root, ["a", "b", "c"])
    (path,) = segments(root)
    data = bytearray(path.read_bytes())
    torn = words.moved(2, 7) & 0xFFFFFFFF | words.owned(2, 9) & ~0xFFFFFFFF
    data[bytes_of.WORDS_AT : bytes_of.WORDS_AT + 16] = words.pack([words.owned(1, 9), torn])
    path.write_bytes(bytes(data))
    assert mine.stats("jobs").in_flight == 2
    mine.maintain()
    assert [(lease.job.id, lease.delivery) for lease in claim(mine)] == [("a", 2), ("b", 3), ("c", 1)]
    mine.close()


def test_a_stopped_claimer_stops_nobody(root: Path) -> None:
    mine = stored(root)
    mine.enqueue([job("alone", priority=6)])
    (path,) = segments(root)
    disk = mine._spool._disk
    assert disk is not None
    theirs = Segment(disk, f"jobs/segments/{path.name}")
    with theirs.locked():
        assert ids(claim(mine)) == ["alone"]
    theirs.close()
    assert mine.counts["busy"] >= 1
    found: list[str] = []
    assert wait_until(lambda: found.extend(ids(claim(mine))) or len(found) == len(MANY), 30), "with the next listing"
    assert found == MANY
    mine.close()


def test_a_claim_that_fails_half_way_strands_nothing(root: Path) -> None:
    """The words say that the jobs are ours, and nobody has a lease: the next claim has."""
    seam = Seam()
    mine = in_segments(broker(root, calls=seam, durability="process"))
    mine.enqueue([job(job_id) for job_id in MANY])
    wrote = 0

    def late(name: str, args: tuple, kwargs: dict, real: object) -> object:  # type: ignore[type-arg]
        nonlocal wrote
        result = real(*args, **kwargs)  # type: ignore[operator]
        if name == "pwrite" and len(args[1]) == 5 * words.SIZE and not wrote:
            wrote = 1
            raise OSError(errno.ENOSPC, "injected")
        return result

    seam.arm(late)
    with pytest.raises(EngineUnavailable):
        claim(mine, limit=5)
    seam.disarm()
    leases = claim(mine, limit=100)
    assert [(lease.job.id, lease.delivery) for lease in leases] == [(job_id, 1) for job_id in MANY]
    ack(mine, leases)
    mine.close()


def test_a_retry_that_fails_stays_a_lease_and_is_repeated(root: Path) -> None:
    seam = Seam()
    mine = in_segments(broker(root, calls=seam))
    mine.enqueue([job("a"), job("b")])
    lease = one(mine)
    for call in ("open", "write", "fsync", "pwrite", "rename"):
        seam.arm(fail_calls(errno.EIO, call, times=1))
        with pytest.raises(EngineUnavailable):
            retry(mine, lease, delay=3600, failure=failure(lease))
        seam.disarm()
    retry(mine, lease, delay=3600, failure=failure(lease))
    assert mine.stats("jobs").delayed == 1
    with pytest.raises(LeaseLost):
        retry(mine, lease, delay=3600, failure=failure(lease))
    assert dict(census(mine)) == {"a": 1, "b": 1}
    mine.close()


def test_a_removed_directory_of_claims_is_made_again(root: Path) -> None:
    mine = stored(root, ["a", "b"])
    lease = one(mine)
    shutil.rmtree(root / "jobs/claimed")
    retry(mine, lease, delay=3600, failure=failure(lease))
    assert dict(census(mine)) == {"a": 1, "b": 1}
    mine.close()


def test_without_locks_of_ranges_the_file_is_locked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "OFD", None)
    mine, other = stored(root), broker(root, durability="process")
    (path,) = segments(root)
    disk = other._spool._disk
    assert disk is not None
    theirs = Segment(disk, f"jobs/segments/{path.name}")
    with theirs.locked():
        assert claim(mine) == []
    assert ids(claim(other, limit=100)) == MANY
    theirs.close()
    mine.close()
    other.close()


def test_no_word_goes_into_a_file_that_has_the_descriptors_number(root: Path) -> None:
    """Code that closes what is not its own leaves us numbers. Verified: without the look, the other file has words."""
    mine = stored(root)
    leases = claim(mine, limit=5)
    (segment,) = mine._spool.parts("jobs").segments._open.values()
    number, other = segment.fd, root.parent / "other"
    other.write_bytes(bytes(9000))
    foreign = os.open(other, os.O_RDWR)
    os.dup2(foreign, number)
    rest = claim(mine, limit=100)
    assert ids(rest) == MANY[5:]
    os.dup2(foreign, segment_fd := segment.fd)
    ack(mine, [*leases, *rest])
    assert other.read_bytes() == bytes(9000)
    assert segments(root) == []
    assert os.fstat(segment_fd).st_size == 9000, "it was not ours to close"
    for fd in {number, segment_fd, foreign}:
        os.close(fd)
    mine.close()


def test_closing_a_segment_closes_no_file_that_has_its_descriptors_number(root: Path) -> None:
    mine = stored(root)
    claim(mine, limit=5)
    (segment,) = mine._spool.parts("jobs").segments._open.values()
    number, foreign = segment.fd, os.open(os.devnull, os.O_RDONLY)
    os.dup2(foreign, number)
    mine.close()
    os.fstat(number)
    os.close(number)
    os.close(foreign)


def test_recovery_leaves_a_living_writers_segment_alone(root: Path) -> None:
    seam = Seam()
    mine, other = in_segments(broker(root, calls=seam)), broker(root, durability="process")
    seam.arm(before("rename", lambda: other.maintain() or None))
    mine.enqueue([job("a"), job("b")])
    seam.disarm()
    assert dict(census(mine)) == {"a": 1, "b": 1}
    assert mine.counts == {}
    mine.close()
    other.close()


def test_a_writer_whose_new_file_was_taken_for_a_dead_ones_takes_another(root: Path) -> None:
    seam = Seam()
    mine, other = in_segments(broker(root, calls=seam)), broker(root, durability="process")
    seam.arm(before("flock", lambda: other.maintain() or None))
    mine.enqueue([job("a"), job("b")])
    seam.disarm()
    assert seam.names.count("flock") == 2
    assert dict(census(mine)) == {"a": 1, "b": 1}
    mine.close()
    other.close()


def test_a_rescue_that_fails_half_way_tells_what_it_has(root: Path) -> None:
    """What is held by a rescuer and was told to nobody would wait for its death."""

    def live(theirs: SpoolEngine) -> None:
        for first in "ac":
            in_segments(theirs).enqueue([job(first), job(chr(ord(first) + 1))])
        claim(theirs)
        claim(theirs)

    dead_owner(root, live)
    seam = Seam()
    mine = broker(root, calls=seam)
    last = segments(root)[-1].name
    seam.arm(fail_calls(errno.EMFILE, "open", when=lambda args: args[0].endswith(last)))
    found = [one.lease for one in mine.rescue()]
    seam.disarm()
    assert ids(found) == ["a", "b"]
    mine.release(found)
    found = [one.lease for one in mine.rescue()]
    assert ids(found) == ["c", "d"]
    mine.release(found)
    assert ids(claim(mine)) == ["a", "b", "c", "d"]
    mine.close()
