"""Claiming and the order of claims."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.claim import claim as claim_module
from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EngineUnavailable, LeaseLost
from tests.support.settling import ack, bury, retry

from .seam import Seam, before, fail_calls, pass_on
from .world import broker, census, claim, dead_owner, descriptors_here, failure, files, heal, ids, in_child, job, one


def test_jobs_come_in_the_order_of_their_producer(spool: SpoolEngine) -> None:
    wanted = [f"n{n}" for n in range(30)]
    for name in wanted:
        spool.enqueue([job(name)])
    found: list[str] = []
    while leases := claim(spool, limit=7):
        found += ids(leases)
    assert found == wanted


def test_a_listing_is_no_snapshot_and_overtakes_nobody(root: Path) -> None:
    """readdir shows a job that came during the listing, but not the one before it.

    Verified: without the rule "only what was stamped before the listing began" b is claimed before a.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    producer = broker(root)
    hidden: list[str] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        found = real(*args, **kwargs)
        if name != "listdir" or hidden:
            return found
        path = os.readlink(f"/proc/self/fd/{args[0]}")
        if "/jobs/ready/" not in path:
            return found
        producer.enqueue([job("a")])
        producer.enqueue([job("b")])
        new = sorted(set(real(*args, **kwargs)) - set(found))
        hidden.append(new[0])
        return [*found, new[1]]

    producer.enqueue([job("first")])
    seam.arm(hook)
    found = ids(claim(mine)) + ids(claim(mine))
    assert hidden, "the bucket changed in this very moment"
    assert found == ["first", "a", "b"]
    mine.close()
    producer.close()


def test_a_big_backlog_is_listed_once(root: Path) -> None:
    """Regression of the seed: every pull listed the whole directory."""
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job(f"n{n}") for n in range(600)])
    seam.arm(lambda name, args, kwargs, real: real(*args, **kwargs))
    while leases := claim(mine, limit=16):
        ack(mine, leases)
    per_claim = seam.names.count("listdir") / (600 / 16)
    assert per_claim < 1.5
    mine.close()


def test_a_released_job_comes_first_again(spool: SpoolEngine) -> None:
    spool.enqueue([job(name) for name in "abcdef"])
    a, b, c = claim(spool, limit=3)
    spool.release([c, b])
    assert ids(claim(spool, limit=3)) == ["b", "c", "d"]
    spool.release([a])
    assert ids(claim(spool)) == ["a", "e", "f"]


def test_who_loses_races_finds_the_rest_in_order(root: Path) -> None:
    """Two consumers with listings of their own: what the other one took is skipped, and nobody is passed by.

    Verified: with a gallop that lands one too far the order breaks.
    """
    first, second = broker(root), broker(root)
    first.enqueue([job(f"n{n:03}") for n in range(200)])
    found = ids(claim(first, limit=1)) + ids(claim(second, limit=1))
    for size in (1, 2, 3, 17, 40, 5, 60, 1, 30):
        found += ids(claim(first, limit=size))
        found += ids(claim(second, limit=1))
    found += ids(claim(first, limit=200))
    found += ids(claim(second, limit=200))
    assert found == [f"n{n:03}" for n in range(200)]
    first.close()
    second.close()


def test_a_lost_race_is_not_nothing_to_do(root: Path) -> None:
    """Regression of the seed: a lost rename race returned "nothing to do"."""
    seam = Seam()
    mine, other = broker(root, calls=seam), broker(root)
    mine.enqueue([job("a"), job("b")])
    taken: list[Any] = []
    seam.arm(before("rename", lambda: taken.extend(claim(other, limit=1)), when=lambda args: "/ready/" in str(args[0])))
    assert ids(claim(mine, limit=1)) == ["b"]
    assert ids(taken) == ["a"]
    mine.close()
    other.close()


@pytest.mark.parametrize("lock", ["stays", "is gone"])
def test_a_worker_whose_directory_is_gone_claims_on(root: Path, lock: str) -> None:
    """Fenced: somebody removed the directory of a living worker. Its leases there are lost; without its lock all are,
    and a new life begins.

    Verified: with ENOENT always read as a lost race it claims nothing for ever.
    """
    mine = broker(root)
    mine.enqueue([job(f"n{n}") for n in range(5)])
    lost = one(mine)
    (wid,) = (path for path in (root / "jobs" / "claimed").iterdir() if path.is_dir())
    for path in wid.iterdir():
        path.unlink()
    wid.rmdir()
    if lock == "is gone":
        wid.with_name(f"{wid.name}.lock").unlink()
    assert len(claim(mine, limit=2) + claim(mine) + claim(mine)) == 4
    with pytest.raises(LeaseLost):
        ack(mine, [lost])
    (again,) = (path for path in (root / "jobs" / "claimed").iterdir() if path.is_dir())
    assert (again.name == wid.name) == (lock == "stays")
    mine.close()


