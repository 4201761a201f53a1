"""The rescuers' side: who may read, write and remove what a dead worker has left."""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.engine.ledger import Calls, DeadLedgers, Ledger, Newer
from framework.engine.ledger import format as form
from framework.engine.ledger.dead import STALE, DeadLedger
from framework.engine.ledger.files import name_of
from framework.model.outcome import SUCCEEDED, Kind, Outcome
from tests.spool.seam import Seam, before

from .helpers import OWNER, died, files, found, lease, retried, run
from .test_mine import begun


class Rescuer(DeadLedgers):
    """With a clock of its own and what it has said."""

    def __init__(self, place: Path) -> None:
        self.now, self.lines = 1000.0, []  # type: tuple[float, list[str]]
        super().__init__(place, say=self.lines.append, clock=lambda: self.now)

    def dead(self, owner: str = OWNER) -> DeadLedger:
        found = self.of(owner)
        assert found is not None
        return found


@pytest.fixture
def rescuer(place: Path) -> Any:
    made = Rescuer(place)
    yield made
    made.close()


def two(ledger: Ledger) -> None:
    begun(ledger, 1, 2)


def test_an_owner_without_a_ledger_has_started_nothing(rescuer: Rescuer, place: Path) -> None:
    assert rescuer.of(OWNER) is None
    rescuer.sweep((), complete=True)
    died(place, two, owner="other")
    assert rescuer.of("another") is None
    assert rescuer.of("x" * 500) is None


def test_what_a_rescuer_decides_the_next_one_finds(rescuer: Rescuer, place: Path) -> None:
    """It dies between its decision and the settlement."""
    died(place, two)
    lost = Outcome(Kind.RETRIED, 3.25, retried(lease(1), reason="worker_lost").failure)
    rescuer.dead().resolve(lease(1), lost)
    rescuer.dead().resolve(lease(2), Outcome(Kind.RELEASED))
    rescuer.dead().sent(lease(2))
    one, other = found(place, lease(1), lease(2))
    assert one is not None
    assert other is not None
    assert (one.outcome, one.resolved, one.sent) == (lost, True, False)
    assert (other.outcome, other.resolved, other.sent) == (Outcome(Kind.RELEASED), True, True)


def test_a_ledger_goes_with_the_last_of_its_leases(rescuer: Rescuer, place: Path) -> None:
    died(place, two)
    for number in (1, 2):
        assert rescuer.dead().entry(lease(number)) is not None
        rescuer.dead().free(lease(number))
    rescuer.finished(OWNER)
    assert files(place) == []
    rescuer.finished(OWNER)


def test_two_rescuers_of_two_queues_share_it_and_the_last_removes_it(place: Path) -> None:
    def live(ledger: Ledger) -> None:
        for one in (lease(1), lease(2, queue="other")):
            ledger.begin(one, run(one))

    died(place, live)
    first, second = Rescuer(place), Rescuer(place)
    first.dead(), second.dead()
    first.dead().resolve(lease(1), SUCCEEDED)
    first.dead().free(lease(1))
    first.finished(OWNER)
    second.sweep({"jobs", "other"}, complete=True)
    assert len(files(place)) == 1
    entry = second.dead().entry(lease(2, queue="other"))
    assert entry is not None
    second.dead().free(lease(2, queue="other"))
    second.finished(OWNER)
    assert files(place) == []


def test_the_living_keep_theirs(rescuer: Rescuer, place: Path) -> None:
    """An engine may take leases away from one that lives: what it runs is read, and nothing is written."""
    idle = Ledger(place, "idle", slots=2)
    ledger = Ledger(place, OWNER, slots=2)
    one = lease(1)
    ledger.begin(one, run(one))
    dead = rescuer.dead()
    entry = dead.entry(one)
    assert entry is not None
    dead.resolve(one, SUCCEEDED)
    dead.free(one)
    rescuer.finished(OWNER)
    rescuer.sweep({"jobs"}, complete=True)
    (again,) = found(place, one)
    assert again is not None
    assert again.outcome is None
    assert len(files(place)) == 2, "nor does the ledger of an idle worker go"
    ledger.close()
    idle.close()


def test_a_sweep_that_holds_a_deleted_ledger_leaves_the_one_that_was_written_anew(place: Path) -> None:
    """Between its open and its lock somebody deletes the file, and the living worker restores it."""
    ledger = Ledger(place, OWNER, slots=2)

    def delete() -> None:
        (place / name_of(OWNER)).unlink()
        assert ledger.restore()

    seam = Seam(before("lock", delete), calls=Calls)
    DeadLedgers(place, calls=seam).sweep({"jobs"}, complete=True)  # type: ignore[arg-type]
    assert files(place) == [name_of(OWNER)]
    ledger.close()


