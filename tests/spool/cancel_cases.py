"""The cancellation of a job, wherever it lies. For the enumerators, as `cases`."""

from __future__ import annotations

import time
from typing import Any

from framework.engine.spool.upkeep.cancel import Cancel
from framework.model.errors import EngineUnavailable, LeaseLost
from framework.model.options import QueueOptions
from framework.model.outcome import CANCELLED, Settlement
from tests.support.settling import ack, retry

from .stage import Case, Stage
from .world import LETTERS, failure, in_segments, one

SHORT = (QueueOptions("jobs", dead_letter="letters", ttl=0.001), LETTERS)


def _viewed(stage: Stage, **options: Any) -> None:
    stage.store("a", "b", **options)
    stage.held = next(stage.broker.get(["jobs"], "a"))


def _keyed(stage: Stage) -> None:
    stage.store("a", key="user 7")
    stage.store("b")
    stage.held = next(stage.broker.get(["jobs"], "a"))


def _in_segment(stage: Stage) -> None:
    in_segments(stage.broker)
    _viewed(stage)


def _claimed(stage: Stage, **options: Any) -> None:
    """Its own process has it, which dies with the canceller: a rescuer settles it."""
    stage.store("a", "b", **options)
    one(stage.broker)
    stage.held = next(stage.broker.get(["jobs"], "a"))


def _marked(stage: Stage, *, segment: bool = False, **options: Any) -> None:
    if segment:
        in_segments(stage.broker)
    stage.store("a", "b", **options)
    lease = one(stage.broker)
    _cancel_one(stage, "a", "stopping")
    stage.held = lease


def _left(stage: Stage) -> None:
    """A worker that knew no marks has put the job back."""
    _marked(stage)
    assert stage.broker._spool.settle.release(stage.held.token, 0)
    _now(stage)


def _torn(stage: Stage) -> None:
    """A canceller was killed while it made the mark."""
    _claimed(stage)
    (name,) = (path.name for path in stage.root.glob("jobs/claimed/*/*"))
    (stage.root / "jobs" / "cancels").mkdir()
    (stage.root / "jobs" / "cancels" / name.partition(",")[0]).touch()


def _ended(stage: Stage) -> None:
    """The job has succeeded before its worker saw the mark."""
    _marked(stage)
    ack(stage.broker, [stage.held])
    _now(stage)


def _over(stage: Stage) -> None:
    """A cancelled job whose time is over."""
    stage.store("a", "b")
    _cancel_one(stage, "a", "cancelled")
    time.sleep(0.002)
    _now(stage)


def _cancel_one(stage: Stage, job_id: str, expected: str) -> None:
    view = next(stage.broker.get(["jobs"], job_id))
    assert stage.broker.cancel(view) == expected


def _cancel(stage: Stage) -> None:
    if stage.broker.cancel(stage.held) == "gone":
        raise LeaseLost([])


def _settle(stage: Stage) -> None:
    stage.broker.settle([Settlement(stage.held, CANCELLED)])


def _release(stage: Stage) -> None:
    """Maintenance makes good what a settlement cannot know that finds no directory of marks."""
    stage.broker.release([stage.held])
    _sweep(stage)


def _retry(stage: Stage) -> None:
    retry(stage.broker, stage.held, delay=0, failure=failure(stage.held))
    _sweep(stage)


def _sweep(stage: Stage) -> None:
    """As a step of maintenance, which comes again."""
    try:
        for _ in range(2):
            _now(stage).sweep(float("inf"))
    except OSError as error:
        raise EngineUnavailable(str(error)) from error


def _now(stage: Stage) -> Cancel:
    """The cancellations of the queue, whose time has come."""
    part = stage.broker._spool.parts("jobs")
    part.cancel._tried = dict.fromkeys(part.marks.names(), 0.0)
    part.cancel._look_at = 0.0
    return part.cancel


WAYS = (
    ("cancel", _viewed, _cancel),
    ("cancel chosen", lambda s: _viewed(s, chosen=True), _cancel),
    ("cancel with a key", _keyed, _cancel),
    ("cancel delayed", lambda s: _viewed(s, delay=3600), _cancel),
    ("cancel in a segment", _in_segment, _cancel),
    ("cancel claimed", _claimed, _cancel),
    ("cancel claimed and chosen", lambda s: _claimed(s, chosen=True), _cancel),
    ("cancel behind a torn mark", _torn, _cancel),
    ("settle as cancelled", _marked, _settle),
    ("settle chosen as cancelled", lambda s: _marked(s, chosen=True), _settle),
    ("settle in a segment as cancelled", lambda s: _marked(s, segment=True), _settle),
    ("release cancelled", _marked, _release),
    ("retry cancelled", _marked, _retry),
    ("sweep what was put back", _left, _sweep),
)
CANCEL_CASES = (
    *(Case(name, prepare, act, deletes=("a",), cancels=True) for name, prepare, act in WAYS),
    Case("sweep the mark of what has ended", _ended, _sweep, deletes=("a",)),
    Case("delete what was cancelled", _over, _sweep, deletes=("a",), queues=SHORT),
)
