"""The cancellation of a job, wherever it lies. For the enumerators, as `cases`."""

from __future__ import annotations

from typing import Any

from framework.model.errors import LeaseLost
from framework.model.outcome import CANCELLED, Settlement
from tests.support.settling import retry

from .stage import Case, Stage
from .world import failure, in_segments, one


def _viewed(stage: Stage, **options: Any) -> None:
    stage.store("a", "b", **options)
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
    part = stage.broker._spool.parts("jobs")
    assert stage.broker._spool.settle.release(stage.held.token, 0)
    part.cancel._tried = dict.fromkeys(part.marks.names(), 0.0)
    part.cancel._look_at = 0.0


def _cancel_one(stage: Stage, job_id: str, expected: str) -> None:
    view = next(stage.broker.get(["jobs"], job_id))
    assert stage.broker.cancel(view) == expected


def _cancel(stage: Stage) -> None:
    if stage.broker.cancel(stage.held) == "gone":
        raise LeaseLost([])


def _settle(stage: Stage) -> None:
    stage.broker.settle([Settlement(stage.held, CANCELLED)])


def _sweep(stage: Stage) -> None:
    stage.broker._spool.parts("jobs").cancel.sweep(float("inf"))


CANCEL_CASES = tuple(
    Case(name, prepare, act, deletes=("a",), cancels=True)
    for name, prepare, act in (
        ("cancel", _viewed, _cancel),
        ("cancel chosen", lambda s: _viewed(s, chosen=True), _cancel),
        ("cancel delayed", lambda s: _viewed(s, delay=3600), _cancel),
        ("cancel in a segment", _in_segment, _cancel),
        ("cancel claimed", _claimed, _cancel),
        ("cancel claimed and chosen", lambda s: _claimed(s, chosen=True), _cancel),
        ("settle as cancelled", _marked, _settle),
        ("settle chosen as cancelled", lambda s: _marked(s, chosen=True), _settle),
        ("settle in a segment as cancelled", lambda s: _marked(s, segment=True), _settle),
        ("release cancelled", _marked, lambda s: s.broker.release([s.held])),
        ("retry cancelled", _marked, lambda s: retry(s.broker, s.held, delay=0, failure=failure(s.held))),
        ("sweep what was put back", _left, _sweep),
    )
)
