"""Operations on jobs that lie in a segment. For the enumerators, as `cases`."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from typing import Any

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import runs
from framework.model.errors import EngineError, EnqueueUncertain, LeaseLost, QueueFull
from framework.model.options import QueueOptions
from framework.model.outcome import Kind, Outcome, Settlement
from tests.support.settling import ack, bury, retry

from .seam import Seam, before, fail_calls
from .stage import Case, Stage
from .world import (
    LETTERS,
    OVER,
    PLAIN,
    claim,
    cut_at,
    dead_owner,
    dies_before,
    failure,
    files,
    in_segments,
    job,
    often,
    one,
    settle_orphan,
)

SMALL = (QueueOptions("jobs", dead_letter="letters", max_length=2), LETTERS)


def _stored(stage: Stage, *ids: str, **options: Any) -> None:
    in_segments(stage.broker)
    stage.store(*(ids or ("a", "b", "c")), **options)


def _may(stage: Stage) -> None:
    """The queue's workers read segments."""
    stage.store("a")
    in_segments(stage.broker)


def _claimed(stage: Stage, **options: Any) -> None:
    _stored(stage, **options)
    stage.held = one(stage.broker, options.get("queue", "jobs"))


def _all_claimed(stage: Stage) -> None:
    _stored(stage, "a", "b", "c", "d")
    stage.held = claim(stage.broker)


def _last(stage: Stage) -> None:
    _stored(stage, "b", "a")
    ack(stage.broker, [one(stage.broker)])
    stage.stored.remove("b")
    stage.held = one(stage.broker)


def _claim(stage: Stage) -> None:
    stage.held = [lease for _ in range(3) for lease in claim(stage.broker, limit=2)]


def _in_vain(stage: Stage) -> None:
    """Its sync fails: all calls after that are those of the removal."""
    stage.enqueue_in_vain(lambda name, args: name == "fsync" and os.path.isfile(f"/proc/self/fd/{args[0]}"))


def _too_many(stage: Stage) -> None:
    """Another producer came between the count and the rename: the last one is taken back."""
    limits = stage.broker._spool.parts("jobs").enqueue._limits
    count, admit = limits.excess, limits.admit
    limits.excess = lambda: max(1, count())  # type: ignore[method-assign]
    limits.admit = lambda jobs, size: admit(jobs, size) or True  # type: ignore[method-assign]
    try:
        stage.broker.enqueue([job("n")])
    except QueueFull:
        return
    finally:
        del limits.excess, limits.admit
    raise EnqueueUncertain("it was queued: the second count failed", job_id="n")


def _enqueue(stage: Stage) -> None:
    stage.broker.enqueue([job("n"), job("m")])


def _bury(stage: Stage) -> None:
    bury(stage.broker, stage.held, failure=failure(stage.held))


def _bury_all(stage: Stage) -> None:
    outcomes = [Outcome(Kind.DEAD_LETTERED, failure=failure(lease)) for lease in stage.held]
    stage.broker.settle([Settlement(lease, o) for lease, o in zip(stage.held, outcomes, strict=True)])


def _ack_after_a_copy(stage: Stage) -> None:
    """A retry came as far as its copy: the ack removes that first."""
    _claimed(stage)
    lease, seam = stage.held, Seam()
    disk = stage.broker._spool._disk
    assert disk is not None
    disk.calls, before = seam, disk.calls
    seam.arm(fail_calls(errno.EIO, "pwrite"))
    try:
        retry(stage.broker, lease, delay=0, failure=failure(lease))
    except EngineError:
        disk.calls = before
        return
    raise AssertionError("the word could be written")


def _orphaned(stage: Stage) -> None:
    def live(mine: SpoolEngine) -> None:
        in_segments(mine).enqueue([job("a"), job("b"), job("c")])
        claim(mine, limit=2)

    dead_owner(stage.root, live, *stage.queues)
    stage.stored += ["a", "b", "c"]


def _orphaned_copy(call: str) -> Callable[[Stage], None]:
    """The dead one was about to make this call while a job left its segment."""

    def prepare(stage: Stage) -> None:
        in_segments(stage.broker).enqueue([job("a"), job("b"), job("c")])

        def live(mine: SpoolEngine) -> None:
            lease = one(mine)
            seam, disk = Seam(), mine._spool._disk
            assert disk is not None
            disk.calls = seam
            seam.arm(before(call, lambda: os.kill(os.getpid(), 9)))
            retry(mine, lease, delay=0, failure=failure(lease))

        dead_owner(stage.root, live, *stage.queues)
        stage.stored += ["a", "b", "c"]

    return prepare


def _rescue(stage: Stage) -> None:
    for orphan in stage.broker.rescue():
        stage.broker.unaccounted(orphan.lease)
        settle_orphan(stage.broker, orphan)


