"""The journal of what people did: each record is taken once, however many write and read at the same time."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from framework.maintenance.acts import ActsTold
from framework.model.events import Event, OperatorActed, SupervisorNote
from framework.process import journal


def test_many_writers_and_readers_lose_and_double_nothing(tmp_path: Path) -> None:
    taken: list[int] = []

    def write(first: int) -> None:
        for number in range(first, first + 50):
            journal.append(tmp_path, {"number": number})

    def read() -> None:
        while not ended.is_set():
            taken.extend(record["number"] for record in journal.take(tmp_path))

    ended = threading.Event()
    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 50, 100)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    for thread in readers:
        thread.join()
    taken.extend(record["number"] for record in journal.take(tmp_path))
    assert sorted(taken) == list(range(150))
    assert journal.take(tmp_path) == []


def test_a_writer_waits_for_a_reader(tmp_path: Path) -> None:
    journal.append(tmp_path, {"number": 1})
    written = threading.Event()

    def write() -> None:
        journal.append(tmp_path, {"number": 2})
        written.set()

    with (tmp_path / journal.NAME).open("r+b") as reading:
        fcntl.flock(reading, fcntl.LOCK_EX)
        thread = threading.Thread(target=write)
        thread.start()
        assert not written.wait(0.3)
        reading.truncate(0)
    thread.join()
    assert journal.take(tmp_path) == [{"number": 2}]


def test_what_is_no_record_is_left_out(tmp_path: Path) -> None:
    (tmp_path / journal.NAME).write_bytes(b'{"verb": "replay", "count": 2, "queue": "jobs"}\n[1]\n\xff\n{"torn')
    told: list[Event] = []
    ActsTold(tmp_path, told.append).tell()
    assert told == [OperatorActed("replay", "jobs", 2, "")]


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text('{"verb": "replay"}\n')
    (tmp_path / journal.NAME).symlink_to(other)
    with pytest.raises(OSError, match="symbolic link"):
        journal.append(tmp_path, {})
    with pytest.raises(OSError, match="symbolic link"):
        journal.take(tmp_path)
    assert other.read_text() == '{"verb": "replay"}\n'


def test_a_journal_that_cannot_be_read_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / journal.NAME).mkdir()
    told: list[Event] = []
    acts = ActsTold(tmp_path, told.append)
    acts.tell()
    acts.tell()
    (note,) = told
    assert isinstance(note, SupervisorNote)
    assert "@acts.jsonl cannot be read" in note.text


def test_maintenance_does_not_wait_for_a_writer_that_is_stopped(tmp_path: Path) -> None:
    journal.append(tmp_path, {"verb": "replay", "queue": "jobs", "count": 1})
    told: list[Event] = []
    acts = ActsTold(tmp_path, told.append)
    with (tmp_path / journal.NAME).open("r+b") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        thread = threading.Thread(target=acts.tell, daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
    assert told == [], "it is no failure either"
    acts.tell()
    assert told == [OperatorActed("replay", "jobs", 1, "")]
