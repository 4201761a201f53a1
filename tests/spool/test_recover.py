"""What dead producers leave in tmp."""

from __future__ import annotations

from pathlib import Path

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format.names import parse

from .seam import Seam, pass_on
from .world import (
    broker,
    census,
    claim,
    cut_at,
    dead_owner,
    files,
    heal,
    ids,
    job,
)


def test_an_interrupted_producer_leaves_nothing_locked(root: Path) -> None:
    """Ctrl-C in the middle: the files are given up, so that recovery may have them while the process lives on.

    Verified: without closing on BaseException the file stays in tmp for as long as the process lives.
    """
    cut_at(root, "rename", lambda mine: mine.enqueue([job("n")]))
    fresh = broker(root)
    fresh.maintain()
    assert ids(claim(fresh)) == ["n"]
    fresh.close()


def test_recovery_promotes_delayed_jobs_to_delayed(root: Path) -> None:
    cut_at(root, "rename", lambda mine: mine.enqueue([job("later", delay=3600)]))
    fresh = heal(root)
    assert [view.job.id for view in fresh.browse("jobs", "delayed")] == ["later"]
    assert claim(fresh) == []
    fresh.close()


def test_recovery_makes_a_promoted_job_durable_first(root: Path) -> None:
    cut_at(root, "rename", lambda mine: mine.enqueue([job("n")]))
    seam = Seam()
    fresh = broker(root, calls=seam)
    seam.arm(pass_on)
    fresh.maintain()
    assert "fsync" in seam.names[: seam.names.index("rename")]
    fresh.close()


def test_producers_that_die_lose_nothing_acknowledged(root: Path) -> None:
    def live(mine: SpoolEngine) -> None:
        mine.enqueue([job("a"), job("b", delay=3600), job("c", chosen=True)])

    dead_owner(root, live)
    fresh = heal(root)
    assert dict(census(fresh)) == {"a": 1, "b": 1, "c": 1}
    assert all(parse(path.name) for path in files(root, "jobs/ready/*/*"))
    fresh.close()