def test_too_many_files_never_make_a_file_bad(root: Path) -> None:
    """Verified: with EMFILE counted like EIO the jobs end in bad/."""
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a"), job("b")])
    assert claim(mine, limit=0) == []
    seam.arm(fail_calls(errno.EMFILE, "open", when=lambda args: "," in str(args[0])))
    for _ in range(6):
        with pytest.raises(EngineUnavailable, match="open files"):
            claim(mine)
    seam.disarm()
    assert sorted(ids(claim(mine))) == ["a", "b"]
    assert mine.stats("jobs").bad == 0
    mine.close()


def test_a_full_table_of_descriptors_is_survived(root: Path) -> None:
    """The real thing: no descriptor is left in the process, then there are some again."""

    def live() -> None:
        import resource

        mine = broker(root)
        mine.enqueue([job(f"n{n}") for n in range(10)])
        (first,) = claim(mine, limit=1)
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_here() + 60, soft[1]))
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        ack(mine, [first])  # needs none
        leases = claim(mine, limit=3)  # the spare one
        assert ids(leases) == ["n1", "n2", "n3"]
        mine.release(leases)
        for fd in taken:
            os.close(fd)
        assert ids(claim(mine)) == [f"n{n}" for n in range(1, 10)]
        assert mine.stats("jobs").bad == 0

    in_child(live)


def test_nothing_strands_with_the_living(root: Path) -> None:
    """Claimed, but the read failed: the job lies in the own directory, where nobody else may look.

    Verified: without the look into the own directory it is claimed by nobody until the process ends.
    """
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a"), job("b"), job("c")])
    assert claim(mine, limit=0) == []
    seam.arm(fail_calls(errno.EIO, "pread", times=1))
    with pytest.raises(EngineUnavailable):
        claim(mine)
    seam.disarm()
    assert ids(claim(mine)) == ["a", "b", "c"]
    mine.close()


