"""What stands in a segment, whatever has happened to it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from framework.engine.spool.segments import format as bytes_of
from tests.support.settling import ack

from .poison import make_newer_segment
from .seam import Seam, pass_on
from .segmented import MANY, segments, stored
from .world import broker, claim, ids, in_segments, job


def test_every_record_is_read_as_it_was_written() -> None:
    wanted = [job(f"j{n}\ud800" if n == 3 else f"j{n}", ttl=5.5 if n % 2 else None, payload=b"x" * n) for n in range(9)]
    data = bytes_of.build(wanted)[0]
    head = bytes_of.head(data)
    begin = data[head.data_at :]
    assert [bytes_of.decode(begin, at, head.queue) for at in bytes_of.walk(begin, head.jobs)] == wanted


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_record_hides_none_behind_it(seed: int) -> None:
    """Verified: with the length of a damaged record believed, those behind it are lost."""
    chance = random.Random(seed)
    wanted = [job(f"j{n}", payload=os.urandom(chance.randrange(90))) for n in range(12)]
    data = bytearray(bytes_of.build(wanted)[0])
    begin = bytes_of.data_at(12)
    offsets = bytes_of.walk(bytes(data[begin:]), 12)
    hit = chance.randrange(12)
    end = offsets[hit + 1] if hit < 11 else len(data) - begin
    for at in chance.sample(range(begin + offsets[hit] + 2, begin + end - 8), 3):
        data[at] ^= 1 + chance.randrange(255)
    found = bytes_of.walk(bytes(data[begin:]), 12)
    good = [n for n, at in enumerate(found) if bytes_of.is_whole(bytes(data[begin:]), at)]
    assert set(range(12)) - set(good) <= {hit}


def test_a_length_that_leads_past_a_record_hides_it_not() -> None:
    """The damaged length is a possible one: it ends where a later record begins."""
    data = bytearray(bytes_of.records([job(f"j{number}") for number in range(5)]))
    whole = bytes_of.walk(bytes(data), 5)
    length = whole[1] + 4  # behind the flag and the index
    data[length : length + 4] = (whole[3] - whole[1]).to_bytes(4, "little")
    assert bytes_of.walk(bytes(data), 5) == whole


def test_a_damaged_record_goes_to_bad_and_the_others_run(root: Path) -> None:
    mine = stored(root)
    (path,) = segments(root)
    data = bytearray(path.read_bytes())
    data[data.index(b"payload of n007 ")] ^= 1
    path.write_bytes(bytes(data))
    leases = claim(mine, limit=1000)
    assert ids(leases) == [job_id for job_id in MANY if job_id != "n007"]
    (bad,) = mine.browse("jobs", "bad")
    assert b"ayload of n007" in bad.job.payload
    ack(mine, leases)
    assert segments(root) == []
    mine.close()


def test_a_damaged_head_is_put_aside_and_can_be_restored(root: Path) -> None:
    mine = stored(root)
    (path,) = segments(root)
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(bytes(data))
    assert claim(mine) == []
    (bad,) = mine.browse("jobs", "bad")
    assert bad.flaw.endswith("40 of its 40 jobs can be read and may run again when it is restored")
    assert mine.restore(bad) == ""
    assert ids(claim(mine, limit=1000)) == MANY
    mine.close()


@pytest.mark.parametrize("seed", range(30))
def test_no_damage_stops_a_queue(root: Path, seed: int) -> None:
    """Fuzzing: whatever stands in a segment, the other jobs run, and nothing is handed out that nobody stored."""
    chance = random.Random(seed)
    mine = stored(root)
    (path,) = segments(root)
    data = bytearray(path.read_bytes())
    place = chance.choice((range(bytes_of.WORDS_AT), range(bytes_of.WORDS_AT, 600), range(len(data))))
    for at in chance.choices(place, k=chance.choice((1, 8, 64))):
        data[at] = chance.randrange(256)
    path.write_bytes(bytes(data[: chance.choice((len(data), len(data), 100, 5000))]))
    mine.enqueue([job("alive")])
    found: list[str] = []
    for _ in range(4):
        mine.maintain()
        leases = claim(mine, limit=1000)
        found += ids(leases)
        ack(mine, leases)
    assert "alive" in found
    assert set(found) <= {*MANY, "alive"}
    mine.close()


def test_a_newer_segment_stays_where_it_is_and_is_told(root: Path) -> None:
    mine = stored(root)
    (path,) = segments(root)
    data = make_newer_segment(path)
    mine.enqueue([job("ours")])
    assert ids(claim(mine)) == ["ours"]
    mine.maintain()
    assert path.read_bytes() == data
    assert mine.stats("jobs").ready == 40
    assert "format 3 is newer" in mine.stuck()[str(path)]
    assert [view.place for view in mine.browse("jobs", "ready") if view.newer] == [str(path)]
    mine.close()


# -- traps -------------------------------------------------------------------------------------------------------------


def plant(place: Path, kind: str) -> Path:
    path = place / f"{5:020d}.00000001.1.abcdefabcdef,3,seg"
    if kind == "link":
        outside = place.parents[2] / "outside"
        outside.write_bytes(bytes_of.build([job("x"), job("y"), job("z")])[0])
        path.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_what_is_planted_is_not_followed_and_stops_nobody(root: Path, kind: str) -> None:
    mine = broker(root, durability="process")
    plant(root / "jobs/segments", kind)
    left = plant(root / "jobs/tmp", kind)
    mine.enqueue([job("alive")])
    for _ in range(2):
        mine.maintain()
        assert ids(claim(mine)) in (["alive"], [])
    assert mine.stats("jobs").bad == 1
    assert os.path.lexists(left)
    (bad,) = mine.browse("jobs", "bad")
    assert bad.flaw
    mine.close()


def test_a_new_head_is_durable_before_the_segment_is_back(root: Path) -> None:
    mine = in_segments(broker(root))
    mine.enqueue([job("a"), job("b")])
    (path,) = segments(root)
    data = path.read_bytes()
    (root / "jobs/bad" / path.name).write_bytes(bytes(100) + data[100:])
    path.unlink()
    seam = Seam()
    disk = mine._spool._disk
    assert disk is not None
    disk.calls = seam  # type: ignore[assignment]
    (bad,) = mine.browse("jobs", "bad")
    seam.arm(pass_on)
    assert mine.restore(bad) == ""
    assert seam.names.index("pwrite") < seam.names.index("fsync") < seam.names.index("rename")
    seam.disarm()
    mine.close()
