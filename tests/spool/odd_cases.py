"""Operations where something is not as usual: nothing is there yet, somebody died half-way, a race is lost.

For the enumerators, as `cases`. What prepares a case stands in for other processes, and makes no call under the seam.
"""

from __future__ import annotations

import fcntl
import os
import shutil

from framework.engine.spool.claim.life import wid_of
from framework.engine.spool.enqueue import ids
from framework.model.errors import EnqueueUncertain, QueueFull
from framework.model.options import QueueOptions
from framework.service.request import new_ids
from tests.support.settling import ack, bury, rest

from .id_cases import backed_up, enqueue_over_a_backup, finished, restored
from .stage import Case, Stage
from .together import directory
from .world import (
    JOBS,
    LETTERS,
    OVER,
    broker,
    claim,
    cut_at,
    dead_owner,
    failure,
    files,
    job,
    one,
    settle_orphan,
)

SHORT_LIVED = (JOBS, QueueOptions("letters", is_dead_letter=True, ttl=OVER))
SMALL = (QueueOptions("jobs", dead_letter="letters", max_length=2), LETTERS)


def reopen(stage: Stage) -> None:
    """Another broker opens the root, and leaves."""
    broker(stage.root, *stage.queues, calls=stage.calls).close()


def rescue(stage: Stage) -> None:
    """What maintenance does with the dead."""
    for orphan in stage.broker.rescue():
        stage.broker.unaccounted(orphan.lease)
        settle_orphan(stage.broker, orphan)


def claim_all(stage: Stage) -> None:
    """Everything that can be claimed, by three calls: one may find that it has to begin anew, or that its list ends."""
    stage.held = [lease for _ in range(3) for lease in claim(stage.broker)]


def maintain(stage: Stage) -> None:
    """Once: there is but one directory of ids to sweep."""
    stage.broker.maintain()


def _nothing_yet(stage: Stage) -> None:
    stage.broker.close()
    shutil.rmtree(stage.root)


def _torn_clock(stage: Stage) -> None:
    """As after a reboot, and somebody died while he wrote the offset."""
    stage.store("a", "b")
    stage.broker.close()
    (clock,) = stage.root.glob("clock.*")
    clock.write_text("12")


def _everywhere(stage: Stage) -> None:
    stage.store("a", "b", "c", "d")
    stage.store("later", delay=3600)
    _, dead, resting = (one(stage.broker) for _ in range(3))
    bury(stage.broker, dead, failure=failure(dead))
    rest(stage.broker, one(stage.broker, "letters"))
    bury(stage.broker, resting, failure=failure(resting))
    _plant(stage, "bad", "0.1")
    _plant(stage, "dead", "0.2")


def look(stage: Stage) -> None:
    for queue in stage.queues:
        stage.broker.stats(queue.name)
        for state in ("ready", "delayed", "in_flight", "dead", "bad"):
            list(stage.broker.browse(queue.name, state))  # type: ignore[arg-type]
    here = stage.broker.stored_queues()
    for view in list(stage.broker.browse("jobs", "bad")):
        stage.broker.find("jobs", view.job.id, "bad")
    for wanted in ("a", "n", new_ids()[0]):  # a chosen id, one of no job, and a generated one
        list(stage.broker.get(here, wanted))


def _one_too_many(stage: Stage) -> None:
    """Another producer's job came between the count and the rename, as far as the second count can tell."""
    limits = stage.broker._spool.parts("jobs").enqueue._limits
    count = limits.excess
    limits.excess = lambda: max(1, count())  # type: ignore[method-assign]
    try:
        stage.broker.enqueue([job("n", chosen=True)])
    except QueueFull:
        return
    finally:
        del limits.excess  # type: ignore[method-assign]
    raise EnqueueUncertain("it was queued: the second count failed", job_id="n")


def _together(stage: Stage, state: str = "ready") -> None:
    stage.store("a")
    directory(stage.root, "n", "m", state=state)
    if state == "ready":
        stage.stored += ["n", "m"]


