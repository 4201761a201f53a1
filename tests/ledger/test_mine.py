"""The worker's side: slots, the file's life, forks, a disk without room."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from framework.engine.ledger import Calls, Ledger
from framework.engine.ledger.files import name_of
from framework.engine.ledger.format import PAGE
from framework.model.outcome import SUCCEEDED, Kind, Outcome
from tests.support.processes import readable

from .helpers import OWNER, died, files, found, lease, retried, run


def begun(ledger: Ledger, *numbers: int) -> None:
    for number in numbers:
        one = lease(number)
        KEPT.append(one)
        ledger.begin(one, run(one))


KEPT: list[Any] = []  # leases are known by their identity, as long as somebody holds them


def test_what_has_begun_is_there_and_what_was_settled_is_not(place: Path) -> None:
    def live(ledger: Ledger) -> None:
        one, two, three, four = (lease(number) for number in range(1, 5))
        for row, it in enumerate((one, two, three)):
            ledger.begin(it, run(it, row=row))
        ledger.end(one, SUCCEEDED)
        ledger.sent(one)
        ledger.end(two, retried(two))
        ledger.end(three, SUCCEEDED)
        ledger.free(three)
        ledger.begin(four, run(four))

    died(place, live)
    one, two, three, four = found(place, *(lease(number) for number in range(1, 5)))
    assert one is not None
    assert two is not None
    assert four is not None
    assert (one.run, one.outcome, one.sent) == (run(lease(1)), SUCCEEDED, True)
    assert (two.run, two.outcome, two.sent) == (run(lease(2), row=1), retried(lease(2)), False)
    assert three is None
    assert (four.run, four.outcome) == (run(lease(4)), None)


def test_a_run_of_an_earlier_delivery_or_another_queue_says_nothing(place: Path) -> None:
    died(place, lambda ledger: begun(ledger, 1))
    assert found(place, lease(1, delivery=2), lease(1, queue="letters"), lease(2)) == [None, None, None]


def test_an_outcome_may_be_replaced(place: Path) -> None:
    def live(ledger: Ledger) -> None:
        one = lease()
        ledger.begin(one, run(one))
        ledger.end(one, retried(one))
        ledger.end(one, Outcome(Kind.DISCARDED, message="no"))

    died(place, live)
    (entry,) = found(place, lease())
    assert entry is not None
    assert entry.outcome == Outcome(Kind.DISCARDED, message="no")


def test_more_leases_than_slots_make_the_file_larger(place: Path) -> None:
    def live(ledger: Ledger) -> None:
        leases = [lease(number) for number in range(300)]
        for one in leases:
            ledger.begin(one, run(one))
        for one in leases:
            ledger.end(one, retried(one))
        for one in leases[:290]:
            ledger.free(one)

    died(place, live)
    entries = found(place, *(lease(number) for number in range(300)))
    assert entries[:290] == [None] * 290
    assert [entry.outcome for entry in entries[290:] if entry] == [retried(lease(n)) for n in range(290, 300)]


def test_slots_are_used_again(place: Path) -> None:
    ledger = Ledger(place, OWNER, slots=4)
    for number in range(1000):
        one = lease(number)
        ledger.begin(one, run(one))
        ledger.free(one)
        ledger.free(one)  # a second time does nothing
    assert len(ledger) == 0
    assert (place / name_of(OWNER)).stat().st_size == 5 * PAGE
    ledger.close()


def test_its_blocks_are_there_before_they_are_used(place: Path) -> None:
    """A store into a hole is SIGBUS on a full disk. Verified: with ftruncate in fallocate's place it has no blocks."""
    ledger = Ledger(place, OWNER, slots=50)
    found = (place / name_of(OWNER)).stat()
    assert found.st_size == 51 * PAGE
    assert found.st_blocks * 512 >= found.st_size
    begun(ledger, *range(60))
    found = (place / name_of(OWNER)).stat()
    assert found.st_blocks * 512 >= found.st_size == 102 * PAGE
    ledger.close()


def test_nobody_else_may_read_it(place: Path) -> None:
    ledger = Ledger(place, OWNER, slots=1)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / name_of(OWNER)).stat().st_mode) == 0o600
    ledger.close()


def test_a_close_with_nothing_outstanding_leaves_nothing(place: Path) -> None:
    ledger = Ledger(place, OWNER, slots=1)
    begun(ledger, 1)
    ledger.free(KEPT[-1])
    ledger.close()
    ledger.close()
    assert files(place) == []


def test_a_close_with_something_outstanding_leaves_it_to_a_rescuer_at_once(place: Path) -> None:
    ledger = Ledger(place, OWNER, slots=1)
    begun(ledger, 1)
    ledger.end(KEPT[-1], SUCCEEDED)
    ledger.close()
    (entry,) = found(place, lease(1))
    assert entry is not None
    assert entry.outcome == SUCCEEDED


