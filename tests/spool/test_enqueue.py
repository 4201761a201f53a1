"""Storing: what the caller is told is true, and order is kept."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.disk.filesystem import FileSystem
from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.enqueue import enqueue
from framework.model.errors import EnqueueFailed, EnqueueUncertain, PayloadTooLarge, QueueFull
from tests.support.settling import bury, retry

from .seam import Seam, before, fail_calls, pass_on
from .world import JOBS, LETTERS, broker, census, claim, descriptors_here, failure, files, heal, ids, in_child, job, one


def test_the_job_is_durable_before_it_is_in_its_place(root: Path) -> None:
    """Verified: without the fsync, or with it after the rename, the order is another."""
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(pass_on)
    mine.enqueue([job("n")])
    at = seam.names.index("write")
    assert seam.names[at : at + 3] == ["write", "fsync", "rename"]
    assert "flock" in seam.names[:at]
    seam.arm(pass_on)
    mine.enqueue([job("x", chosen=True)])
    at = seam.names.index("write")
    assert seam.names[at : at + 4] == ["write", "link", "fsync", "rename"]
    mine.close()


def test_process_durability_calls_no_fsync(root: Path) -> None:
    seam = Seam()
    seam.arm(pass_on)
    mine = broker(root, calls=seam, durability="process")
    mine.enqueue([job("a"), *(job(f"n{n}") for n in range(20))])
    lease = one(mine)
    bury(mine, lease, failure=failure(lease))
    assert not {"fsync", "syncfs"} & set(seam.names)
    mine.close()


def test_not_queued_is_said_only_after_a_durable_removal(root: Path) -> None:
    """1 of 20 jobs that were "not queued" came back after a power cut.

    Verified: without the fsync of tmp after the unlink the last call is another.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    calls: list[str] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        calls.append(name)
        if name == "fsync" and "unlink" not in calls:
            raise OSError(errno.EIO, "injected")
        return real(*args, **kwargs)

    seam.arm(hook)
    with pytest.raises(EnqueueFailed):
        mine.enqueue([job("n")])
    assert [name for name in calls if name in ("unlink", "fsync")] == ["fsync", "unlink", "fsync"]
    assert not files(root, "jobs/tmp/*")
    mine.close()


@pytest.mark.parametrize("broken", ["unlink", "fsync"])
def test_a_removal_that_fails_makes_it_uncertain(root: Path, broken: str) -> None:
    """Verified: with a removal whose errors are swallowed the caller hears *not queued*."""
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(fail_calls(errno.EIO, "fsync", broken))
    with pytest.raises(EnqueueUncertain) as caught:
        mine.enqueue([job("n")])
    assert caught.value.job_id == "n"
    seam.disarm()
    mine.close()
    assert heal(root).stats("jobs").ready == 0  # truncated where it could not be unlinked


