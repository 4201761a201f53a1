"""What the model of the disk records: short lives of a spool, each with what it promises."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from framework.engine.spool.enqueue import ids
from framework.engine.spool.format import job_file, names
from framework.model.errors import EnqueueFailed, EnqueueUncertain, QueueFull
from framework.model.outcome import Kind, Outcome, Settlement
from tests.spool.world import failure, in_segments, job, often, one, settle_orphan
from tests.support.settling import ack, rest, retry

from .disk_life import Life
from .disk_traces_of_jobs import cancels, checkpoints


def _enqueue(life: Life) -> None:
    life.enqueue("a")
    life.enqueue("later", delay=3600)
    life.enqueue("chosen", chosen=True)
    life.enqueue("b", "c")


def _enqueue_many(life: Life) -> None:
    life.enqueue("a")
    life.enqueue(*(f"n{number}" for number in range(9)))


def _append(life: Life) -> None:
    """Few at a time, into a segment that is closed when it is full, and by others than its writer."""
    often(life.mine)
    life.enqueue("a")
    life.enqueue("b")
    life.enqueue("c", "d")
    life.ends("there", "a")
    ack(life.mine, [one(life.mine)])
    often(life.mine).enqueue([job("e")])
    life.ours.add("e")
    life.promise("there", "e")
    life.mine.maintain()
    life.promise("absent", "a")
    life.ours.add("cut")
    life.cut_before("fdatasync", lambda: life.mine.enqueue([job("cut")]))
    life.mine.maintain()
    one(life.mine)
    often(life.mine)
    life.enqueue("f")
    life.mine._spool.parts("jobs").enqueue.close()
    life.enqueue("g")


def _append_by_two(life: Life) -> None:
    """Two producers, and a worker that settles while they append; then one of them is gone."""
    often(life.mine)
    worker, first, second = life.born(), life.mine, often(life.born())
    for number in range(3):
        for mine, name in ((first, "a"), (second, "b")):
            life.mine = mine
            life.enqueue(f"{name}{number}")
        lease = one(worker)
        life.ends("there", lease.job.id)
        ack(worker, [lease])
    life.mine = first
    life.die()
    life.mine.maintain()
    worker.close()
    second.close()


def _append_in_vain(life: Life) -> None:
    """Records cannot be written, and the removal is told; or not flushed, and nothing is."""
    often(life.mine)
    life.enqueue("a")
    life.ours.update(("b", "c", "d"))
    life.hook = _late(lambda name, args: name == "pwrite" and len(args[1]) > 100)
    try:
        life.mine.enqueue([job("b"), job("c")])
    except EnqueueUncertain:
        raise
    except EnqueueFailed:
        life.promise("absent", "b", "c")
    life.hook = None
    often(life.mine)
    life.enqueue("e")
    life.hook = _late(lambda name, args: name == "fdatasync")
    with suppress(EnqueueUncertain):
        life.mine.enqueue([job("d")])
    life.hook = None
    life.enqueue("f")


def _ticks(life: Life) -> None:
    """Two of a schedule, of which the second one's process dies before its record is durable; the next look goes on."""
    life.tick(None, 100.0)
    life.promise("there", "tick-100")
    life.cut_before("fsync", lambda: life.tick(100.0, 200.0), 4)
    life.mine.ticks("jobs", ["hourly"])
    life.promise("there", "tick-200")
    life.tick(200.0, 300.0)
    life.promise("there", "tick-300")


def _together_recovered(life: Life) -> None:
    """A writer of the version before died with many jobs in a directory of tmp."""
    life.enqueue("a")
    life.ours.update(("b", "c"))
    disk = life.mine._spool._disk
    assert disk is not None
    stem = names.Name(life.mine._spool._clock.text(), names.tails.next()).stem  # type: ignore[union-attr]
    disk.mkdir(f"jobs/tmp/{stem}")
    for number, job_id in enumerate("bc"):
        name = f"{int(stem[:20]) + number:020d}{stem[20:]},0.0"
        disk.write_new(f"jobs/tmp/{stem}/{name}", job_file.encode(job(job_id)), sync=False)
    life.mine.maintain()
    life.enqueue("f")


