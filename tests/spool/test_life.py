"""Who is alive, who is dead: locks, births, rescues."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.engine import flocks
from framework.engine.calls import Calls
from framework.engine.spool.claim import life
from framework.engine.spool.engine import SpoolEngine, connect
from framework.model.errors import EngineError
from tests.support.settling import ack

from .seam import Seam, before, kill_at, pass_on
from .world import (
    QUEUES,
    broker,
    claim,
    dead_owner,
    files,
    heal,
    ids,
    in_child,
    job,
    one,
    settle_orphan,
)


def living_owner(root: Path, work: Callable[[SpoolEngine], Any]) -> int:
    """A child that has done `work` and goes on living; its pid."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            mine = broker(root)
            work(mine)
            os.write(write, b"ok")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 2) == b"ok"
    os.close(read)
    return child


def reap(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def take_two(mine: SpoolEngine) -> None:
    mine.enqueue([job("a"), job("b")])
    claim(mine)


# --- the living ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "SIGSTOP"])
def test_the_living_are_left_alone(spool: SpoolEngine, root: Path, stopped: bool) -> None:
    """Stopped is not dead. Regression of the seed: a second process moved every claimed file back."""
    child = living_owner(root, take_two)
    if stopped:
        os.kill(child, signal.SIGSTOP)
    try:
        assert spool.rescue() == []
        spool.maintain()
        assert claim(spool) == []
    finally:
        reap(child)
    assert len(spool.rescue()) == 2


def test_a_probe_in_the_same_process_neither_succeeds_nor_frees(root: Path) -> None:
    """POSIX locks would do both: a probe of the own lock succeeds, and closing it frees the lock for everybody.

    Verified: with fcntl.lockf in flock's place both halves fail.
    """
    mine, other = broker(root), broker(root)
    take_two(mine)
    assert other.rescue() == []
    assert other.rescue() == []

    def probe() -> None:
        assert broker(root).rescue() == []

    in_child(probe)
    mine.close()
    other.close()


def test_rescued_leases_say_whose_they_were(spool: SpoolEngine, root: Path) -> None:
    seen: list[str] = []
    read, write = os.pipe()

    def live() -> None:
        mine = broker(root)
        os.write(write, mine._spool.incarnation.encode())
        take_two(mine)

    in_child(live)
    seen.append(os.read(read, 200).decode())
    os.close(read)
    os.close(write)
    assert {orphan.owner for orphan in spool.rescue()} == set(seen)


def test_two_rescuers_share_nothing(root: Path) -> None:
    dead_owner(root, take_two)
    first, second = broker(root), broker(root)
    assert len(first.rescue()) == 2
    assert second.rescue() == []
    first.close()  # dies, in a way: the next one goes on
    assert len(second.rescue()) == 2
    assert second.rescue() == []  # held already
    second.close()


def test_a_finished_rescue_leaves_nothing(spool: SpoolEngine, root: Path) -> None:
    dead_owner(root, take_two)
    for orphan in spool.rescue():
        settle_orphan(spool, orphan)
    assert list((root / "jobs" / "claimed").iterdir()) == []


def test_a_rescuer_that_opened_the_lock_before_it_was_unlinked(root: Path) -> None:
    """Somebody removes the lock file, and another rescuer gives the directory a new one and has the claims already.

    Verified: without the look at `st_nlink` the first rescuer goes on with a lock that locks nothing.
    """
    dead_owner(root, take_two)
    seam = Seam()
    slow, quick = broker(root, calls=seam), broker(root)
    orphans: list[Any] = []

    def hurry() -> None:
        for lock in (root / "jobs" / "claimed").glob("*.lock"):
            lock.unlink()
        orphans.extend(quick.rescue())

    seam.arm(before("flock", hurry))
    assert slow.rescue() == []
    seam.disarm()
    assert [o.lease.job.id for o in orphans] == ["a", "b"]
    for orphan in orphans:
        settle_orphan(quick, orphan)
    assert sorted(ids(claim(slow))) == ["a", "b"]
    slow.close()
    quick.close()


def test_two_births_of_one_incarnation_at_the_same_time(root: Path) -> None:
    """Verified: with rename in place of link the second one replaces the first one's lock, which then has no name."""
    seam = Seam()
    both = [connect(f"spool:{root}", incarnation="same", calls=calls) for calls in (seam, None)]
    for mine in both:
        mine.open(QUEUES)
    both[0].enqueue([job("a"), job("b")])
    first: list[Any] = []
    seam.arm(before("link", lambda: first.append(one(both[1]))))
    second = one(both[0])
    seam.disarm()
    for lease in (first[0], second):
        assert os.fstat(lease.token.owner.fd).st_nlink == 1
    assert first[0].token.owner.wid != second.token.owner.wid
    for mine in both:
        mine.close()


def test_a_rescuer_in_every_gap_of_a_birth(root: Path) -> None:
    """86 of 3,125 newborn workers lost their lock to a rescuer with another order than lock, name, directory.

    Verified: with the directory made first, or the lock named before it is locked, a newborn loses its lock here.
    """
    calls = Seam()
    probe = broker(root / "count", calls=calls)
    calls.arm(pass_on)
    claim(probe)
    total = len(calls.names)
    probe.close()
    for at in range(total):
        place = root / str(at)
        rescuer = broker(place)
        seam = Seam()
        left = [at]

        def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any, left: Any = left) -> Any:
            left[0] -= 1
            if left[0] == -1:
                rescuer.rescue()
                rescuer.maintain()
            return real(*args, **kwargs)

        newborn = broker(place, calls=seam)
        newborn.enqueue([job("a")])
        seam.arm(hook)
        leases = claim(newborn)
        seam.disarm()
        assert ids(leases) == ["a"], f"gap {at}"
        assert "missed" not in newborn.counts, f"gap {at}: its directory was taken away"
        assert rescuer.rescue() == [], f"gap {at}: the newborn has no lock"
        owner = leases[0].token.owner
        assert os.fstat(owner.fd).st_nlink == 1, f"gap {at}: its lock has no name"
        ack(newborn, leases)
        newborn.close()
        assert list((place / "jobs" / "claimed").iterdir()) == []
        rescuer.close()