def _owner_without_lock(stage: Stage) -> None:
    """A power cut has left the words of an owner, and nothing else of it; and a segment of which all is settled."""
    _orphaned(stage)
    shutil.rmtree(stage.root / "jobs" / "claimed")
    (stage.root / "jobs" / "claimed").mkdir(mode=0o700)


def _finished_by_the_dead(stage: Stage) -> None:
    """Killed between the last word and the unlink."""
    stage.store("z")

    def live(mine: SpoolEngine) -> None:
        in_segments(mine).enqueue([job("a"), job("b")])
        leases = [lease for lease in claim(mine) if lease.job.id != "z"]
        seam, disk = Seam(), mine._spool._disk
        assert disk is not None
        disk.calls = seam
        seam.arm(before("unlink", lambda: os.kill(os.getpid(), 9)))
        ack(mine, leases)

    dead_owner(stage.root, live, *stage.queues)


def _of_a_dead_writer(stage: Stage) -> None:
    stage.store("a")
    cut_at(stage.root, "rename", lambda mine: in_segments(mine).enqueue([job("n"), job("m")]), *stage.queues)


def _torn(stage: Stage) -> None:
    """The file in tmp ends in the middle of its last record."""
    _of_a_dead_writer(stage)
    (path,) = files(stage.root, "jobs/tmp/*,seg")
    path.write_bytes(path.read_bytes()[:-100])


def _torn_head(stage: Stage) -> None:
    _of_a_dead_writer(stage)
    (path,) = files(stage.root, "jobs/tmp/*,seg")
    path.write_bytes(path.read_bytes()[:4100])


def _damaged_record(stage: Stage) -> None:
    _stored(stage)
    (path,) = files(stage.root, "jobs/segments/*")
    data = bytearray(path.read_bytes())
    at = data.index(b"payload of b ")
    data[at] ^= 1
    path.write_bytes(bytes(data))
    stage.stored.remove("b")


def _damaged_head(stage: Stage) -> None:
    stage.store("z")
    in_segments(stage.broker).enqueue([job("a"), job("b")])
    (path,) = files(stage.root, "jobs/segments/*")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(bytes(data))


def _put_aside(stage: Stage) -> None:
    _damaged_head(stage)
    claim(stage.broker)


def _restore(stage: Stage) -> None:
    views = list(stage.broker.browse("jobs", "bad"))
    if not views:
        raise EngineError("it could not be looked at")
    (stage.held,) = views
    why = stage.broker.restore(stage.held)
    if why:
        raise EngineError(why)


def _viewed(stage: Stage) -> None:
    _stored(stage)
    stage.held = next(stage.broker.browse("jobs", "ready"))


def _discard(stage: Stage) -> None:
    if not stage.broker.discard(stage.held):
        raise LeaseLost([])


def _older_worker(stage: Stage) -> None:
    """The lock of a worker that does not read segments."""
    stage.store("a")
    (stage.root / "jobs" / "claimed" / "old.lock").write_bytes(
        runs.head("boot", 1.0)[: runs._HEAD.size].ljust(runs.ROW, b"\0")
    )


def _maintain(stage: Stage) -> None:
    stage.broker.maintain()


def _expired(stage: Stage) -> None:
    _stored(stage, ttl=OVER)


def _look(stage: Stage) -> None:
    for state in ("ready", "in_flight", "bad"):
        list(stage.broker.browse("jobs", state))  # type: ignore[arg-type]
    stage.broker.stats("jobs")


def _often(stage: Stage) -> None:
    stage.store("a")
    often(stage.broker)


def _opened(stage: Stage, *others: str, **options: Any) -> None:
    """A segment is open for more."""
    often(stage.broker)
    for job_id in ("a", *others):
        stage.store(job_id, **options)
    assert stage.broker._spool.parts("jobs").enqueue._appender.segment, "no segment was opened"


def _full(stage: Stage) -> None:
    _opened(stage)
    stage.store(*(f"b{number}" for number in range(15)))


def _finished(stage: Stage) -> None:
    _opened(stage)
    ack(stage.broker, [one(stage.broker)])
    stage.stored.remove("a")


def _expired_in_open(stage: Stage) -> None:
    _opened(stage, "b", ttl=OVER)


def _append(*ids: str) -> Callable[[Stage], None]:
    return lambda stage: stage.broker.enqueue([job(job_id) for job_id in ids])


def _append_in_vain(stage: Stage) -> None:
    """Its records cannot be written: all calls after that take back what is there of them."""
    stage.enqueue_in_vain(lambda name, args: name == "pwrite" and len(args[1]) > 200, after=True)


