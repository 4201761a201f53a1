"""What becomes of jobs in segments where a step of theirs fails, and later works again. Found by reading the code."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.segments import format as bytes_of
from framework.engine.spool.segments import open as opened
from framework.model.errors import EngineUnavailable
from tests.support.settling import ack

from .seam import Seam, fail_calls
from .segmented import segments, stored, words_of
from .world import broker, claim, dead_owner, ids, in_segments, job, one

FRESH = [f"fresh{number}" for number in range(20)]


class Failing:
    """Makes a method of a disk fail while it is told to."""

    def __init__(self, mine: SpoolEngine, method: str, number: int, when: Callable[..., bool]) -> None:
        disk = mine._spool._disk
        assert disk is not None
        real, self.on, self.calls = getattr(disk, method), True, 0

        def call(*arguments: Any, **named: Any) -> Any:
            if self.on and when(*arguments):
                self.calls += 1
                raise OSError(number, os.strerror(number), arguments[0])
            return real(*arguments, **named)

        setattr(disk, method, call)


def expired(root: Path, count: int) -> SpoolEngine:
    """Return a broker whose queue holds jobs that have expired already, in one segment."""
    mine = in_segments(broker(root, durability="process"))
    mine.enqueue([job(f"old{number:03}", ttl=1e-6) for number in range(count)])
    return mine


def tried(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except EngineUnavailable:
        return []


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC])
def test_expired_jobs_that_cannot_leave_neither_hold_up_the_others_nor_a_turn(root: Path, number: int) -> None:
    """Regression: each claim met the same ones and stopped; a turn of maintenance met them without end."""
    mine = expired(root, 100)
    mine.enqueue([job(name) for name in FRESH])
    failing = Failing(mine, "write_new", number, lambda *_: True)
    for _ in range(3):
        tried(lambda: mine.maintain(seconds=5.0))
    assert failing.calls <= 200
    found = [name for _ in range(10) for name in ids(tried(lambda: claim(mine, limit=5)))]
    assert found == FRESH
    mine.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("method", ["write_new", "rename"])
def test_expired_jobs_become_dead_letters_once_they_can(
    root: Path, number: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: maintenance had them claimed and never came back, or left their copies where nobody looks."""
    monkeypatch.setattr(opened, "KEEP", 0.0)
    mine = expired(root, 16)
    failing = Failing(mine, method, number, lambda path, *_: method == "write_new" or "~" in path)
    tried(lambda: mine.maintain(seconds=5.0))
    tried(lambda: claim(mine))
    assert failing.calls
    failing.on = False
    mine._spool.parts("jobs").setbacks._by_path.clear()  # their time has come
    for _ in range(2):
        mine._spool.parts("jobs").claim.look_again()
        assert ids(claim(mine)) == []
        mine.maintain(seconds=5.0)
    stats, letters = mine.stats("jobs"), mine.stats("letters")
    assert (stats.ready, stats.in_flight, stats.dead) == (0, 0, 0)
    assert letters.ready + letters.dead == 16
    mine.close()


def test_a_segment_that_ends_while_maintenance_looks_at_it_is_no_error(root: Path, monkeypatch: Any) -> None:
    mine = broker(root)
    in_segments(mine).enqueue([job(f"n{number}") for number in range(16)])
    leases = claim(mine, limit=16)
    words = mine._spool.parts("jobs").maintain._upkeep._words
    look = words.of

    def ends(entry: str) -> Any:
        found = look(entry)
        ack(mine, leases)
        return found

    monkeypatch.setattr(words, "of", ends)
    mine.maintain(seconds=5.0)
    assert segments(root) == []
    mine.close()


def test_a_rescue_leaves_the_copies_of_leases_alone(root: Path) -> None:
    """Regression: it took the copy for its own to place, and the settlement found none for ever."""
    dead_owner(root, lambda theirs: (in_segments(theirs).enqueue([job("a"), job("b")]), claim(theirs, limit=1)))
    mine = broker(root, durability="process")
    [found] = mine.rescue()
    found.lease.token.owner.searched = False  # as where another segment could not be read
    failing = Failing(mine, "rename", errno.EIO, lambda path, *_: "~" in path)
    with pytest.raises(EngineUnavailable):
        mine.release([found.lease], delay=60)
    failing.on = False
    mine.rescue()
    mine.release([found.lease], delay=60)
    assert mine.stats("jobs").delayed == 1
    mine.close()


def test_a_segment_that_cannot_be_read_holds_up_no_other_job_of_its_owner(root: Path) -> None:
    def live(theirs: SpoolEngine) -> None:
        theirs.enqueue([job("alone")])
        in_segments(theirs).enqueue([job(f"n{number}") for number in range(16)])
        one(theirs)
        lease, seam, disk = one(theirs), Seam(), theirs._spool._disk
        assert disk is not None
        disk.calls = seam  # type: ignore[assignment]
        names: list[str] = []

        def die(name: str, args: Any, kwargs: Any, real: Any) -> Any:
            names.append(name)
            if name == "pwrite":
                os.kill(os.getpid(), 9)
            return real(*args, **kwargs)

        seam.arm(die)
        theirs.release([lease], delay=60)

    dead_owner(root, live)
    seam = Seam()
    mine = broker(root, durability="process", calls=seam)
    seam.arm(fail_calls(errno.EIO, "open", when=lambda args: args[0].endswith(",seg")))
    assert ids(found.lease for found in mine.rescue()) == ["alone"]
    seam.disarm()
    mine.close()


def test_a_segment_that_was_cut_off_is_not_done(root: Path) -> None:
    mine = stored(root, ["a", "b"])
    (path,) = segments(root)
    assert words_of(path) == [0, 0]
    os.truncate(path, bytes_of.WORDS_AT)
    mine.maintain(seconds=5.0)
    assert claim(mine) == []
    assert mine.stats("jobs").bad == 1
    mine.close()


def test_a_job_whose_file_would_be_too_large_is_refused_as_one_by_one(root: Path) -> None:
    """Regression: it was stored, and could never be retried."""
    mine = in_segments(broker(root, durability="process"))
    large = replace(job("large"), headers={"x": "y" * ((1 << 20) - 20)})
    with pytest.raises(Exception, match="too large"):
        mine.enqueue([large, *(job(f"n{number}") for number in range(16))])
    mine.close()


def test_a_segment_that_is_kept_open_takes_no_spare_descriptor(root: Path) -> None:
    """That one is for what is opened and closed at once, as a retry does; without one nothing could be settled."""
    mine = stored(root)
    disk = mine._spool._disk
    assert disk is not None
    claim(mine, limit=1)
    mine.enqueue([job(job_id) for job_id in FRESH])
    mine._spool.parts("jobs").segments._open.clear()
    real = disk.calls.open

    def full(path: str, flags: int, *rest: Any, **named: Any) -> int:
        if path.endswith(",seg"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return real(path, flags, *rest, **named)

    disk.calls.open = full  # type: ignore[method-assign]
    try:
        assert tried(lambda: claim(mine)) == []
        assert disk._spares, "the spare one was spent"
    finally:
        del disk.calls.open
    mine.close()