def test_the_own_directory_is_looked_at_once_a_minute(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that nobody holds, for whatever reason. Verified: with LOOK = infinity it is never found."""
    mine = broker(root)
    mine.enqueue([job("a")])
    lease = one(mine)
    mine._spool._parts["jobs"].owner().tokens.clear()  # as if an error had eaten it
    assert claim(mine) == []
    monkeypatch.setattr(mine._spool._parts["jobs"].claim, "_look_at", time.monotonic())
    assert ids(claim(mine)) == [lease.job.id]
    assert claim_module.LOOK == 60
    mine.close()


def test_a_file_that_cannot_be_read_does_not_stop_the_others(root: Path) -> None:
    """A bad sector: EIO for one file, always. After three tries it is put aside."""
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("broken"), job("a"), job("b")])
    (broken, *_) = files(root, "jobs/ready/*/*")
    inode = broken.stat().st_ino

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "pread" and os.fstat(args[0]).st_ino == inode:
            raise OSError(errno.EIO, "injected")
        return real(*args, **kwargs)

    seam.arm(hook)
    found: list[str] = []
    for _ in range(6):
        try:
            found += ids(claim(mine))
        except EngineUnavailable:
            continue
    assert found == ["a", "b"]
    assert mine.stats("jobs").bad == 1
    assert [path.stat().st_ino for path in files(root, "jobs/bad/*")] == [inode]
    mine.close()


def test_a_read_only_disk_stops_claiming_with_a_clear_line(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job("a")])
    claim(mine, limit=0)
    seam.arm(fail_calls(errno.EROFS, "rename", "unlink", "mkdir", "link"))
    with pytest.raises(EngineUnavailable, match=r"Read-only file system: remount"):
        claim(mine)
    seam.disarm()
    assert ids(claim(mine)) == ["a"]
    mine.close()


def test_a_twin_after_a_power_cut_runs_again_and_nothing_is_deleted(root: Path) -> None:
    """btrfs may show a file in ready and in claimed after a cut. At least once: it runs twice, and both end.

    Verified: a deduplication by stem or inode loses one of the two acknowledgements or the job.
    """

    def live(mine: SpoolEngine) -> None:
        mine.enqueue([job("a")])
        (ready,) = files(root, "jobs/ready/*/*")
        os.link(ready, root / "twin")
        one(mine)
        os.rename(root / "twin", ready)

    dead_owner(root, live)
    fresh = heal(root)
    runs = 0
    while leases := claim(fresh, limit=1):
        runs += 1
        ack(fresh, leases)
    assert runs == 2
    assert not census(fresh)
    fresh.close()


def test_a_rename_onto_its_own_twin_ends(root: Path) -> None:
    """Both names are one file: rename() says yes and does nothing. The source goes, or it would be moved for ever.

    Verified: without `drop_twin` the same lease is handed out again and again, and delayed/ never empties.
    """
    mine = broker(root)
    mine.enqueue([job("a")])
    (ready,) = files(root, "jobs/ready/*/*")
    lease = one(mine)
    (claimed,) = files(root, "jobs/claimed/*/*")
    os.link(claimed, ready)
    assert claim(mine) == []
    assert not ready.exists()
    assert claimed.exists()
    ack(mine, [lease])

    mine.enqueue([job("b")])
    lease = one(mine)
    (claimed,) = files(root, "jobs/claimed/*/*")
    ready = root / "jobs" / "ready" / claimed.name[:10] / claimed.name
    ready.parent.mkdir(exist_ok=True)
    os.link(claimed, ready)
    mine.release([lease])
    assert ready.exists()
    assert not claimed.exists()
    assert ids(claim(mine)) == ["b"]
    mine.close()


def test_another_file_of_the_same_name_is_no_twin(root: Path) -> None:
    """Somebody restored a copy: it is not the file that we hold. It runs, and nothing of the two is deleted.

    Regression: the claim went round for ever.
    """
    mine = broker(root)
    mine.enqueue([job("a")])
    (ready,) = files(root, "jobs/ready/*/*")
    content = ready.read_bytes()
    lease = one(mine)
    ready.write_bytes(content)
    (copy,) = claim(mine)
    assert (copy.job.id, copy.delivery) == ("a", lease.delivery + 1)
    ack(mine, [lease])
    ack(mine, [copy])
    assert files(root, "jobs/claimed/*/*") == files(root, "jobs/ready/*/*") == []
    mine.close()


def test_old_buckets_go_first(root: Path) -> None:
    mine = broker(root)
    mine.enqueue([job("new")])
    (new,) = files(root, "jobs/ready/*/*")
    mine.enqueue([job("old")])
    (_, old) = files(root, "jobs/ready/*/*")
    name = "0" * 10 + old.name[10:]
    (root / "jobs" / "ready" / name[:10]).mkdir()
    old.rename(root / "jobs" / "ready" / name[:10] / name)
    assert new.exists()
    assert ids(claim(mine)) == ["old", "new"]
    mine.close()


@pytest.mark.parametrize("size", [0, 400_000])
def test_the_history_of_many_attempts_is_the_first_and_the_last_ten(spool: SpoolEngine, size: int) -> None:
    """Also behind a body that one read does not reach beyond. Verified: with `whole` ending at the slots it is lost."""
    spool.enqueue([job("a", payload=bytes(size))])
    for number in range(1, 16):
        lease = one(spool)
        retry(spool, lease, delay=0, failure=failure(lease, message=f"m{number}"))
    assert [f.message for f in one(spool).job.history] == ["m1", *(f"m{n}" for n in range(6, 16))]


def test_a_dead_letter_is_read_by_as_few_calls_as_a_job(root: Path) -> None:
    seam = Seam()
    spool = broker(root, calls=seam)
    spool.enqueue([job(name) for name in "abc"])
    bury(spool, lease := one(spool), failure=failure(lease))
    one(spool, "letters")  # this makes the owner
    bury(spool, lease := one(spool), failure=failure(lease))
    spent = []
    for queue in ("letters", "jobs"):
        seam.arm(pass_on)
        one(spool, queue)
        spent.append([seam.names.count(name) for name in ("fstat", "pread")])
        seam.disarm()
    assert spent[0] == spent[1]
    spool.close()