def _append_and_claim(stage: Stage) -> None:
    stage.held = claim(stage.broker)
    stage.broker.enqueue([job("n")])
    stage.held += claim(stage.broker)


def _append_by_the_dead(stage: Stage) -> None:
    """Killed between the flush and what shows the job."""

    def live(mine: SpoolEngine) -> None:
        often(mine).enqueue([job("a")])
        dies_before(mine, "pwrite", 2).enqueue([job("n")])

    dead_owner(stage.root, live, *stage.queues)
    stage.stored.append("a")


def _torn_by_the_dead(stage: Stage) -> None:
    """Killed while the records were written."""
    _append_by_the_dead(stage)
    (path,) = files(stage.root, "jobs/segments/*")
    data = bytearray(path.read_bytes())
    at = data.index(b"payload of n ")
    data[at + 20 : at + 200] = bytes(180)
    path.write_bytes(bytes(data))


SEGMENT_CASES = (
    Case("open a segment", _often, _append("n"), enqueues=("n",)),
    Case("append", _opened, _append("n"), enqueues=("n",)),
    Case("append some", lambda s: _opened(s, "b"), _append("n", "m"), enqueues=("n", "m")),
    Case("append to a full one", _full, _append("n"), enqueues=("n",)),
    Case("append in vain", _opened, _append_in_vain, refuses=("n", "m")),
    Case("append too many", _opened, _too_many, refuses=("n",), queues=SMALL),
    Case(
        "enqueue a chosen id beside an open segment",
        _opened,
        lambda s: s.broker.enqueue([job("n", chosen=True)]),
        enqueues=("n",),
    ),
    Case("append and claim", _opened, _append_and_claim, enqueues=("n",)),
    Case("close an open segment", lambda s: _opened(s, "b"), lambda s: s.broker.close()),
    Case("close a finished segment", _finished, lambda s: s.broker.close()),
    Case("expire in an open segment", _expired_in_open, _maintain),
    Case("close that of a dead producer", _append_by_the_dead, _maintain, enqueues=("n",), left=("n",)),
    Case("close the torn one of a dead producer", _torn_by_the_dead, _maintain, refuses=("n",)),
    Case("enqueue a segment", _may, _enqueue, enqueues=("n", "m")),
    Case("enqueue a segment in vain", _may, _in_vain, refuses=("n", "m")),
    Case("enqueue a segment too many", _may, _too_many, refuses=("n",), queues=SMALL),
    Case("claim from a segment", _stored, _claim),
    Case("claim expired from a segment", _expired, _claim),
    Case("claim a damaged record", _damaged_record, _claim, bad=1),
    Case("claim from a damaged segment", _damaged_head, _claim, bad=1),
    Case("ack in a segment", _claimed, lambda s: ack(s.broker, [s.held]), deletes=("a",)),
    Case("ack the last of a segment", _last, lambda s: ack(s.broker, [s.held]), deletes=("a",)),
    Case("ack after a copy", _ack_after_a_copy, lambda s: ack(s.broker, [s.held]), deletes=("a",)),
    Case("retry from a segment", _claimed, lambda s: retry(s.broker, s.held, delay=0, failure=failure(s.held))),
    Case("retry the last of a segment", _last, lambda s: retry(s.broker, s.held, delay=9, failure=failure(s.held))),
    Case("save from a segment", _claimed, lambda s: s.broker.save(s.held, "1")),
    Case("release into a segment", _claimed, lambda s: s.broker.release([s.held])),
    Case("release later from a segment", _claimed, lambda s: s.broker.release([s.held], delay=3600)),
    Case("bury from a segment", lambda s: _claimed(s, queue="plain"), _bury, queues=(PLAIN,)),
    Case("bury all of a segment", _all_claimed, _bury_all),
    Case("expire in a segment", _expired, _maintain),
    Case("rescue from a segment", _orphaned, _rescue),
    Case("rescue a copy without its word", _orphaned_copy("pwrite"), _rescue),
    Case("rescue a copy with its word", _orphaned_copy("rename"), _rescue),
    Case("free what nobody owns", _owner_without_lock, _maintain),
    Case("remove a finished segment", _finished_by_the_dead, _maintain),
    Case("recover a segment", _of_a_dead_writer, _maintain, enqueues=("n", "m"), left=("n", "m")),
    Case("recover half a segment", _torn, _maintain, enqueues=("n",), refuses=("m",)),
    Case("recover nothing of a segment", _torn_head, _maintain, refuses=("n", "m")),
    Case("restore a segment", _put_aside, _restore, enqueues=("a", "b"), bad=1),
    Case("discard from a segment", _viewed, _discard, deletes=("a",)),
    Case("look into segments", _all_claimed, _look),
    Case("meet an older worker", _older_worker, _maintain),
)  # fmt: skip