def _half_together(stage: Stage) -> None:
    _together(stage, "tmp")
    (path, _) = files(stage.root, "jobs/tmp/*/*")
    path.write_bytes(path.read_bytes()[:-1])


def _dead_writer(stage: Stage, before: str = "rename") -> None:
    """A producer of a job whose id it chose was killed before this call."""
    stage.store("a")
    cut_at(stage.root, before, lambda mine: mine.enqueue([job("n", chosen=True)]), *stage.queues)


def _dead_writer_of_a_used_id(stage: Stage) -> None:
    _dead_writer(stage, "link")
    stage.store("n", chosen=True)


def _dead_writer_of_a_finished_id(stage: Stage) -> None:
    _dead_writer(stage, "link")
    finished(stage, "n")


def _litter(stage: Stage) -> None:
    stage.store("a")
    finished(stage, "done")
    jobs = stage.root / "jobs"
    (jobs / "ready" / "0000000000").mkdir()
    (jobs / "delayed" / "00000000001").mkdir()
    draft = jobs / ".depth.000000000000"
    draft.write_text("1")
    os.utime(draft, (1, 1))


def _letter_over(stage: Stage, *, chosen: bool = False) -> None:
    stage.store("a", chosen=chosen)
    lease = one(stage.broker)
    bury(stage.broker, lease, failure=failure(lease))
    rest(stage.broker, one(stage.broker, "letters"))


def _orphans(stage: Stage) -> None:
    dead_owner(stage.root, lambda mine: (mine.enqueue([job("a"), job("b")]), claim(mine)), *stage.queues)
    stage.stored += ["a", "b"]


def _orphans_without_lock(stage: Stage) -> None:
    _orphans(stage)
    (lock,) = (stage.root / "jobs" / "claimed").glob("*.lock")
    lock.unlink()


def _stillborn(stage: Stage) -> None:
    stage.store("a")
    (stage.root / "jobs" / "claimed" / ".dead+1.lock").touch()


def _living(stage: Stage) -> None:
    stage.store("a", "b")
    stage.held = broker(stage.root, *stage.queues)
    one(stage.held)


def _rescue_in_vain(stage: Stage) -> None:
    try:
        assert list(stage.broker.rescue()) == [], "rescued from the living"
    finally:
        stage.held.close()


def _dead_owners(stage: Stage) -> None:
    _orphans(stage)
    stage.held = stage.broker.rescue()


def _plant(stage: Stage, place: str, rest: str) -> None:
    """A file whose name is a job's, and whose content is none."""
    where = stage.root / "jobs" / place
    where.mkdir(exist_ok=True)
    (where / f"00000000000000000001.e672c630.1.000000000001,{rest}").write_bytes(b"garbage")


def _garbage_among_them(stage: Stage) -> None:
    stage.store("a", "b")
    _plant(stage, "ready/0000000000", "0.0")
    (stage.root / "jobs" / "ready" / "0000000000" / "00000000000000000002.e672c630.1.000000000002,0.0").mkdir()


def _twin(stage: Stage) -> None:
    """btrfs, after a power cut: what we hold is also where it was."""
    stage.store("a", "b")
    (path, _) = files(stage.root, "jobs/ready/*/*")
    stage.held = one(stage.broker)
    os.link(stage.root / stage.held.token.path, path)


def _fenced(stage: Stage) -> None:
    """Our own directory is gone: somebody took us for dead."""
    stage.store("a", "b", "c")
    stage.broker.release([one(stage.broker)])
    (owned,) = (path for path in (stage.root / "jobs" / "claimed").iterdir() if path.is_dir())
    owned.rmdir()


def _stranded(stage: Stage) -> None:
    """A claim was made, and its file could not be read just then."""
    stage.store("a", "b")
    lease = one(stage.broker)
    lease.token.owner.tokens.clear()
    stage.broker._spool.parts("jobs").claim.look_again()