@pytest.mark.parametrize("planted", ["symlink", "file", "the ledger", "a fifo"])
def test_what_is_planted_in_its_place_is_never_followed(place: Path, tmp_path: Path, planted: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir() if planted == "symlink" else victim.write_bytes(b"mine")
    place.parent.mkdir()
    if planted == "symlink":
        place.symlink_to(victim)
    elif planted == "file":
        place.symlink_to(victim)
    elif planted == "the ledger":
        place.mkdir()
        (place / name_of(OWNER)).symlink_to(victim)
    else:
        place.mkdir()
        os.mkfifo(place / name_of(OWNER))
    with pytest.raises(OSError):
        Ledger(place, OWNER, slots=1)
    assert list(victim.iterdir()) == [] if victim.is_dir() else victim.read_bytes() == b"mine"


def test_a_planted_draft_is_not_written_to(place: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    place.mkdir(parents=True)
    (place / f".0.{name_of(OWNER)}").hardlink_to(victim)
    ledger = Ledger(place, OWNER, slots=1)
    assert victim.read_bytes() == b"mine"
    ledger.close()


def test_an_incarnation_has_one_ledger(place: Path) -> None:
    first = Ledger(place, OWNER, slots=1)
    with pytest.raises(FileExistsError):
        Ledger(place, OWNER, slots=1)
    assert files(place) == [name_of(OWNER)]
    first.close()


@pytest.mark.parametrize("owner", ["host:1/2", "..", ".hidden", "ünï %2F", "x" * 150])
def test_any_incarnation_has_a_file_of_its_own(place: Path, owner: str) -> None:
    died(place, lambda ledger: begun(ledger, 1), owner=owner)
    (name,) = files(place)
    assert name[0] != "."
    (entry,) = found(place, lease(1), owner=owner)
    assert entry is not None


def test_a_full_disk_says_so_and_leaves_nothing(place: Path) -> None:
    class Full(Calls):
        @staticmethod
        def fallocate(fd: int, offset: int, length: int) -> None:
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match="no space"):
        Ledger(place, OWNER, slots=1, calls=Full())
    assert files(place) == []


def test_a_disk_that_fills_up_refuses_the_next_run_and_keeps_the_others(place: Path) -> None:
    class Full(Calls):
        full = False

        def fallocate(self, fd: int, offset: int, length: int) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, "no space")
            Calls.fallocate(fd, offset, length)

    def live(ledger: Ledger) -> None:
        begun(ledger, 1, 2, 3, 4)
        ledger._calls.full = True  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="no space"):
            begun(ledger, 5)
        ledger.end(KEPT[-4 - 1], SUCCEEDED)
        ledger.free(KEPT[-5])
        begun(ledger, 6)

    died(place, live, calls=Full())
    entries = found(place, *(lease(number) for number in range(1, 7)))
    assert [number for number, entry in enumerate(entries, 1) if entry] == [2, 3, 4, 6]


def test_a_deleted_file_is_written_anew_with_all_that_is_outstanding(place: Path) -> None:
    def live(ledger: Ledger) -> None:
        begun(ledger, 1, 2)
        assert not ledger.restore()
        for entry in place.iterdir():
            entry.unlink()
        assert ledger.restore()
        assert not ledger.restore()
        ledger.end(KEPT[-2], SUCCEEDED)
        ledger.free(KEPT[-1])
        begun(ledger, 3, 4, 5)

    died(place, live)
    entries = found(place, *(lease(number) for number in range(1, 6)))
    assert [entry and entry.outcome for entry in entries] == [SUCCEEDED, None, None, None, None]
    assert [number for number, entry in enumerate(entries, 1) if entry] == [1, 3, 4, 5]


def test_a_removed_directory_is_made_anew(place: Path) -> None:
    def live(ledger: Ledger) -> None:
        begun(ledger, 1)
        for entry in place.iterdir():
            entry.unlink()
        place.rmdir()
        assert ledger.restore()

    died(place, live)
    assert found(place, lease(1))[0] is not None


def test_a_forked_child_writes_nothing_and_does_not_keep_its_parent_alive(place: Path) -> None:
    """Verified: without `after_fork` the child's stores reach the file, and its mapping keeps the lock."""
    ready, go = os.pipe()

    def live(ledger: Ledger) -> None:
        one = lease(1)
        ledger.begin(one, run(one))
        child = os.fork()
        if child == 0:
            begun(ledger, 2)
            ledger.end(one, SUCCEEDED)
            ledger.free(one)
            ledger.close()
            os.write(go, str(os.getpid()).encode())
            signal.pause()
        while not _written(ready):
            pass

    died(place, live)
    pid = int(os.read(ready, 20))
    try:
        one, two = found(place, lease(1), lease(2))
        assert one is not None
        assert (one.outcome, two) == (None, None)
        with (place / name_of(OWNER)).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(ready)
        os.close(go)


def _written(pipe: int) -> bool:
    """Whether something can be read; it stays there."""
    return readable(pipe, 5)
