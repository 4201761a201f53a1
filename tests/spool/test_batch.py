"""Many jobs in a directory of their own: in order, counted by its name, and an error leaves all of them or none."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from framework.errors import EnqueueFailed, EnqueueUncertain, QueueFull
from framework.queues import QueueOptions
from framework.spool import batch, listing, names
from tests.settling import ack

from .seam import Seam, before, fail_calls, pass_on
from .world import LETTERS, broker, census, claim, files, heal, ids, job, one

MANY = [f"n{number:04}" for number in range(batch.LEAST)]


def jobs(wanted: list[str] = MANY, **options: Any) -> list[Any]:
    """Of these ids."""
    return [job(job_id, **options) for job_id in wanted]


def batches(root: Path, state: str = "ready") -> list[str]:
    """Names of the directories of batches."""
    return [path.name for path in (root / "jobs" / state).iterdir() if names.BATCH.match(path.name) and path.is_dir()]


def test_a_batch_costs_one_sync_and_one_rename(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(pass_on)
    mine.enqueue(jobs())
    assert seam.names.count("utime") == 1
    assert (seam.names.count("syncfs"), seam.names.count("rename"), seam.names.count("flock")) == (1, 1, 1)
    assert seam.names.index("syncfs") < seam.names.index("rename")
    assert seam.names.count("fsync") == 0
    assert seam.names.count("open") == len(MANY) + 1
    seam.disarm()
    assert batches(root, "tmp") == []
    assert ids(claim(mine, limit=1000)) == MANY
    mine.close()


def test_process_durability_calls_no_syncfs(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam, durability="process")
    seam.arm(pass_on)
    mine.enqueue(jobs())
    assert "syncfs" not in seam.names
    assert len(batches(root)) == 1
    mine.close()


@pytest.mark.parametrize("change", [{"chosen": True}, {"delay": 3600}], ids=["chosen ids", "delayed"])
def test_what_has_its_own_place_comes_in_no_batch(root: Path, change: dict[str, Any]) -> None:
    mine = broker(root, durability="process")
    mine.enqueue(jobs(**change))
    assert batches(root) == []
    assert dict(census(mine)) == dict.fromkeys(MANY, 1)
    mine.close()


def test_jobs_alone_and_in_batches_keep_the_order_of_their_enqueue(root: Path) -> None:
    """Verified: with batches listed behind the bucket of their ten seconds, `last` comes before the second batch."""
    mine = broker(root, durability="process")
    second = [f"m{number:04}" for number in range(batch.LEAST)]
    mine.enqueue([job("first")])
    mine.enqueue(jobs())
    mine.enqueue([job("between")])
    mine.enqueue(jobs(second))
    mine.enqueue([job("last")])
    assert ids(claim(mine, limit=1000)) == ["first", *MANY, "between", *second, "last"]
    mine.close()


def test_a_deep_queue_lists_its_oldest_batches_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what stands alone behind the last of them waits for the next listing."""
    monkeypatch.setattr(listing, "ENOUGH", 2 * batch.LEAST)
    seam = Seam()
    mine = broker(root, calls=seam, durability="process")
    wanted: list[str] = []
    for number in range(6):
        wanted += [f"alone{number}", *(f"b{number}.{at:04}" for at in range(batch.LEAST))]
        mine.enqueue([job(wanted[-batch.LEAST - 1])])
        mine.enqueue(jobs(wanted[-batch.LEAST :]))
    found = []
    seam.arm(pass_on)
    found += ids(claim(mine, limit=batch.LEAST))
    assert seam.names.count("listdir") <= 6  # ready, its bucket, two batches, the own directory, segments
    seam.disarm()
    while leases := claim(mine, limit=50):
        found += ids(leases)
    assert found == wanted
    mine.close()


def test_a_batch_is_counted_by_its_name_until_somebody_takes_a_job(root: Path) -> None:
    """However deep a queue is, what nobody has touched is not listed.

    Verified: with the name believed for ever, the count stays.
    """
    seam = Seam()
    mine, other = broker(root, durability="process"), broker(root, durability="process", calls=seam)
    mine.enqueue(jobs())
    mine.enqueue(jobs(["alone", *MANY]))
    seam.arm(pass_on)
    assert other.stats("jobs").ready == 2 * len(MANY) + 1
    assert seam.names.count("listdir") == 7  # of the states, and for ready and claimed of segments
    seam.disarm()
    leases = claim(mine, limit=10)
    assert other.stats("jobs").ready == 2 * len(MANY) - 9
    ack(mine, leases)
    (path, *_) = files(root, "jobs/ready/*/*")
    path.with_name(".an editor's").touch()
    assert other.stats("jobs").ready == 2 * len(MANY) - 9
    mine.close()
    other.close()


