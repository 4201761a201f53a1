"""Fan-ins on the disk: SIGKILL around every change, each once more with half of a write; damage; what costs nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.fan_ins import upkeep
from framework.engine.spool.upkeep.cancel import Cancel
from framework.model.errors import EngineUnavailable
from framework.model.fan_in import MEND_AFTER, Ended, FanIn, as_member
from framework.model.outcome import CANCELLED, Settlement
from tests.support.settling import ack, bury

from .fan_in_cases import ACTS, NAME, follow_up, gather, last_held, viewed
from .seam import Seam, fail_calls, kill_at, pass_on
from .world import LETTERS, PLAIN, broker, claim, failure, heal, job, one, pass_time


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_a_kill_around_any_change_loses_and_doubles_no_follow_up(act: str, torn: bool, root: Path) -> None:
    for number in range(300):
        place = root / str(number)
        in_the_midst = live(place, *ACTS[act], number, torn=torn)
        sealed = act != "seal" or not in_the_midst or is_sealed(place)
        assert follow_ups(place) == (1 if sealed else 0), f"killed at change {number}"
        if not in_the_midst:
            return
    pytest.fail("the operation never ends")


def test_a_producer_that_is_killed_leaves_a_fan_in_or_none_and_no_follow_up(root: Path) -> None:
    def make(mine: SpoolEngine, _: Any) -> None:
        gather(mine, "a", "b", sealed=False)

    for number in range(300):
        place = root / str(number)
        in_the_midst = live(place, lambda mine: None, make, number, torn=False)
        assert follow_ups(place) == 0, f"killed at change {number}"
        mine = broker(place)
        pass_time(mine, 2 * 86_400)
        mine.maintain()
        assert list((place / "jobs").glob("fan-ins/*")) == [], f"killed at change {number}"
        mine.close()
        if not in_the_midst:
            return
    pytest.fail("the operation never ends")


def live(
    place: Path,
    prepare: Callable[[SpoolEngine], Any],
    act: Callable[[SpoolEngine, Any], Any],
    number: int,
    *,
    torn: bool,
) -> bool:
    """A process that is killed at its change `number`. Return whether it was in the midst of the act."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            seam = Seam()
            mine = broker(place, calls=seam)
            held = prepare(mine)
            seam.arm(kill_at(number, torn=torn))
            act(mine, held)
            os.write(write, b"done")
        except BaseException as error:
            os.write(2, f"change {number}: {error!r}\n".encode())
            os._exit(99)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    with open(read, "rb") as pipe:
        done = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the actor failed: status {status}"
    return not done


def is_sealed(place: Path) -> bool:
    records = [path for path in (place / "jobs" / "fan-ins").iterdir() if "." not in path.name]
    return not records or records[0].read_bytes()[8:16] != b"\xff" * 8


def follow_ups(place: Path) -> int:
    """How many the next supervisor finds in the end, once all members have ended, however they do."""
    fresh = heal(place)
    found: Counter[str] = Counter()
    for turn in range(8):
        for lease in claim(fresh):
            ack(fresh, [lease])
        for lease in claim(fresh, "plain"):
            assert lease.job.extras.ended, "it has the counts"
            assert lease.job.payload == follow_up().payload
            found[lease.job.id] += 1
            ack(fresh, [lease])
        if turn > 2:  # what a cancellation has left half done comes to light later
            pass_time(fresh, 2 * MEND_AFTER)
            fresh._spool.parts("jobs").cancel._look_at = 0.0
        fresh.maintain()
    assert set(found) <= {NAME}
    fresh.close()
    return found[NAME]


def test_a_job_that_is_no_member_costs_no_system_call(root: Path) -> None:
    """Neither its enqueue, its claim nor its settlement, beside a fan-in that is open."""

    def calls_of(*, beside: bool) -> list[str]:
        seam = Seam()
        mine = broker(root / str(beside), calls=seam)
        if beside:
            gather(mine, "m", delay=3600)
        seam.arm(pass_on)
        mine.enqueue([job("a")])
        (lease,) = claim(mine)
        ack(mine, [lease])
        seam.disarm()
        mine.close()
        return list(seam.names)

    alone = calls_of(beside=False)
    assert {"rename", "unlink"} <= set(alone)
    assert calls_of(beside=True) == alone


def steps(seam: Seam, act: Callable[[], object], *wanted: str) -> list[str]:
    """The calls of an act with these names, in order."""
    seam.names.clear()
    seam.arm(pass_on)
    act()
    seam.disarm()
    return [name for name in seam.names if name in wanted]


