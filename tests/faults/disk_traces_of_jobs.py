"""What the model of the disk records of single jobs: their cancellation and their checkpoints."""

from __future__ import annotations

from tests.spool.world import failure, in_segments, one
from tests.support.settling import retry

from .disk_life import Life


def cancels(life: Life) -> None:
    """Jobs that wait in files and in a segment, and claimed ones, one of which is put back and one of a dead worker."""
    life.enqueue("a", "b")
    life.enqueue("chosen", chosen=True)
    life.enqueue("later", delay=3600)
    for job_id in ("chosen", "later"):
        _cancel(life, job_id, "cancelled")
    lease = one(life.mine)
    _cancel(life, lease.job.id, "stopping")
    life.mine.release([lease])
    in_segments(life.mine)
    life.enqueue("c", "d", "e")
    _cancel(life, "d", "cancelled")
    claimed = one(life.mine)
    _cancel(life, claimed.job.id, "stopping")
    life.die()
    life.enqueue("f")


def _cancel(life: Life, job_id: str, answer: str) -> None:
    (view,) = life.mine.get(["jobs"], job_id)
    life.ends("there", job_id)
    assert life.mine.cancel(view) == answer
    life.promise("cancelled", job_id)


def checkpoints(life: Life) -> None:
    """One after the other, into a job's own file, and out of a segment."""
    life.enqueue("a")
    lease = one(life.mine)
    for state in "123":
        life.mine.save(lease, state)
        life.promise(f"saved {state}", "a")
    retry(life.mine, lease, delay=0, failure=failure(lease))
    in_segments(life.mine)
    life.enqueue("b", "c", queue="plain")
    lease = one(life.mine, "plain")
    life.mine.save(lease, "1")
    life.promise("saved 1", "b")
    life.die()
    life.enqueue("z")