def test_an_untouched_batch_expires_by_what_its_name_says(root: Path) -> None:
    mine = broker(root, durability="process")
    mine.enqueue([*jobs(ttl=3600.0), job("short", ttl=0.001)])
    time.sleep(0.002)
    mine.maintain()
    assert [view.job.id for view in mine.browse("letters", "ready")] == ["short"]
    assert mine.stats("jobs").ready == len(MANY)
    mine.close()


def test_what_is_released_goes_to_the_bucket_of_its_time_and_comes_first(root: Path) -> None:
    mine = broker(root, durability="process")
    mine.enqueue(jobs())
    mine.release([one(mine)])
    (path,) = [path for path in files(root, "jobs/ready/*/*") if ",0.1" in path.name]
    assert path.parent.name == path.name[: names.BUCKET_DIGITS]
    assert ids(claim(mine, limit=1000)) == MANY
    mine.close()


def test_an_empty_batch_is_removed_at_once_and_no_other(root: Path) -> None:
    mine = broker(root, durability="process")
    mine.enqueue(jobs())
    leases = claim(mine, limit=1000)
    mine.enqueue(jobs(["later", *MANY]))
    ack(mine, leases)
    mine.release([one(mine)])  # who looks for more finds it empty
    assert len(batches(root)) == 1
    assert mine.stats("jobs").ready == 1 + len(MANY)
    mine.close()


def test_a_batch_that_is_drained_while_others_look_is_no_error(root: Path) -> None:
    """It may be gone between their listing of it and their claim from it."""
    mine, other = broker(root, durability="process"), broker(root, durability="process")
    mine.enqueue(jobs())
    first = one(other)
    ack(mine, claim(mine, limit=1000))
    assert claim(mine) == []
    assert batches(root) == []
    assert claim(other) == []
    ack(other, [first])
    mine.close()
    other.close()


@pytest.mark.parametrize("call", ["mkdir", "open", "flock", "write", "close", "syncfs"])
def test_an_error_before_the_rename_queues_none_of_them(root: Path, call: str) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("before")])
    seam.arm(fail_calls(errno.ENOSPC if call == "write" else errno.EIO, call, times=1))
    with pytest.raises(QueueFull if call == "write" else EnqueueFailed) as caught:
        mine.enqueue(jobs())
    assert list(caught.value.enqueued) == []
    seam.disarm()
    mine.close()
    fresh = heal(root)
    assert dict(census(fresh)) == {"before": 1}
    assert files(root, "jobs/tmp/*") == []
    fresh.close()


@pytest.mark.parametrize("call", ["unlink", "rmdir", "fsync"])
def test_a_removal_that_fails_is_uncertain(root: Path, call: str) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("before")])
    seam.arm(fail_calls(errno.EIO, "syncfs", call))
    with pytest.raises(EnqueueUncertain):
        mine.enqueue(jobs())
    seam.disarm()
    mine.close()


def test_what_is_left_in_a_batch_that_was_not_queued_is_uncertain(root: Path) -> None:
    """Whatever the reason: recovery would promote it."""
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(fail_calls(errno.EIO, "syncfs"))
    unlink = mine._spool._disk.unlink  # type: ignore[union-attr]
    kept: list[str] = []
    mine._spool._disk.unlink = lambda path: bool(kept.append(path)) if not kept else unlink(path)  # type: ignore
    with pytest.raises(EnqueueUncertain, match="may come back"):
        mine.enqueue(jobs())
    seam.disarm()
    mine.close()