def test_each_step_is_durable_before_the_next(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    gather(mine, "x", sealed=False)
    mine.fan_ins.drop("jobs", NAME)
    made = steps(seam, lambda: mine.fan_ins.begin("jobs", follow_up()), "fsync", "rename")
    assert made == ["fsync", "rename", "fsync", "rename", "fsync"]
    assert steps(seam, lambda: mine.fan_ins.grow("jobs", NAME, 1), "pwrite", "fsync") == ["pwrite", "fsync"]
    mine.enqueue([as_member(job("a"), NAME, 0)])
    assert steps(seam, lambda: mine.fan_ins.seal("jobs", NAME, 1), "pwrite", "fsync") == ["pwrite", "fsync"]
    leases = {lease.job.id: lease for lease in claim(mine)}
    made = steps(seam, lambda: ack(mine, [leases["a"]]), "pwrite", "fdatasync", "unlink", "fsync", "rename")
    assert made[:3] == ["pwrite", "fdatasync", "unlink"], "the end before its job goes"
    fire = ["unlink", "fsync", "rename", "fsync", "rename"]  # the last one after its target's directory was made
    assert made[3:8] == fire, "the counts before the follow-up is moved"
    assert made[-1] == "unlink"
    mine.close()


def test_only_one_process_fires_at_a_time(root: Path) -> None:
    mine = broker(root)
    held = last_held(mine)
    with open(root / "jobs" / "fan-ins" / NAME, "rb") as other, patch("framework.engine.spool.fan_ins.ends.WAIT", 0.01):
        fcntl.flock(other, fcntl.LOCK_EX)
        ack(mine, [held])
        assert claim(mine, "plain") == []
    mine.maintain()
    assert [lease.job.id for lease in claim(mine, "plain")] == [NAME]
    mine.close()


def test_an_end_that_cannot_be_written_keeps_the_lease(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    held = last_held(mine)
    seam.arm(fail_calls(errno.EIO, "pwrite"))
    with pytest.raises(EngineUnavailable) as raised:
        ack(mine, [held])
    assert raised.value.unsettled == (held,)
    seam.disarm()
    assert mine.fan_ins.look("jobs", NAME) == FanIn(2, True, Ended(succeeded=1))
    ack(mine, [held])
    assert [lease.job.id for lease in claim(mine, "plain")] == [NAME]
    mine.close()


def test_a_follow_up_that_cannot_be_stored_is_stored_later(root: Path) -> None:
    seam = Seam()
    mine = broker(root, calls=seam)
    held = last_held(mine)
    seam.arm(fail_calls(errno.ENOSPC, "fsync"))
    ack(mine, [held])
    seam.disarm()
    assert claim(mine, "plain") == []
    mine.maintain()
    assert [lease.job.extras.ended for lease in claim(mine, "plain")] == [{"succeeded": 2}]
    mine.close()


@pytest.mark.parametrize("content", [b"", b"x", b"WFANIN1\n", b"WFANIN1\n" + b"\x7f" * 8, b"\0" * 99])
def test_a_damaged_record_is_named_and_stops_nothing_else(root: Path, content: bytes) -> None:
    mine = broker(root)
    held = last_held(mine)
    (record,) = (path for path in (root / "jobs" / "fan-ins").iterdir() if "." not in path.name)
    record.write_bytes(content)
    mine.enqueue([job("c")])
    ack(mine, [held, one(mine)])
    for _ in range(2):
        mine.maintain()
    assert mine.stuck() == {f"{root}/jobs/fan-ins/{NAME}": "it is no record of a fan-in"}
    assert list(mine.browse("jobs", "ready")) == []
    with pytest.raises(EngineUnavailable, match=f"fan-ins/{NAME}"):
        mine.fan_ins.look("jobs", NAME)
    mine.close()


def test_what_else_lies_there_is_left_alone(root: Path) -> None:
    mine = broker(root)
    held = last_held(mine)
    (root / "jobs" / "fan-ins" / "notes.txt").write_text("mine")
    (root / "jobs" / "fan-ins" / ("cd" * 16)).symlink_to(root / "jobs" / "fan-ins" / "notes.txt")
    ack(mine, [held])
    pass_time(mine, 10 * 86_400)
    mine.maintain()
    assert mine.stuck() == {}
    assert (root / "jobs" / "fan-ins" / "notes.txt").read_text() == "mine"
    assert [lease.job.id for lease in claim(mine, "plain")] == [NAME]
    mine.close()


def test_a_member_that_an_older_version_has_ended_is_found(root: Path) -> None:
    """It moves jobs without a word to the fan-in: into dead/, into cancelled/, or out of the spool."""
    mine = broker(root, PLAIN, LETTERS)
    mine.open([PLAIN])
    mine.fan_ins.begin("plain", follow_up())
    mine.fan_ins.grow("plain", NAME, 4)
    mine.enqueue([as_member(job(str(n), queue="plain"), NAME, n) for n in range(4)])
    mine.fan_ins.seal("plain", NAME, 4)
    with patch.object(mine._spool.ends, "note", lambda ends: []):
        first, second, third, fourth = claim(mine, "plain")
        ack(mine, [first])
        bury(mine, second, failure=failure(second))
        mine.settle([Settlement(third, CANCELLED)])
    for _ in range(2 + upkeep.MISSES):
        pass_time(mine, 2 * MEND_AFTER)
        mine.maintain()
    assert mine.fan_ins.look("plain", NAME) == FanIn(4, True, Ended(dead=1, cancelled=1, unknown=1))
    ack(mine, [fourth])
    (lease,) = claim(mine, "plain")
    assert (lease.job.id, lease.job.extras.ended) == (NAME, {"succeeded": 1, "dead": 1, "cancelled": 1, "unknown": 1})
    mine.close()


def test_a_cancellation_that_was_killed_is_ended_by_a_second_one(root: Path) -> None:
    mine = broker(root)
    view = viewed(mine)
    with patch.object(mine._spool.ends, "end", lambda *_: None):
        assert mine.cancel(view) == "cancelled"
    assert claim(mine, "plain") == []
    cancel: Cancel = mine._spool.parts("jobs").cancel
    assert cancel(view.job.uid, view.job.id) == "cancelled"
    assert [lease.job.extras.ended for lease in claim(mine, "plain")] == [{"cancelled": 1}]
    mine.close()