def _races_lost(stage: Stage) -> None:
    """What was listed has been claimed by another, and come back under other names."""
    stage.store("a", "b", "c", "d", "e")
    one(stage.broker)
    rival = broker(stage.root, *stage.queues)
    rival.release(claim(rival, limit=3))
    rival.close()


def _wid_taken(stage: Stage) -> None:
    stage.store("a")
    (stage.root / "jobs" / "claimed" / f"{wid_of(stage.broker._spool.incarnation)}.lock").touch()


def ack_while_the_entry_is_locked(stage: Stage) -> None:
    """Somebody has held the lock of its id for too long: the entry stays for the sweep."""
    (place,) = (stage.root / "jobs" / "ids").iterdir()
    other = os.open(place, os.O_RDONLY)
    wait, ids.ACK_WAIT = ids.ACK_WAIT, 0.002
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        ack(stage.broker, [stage.held])
    finally:
        ids.ACK_WAIT = wait
        os.close(other)


def _started_chosen(stage: Stage) -> None:
    stage.store("a", chosen=True)
    stage.held = one(stage.broker)


ODD_CASES = (
    Case("open the first time", _nothing_yet, reopen),
    Case("open beside a torn clock", _torn_clock, reopen),
    Case("look", _everywhere, look, bad=2),
    Case("enqueue one too many", lambda s: s.store("a"), _one_too_many, refuses=("n",), queues=SMALL),
    Case(
        "enqueue the id of a finished job",
        lambda s: finished(s, "n"),
        lambda s: s.broker.enqueue([job("n", chosen=True)]),
        enqueues=("n",),
    ),
    Case(
        "enqueue the id of a finished job that a backup has",
        backed_up,
        enqueue_over_a_backup,
        enqueues=("n",),
    ),
    Case("enqueue the id of a restored job", restored, lambda s: s.broker.enqueue([job("a", chosen=True)])),
    Case("maintain after a restore", restored, maintain),
    Case(
        "enqueue the id of a dead writer",
        _dead_writer,
        lambda s: s.broker.enqueue([job("n", chosen=True)]),
        enqueues=("n",),
        left=("n",),
    ),
    Case("claim what was stored together", _together, claim_all),
    Case("look at what was stored together", _together, look),
    Case("recover what was stored together", lambda s: _together(s, "tmp"), maintain, enqueues=("n", "m")),
    Case("recover half of it", _half_together, maintain, refuses=("n",), enqueues=("m",)),
    Case("recover a chosen id", lambda s: _dead_writer(s, "link"), maintain, enqueues=("n",)),
    Case("recover a used id", _dead_writer_of_a_used_id, maintain),
    Case("recover the id of a finished job", _dead_writer_of_a_finished_id, maintain, enqueues=("n",)),
    Case("sweep", _litter, maintain),
    Case("delete a letter", _letter_over, maintain, deletes=("a",), queues=SHORT_LIVED),
    Case(
        "delete a chosen letter",
        lambda s: _letter_over(s, chosen=True),
        maintain,
        deletes=("a",),
        queues=SHORT_LIVED,
    ),
    Case("rescue without a lock", _orphans_without_lock, rescue),
    Case("rescue a stillborn", _stillborn, rescue),
    Case("rescue nobody", _living, _rescue_in_vain),
    Case("close with dead owners", _dead_owners, lambda s: s.broker.close()),
    Case("claim chosen", lambda s: s.store("a", chosen=True), claim_all),
    Case("claim beside garbage", _garbage_among_them, claim_all, bad=2),
    Case("claim a twin", _twin, claim_all, twice=("a",)),
    Case("claim while fenced", _fenced, claim_all),
    Case("claim what stranded", _stranded, claim_all),
    Case("claim after others", _races_lost, claim_all),
    Case("claim under a taken name", _wid_taken, claim_all),
    Case("ack while the id is locked", _started_chosen, ack_while_the_entry_is_locked, deletes=("a",)),
)
