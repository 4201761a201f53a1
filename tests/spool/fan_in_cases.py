"""Fan-ins: states of the spool, and what is done in them.

They are no `cases` of the enumerators: `test_fan_in` kills them around each change, and `test_seam` counts their calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from framework.engine.spool.engine import SpoolEngine
from framework.model.fan_in import as_member
from framework.model.job import Job
from framework.model.outcome import CANCELLED, Settlement
from tests.support.settling import ack, bury

from .world import OVER, claim, failure, in_segments, job, one, pass_time

NAME = "ab" * 16


def follow_up() -> Job:
    return job(NAME, queue="plain")


def gather(mine: SpoolEngine, *ids: str, sealed: bool = True, **options: Any) -> None:
    mine.fan_ins.begin("jobs", follow_up())
    assert mine.fan_ins.grow("jobs", NAME, len(ids))
    mine.enqueue([as_member(job(one, **options), NAME, at) for at, one in enumerate(ids)])
    if sealed:
        assert mine.fan_ins.seal("jobs", NAME, len(ids))


def last_held(mine: SpoolEngine) -> Any:
    """One of two members has ended, and the other is claimed."""
    gather(mine, "a", "b")
    ack(mine, [one(mine)])
    return one(mine)


def together(mine: SpoolEngine) -> Any:
    in_segments(mine)
    gather(mine, "a", "b", "c")
    return claim(mine)


def viewed(mine: SpoolEngine) -> Any:
    gather(mine, "a")
    return next(mine.browse("jobs", "ready"))


def ended(mine: SpoolEngine) -> Any:
    """All have ended before the fan-in is sealed."""
    gather(mine, "a", sealed=False)
    ack(mine, [one(mine)])


def left(mine: SpoolEngine) -> Any:
    """The process that ended the last member was killed before it fired."""
    gather(mine, "a")
    lease = one(mine)
    with patch.object(mine._spool.ends, "fire", lambda members: None):
        ack(mine, [lease])


def _a_day_later(mine: SpoolEngine, _: Any) -> None:
    pass_time(mine, 2 * 86_400)
    mine.maintain()


ACTS: dict[str, tuple[Callable[[SpoolEngine], Any], Callable[[SpoolEngine, Any], Any]]] = {
    "ack": (last_held, lambda mine, held: ack(mine, [held])),
    "ack in a segment": (together, ack),
    "bury": (last_held, lambda mine, held: bury(mine, held, failure=failure(held))),
    "set aside": (last_held, lambda mine, held: mine.settle([Settlement(held, CANCELLED)])),
    "expire": (lambda mine: gather(mine, "a", "b", ttl=OVER), lambda mine, _: mine.maintain()),
    "cancel": (viewed, lambda mine, held: mine.cancel(held)),
    "discard": (viewed, lambda mine, held: mine.discard(held)),
    "seal": (ended, lambda mine, _: mine.fan_ins.seal("jobs", NAME, 1)),
    "upkeep": (left, lambda mine, _: mine.maintain()),
}
# What a producer does and a look; a kill there is a test of its own.
ALL = ACTS | {
    "gather": (lambda mine: None, lambda mine, _: gather(mine, "a", "b")),
    "drop": (lambda mine: gather(mine, "a", sealed=False), lambda mine, _: mine.fan_ins.drop("jobs", NAME)),
    "look": (lambda mine: gather(mine, "a"), lambda mine, _: mine.fan_ins.look("jobs", NAME)),
    "sweep": (lambda mine: gather(mine, "a", sealed=False), _a_day_later),
}