def test_what_an_interrupted_birth_leaves_is_cleared(root: Path) -> None:
    """Killed at every call of a birth: nothing of it stays, and nobody is kept from being born."""
    at, alive = 0, False
    while not alive:
        place = root / str(at)
        read, write = os.pipe()

        def live(place: Path = place, at: int = at, write: int = write) -> None:
            seam = Seam()
            mine = broker(place, calls=seam)
            seam.arm(kill_at(at))
            claim(mine)
            os.write(write, b"x")

        in_child(live)
        os.close(write)
        alive = os.read(read, 1) == b"x"
        os.close(read)
        fresh = heal(place)
        assert list((place / "jobs" / "claimed").iterdir()) == [], f"call {at}"
        fresh.enqueue([job("a")])
        assert ids(claim(fresh)) == ["a"]
        fresh.close()
        at += 1


def test_a_directory_without_a_lock_is_given_one(spool: SpoolEngine, root: Path) -> None:
    """Somebody deleted the lock file, or a power cut lost it. Verified: without that the jobs stay there for ever."""
    dead_owner(root, take_two)
    (lock,) = (root / "jobs" / "claimed").glob("*.lock")
    lock.unlink()
    orphans = spool.rescue()
    assert [o.lease.job.id for o in orphans] == ["a", "b"]
    for orphan in orphans:
        settle_orphan(spool, orphan)
    assert list((root / "jobs" / "claimed").iterdir()) == []


def test_an_incarnation_that_comes_back_takes_another_wid(root: Path) -> None:
    """`<wid>` is never reused, even if its caller does; verdicts still find the incarnation."""
    both = [connect(f"spool:{root}", incarnation="same/name.1") for _ in range(2)]
    for mine in both:
        mine.open(QUEUES)
    both[0].enqueue([job("a"), job("b")])
    claimed = [one(mine) for mine in both]
    wids = {lease.token.owner.wid for lease in claimed}
    assert len(wids) == 2
    assert {life.incarnation_of(wid) for wid in wids} == {"same/name.1"}
    third = broker(root)
    assert third.rescue() == []
    for mine in (*both, third):
        mine.close()


@pytest.mark.parametrize("incarnation", ["", "x" * 200, "é" * 60])
def test_an_incarnation_that_cannot_be_a_file_name_is_refused(root: Path, incarnation: str) -> None:
    with pytest.raises(EngineError, match="incarnation"):
        connect(f"spool:{root}", incarnation=incarnation)


@pytest.mark.parametrize("incarnation", ["host:1/2", "..", ".hidden", "a.lock", "x+7", "ünï %2F"])
def test_any_other_incarnation_comes_back(incarnation: str) -> None:
    for number in (0, 3):
        wid = life.wid_of(incarnation, number)
        assert life.incarnation_of(wid) == incarnation
        assert not {"/", "."} & set(wid)


def test_only_a_consumer_has_a_directory_of_claims(root: Path) -> None:
    mine = broker(root)
    mine.enqueue([job("a")])
    mine.stats("jobs")
    list(mine.browse("jobs", "ready"))
    mine.rescue()
    assert list((root / "jobs" / "claimed").iterdir()) == []
    mine.close()


def test_close_leaves_what_is_held_to_a_rescuer(root: Path) -> None:
    mine = broker(root)
    take_two(mine)
    mine.close()
    assert [path.suffix for path in sorted((root / "jobs" / "claimed").iterdir())] == ["", ".lock"]
    fresh = broker(root)
    assert ids(claim(fresh)) == []
    assert [orphan.lease.job.id for orphan in fresh.rescue()] == ["a", "b"]
    fresh.close()


def test_a_lock_can_be_had_once(tmp_path: Path) -> None:
    calls = Calls()
    fds = [os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    assert flocks.take(calls, fds[0])
    assert not flocks.take(calls, fds[1])
    assert not flocks.take_within(calls, fds[1], 0.01)
    os.close(fds[0])
    assert flocks.take_within(calls, fds[1], 0.01)
    os.close(fds[1])


def test_foreign_files_in_a_dead_owners_directory_stay(spool: SpoolEngine, root: Path) -> None:
    """They are never touched, and keep nobody from being rescued, now or later."""
    dead_owner(root, take_two)
    (wid,) = (path for path in (root / "jobs" / "claimed").iterdir() if path.is_dir())
    (wid / ".nfs0001").write_bytes(b"x")
    for orphan in spool.rescue():
        settle_orphan(spool, orphan)
    assert spool.rescue() == []
    assert files(root, "jobs/claimed/*/*") == [wid / ".nfs0001"]
    assert sorted(ids(claim(spool))) == ["a", "b"]
