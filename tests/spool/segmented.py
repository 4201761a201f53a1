"""Segments for tests: stored, found, and their words."""

from __future__ import annotations

from pathlib import Path

from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import names
from framework.engine.spool.segments import append, words
from framework.engine.spool.segments import format as bytes_of

from .world import broker, files, in_segments, job

MANY = [f"n{number:03}" for number in range(40)]


def stored(root: Path, wanted: list[str] = MANY, **options: object) -> SpoolEngine:
    mine = in_segments(broker(root, durability="process"))
    mine.enqueue([job(job_id, **options) for job_id in wanted])  # type: ignore[arg-type]
    return mine


def segments(root: Path, queue: str = "jobs") -> list[Path]:
    return files(root, f"{queue}/segments/*")


def words_of(path: Path) -> list[int]:
    name = names.segment(path.name)
    assert name is not None
    return words.unpack(path.read_bytes()[bytes_of.WORDS_AT :][: 8 * name.jobs])


def vacant(root: Path) -> int:
    """Return how many places of all segments wait for a job."""
    return sum(word == words.VACANT for path in segments(root) for word in words_of(path))


def appender(broker: SpoolEngine) -> append.Appender:
    """Return what keeps the open segment of `jobs`."""
    return broker._spool.parts("jobs").enqueue._appender