def test_a_sweep_removes_what_holds_nothing(rescuer: Rescuer, place: Path) -> None:
    died(place, lambda ledger: None)
    died(place, two, owner="2-ab")
    (place / ".0.draft.ledger").write_bytes(b"killed while it was born")
    (place / "notes.txt").write_bytes(b"not ours")
    rescuer.sweep({"jobs"}, complete=True)
    assert files(place) == [name_of("2-ab"), "notes.txt"]


def test_a_slot_that_the_engine_does_not_know_is_kept_for_a_while(rescuer: Rescuer, place: Path) -> None:
    """Its owner died between the settlement and the slot's end. Another service's are never touched."""
    died(place, two)

    def other(ledger: Ledger) -> None:
        one = lease(1, queue="theirs")
        ledger.begin(one, run(one))

    died(place, other, owner="2-ab")
    for complete, later in ((True, 0.0), (True, STALE / 2), (False, STALE), (True, 0.0)):
        assert len(files(place)) == 2
        rescuer.now += later
        rescuer.sweep({"jobs"}, complete=complete)
    assert files(place) == [name_of("2-ab")]


def test_a_sweep_leaves_what_this_process_reads(rescuer: Rescuer, place: Path) -> None:
    died(place, two)
    rescuer.dead()
    for _ in range(3):
        rescuer.now += STALE
        rescuer.sweep({"jobs"}, complete=True)
    assert len(files(place)) == 1


def test_a_rescuer_that_is_gone_holds_no_other_up(place: Path) -> None:
    died(place, two)
    child = os.fork()
    if child == 0:
        mine = Rescuer(place)
        mine.dead().free(lease(1))
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    (one, other) = found(place, lease(1), lease(2))
    assert one is None
    assert other is not None


def test_a_child_that_a_hook_forks_does_not_keep_the_lock(rescuer: Rescuer, place: Path) -> None:
    died(place, two)
    rescuer.dead()
    read, write = os.pipe()
    up, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.write(ready, b"x")
        os.read(read, 1)
        os._exit(0)
    try:
        os.read(up, 1)
        rescuer.close()
        with (place / name_of(OWNER)).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        for fd in (write, read, up, ready):
            os.close(fd)
        os.waitpid(child, 0)


def test_a_newer_ledger_stays_and_so_do_the_leases_of_its_owner(rescuer: Rescuer, place: Path) -> None:
    died(place, two)
    path = place / name_of(OWNER)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 8, form.VERSION + 1)
    struct.pack_into("<I", data, form._HEAD.size, zlib.crc32(data[: form._HEAD.size]))
    path.write_bytes(data)
    with pytest.raises(Newer):
        rescuer.dead().entry(lease(1))
    rescuer.finished(OWNER)
    for _ in range(3):
        rescuer.now += STALE
        rescuer.sweep({"jobs"}, complete=True)
    assert path.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\0" * 20480),
        lambda path: os.truncate(path, 5000),
        lambda path: os.truncate(path, 100),
        lambda path: path.write_bytes(path.read_bytes()[:4200] + b"\xff" * 16000),
    ],
    ids=["empty", "zeros", "cut in a slot", "cut in the header", "overwritten"],
)
def test_what_is_damaged_is_said_once_and_means_nothing(
    rescuer: Rescuer, place: Path, spoil: Callable[[Path], Any]
) -> None:
    died(place, two)
    spoil(place / name_of(OWNER))
    dead = rescuer.dead()
    assert dead.entry(lease(2)) is None
    dead.resolve(lease(2), SUCCEEDED)
    dead.free(lease(2))
    for _ in range(3):
        rescuer.finished(OWNER)
        rescuer.sweep({"jobs"}, complete=True)
        rescuer.now += STALE
    assert len(rescuer.lines) <= 3
    assert len(set(rescuer.lines)) == len(rescuer.lines)


@pytest.mark.parametrize("planted", ["fifo", "directory", "symlink", "socket"])
def test_what_is_planted_for_a_rescuer_is_passed_by(
    rescuer: Rescuer, place: Path, tmp_path: Path, planted: str
) -> None:
    place.mkdir(parents=True)
    path, victim = place / name_of(OWNER), tmp_path / "victim"
    victim.write_bytes(b"mine")
    if planted == "fifo":
        os.mkfifo(path)
    elif planted == "directory":
        path.mkdir()
    elif planted == "socket":
        os.mknod(path, 0o140600)
    else:
        path.symlink_to(victim)
    dead = rescuer.of(OWNER)
    assert (dead is None) if planted != "fifo" else (dead is not None and dead.entry(lease(1)) is None)
    rescuer.finished(OWNER)
    rescuer.sweep({"jobs"}, complete=True)
    assert victim.read_bytes() == b"mine"
