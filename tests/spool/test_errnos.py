"""An error at every system call of every operation, before the call works and after it has worked.

EVERY=1 for each errno at each call, EVERY=EIO-after for one of them, as `make faults` sets it. Without it each place
in the code that makes a call fails in three operations, the first, middle and last that come by, with the next errno in
turn: most of the 6,800 places of all operations are the same 1,900.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from framework.model.errors import EngineError, EngineUnavailable, EnqueueError, EnqueueUncertain, LeaseLost

from .cases import CASES
from .seam import Seam, fail_at
from .stage import Case, Stage
from .world import body, census, claim, heal, views

ERRNOS = (
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.EROFS,
    errno.EXDEV,
    errno.EACCES,
    errno.ENOENT,
)
# What no system does: the call that failed had worked. Only where an error of a disk can come late.
AFTER = (errno.EIO,)
WAYS = (*((number, False) for number in ERRNOS), *((number, True) for number in AFTER))
EVERY = os.environ.get("EVERY", "")
MOST = 2000  # calls of an operation
REPEATED = ("ack", "ack chosen", "retry", "retry now", "release", "release later", "bury", "bury to letters", "rest")


def name_of(way: tuple[int, bool] | None) -> str:
    """Return a way's name, for EVERY and for pytest."""
    return f"{errno.errorcode[way[0]]}{'-after' * way[1]}" if way else "in turn"


Place = tuple[Any, ...]  # a call, and the lines of the spool that lead to it
CHOSEN = [way for way in WAYS if EVERY in ("1", name_of(way))] or [None]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("way", CHOSEN, ids=name_of)
def test_an_error_at_any_call_loses_nothing(case: Case, way: tuple[int, bool] | None, root: Path) -> None:
    """The caller is told the truth, the lease stays valid, and the same process goes on once the error is over.

    Verified: with the lease dropped before its rename, with an error raised after a rename that had worked, or with
    `link`'s False taken for done, cases of this test fail.
    """
    if way:
        for at in range(MOST):
            if not _fail_once(case, root / str(at), at, *way):
                return
        pytest.fail("the operation never ends")
    for at, error in _plan()[case.name]:
        _fail_once(case, root / str(at), at, *error)


@cache
def _plan() -> dict[str, list[tuple[int, tuple[int, bool]]]]:
    """Which calls of each operation fail, and how: of each place three, of each operation at least its last place."""
    places: dict[Place, list[tuple[str, int]]] = {}
    last: dict[str, tuple[str, int]] = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as base:
            for place, at in _first_of_each_place(case, Path(base, "spool")).items():
                places.setdefault(place, []).append((case.name, at))
                last[case.name] = (case.name, at)
    plan: dict[str, list[tuple[int, tuple[int, bool]]]] = {case.name: [] for case in CASES}
    for turn, found in enumerate(places.values()):
        chosen = {found[0], found[len(found) // 2], found[-1], *(one for one in found if last[one[0]] == one)}
        for nth, (name, at) in enumerate(sorted(chosen)):
            plan[name].append((at, WAYS[(turn + nth) % len(WAYS)]))
    return plan


def _first_of_each_place(case: Case, root: Path) -> dict[Place, int]:
    """The numbers of the calls of an act, one for each way through the spool's code that ends in a call."""
    seam, first = Seam(), dict[Place, int]()

    def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Any) -> Any:
        first.setdefault((name, *_way_here()), len(seam.names) - 1)
        return real(*args, **kwargs)

    stage = case.stage(root, seam)
    seam.arm(note)
    case.act(stage)
    seam.disarm()
    stage.broker.close()
    assert first, "the operation makes no call"
    return first


def _way_here() -> Iterator[tuple[str, int]]:
    """The lines of the spool that are being executed."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if (frame.f_globals.get("__package__") or "").startswith("framework"):
            yield frame.f_code.co_filename, frame.f_lineno


def _fail_once(case: Case, root: Path, at: int, number: int, after: bool) -> bool:
    """False: the act made fewer calls than that."""
    seam = Seam()
    stage = case.stage(root, seam)
    seam.arm(fail_at(at, number, after=after))
    told = _act(case, stage)
    seam.disarm()
    calls = len(seam.names)
    where = f"call {at} ({seam.names[at] if at < calls else '-'}), the caller was told {told!r}"
    if isinstance(told, EngineUnavailable) and case.name in REPEATED:
        told = _act(case, stage)
        assert told is None or (isinstance(told, LeaseLost) and after), f"{where}; repeated: {told!r}"
    stage.broker.close()
    _check(case, stage, told, where)
    return at < calls


def _act(case: Case, stage: Stage) -> Exception | None:
    """The error that the caller got; anything but the framework's own ends the test."""
    try:
        case.act(stage)
    except (EngineError, EnqueueError, LeaseLost) as error:
        return error
    return None


def _check(case: Case, stage: Stage, told: Exception | None, where: str) -> None:
    fresh = heal(stage.root, *case.queues)
    try:
        found = census(fresh)
        for job_id in stage.stored:
            least = 0 if job_id in case.deletes else 1
            most = 0 if job_id in case.deletes and told is None else 2 if job_id in case.twice else 1
            assert least <= found[job_id] <= most, f"{job_id} is there {found[job_id]} times; {where}"
        if case.cancels:
            found_cancelled = Counter(view.job.id for view in views(fresh, "cancelled"))
            for job_id in case.deletes:
                assert found[job_id] + found_cancelled[job_id] == 1, where
        for job_id in case.enqueues:
            if told is None or job_id not in case.left:
                _check_told(job_id, found[job_id], told, where)
            assert found[job_id] <= 1, where
        for job_id in case.refuses:
            most = 1 if isinstance(told, EnqueueUncertain) else 0
            assert found[job_id] <= most, f"{job_id} was not queued and is there; {where}"
        assert set(found) <= {*stage.stored, *case.enqueues, *case.refuses}
        assert sum(fresh.stats(queue.name).bad for queue in case.queues) <= case.bad, where
        for queue in case.queues:
            for lease in claim(fresh, queue.name):
                assert lease.job.payload == body(lease.job.id)
    finally:
        fresh.close()
        shutil.rmtree(stage.root)


def _check_told(job_id: str, found: int, told: Exception | None, where: str) -> None:
    if told is None or (isinstance(told, EnqueueError) and job_id in told.enqueued):
        assert found == 1, f"{job_id} was acknowledged and is there {found} times; {where}"
    elif isinstance(told, EnqueueUncertain) and told.job_id == job_id:
        assert found <= 1, f"{job_id} is there {found} times; {where}"
    elif isinstance(told, EnqueueError) and not isinstance(told, EnqueueUncertain):
        assert found == 0, f"{job_id} was not queued and is there; {where}"
    else:
        assert found <= 1, f"{job_id} is there {found} times; {where}"
