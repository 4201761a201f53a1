"""The length limit: exact near it, cheap far from it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.enqueue import limits
from framework.model.errors import QueueFull
from framework.model.options import QueueOptions
from tests.support.settling import ack

from .seam import Seam, before, pass_on
from .world import broker, claim, files, ids, job

TIGHT = QueueOptions("tight", max_length=5)


def tight(name: str, **options: Any) -> Any:
    return job(name, queue="tight", **options)


def test_ready_and_delayed_count(root: Path) -> None:
    mine = broker(root, TIGHT)
    mine.enqueue([tight("a"), tight("b"), tight("c", delay=3600), tight("d", delay=3600), tight("e")])
    with pytest.raises(QueueFull, match="max_length is 5"):
        mine.enqueue([tight("f")])
    (lease,) = claim(mine, "tight", 1)
    mine.enqueue([tight("f")])
    mine.release([lease])
    assert mine.stats("tight").ready + mine.stats("tight").delayed == 6
    mine.close()


def test_a_batch_fills_the_queue_and_says_how_far_it_came(root: Path) -> None:
    mine = broker(root, TIGHT)
    with pytest.raises(QueueFull) as full:
        mine.enqueue([tight(f"n{n}") for n in range(9)])
    assert full.value.enqueued == tuple(f"n{n}" for n in range(5))
    assert ids(claim(mine, "tight")) == [f"n{n}" for n in range(5)]
    mine.close()


def test_processes_together_do_not_exceed_it(root: Path) -> None:
    """Six at once. The gap that matters is in the last test of this file."""
    brokers = [broker(root, TIGHT) for _ in range(6)]
    barrier = threading.Barrier(6)
    queued: list[str] = []

    def work(number: int) -> None:
        barrier.wait(timeout=20)
        for attempt in range(6):
            try:
                brokers[number].enqueue([tight(f"{number}-{attempt}")])
                queued.append(f"{number}-{attempt}")
            except QueueFull:
                continue

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ids(claim(brokers[0], "tight"))
    assert sorted(found) == sorted(queued)
    assert len(found) <= 5
    for mine in brokers:
        mine.close()


def test_one_too_many_that_was_claimed_is_a_success(root: Path) -> None:
    """It cannot be taken back any more: ENOENT says that somebody works on it.

    Verified: with the refusal raised whether or not the unlink found it, the caller enqueues again and it runs twice.
    """
    seam = Seam()
    mine, worker, rival = broker(root, TIGHT, calls=seam), broker(root, TIGHT), broker(root, TIGHT)
    mine.enqueue([tight(f"n{n}") for n in range(4)])
    taken: list[Any] = []

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        if name == "rename" and not taken:
            rival.enqueue([tight("rival")])
        if name == "unlink" and not taken:
            taken.extend(claim(worker, "tight", 10))
        return real(*args, **kwargs)

    seam.arm(hook)
    mine.enqueue([tight("claimed")])
    seam.disarm()
    assert "claimed" in ids(taken)
    for one in (mine, worker, rival):
        one.close()


def test_far_from_the_limit_nothing_is_listed(root: Path) -> None:
    """Regression of the seed: every push listed the whole directory."""
    seam = Seam()
    mine = broker(root, QueueOptions("tight", max_length=100_000), calls=seam)
    mine.enqueue([tight("first")])
    seam.arm(pass_on)
    for number in range(20):
        mine.enqueue([tight(f"n{number}")])
    assert seam.names.count("listdir") <= 6
    mine.close()


def test_a_published_depth_is_trusted_while_it_is_fresh(root: Path) -> None:
    """And not a moment longer: a dead maintenance must not open the gates.

    Verified: without the look at the age the last assertion fails.
    """
    seam = Seam()
    wide = QueueOptions("tight", max_length=100_000)
    keeper, mine = broker(root, wide), broker(root, wide, calls=seam)
    keeper.enqueue([tight("a"), tight("b", delay=3600)])
    keeper.maintain()
    ready, delayed, stamp = (root / "tight" / "depth").read_text().split()
    assert (ready, delayed) == ("1", "1")
    seam.arm(pass_on)
    mine.enqueue([tight("c")])
    assert "listdir" not in seam.names
    old = int(stamp) - limits.DEPTH_FRESH - 1
    (root / "tight" / "depth").write_text(f"0 0 {old}\n")
    other = broker(root, wide, calls=seam)
    seam.arm(pass_on)
    other.enqueue([tight("d")])
    assert "listdir" in seam.names
    for one in (keeper, mine, other):
        one.close()


@pytest.mark.parametrize("content", [b"", b"x", b"1 2", b"1 2 3 4", b"-1 2 3", b"\xff" * 500])
def test_a_torn_depth_says_nothing(root: Path, content: bytes) -> None:
    mine = broker(root, TIGHT)
    (root / "tight" / "depth").write_bytes(content)
    mine.enqueue([tight("a")])
    assert ids(claim(mine, "tight")) == ["a"]
    mine.close()


def test_foreign_files_do_not_count(root: Path) -> None:
    mine = broker(root, TIGHT)
    mine.enqueue([tight("a")])
    (bucket,) = (root / "tight" / "ready").iterdir()
    for number in range(20):
        (bucket / f".nfs{number:040}").write_bytes(b"x")
    mine.enqueue([tight(name) for name in "bcde"])
    assert mine.stats("tight").ready == 5
    assert len(files(root, "tight/ready/*/.nfs*")) == 20
    mine.close()


def test_counts_follow_the_truth(root: Path) -> None:
    """Directories that have not changed are not counted again, and those that have are."""
    mine = broker(root, TIGHT)
    for _ in range(3):
        mine.enqueue([tight("a"), tight("b"), tight("c", delay=3600)])
        assert (mine.stats("tight").ready, mine.stats("tight").delayed) == (2, 1)
        leases = claim(mine, "tight")
        assert (mine.stats("tight").ready, mine.stats("tight").in_flight) == (0, 2)
        ack(mine, leases)
        (later,) = mine.browse("tight", "delayed")
        assert mine.discard(later)
        assert mine.stats("tight").delayed == 0
    mine.close()


def test_the_age_is_of_the_oldest_that_waits(root: Path) -> None:
    mine = broker(root, TIGHT)
    assert mine.stats("tight").oldest_age == 0
    mine.enqueue([tight("a"), tight("b", delay=-500.0)])  # meant for a moment before its enqueue: it waits since then
    assert 0 < mine.stats("tight").oldest_age < 60
    leases = claim(mine, "tight")
    ack(mine, [lease for lease in leases if lease.job.id == "b"])
    mine.release([lease for lease in leases if lease.job.id == "a"])
    assert 0 < mine.stats("tight").oldest_age < 60
    mine.close()


def test_a_rival_between_the_count_and_the_rename(root: Path) -> None:
    """Verified: without the count after the rename the queue holds six."""
    seam = Seam()
    mine, rival = broker(root, TIGHT, calls=seam), broker(root, TIGHT)
    mine.enqueue([tight(f"n{n}") for n in range(4)])
    seam.arm(before("rename", lambda: rival.enqueue([tight("rival")]), when=lambda args: "/tmp/" in str(args[0])))
    with pytest.raises(QueueFull):
        mine.enqueue([tight("late")])
    seam.disarm()
    assert ids(claim(mine, "tight")) == ["n0", "n1", "n2", "n3", "rival"]
    mine.close()
    rival.close()
