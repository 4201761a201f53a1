"""The history that an exporter leaves, and the speeds that pages make of it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from framework.process import history
from framework.process.history import EVERY, Counts, Reader, Record
from framework.process.speeds import HOUR, MINUTES, RECENT, Rates

NOW = 1_700_000_000.0


def record(at: float, good: int = 0, failed: int = 0, *, seconds: float = EVERY, queue: str = "relay") -> Record:
    """A record of attempts that each took up to 0.01 s (the second bound) and waited up to 0.005 s."""
    counts = Counts(good, failed, [0, good + failed], [good + failed])
    return Record(at, seconds, {queue: counts} if counts.attempts else {})


def file_of(directory: Path, tree: int = 0) -> Path:
    (directory / "run").mkdir(exist_ok=True)
    return directory / "run" / f"{tree}.history"


def looked(directory: Path, now: float = NOW) -> Rates:
    rates = Rates(lambda: now)
    rates.look(directory)
    return rates


def test_a_reader_reads_each_record_once_and_only_whole_lines(tmp_path: Path) -> None:
    path, reader = file_of(tmp_path), Reader()
    history.append(path, record(NOW - 30, 1))
    assert reader.look(path.parent, NOW)["0"] == [record(NOW - 30, 1)]
    with path.open("ab") as file:
        file.write(b'[1,"x"]\n[]\n\xff\n[1700000000,15,{"relay":[1,-1,[],[]]}]\n[17')
    assert reader.look(path.parent, NOW)["0"] == [record(NOW - 30, 1)]
    with path.open("ab") as file:
        file.write(b'00000000,15,{"relay":[2,0,[0,2],[2]]}]\n')
    assert reader.look(path.parent, NOW)["0"] == [record(NOW - 30, 1), record(NOW, 2)]
    assert reader.look(path.parent, NOW + 2 * HOUR)["0"] == []


def test_a_full_file_is_renamed_and_a_reader_loses_nothing(tmp_path: Path) -> None:
    path, reader = file_of(tmp_path), Reader()
    moments = [NOW + number * 600 for number in range(13)]
    for number, at in enumerate(moments):
        history.append(path, record(at, number + 1))
        if number == 4:
            reader.look(path.parent, at)
    assert [one.at for one in reader.look(path.parent, moments[-1])["0"]] == moments[6:]
    assert [one.at for one in Reader().look(path.parent, moments[-1])["0"]] == moments[6:]
    assert sorted(os.listdir(path.parent)) == ["0.history", "0.history.before"]
    assert len(path.read_bytes().splitlines()) == 1  # the thirteenth came an hour after the seventh


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    history.append(tmp_path / "elsewhere", record(NOW, 1))
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        history.append(path, record(NOW, 1))
    assert looked(tmp_path).of("relay").recent is None


def test_figures_are_those_of_the_time_that_was_reported(tmp_path: Path) -> None:
    for number in range(8):  # the last two minutes
        history.append(file_of(tmp_path), record(NOW - 105 + number * EVERY, 27, 3))
    history.append(file_of(tmp_path, 1), record(NOW, 0, 60, seconds=60))
    speed = looked(tmp_path).of("relay")
    assert speed.recent is not None
    assert (speed.recent.attempts, speed.recent.rate) == (300, 240 / 120 + 60 / 60)
    assert speed.recent.success == 216 / 300
    assert speed.recent.took == [0.01] * 3
    assert speed.recent.waited == [0.005] * 3
    assert speed.hour == speed.recent


def test_percentiles_are_the_bounds_of_their_buckets(tmp_path: Path) -> None:
    took = [0] * 22 + [1]  # the slowest is beyond all bounds
    took[0], took[5] = 90, 9
    history.append(file_of(tmp_path), Record(NOW, EVERY, {"relay": Counts(100, 0, took, [100])}))
    recent = looked(tmp_path).of("relay").recent
    assert recent is not None
    assert recent.took == [0.005, 0.1, 0.1]
    history.append(file_of(tmp_path), Record(NOW, EVERY, {"relay": Counts(1, 0, [0] * 22 + [1], [1])}))
    recent = looked(tmp_path).of("relay").recent
    assert recent is not None
    assert recent.took == [0.005, 0.1, math.inf]


def test_nothing_ended_and_nothing_known_are_told_apart(tmp_path: Path) -> None:
    assert looked(tmp_path).of("relay").recent is None
    history.append(file_of(tmp_path), record(NOW - 1200, 4))
    speed = looked(tmp_path).of("relay")
    assert speed.recent is None
    assert speed.hour is not None
    assert speed.hour.attempts == 4
    history.append(file_of(tmp_path), record(NOW))
    speed = looked(tmp_path).of("relay")
    assert speed.recent is not None
    assert (speed.recent.attempts, speed.recent.rate, speed.recent.success, speed.recent.took) == (0, 0, None, [])
    assert looked(tmp_path).of("another").recent == speed.recent


def test_minutes_without_a_report_are_gaps(tmp_path: Path) -> None:
    for number in range(4):
        history.append(file_of(tmp_path), record(NOW - 600 + 15 + number * EVERY, 9, 1))
    history.append(file_of(tmp_path), record(NOW))
    minutes = looked(tmp_path).of("relay").minutes
    assert len(minutes) == MINUTES
    assert [number for number, one in enumerate(minutes) if one is not None] == [50, 59]
    assert minutes[50] is not None
    assert (minutes[50].attempts, minutes[50].failed) == (40, 4)
    assert minutes[59] is not None
    assert minutes[59].attempts == 0


def test_a_clock_that_was_set_back_ends_a_file(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    history.append(path, record(NOW + 86400, 1))
    history.append(path, record(NOW, 2))
    assert looked(tmp_path).of("relay").hour is not None
    assert RECENT < HOUR
    assert [one.at for one in Reader().look(path.parent, NOW)["0"]] == [NOW]
