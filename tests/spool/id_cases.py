"""What killed acks, backups and restores leave of jobs whose ids were chosen. For `odd_cases`."""

from __future__ import annotations

import os
import shutil

from framework.engine.spool.claim import listing

from .stage import Stage
from .world import files, job


def finished(stage: Stage, job_id: str) -> None:
    """A job that an ack has deleted, and then its process was killed: the entry of its id is left."""
    stage.broker.enqueue([job(job_id, chosen=True)])
    (path,) = [p for p in files(stage.root, "jobs/ready/*/*") if p.stat().st_nlink == 2]
    path.unlink()


def backed_up(stage: Stage) -> None:
    """A backup of hard links has the entry that a killed ack left."""
    finished(stage, "n")
    (entry,) = [p for p in files(stage.root, "jobs/ids/*/*") if p.stat().st_nlink == 1]
    os.link(entry, stage.root / "backup")


def enqueue_over_a_backup(stage: Stage) -> None:
    """The second look need not wait for long: nothing moves here."""
    tick, listing.RACY = listing.RACY, 0.001
    try:
        stage.broker.enqueue([job("n", chosen=True)])
    finally:
        listing.RACY = tick


def restored(stage: Stage) -> None:
    """By copies: job and entry are two files."""
    stage.store("a", chosen=True)
    (path,) = files(stage.root, "jobs/ready/*/*")
    shutil.copy(path, stage.root / "copy")
    (stage.root / "copy").rename(path)
    stage.broker._spool.parts("jobs").maintain._relink.done = False
