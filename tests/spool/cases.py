"""Every operation of the spool, for the enumerators; those where something is not as usual are in `odd_cases`."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from framework.engine.port import Inspector
from framework.engine.spool.disk.disk import Disk
from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EngineUnavailable, EnqueueFailed, EnqueueUncertain, LeaseLost
from tests.support.settling import ack, bury, rest, retry

from .cancel_cases import CANCEL_CASES
from .group_cases import GROUP_CASES
from .kept_cases import KEPT_CASES
from .key_cases import KEY_CASES
from .odd_cases import ODD_CASES, reopen, rescue
from .segment_cases import SEGMENT_CASES
from .stage import Case, Stage
from .world import LETTERS, LIMITED, OVER, PLAIN, claim, cut_at, dead_owner, failure, job, one, pass_time


def _nothing(stage: Stage) -> None:
    stage.store("a", "b")


def _claimed(stage: Stage, queue: str = "jobs", **options: Any) -> None:
    stage.store("a", "b", queue=queue, **options)
    stage.held = one(stage.broker, queue)


def _saved(stage: Stage) -> None:
    _claimed(stage, chosen=True)
    stage.broker.save(stage.held, "1")


def _removed(stage: Stage) -> None:
    _claimed(stage)
    (stage.root / "jobs" / "limits").unlink()


def _letter(stage: Stage) -> None:
    _claimed(stage)
    bury(stage.broker, stage.held, failure=failure(stage.held))
    stage.held = one(stage.broker, "letters")


def _resting(stage: Stage, **options: Any) -> None:
    stage.store("a", "b", queue="plain", **options)
    lease = one(stage.broker, "plain")
    bury(stage.broker, lease, failure=failure(lease))
    stage.held = next(stage.broker.browse("plain", "dead"))


def _orphaned(stage: Stage) -> None:
    def live(mine: SpoolEngine) -> None:
        mine.enqueue([job("a"), job("b"), job("c")])
        claim(mine)

    dead_owner(stage.root, live, *stage.queues)
    stage.stored += ["a", "b", "c"]


def _half_written(stage: Stage) -> None:
    """What two dead producers left in tmp: a whole file, and a torn one. Neither was acknowledged."""
    stage.store("a")
    cut_at(stage.root, "rename", lambda mine: mine.enqueue([job("n")]), *stage.queues)
    cut_at(stage.root, "fsync", lambda mine: mine.enqueue([job("torn")]), *stage.queues)
    torn = max((stage.root / "jobs" / "tmp").iterdir())
    torn.write_bytes(torn.read_bytes()[:-1])


def _urgent(stage: Stage) -> None:
    stage.store("a", "b")
    stage.store("u", priority=4)
    stage.store("p", priority=6)


def _due(stage: Stage, **options: Any) -> None:
    pass_time(stage.broker, -1)
    stage.store("a", delay=OVER, **options)
    pass_time(stage.broker, 1)
    stage.store("b", "c", delay=3600)


def _expired(stage: Stage) -> None:
    stage.store("a", "b", ttl=OVER)


def _in_vain(stage: Stage) -> None:
    """The disk takes the file, and its fsync fails: all calls after that are those of the removal."""
    # Of the class: a spool that is opened anew on the way has another disk.
    with patch.object(Disk, "sync", side_effect=OSError(errno.EIO, "injected")):
        try:
            stage.broker.enqueue([job("n", chosen=True)])
        except EnqueueUncertain:
            raise
        except EnqueueFailed:
            return


def _in_vain_on_btrfs(stage: Stage) -> None:
    """There a removal is only durable with all that the file system has."""
    disk = stage.broker._spool._disk
    assert disk is not None
    disk.forgetful = True
    _in_vain(stage)


def _replay(stage: Stage) -> None:
    inspector: Inspector = stage.broker
    if not inspector.replay(stage.held):
        raise LeaseLost([])


def _discard(stage: Stage) -> None:
    inspector: Inspector = stage.broker
    if not inspector.discard(stage.held):
        raise LeaseLost([])


def _enqueue(*ids: str, **options: Any) -> Callable[[Stage], None]:
    return lambda stage: stage.broker.enqueue([job(job_id, **options) for job_id in ids])


def _tick(stage: Stage, last: float, tick: float, job_id: str) -> None:
    try:
        fired = stage.broker.fire("jobs", "hourly", last, tick, job(job_id))
    except EngineUnavailable as error:
        raise EnqueueUncertain(str(error), job_id=job_id) from error
    if not fired:
        raise EnqueueFailed("the record seemed to be missing")


def _ticked(stage: Stage) -> None:
    _nothing(stage)
    stage.broker.fire("jobs", "hourly", None, 100.0)


def _ticked_in_vain(stage: Stage) -> None:
    """A process died before the tick of its job was handled."""
    _ticked(stage)
    (record,) = stage.root.glob("jobs/schedules/*")
    record.with_name(f"{record.name},left").write_bytes(b"x")


def _ticked_with_a_job(stage: Stage) -> None:
    stage.broker.fire("jobs", "hourly", None, 100.0, job("a"))
    stage.stored.append("a")


def _tick_left(stage: Stage) -> None:
    """The job of a tick whose process died before it moved it."""
    _ticked_with_a_job(stage)
    (ready,) = stage.root.glob("jobs/ready/*/*")
    (record,) = stage.root.glob("jobs/schedules/*")
    ready.rename(record.with_name(json.loads(record.read_bytes())["job"]))


MANY = tuple(f"n{number}" for number in range(9))

CASES = (
    Case("enqueue", _nothing, _enqueue("n"), enqueues=("n",)),
    Case("enqueue delayed", _nothing, _enqueue("n", delay=3600), enqueues=("n",)),
    Case("enqueue chosen", _nothing, _enqueue("n", chosen=True), enqueues=("n",)),
    Case("enqueue two", _nothing, _enqueue("n", "m"), enqueues=("n", "m")),
    Case("enqueue many", _nothing, _enqueue(*MANY), enqueues=MANY),
    Case("enqueue urgent", _nothing, _enqueue("n", priority=0), enqueues=("n",)),
    Case("enqueue patient chosen", _nothing, _enqueue("n", priority=6, chosen=True), enqueues=("n",)),
    Case("enqueue many urgent", _nothing, _enqueue(*MANY, priority=4), enqueues=MANY),
    Case("enqueue duplicate", lambda s: s.store("a", chosen=True), _enqueue("a", chosen=True)),
    Case("enqueue in vain", _nothing, _in_vain, refuses=("n",)),
    Case("enqueue in vain on btrfs", _nothing, _in_vain_on_btrfs, refuses=("n",)),
    Case("tick", _ticked, lambda s: _tick(s, 100.0, 200.0, "n"), enqueues=("n",)),
    Case("tick after another", _ticked_with_a_job, lambda s: _tick(s, 100.0, 200.0, "n"), enqueues=("n",)),
    Case("tick after one in vain", _ticked_in_vain, lambda s: _tick(s, 100.0, 200.0, "n"), enqueues=("n",)),
    Case("tick that was left", _tick_left, lambda s: s.broker.ticks("jobs", ["hourly"])),
    Case("claim", _nothing, lambda s: s.__setattr__("held", claim(s.broker))),
    Case("claim urgent", _urgent, lambda s: s.__setattr__("held", claim(s.broker))),
    Case("claim expired", _expired, lambda s: s.__setattr__("held", claim(s.broker))),
    Case("claim due", _due, lambda s: s.__setattr__("held", claim(s.broker))),
    Case("claim limited", _nothing, lambda s: s.__setattr__("held", claim(s.broker)), queues=(LIMITED, LETTERS)),
    Case("ack limited", _claimed, lambda s: ack(s.broker, [s.held]), deletes=("a",), queues=(LIMITED, LETTERS)),
    Case("close limited", _claimed, lambda s: s.broker.close(), queues=(LIMITED, LETTERS)),
    Case("limits removed", _removed, lambda s: s.__setattr__("held", claim(s.broker)), queues=(LIMITED, LETTERS)),
    Case("open limited", _removed, reopen, queues=(LIMITED, LETTERS)),
    Case("hold", _nothing, lambda s: s.broker.hold("jobs", 0.01), queues=(LIMITED, LETTERS)),
    Case("ack", _claimed, lambda s: ack(s.broker, [s.held]), deletes=("a",)),
    Case("ack chosen", lambda s: _claimed(s, chosen=True), lambda s: ack(s.broker, [s.held]), deletes=("a",)),
    Case("retry", _claimed, lambda s: retry(s.broker, s.held, delay=3600, failure=failure(s.held))),
    Case("retry now", _claimed, lambda s: retry(s.broker, s.held, delay=0, failure=failure(s.held))),
    Case("save", _claimed, lambda s: s.broker.save(s.held, "1")),
    Case("save again", _saved, lambda s: s.broker.save(s.held, "2")),
    Case("release", _claimed, lambda s: s.broker.release([s.held])),
    Case("release urgent", lambda s: _claimed(s, priority=4), lambda s: s.broker.release([s.held])),
    Case("release later", _claimed, lambda s: s.broker.release([s.held], delay=3600)),
    Case(
        "bury",
        lambda s: _claimed(s, "plain"),
        lambda s: bury(s.broker, s.held, failure=failure(s.held)),
        queues=(PLAIN,),
    ),
    Case("bury to letters", _claimed, lambda s: bury(s.broker, s.held, failure=failure(s.held))),
    Case("rest", _letter, lambda s: rest(s.broker, s.held)),
    Case("bury urgent", lambda s: _claimed(s, priority=3), lambda s: bury(s.broker, s.held, failure=failure(s.held))),
    Case("replay", _resting, _replay, queues=(PLAIN,)),
    Case("replay urgent", lambda s: _resting(s, priority=2), _replay, queues=(PLAIN,)),
    Case("discard", _resting, _discard, deletes=("a",), queues=(PLAIN,)),
    Case("discard chosen", lambda s: _resting(s, chosen=True), _discard, deletes=("a",), queues=(PLAIN,)),
    Case("rescue", _orphaned, rescue),
    Case("recover", _half_written, lambda s: s.broker.maintain(), enqueues=("n",)),
    Case("ripen", _due, lambda s: s.broker.maintain()),
    Case("promote urgent", lambda s: _due(s, priority=4), lambda s: s.broker.maintain()),
    Case("expire", _expired, lambda s: s.broker.maintain()),
    Case("close", _claimed, lambda s: s.broker.close()),
    Case("open", _nothing, reopen),
    *ODD_CASES,
    *KEPT_CASES,
    *GROUP_CASES,
    *KEY_CASES,
    *SEGMENT_CASES,
    *CANCEL_CASES,
)