def test_a_rename_that_fails_is_uncertain_and_says_for_how_many(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(fail_calls(errno.EIO, "rename"))
    with pytest.raises(EnqueueUncertain, match=f"'n0000' and the {len(MANY) - 1} behind it may or may not") as caught:
        mine.enqueue(jobs())
    assert (caught.value.job_id, list(caught.value.enqueued)) == ("n0000", [])
    seam.disarm()
    mine.close()
    fresh = heal(root)
    assert dict(census(fresh)) == {}  # it could be taken back
    fresh.close()


def test_a_rename_that_was_done_in_spite_of_its_error_is_success(root: Path) -> None:
    """Verified: without the look at the target, the caller is told that nobody knows."""
    seam = Seam()
    mine = broker(root, calls=seam)

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        result = real(*args, **kwargs)
        if name == "rename":
            raise OSError(errno.EIO, "injected")
        return result

    seam.arm(hook)
    mine.enqueue(jobs())
    seam.disarm()
    assert ids(claim(mine, limit=1000)) == MANY
    mine.close()


def test_a_batch_that_somebody_took_away_is_uncertain(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)

    def take_away() -> None:
        (name,) = batches(root, "tmp")
        os.rename(root / "jobs" / "tmp" / name, root / "elsewhere")

    seam.arm(before("rename", take_away))
    with pytest.raises(EnqueueUncertain, match="vanished before its rename"):
        mine.enqueue(jobs())
    seam.disarm()
    mine.close()


def test_those_too_many_come_back_and_the_rest_stays(root: Path) -> None:
    small = QueueOptions("jobs", dead_letter="letters", max_length=batch.LEAST + 10)
    mine = broker(root, small, LETTERS)
    mine.enqueue([job(f"a{number:02}") for number in range(20)])
    with pytest.raises(QueueFull) as caught:
        mine.enqueue(jobs())
    assert list(caught.value.enqueued) == MANY[:-10]
    assert ids(claim(mine, limit=1000))[20:] == MANY[:-10]
    mine.close()


def test_one_too_many_that_was_claimed_meanwhile_is_told_as_queued(root: Path) -> None:
    """Verified: with every job behind the limit called not queued, one of them runs all the same."""
    small = QueueOptions("jobs", dead_letter="letters", max_length=batch.LEAST)
    seam = Seam()
    mine, other = broker(root, small, LETTERS, calls=seam), broker(root, small, LETTERS)
    mine.enqueue([job("a")])
    limits = mine._spool.parts("jobs").enqueue._limits

    def excess() -> int:
        claim(other, limit=1000)
        return 2

    limits.excess = excess  # type: ignore[method-assign]
    mine.enqueue(jobs())
    assert dict(census(other)) == {"a": 1} | dict.fromkeys(MANY, 1)
    mine.close()
    other.close()


def test_two_batches_at_once_do_not_pass_the_limit(root: Path) -> None:
    """Neither sees the other's before it is in its place.

    Verified: without the second count both are queued.
    """
    small = QueueOptions("jobs", dead_letter="letters", max_length=100)
    seam = Seam()
    mine, other = broker(root, small, LETTERS, calls=seam), broker(root, small, LETTERS)
    rival = [f"r{number}" for number in range(90)]
    seam.arm(before("rename", lambda: other.enqueue(jobs(rival))))
    with pytest.raises(QueueFull) as caught:
        mine.enqueue(jobs([f"m{number}" for number in range(90)]))
    seam.disarm()
    assert len(caught.value.enqueued) == 10
    assert mine.stats("jobs").ready == 100
    mine.close()
    other.close()


def test_a_batch_that_was_taken_back_whole_and_removed_by_others_is_full_not_uncertain(root: Path) -> None:
    small = QueueOptions("jobs", dead_letter="letters", max_length=1)
    seam = Seam()
    mine = broker(root, small, LETTERS, calls=seam)
    mine.enqueue([job("a")])
    limits = mine._spool.parts("jobs").enqueue._limits
    limits.admit = lambda jobs, size: True  # type: ignore[method-assign]

    def remove() -> None:
        (path,) = [root / "jobs" / "ready" / name for name in batches(root)]
        path.rmdir()

    gone = before(
        "open", remove, when=lambda args: "/ready/" in str(args[0]) and names.BATCH.search(args[0]) is not None
    )
    seam.arm(gone)
    with pytest.raises(QueueFull) as caught:
        mine.enqueue(jobs())
    assert list(caught.value.enqueued) == []
    at = len(seam.names) - seam.names[::-1].index("unlink")
    assert "fsync" in seam.names[at:], "that it is gone must last, before *not queued* is said"
    seam.disarm()
    mine.close()


def test_an_empty_batch_that_looks_untouched_ends_with_the_first_look(root: Path) -> None:
    """As a backup may restore it: it counts, with nothing to claim. Verified: left alone, the queue stays full."""
    mine = broker(root, durability="process")
    planted = root / "jobs" / "ready" / "00000000000000000001.e672c630.1.000000000001,100"
    planted.mkdir()
    os.utime(planted, ns=(1, 1))
    assert mine.stats("jobs").ready == 100
    assert claim(mine) == []
    assert mine.stats("jobs").ready == 0
    mine.close()


def test_a_job_that_lies_in_another_bucket_than_its_name_says_is_claimed_there(root: Path) -> None:
    """Verified: sought where its name says, it is missed and listed again for ever."""
    mine = broker(root, durability="process")
    mine.enqueue([job("a")])
    (path,) = files(root, "jobs/ready/*/*")
    elsewhere = path.parent.with_name("0000001000")  # that of no priority
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    assert ids(claim(mine)) == ["a"]
    mine.close()


def test_no_descriptor_for_the_first_file_leaves_no_directory(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(fail_calls(errno.EMFILE, "open", when=lambda args: not str(args[0]).startswith("jobs/")))
    with pytest.raises(EnqueueFailed):
        mine.enqueue(jobs())
    seam.disarm()
    assert batches(root, "tmp") == []
    mine.close()