def _segments(life: Life) -> None:
    """Its jobs end in every way, with a dead owner, and what was flushed stays done."""
    in_segments(life.mine)
    life.enqueue("a", "b", "c", "d", "e", "f", "g")
    life.ends("there", "a")
    ack(life.mine, [one(life.mine)])
    life.mine.maintain()
    life.promise("absent", "a")
    lease = one(life.mine)
    retry(life.mine, lease, delay=0, failure=failure(lease))
    life.mine.release([one(life.mine)], delay=3600)
    life.bury()
    one(life.mine)
    life.die()
    for orphan in life.mine.rescue():
        settle_orphan(life.mine, orphan)
    life.ends("there", "f")
    view = next(view for view in life.mine.browse("jobs", "ready") if view.job.id == "f")
    assert life.mine.discard(view)
    life.promise("absent", "f")
    in_segments(life.mine).enqueue([job("h"), job("i")])
    life.ours.update(("h", "i"))
    life.promise("there", "h", "i")


def _segment_letters(life: Life) -> None:
    """Many that leave a segment together share a sync."""
    in_segments(life.mine)
    life.enqueue("a", "b", "c", "d", "e")
    leases = [one(life.mine) for _ in range(4)]
    outcomes = [Outcome(Kind.DEAD_LETTERED, failure=failure(lease, message="why")) for lease in leases]
    life.mine.settle([Settlement(lease, outcome) for lease, outcome in zip(leases, outcomes, strict=True)])
    life.promise("letter", *(lease.job.id for lease in leases))
    life.enqueue("z")


def _segment_in_vain(life: Life) -> None:
    """Its sync fails, and the removal is told; then two writers die with another one, and it is recovered."""
    life.enqueue("a")
    life.ours.update(("b", "c", "d", "e"))
    life.hook = _late(_is_sync)
    try:
        in_segments(life.mine).enqueue([job("b"), job("c")])
    except EnqueueFailed:
        life.promise("absent", "b", "c")
    life.hook = None
    life.cut_before("fsync", lambda: life.mine.enqueue([job("d"), job("e")]))
    life.mine.maintain()
    life.enqueue("f")


def _come_before_the_rename(life: Life) -> None:
    """Let another producer's job come between the next enqueue's count and its rename."""
    rival = life.born()
    came = False

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        nonlocal came
        if name == "rename" and not came:
            came = True
            rival.enqueue([job("first", queue="small")])
            life.promise("there", "first")
        return real(*args, **kwargs)

    life.hook = hook


def _segment_too_many(life: Life) -> None:
    """As one too many: what is taken back stays away."""
    life.ours.update(("first", "second", "third"))
    in_segments(life.mine)
    _come_before_the_rename(life)
    try:
        life.mine.enqueue([job("second", queue="small"), job("third", queue="small")])
    except QueueFull:
        life.promise("absent", "second", "third")
    life.hook = None
    life.enqueue("after")


def _in_vain(life: Life) -> None:
    life.enqueue("a")
    for job_id, chosen in (("plain", False), ("chosen", True)):
        life.hook = _late(_is_sync)
        try:
            life.mine.enqueue([job(job_id, chosen=chosen)])
        except EnqueueFailed:
            life.promise("absent", job_id)
        life.ours.add(job_id)
        life.hook = None
    life.enqueue("b")


def _late(when: Callable[[str, tuple[Any, ...]], bool]) -> Callable[..., Any]:
    """A hook: the first of these calls has worked, and says that it has not."""
    left = [1]

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        result = real(*args, **kwargs)
        if left and when(name, args):
            left.pop()
            raise OSError(errno.EIO, "injected")
        return result

    return hook


def _is_sync(name: str, args: tuple[Any, ...]) -> bool:
    return name == "syncfs" or (name == "fsync" and os.path.isfile(f"/proc/self/fd/{args[0]}"))


def _one_too_many(life: Life) -> None:
    """Another producer's job comes between the count and the rename; it is claimed from a queue of its own name."""
    life.ours.update(("first", "second"))
    _come_before_the_rename(life)
    try:
        life.mine.enqueue([job("second", queue="small")])
    except QueueFull:
        life.promise("absent", "second")
    life.hook = None
    life.enqueue("after")


def _settle(life: Life) -> None:
    life.enqueue("a")
    life.enqueue("b", chosen=True)
    life.enqueue("c")
    first, second, third = (one(life.mine) for _ in range(3))
    retry(life.mine, third, delay=0, failure=failure(third))
    life.ends("there", "a", "b")
    ack(life.mine, [first])
    ack(life.mine, [second])
    life.enqueue("b2")
    life.mine.release([one(life.mine)])


