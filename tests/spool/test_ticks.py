"""Ticks of schedules on the spool: a kill or an error anywhere divides no tick from its job, and doubles neither."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from framework.engine.port import Tick
from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EngineUnavailable

from .seam import Seam, fail_at, kill_at
from .world import JOBS, broker, census, claim, heal, ids, job

KEY = "hourly"
SOME = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENOENT, errno.EACCES)


def fire(mine: SpoolEngine, last: float | None = 100.0, tick: float = 200.0, job_id: str = "n") -> bool:
    return mine.fire("jobs", KEY, last, tick, job(job_id))


def fire_if_it_is_due(mine: SpoolEngine) -> None:
    """What maintenance does after a kill or an error."""
    state = mine.ticks("jobs", [KEY])[1][KEY]
    if state.last == 100.0:
        assert fire(mine)
    assert mine.ticks("jobs", [KEY])[1] == {KEY: Tick(200.0)}


@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_around_any_change_neither_loses_nor_doubles_a_tick(root: Path, torn: bool) -> None:
    """Verified: with the job moved before the record, or with the file found by its hash alone, points of this fail."""
    done = 0
    for number in range(100):
        place = root / str(number)
        mine = broker(place, JOBS)
        assert mine.fire("jobs", KEY, None, 100.0)
        mine.close()
        child = os.fork()
        if child == 0:
            try:
                seam = Seam()
                dying = broker(place, JOBS, calls=seam)
                seam.arm(kill_at(number, torn=torn))
                fire(dying)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL)
        fresh = heal(place, JOBS)
        fire_if_it_is_due(fresh)
        assert census(fresh) == {"n": 1}, f"killed at change {number}"
        assert ids(claim(fresh)) == ["n"]
        assert not fire(fresh, 100.0)
        assert sorted(path.name.count(",") for path in (place / "jobs" / "schedules").iterdir()) == [0]
        fresh.close()
        if status == 0:
            break
        done += 1
    assert done > 5


@pytest.mark.parametrize("code", SOME, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_error_at_any_call_is_said_and_can_be_tried_again(root: Path, code: int, after: bool) -> None:
    done = 0
    for number in range(200):
        seam = Seam()
        mine = broker(root / str(number), JOBS, calls=seam)
        assert mine.fire("jobs", KEY, None, 100.0)
        seam.arm(fail_at(number, code, after=after))
        try:
            told = fire(mine)
        except EngineUnavailable:
            told = None
        made = len(seam.names)
        seam.disarm()
        assert told is not False or code == errno.ENOENT  # then the record seems to be missing
        fire_if_it_is_due(mine)
        assert census(mine) == {"n": 1}, f"call {number}"
        mine.close()
        done += 1
        if made <= number:
            break
    assert done > 10


def test_a_job_that_a_dead_process_left_is_moved_by_the_next_look(root: Path) -> None:
    mine = broker(root, JOBS)
    assert fire(mine, None)
    (ready,) = (path for path in (root / "jobs" / "ready").glob("*/*"))
    record = next((root / "jobs" / "schedules").iterdir())
    left = record.read_bytes().decode().rpartition('"job":"')[2].rstrip('"}')
    ready.rename(record.parent / left)
    assert claim(mine) == []
    assert mine.ticks("jobs", [KEY])[1] == {KEY: Tick(200.0)}
    assert ids(claim(mine)) == ["n"]


@pytest.mark.parametrize(
    "damage", [b"", b"garbage", b"[]", b'{"key":"hourly","last":"x","missed":0,"job":""}', b"\0" * 50, b"[" * 5000]
)
def test_a_damaged_record_begins_anew_and_says_so(root: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    mine = broker(root, JOBS)
    assert fire(mine, None)
    record = next((root / "jobs" / "schedules").iterdir())
    record.write_bytes(damage)
    assert mine.ticks("jobs", [KEY])[1] == {}
    assert str(record.name) in caplog.text
    assert fire(mine, None, 300.0, "m")
    assert mine.ticks("jobs", [KEY])[1] == {KEY: Tick(300.0)}
    assert ids(claim(mine)) == ["n", "m"]
