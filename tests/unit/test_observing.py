"""What maintenance says of the queues: on a real spool, one observation after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.engine.port import open_engine
from framework.maintenance.observing import MOST_SAID, Observation
from framework.model.events import Event, FileBad, QueueObserved, QueueUndeclared
from framework.model.job import Job
from framework.model.options import QueueOptions

JOBS = QueueOptions("jobs")


class Watch:
    """An observer of one queue, and what it said in its last observation."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broker: Any = open_engine(f"spool:{root}", incarnation="watch", durability="process")
        self.broker.open([JOBS])
        self._events: list[Event] = []
        self._observe = Observation(self.broker, self._events.append)

    def look(self, kind: type[Event]) -> list[Any]:
        self._events.clear()
        self._observe.queue("jobs")
        self._observe.undeclared()
        return [event for event in self._events if isinstance(event, kind)]

    def damage(self, *names: str) -> None:
        for name in names:
            (self.root / "jobs" / "bad" / name).write_bytes(b"torn")


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path / "spool")
    yield made
    made.broker.close()


def told(events: list[FileBad]) -> list[str]:
    return [event.file for event in events]


def test_each_bad_file_is_told_once(watch: Watch) -> None:
    assert watch.look(FileBad) == []
    watch.damage("one", "two")
    (event, _) = watch.look(FileBad)
    assert (event.queue, event.file, event.flaw) == ("jobs", "one", "4 bytes: shorter than its header")
    assert Path(event.place).read_bytes() == b"torn"
    assert watch.look(QueueObserved)[0].bad == 2
    watch.damage("three")
    assert told(watch.look(FileBad)) == ["three"]
    assert watch.look(FileBad) == []


def test_a_file_that_comes_as_another_goes_is_told_and_one_that_comes_again_too(watch: Watch) -> None:
    watch.damage("one")
    assert told(watch.look(FileBad)) == ["one"]
    (watch.root / "jobs" / "bad" / "one").unlink()
    watch.damage("two")
    assert told(watch.look(FileBad)) == ["two"]
    watch.damage("one")
    assert told(watch.look(FileBad)) == ["one"]


def test_many_are_told_a_few_at_a_time_and_none_is_left_out(watch: Watch) -> None:
    names = [f"{number:03d}" for number in range(3 * MOST_SAID - 1)]
    watch.damage(*names)
    said = [told(watch.look(FileBad)) for _ in range(4)]
    assert [len(some) for some in said] == [MOST_SAID, MOST_SAID, MOST_SAID - 1, 0]
    assert sorted(name for some in said for name in some) == names


def test_a_queue_that_nobody_declares_is_first_seen_once(watch: Watch) -> None:
    other = open_engine(f"spool:{watch.root}", incarnation="other", durability="process")
    other.open([QueueOptions("retired")])
    assert watch.look(QueueUndeclared) == []  # it is empty
    other.enqueue([Job(name, os.urandom(16), "retired", b"{}", {}, time.time()) for name in "ab"])
    assert watch.look(QueueUndeclared) == [QueueUndeclared("retired", 2, first=True)]
    assert watch.look(QueueUndeclared) == [QueueUndeclared("retired", 2, first=False)]
    other.maintain()  # a service keeps house for it
    assert watch.look(QueueUndeclared) == []
    (watch.root / "retired" / "depth").unlink()
    assert watch.look(QueueUndeclared) == [QueueUndeclared("retired", 2, first=True)]
    other.close()