def _letters(life: Life) -> None:
    life.enqueue("a")
    life.enqueue("b", queue="plain")
    life.bury()
    life.bury("plain")
    lease = one(life.mine, "letters")
    rest(life.mine, lease)
    for view in [*life.mine.browse("letters", "dead"), *life.mine.browse("plain", "dead")]:
        life.ends("letter", view.job.id)
        life.mine.replay(view)
        life.promise("home", view.job.id)


def _letters_together(life: Life) -> None:
    """Two dead letters of one call share the sync of their records."""
    life.enqueue("a")
    life.enqueue("b")
    leases = [one(life.mine), one(life.mine)]
    outcomes = [Outcome(Kind.DEAD_LETTERED, failure=failure(lease, message="why")) for lease in leases]
    life.mine.settle([Settlement(lease, outcome) for lease, outcome in zip(leases, outcomes, strict=True)])
    life.promise("letter", *(lease.job.id for lease in leases))
    life.enqueue("c")


def _recover(life: Life) -> None:
    """A writer dies before its fsync; the duplicate of its id is told yes on the strength of what it left."""
    life.enqueue("a")
    life.ours.update(("chosen", "plain"))
    life.cut_before("fsync", lambda: life.mine.enqueue([job("plain")]))
    _warm(life)
    life.cut_before("fsync", lambda: life.mine.enqueue([job("chosen", chosen=True)]))
    life.enqueue("chosen", chosen=True)
    life.mine.maintain()


def _warm(life: Life) -> None:
    """The directory of the id is there already, so that the next fsync is the file's."""
    spool = life.mine._spool
    assert spool._disk is not None
    with ids.locked(spool._disk, ids.directory(spool.queue("jobs"), "chosen")):
        return


def _rescue(life: Life) -> None:
    life.enqueue("a")
    life.enqueue("b")
    one(life.mine)
    one(life.mine)
    life.die()
    for orphan in life.mine.rescue():
        settle_orphan(life.mine, orphan)
    life.enqueue("c")


def _promote_and_expire(life: Life) -> None:
    life.enqueue("a", delay=0.002)
    life.enqueue("b", ttl=0.002)
    life.enqueue("d", ttl=0.002)
    time.sleep(0.003)
    life.mine.maintain()
    life.enqueue("c")


def _priorities(life: Life) -> None:
    life.enqueue("urgent", priority=0)
    life.enqueue("a")
    life.enqueue("u", "v", priority=4)
    life.enqueue("later", priority=4, delay=0.002)
    life.enqueue("patient", priority=9, chosen=True)
    life.ours.add("cut")
    life.cut_before("rename", lambda: life.mine.enqueue([job("cut", priority=2)]))
    life.bury()
    time.sleep(0.003)
    life.mine.maintain()
    life.mine.release([one(life.mine)])


def _pauses(life: Life) -> None:
    """Paused, resumed, and paused again by a process that dies before that is durable."""
    life.enqueue("a", queue="plain")
    assert life.mine.pause("plain", "ada")
    life.promise("paused by ada", "plain")
    life.enqueue("b", queue="plain")
    life.ends("paused by ada", "plain")
    assert life.mine.resume("plain", "bob")
    life.promise("runs", "plain")
    life.enqueue("c", queue="plain")
    life.ends("runs", "plain")
    life.cut_before("fsync", lambda: life.mine.pause("plain", "ada"), 2)
    assert not life.mine.pause("plain", "bob")
    life.promise("paused by ada", "plain")
    life.enqueue("d", queue="plain")


TRACES: dict[str, Callable[[Life], None]] = {
    "enqueue": _enqueue,
    "enqueue many": _enqueue_many,
    "append": _append,
    "append by two": _append_by_two,
    "append in vain": _append_in_vain,
    "ticks": _ticks,
    "pauses": _pauses,
    "cancels": cancels,
    "checkpoints": checkpoints,
    "stored together": _together_recovered,
    "segments": _segments,
    "segment letters": _segment_letters,
    "segment in vain": _segment_in_vain,
    "segment too many": _segment_too_many,
    "in vain": _in_vain,
    "one too many": _one_too_many,
    "settle": _settle,
    "letters": _letters,
    "letters together": _letters_together,
    "recover": _recover,
    "rescue": _rescue,
    "priorities": _priorities,
    "promote and expire": _promote_and_expire,
}