def test_a_removal_is_committed_where_the_fsync_of_its_directory_forgets(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: on btrfs, jobs that were *not queued* came back after power cuts (tests.faults.powercuts)."""
    monkeypatch.setattr("framework.engine.spool.disk.filesystem.probe", lambda _: FileSystem("btrfs", "/", True))
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(fail_calls(errno.EIO, "fsync", times=1))
    with pytest.raises(EnqueueFailed):
        mine.enqueue([job("n")])
    assert [name for name in seam.names if name in ("unlink", "fsync", "syncfs")] == [
        "fsync", "unlink", "fsync", "syncfs",
    ]  # fmt: skip

    def fail_both(name: str, args: Any, kwargs: Any, real: Any) -> Any:
        return (first if name == "fsync" else second)(name, args, kwargs, real)

    first, second = fail_calls(errno.EIO, "fsync", times=1), fail_calls(errno.EIO, "syncfs")
    seam.arm(fail_both)
    with pytest.raises(EnqueueUncertain):
        mine.enqueue([job("m")])
    seam.disarm()
    mine.close()


def test_a_failed_fsync_is_not_repeated_on_its_descriptor(root: Path) -> None:
    """The second one says yes and means nothing."""
    seam = Seam()
    mine = broker(root, calls=seam)
    synced: list[int] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "fsync" and not synced:
            synced.append(args[0])
            raise OSError(errno.EIO, "injected")
        assert name != "fsync" or args[0] != synced[0] or "close" in seam.names
        return real(*args, **kwargs)

    seam.arm(hook)
    with pytest.raises(EnqueueFailed):
        mine.enqueue([job("n")])
    mine.close()


def test_an_error_of_the_rename_is_uncertain_and_the_file_is_recovered(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(fail_calls(errno.EIO, "rename"))
    with pytest.raises(EnqueueUncertain, match="may or may not"):
        mine.enqueue([job("n")])
    seam.disarm()
    mine.maintain()
    assert ids(claim(mine)) == ["n"]
    mine.close()


def test_a_draft_that_vanished_is_uncertain_never_success(root: Path) -> None:
    """ENOENT with the source gone, as producer.

    Verified: with `move`'s False taken for done, the caller is told that the job is queued.
    """
    seam = Seam()
    mine = broker(root, calls=seam)

    def remove() -> None:
        for path in files(root, "jobs/tmp/*"):
            path.unlink()

    seam.arm(before("rename", remove))
    with pytest.raises(EnqueueUncertain):
        mine.enqueue([job("n")])
    mine.close()


def test_a_bucket_that_was_removed_is_made_again(root: Path) -> None:
    """ENOENT with the source there: the target is gone.

    Verified: with ENOENT always read as a lost source, the job is uncertain.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    tries = 0

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        nonlocal tries
        if name == "rename" and tries < 3:
            tries += 1
            for bucket in (root / "jobs" / "ready").iterdir():
                bucket.rmdir()
        return real(*args, **kwargs)

    seam.arm(hook)
    mine.enqueue([job("n")])
    seam.disarm()
    assert ids(claim(mine)) == ["n"]
    assert tries == 3
    mine.close()


def test_a_recoverer_between_open_and_flock_does_not_take_the_job(root: Path) -> None:
    """It sees an empty file that nobody has locked, and unlinks it: the producer takes a new name.

    Verified: without the look at `st_nlink` the job is written into a file that has no name.
    """
    other = broker(root)
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(before("flock", other.maintain))
    mine.enqueue([job("n")])
    seam.disarm()
    assert ids(claim(other)) == ["n"]
    mine.close()
    other.close()


def test_a_living_producer_is_left_alone(root: Path) -> None:
    """At every call until the rename another process recovers tmp.

    Verified: without the flock the recoverer promotes or removes the file of a living producer.
    """
    other = broker(root)
    for name in ("write", "fsync", "rename"):
        seam = Seam()
        mine = broker(root, calls=seam)
        seam.arm(before(name, other.maintain))
        mine.enqueue([job(name)])
        mine.close()
        assert ids(claim(other)) == [name]
    other.close()


def test_a_batch_is_stamped_as_it_is_placed(root: Path) -> None:
    """A listing during the renames may show the third without the second; it counts only what was stamped before it.

    Verified: with the stamps made at the writing, all of them lie before the first rename.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    reader = broker(root)
    stamps: list[tuple[str, str]] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "rename":
            here = reader._spool._clock
            assert here is not None
            result = real(*args, **kwargs)
            stamps.append((str(args[1]).rsplit("/", 1)[1][:20], here.text()))
            return result
        return real(*args, **kwargs)

    seam.arm(hook)
    mine.enqueue([job(f"n{n}") for n in range(20)])
    for (_, done), (stamp, _) in pairwise(stamps):
        assert stamp >= done
    mine.close()
    reader.close()


def test_many_delayed_ones_are_stored_in_order_with_one_sync_for_a_chunk(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("warm", delay=3600)])
    seam.arm(pass_on)
    wanted = [f"n{n:04}" for n in range(600)]
    mine.enqueue([job(name, delay=3600) for name in wanted])
    assert seam.names.count("syncfs") == -(-600 // enqueue.CHUNK)
    assert seam.names.count("fsync") <= 2  # a new minute
    seam.disarm()
    assert [view.job.id for view in mine.browse("jobs", "delayed")] == ["warm", *wanted]
    mine.close()


def test_many_fit_into_few_descriptors(root: Path) -> None:
    """EMFILE in the middle of a chunk makes the chunk smaller, not the error.

    Verified: with EMFILE passed on, the call raises.
    """

    def live() -> None:
        import resource

        mine = broker(root)
        few = descriptors_here() + 40
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
        mine.enqueue([job(f"n{n:04}", delay=3600) for n in range(300)])

    in_child(live)
    fresh = heal(root)
    assert [view.job.id for view in fresh.browse("jobs", "delayed")] == [f"n{n:04}" for n in range(300)]
    fresh.close()


def test_an_error_in_a_batch_says_what_was_queued(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    seam.arm(fail_calls(errno.EIO, "syncfs", times=1))
    with pytest.raises(EnqueueFailed) as failed:
        mine.enqueue([job(f"n{n}") for n in range(10)])
    assert failed.value.enqueued == ()
    sources: set[Any] = set()

    def third(args: tuple[Any, ...]) -> bool:
        sources.add(args[0])  # the first one is renamed twice where its bucket is new
        return len(sources) == 3

    seam.arm(fail_calls(errno.EIO, "rename", when=third))
    with pytest.raises(EnqueueUncertain) as uncertain:
        mine.enqueue([job(f"m{n}") for n in range(10)])
    assert uncertain.value.enqueued == ("m0", "m1")
    assert uncertain.value.job_id == "m2"
    seam.disarm()
    mine.close()
    fresh = heal(root)
    assert sorted(census(fresh)) == ["m0", "m1", "m2"]  # the uncertain one came; those behind it did not
    fresh.close()


def test_too_large_counts_the_body_and_only_at_the_first_enqueue(root: Path) -> None:
    """The file grows with its history: a job of the largest size runs thirteen times.

    Verified: with the limit on the size of the file it lands in bad/ after its first failure.
    """
    small = replace(JOBS, max_payload_bytes=10_000)
    mine = broker(root, small, LETTERS)
    with pytest.raises(PayloadTooLarge, match="max_payload_bytes"):
        mine.enqueue([job("big", payload=bytes(10_001))])
    mine.enqueue([job("a", payload=bytes(10_000))])
    for attempt in range(1, 14):
        lease = one(mine)
        assert (lease.attempt, lease.job.payload) == (attempt, bytes(10_000))
        retry(mine, lease, delay=0, failure=failure(lease))
    assert mine.stats("jobs").bad == 0
    mine.close()


def test_what_was_not_declared_is_refused_in_words(spool: SpoolEngine) -> None:
    with pytest.raises(EnqueueFailed, match="'nowhere' is not declared"):
        spool.enqueue([job("a", queue="nowhere")])


def test_a_full_disk_is_seen_before_the_write(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    real = seam.fstatvfs

    class Full:
        f_frsize, f_bavail, f_blocks, f_files, f_favail = 4096, 3, 100_000, 0, 0

    seam.__dict__["fstatvfs"] = lambda fd: Full
    with pytest.raises(QueueFull, match="bytes left"):
        mine.enqueue([job("a")])
    Full.f_bavail, Full.f_files = 100_000, 1000
    with pytest.raises(QueueFull, match="inodes left"):
        mine.enqueue([job("a")])
    Full.f_files = 0  # btrfs counts none
    mine.enqueue([job("a")])
    seam.__dict__["fstatvfs"] = real
    mine.close()


def test_threads_enqueue_at_once_and_are_not_in_line_for_the_fsync(root: Path) -> None:
    """All eight are inside fsync together, or this waits for ever (the barrier gives up).

    Verified: with a lock around `put` the barrier breaks.
    """
    barrier = threading.Barrier(8)
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("warm")])

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "fsync" and threading.current_thread() is not threading.main_thread() and not done.get(ident()):
            done[ident()] = True
            barrier.wait(timeout=20)
        return real(*args, **kwargs)

    def ident() -> int:
        return threading.get_ident()

    def work(number: int) -> None:
        try:
            mine.enqueue([job(f"{number}-{n}") for n in range(5)])
        except BaseException as error:
            errors.append(error)

    done: dict[int, bool] = {}
    errors: list[BaseException] = []
    seam.arm(hook)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seam.disarm()
    assert not errors
    found = ids(claim(mine))
    assert len(set(found)) == 41
    for number in range(8):
        mine_only = [name for name in found if name.startswith(f"{number}-")]
        assert mine_only == sorted(mine_only)
    mine.close()
