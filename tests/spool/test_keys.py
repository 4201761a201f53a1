"""Unique keys: whatever is killed or restored, one living job has a key, and none that is gone keeps it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.claim import listing
from framework.engine.spool.engine import SpoolEngine
from framework.model.job import JobId
from tests.support.settling import ack, bury

from .key_cases import KEY, KEY_CASES
from .killed import killed_producers
from .poison import raw
from .seam import Moving, Seam, before, kill_at, pass_on
from .stage import Case
from .world import broker, claim, cut_at, failure, files, heal, ids, in_child, job, one, views

ALONE = {"ack a key that another has", "replay a key that another has", "enqueue a started key"}  # here two have it


def keyed(spool: SpoolEngine, job_id: str, *, key: str = KEY, **options: Any) -> JobId:
    (answer,) = spool.enqueue([job(job_id, key=key, **options)])
    return answer


def entries(root: Path) -> list[Path]:
    return files(root, "*/ids/*/*.key")


def living(spool: SpoolEngine) -> list[str]:
    """The jobs of the key that are no dead letters."""
    return sorted(
        view.job.id
        for view in views(spool, "ready", "delayed", "in_flight")
        if view.job.extras.unique_key == KEY and view.queue == "jobs"
    )


@pytest.mark.parametrize("case", [case for case in KEY_CASES if case.name not in ALONE], ids=lambda case: case.name)
def test_after_a_kill_at_any_change_one_living_job_has_the_key(
    case: Case, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who enqueues the key next, before any housekeeping, is told the truth: a duplicate of a job that is there.

    Verified: with a key that is held wherever its file is, or a link count as the proof, cases of this test fail.
    """
    monkeypatch.setattr(listing, "RACY", 0.001)
    for number in range(400):
        place, finished = root / str(number), root / f"{number} finished"

        def live(place: Path = place, number: int = number, finished: Path = finished) -> None:
            seam = Seam()
            stage = case.stage(place, seam)
            seam.arm(kill_at(number))
            case.act(stage)
            finished.touch()

        in_child(live)
        probe = broker(place, *case.queues)
        told = keyed(probe, "probe")
        fresh = heal(place, *case.queues)
        found = living(fresh)
        window = "for a time" in case.name
        assert found == ([str(told)] if not window or found else []), f"killed at change {number}: told {told!r}"
        assert told.duplicate == (told != "probe"), f"killed at change {number}"
        for one_ in (probe, fresh):
            one_.close()
        shutil.rmtree(place)
        if finished.exists():
            return
    pytest.fail("the operation never ends")


@pytest.mark.parametrize(("how", "delay"), [("replace", None), ("replace", 3600), ("postpone", 3600)])
def test_a_change_is_whole_wherever_it_is_killed(root: Path, how: str, delay: float | None) -> None:
    """The job is there once, with the old payload or the new one, and with the new one once the caller was told so."""
    for number in range(400):
        place, told = root / str(number), root / f"{number} told"

        def live(place: Path = place, number: int = number, told: Path = told) -> None:
            seam = Seam()
            mine = broker(place, calls=seam)
            keyed(mine, "a", payload=b"old", delay=delay if how == "replace" else None)
            seam.arm(kill_at(number))
            mine.enqueue([replace(job("b", key=KEY, payload=b"new", delay=delay), on_conflict=how)])
            told.touch()

        in_child(live)
        fresh = heal(place)
        (found,) = views(fresh)
        assert (found.job.id, found.job.extras.unique_key) == ("a", KEY), f"killed at change {number}"
        assert found.job.payload == b"new" or (found.job.payload == b"old" and not told.exists())
        assert keyed(fresh, "c") == "a"
        assert files(place, "*/tmp/*") == []
        fresh.close()
        shutil.rmtree(place)
        if told.exists():
            return
    pytest.fail("the operation never ends")


def test_a_change_is_durable_before_anything_is_removed(root: Path) -> None:
    """The new file before the old one moves, and the entry that leads to it before the old one goes."""
    seam = Seam()
    mine = broker(root, calls=seam)
    keyed(mine, "a")
    seam.arm(pass_on)
    mine.enqueue([replace(job("b", key=KEY), on_conflict="replace")])
    steps = [name for name in seam.names if name in ("write", "fsync", "rename", "link", "unlink")]
    assert steps == ["write", "fsync", "rename", "unlink", "link", "rename", "fsync", "unlink", "rename"]
    mine.close()


def test_a_worker_that_is_faster_has_the_old_payload(root: Path) -> None:
    """It claims the job just before that is moved aside. Then the key is free, and the new payload is a job."""
    seam = Seam()
    mine, worker = broker(root, calls=seam), broker(root)
    keyed(mine, "a", payload=b"old", until="started")
    held = []
    seam.arm(before("rename", lambda: held.append(one(worker))))
    (told,) = mine.enqueue([replace(job("b", key=KEY, payload=b"new", until="started"), on_conflict="replace")])
    seam.disarm()
    assert (told, told.duplicate) == ("b", False)
    assert (held[0].job.payload, one(mine).job.payload) == (b"old", b"new")
    assert files(root, "*/tmp/*") == []
    mine.close()
    worker.close()


def test_many_processes_enqueue_the_same_keys(root: Path) -> None:
    """Six producers, five keys, killed at random calls: one job of each key at most, and all answers name it."""

    def lives(mine: SpoolEngine) -> Iterator[str]:
        for number in range(5):
            told = keyed(mine, f"{os.getpid()}", key=f"k{number}")
            yield f"k{number} {told}"

    told = {tuple(line.split()) for line in killed_producers(root, 60, lives)}
    fresh = heal(root)
    found = {(str(view.job.extras.unique_key), view.job.id) for view in views(fresh)}
    assert max(Counter(key for key, _ in found).values()) == 1
    assert told <= found
    fresh.close()


def test_an_entry_goes_with_its_job_and_stays_for_its_time(spool: SpoolEngine, root: Path) -> None:
    for job_id, until in (("a", "done"), ("b", "started"), ("c", "60")):
        keyed(spool, job_id, key=until, until=until)
    assert [path.stat().st_nlink for path in entries(root)] == [2, 2, 2]
    ack(spool, claim(spool))
    assert [path.stat().st_nlink for path in entries(root)] == [1]
    for _ in range(4):
        spool.maintain()
    assert keyed(spool, "d", key="60") == "c"


def test_an_entry_is_swept_once_its_time_is_over(spool: SpoolEngine, root: Path) -> None:
    keyed(spool, "a", until="0.001")
    ack(spool, claim(spool))
    spool.maintain()
    assert entries(root) == []


def test_jobs_without_a_key_cost_nothing(root: Path) -> None:
    """The same calls as on a root where no key was ever used."""
    counts = []
    for place in (root / "without", root / "with"):
        seam = Seam()
        mine = broker(place, calls=seam)
        if place.name == "with":
            keyed(mine, "k")
            ack(mine, claim(mine))
        mine.enqueue([job("first")])
        ack(mine, claim(mine))
        seam.arm(pass_on)
        mine.enqueue([job("a")])
        lease = one(mine)
        ack(mine, [lease])
        mine.enqueue([job("b")])
        lease = one(mine)
        bury(mine, lease, failure=failure(lease))
        counts.append([name for name in seam.names if name not in ("stat", "listdir", "open", "close")])
        mine.close()
    assert counts[0] == counts[1]


@pytest.mark.parametrize("lost", ["links", "entries", "ids"])
@pytest.mark.parametrize("until", ["done", "started", "60"])
def test_a_restore_without_hard_links_forgets_no_key(root: Path, lost: str, until: str) -> None:
    """But for a time, of which only the entry tells where the job is gone."""
    old = broker(root)
    keyed(old, "a", until=until)
    copy = root.with_name("copy")
    subprocess.run(["cp", "-r", root, copy], check=True)
    for path in copy.glob("*/ids" if lost == "ids" else "*/ids/*"):
        if lost != "links":
            shutil.rmtree(path)
    mine = broker(copy)
    if lost != "links":
        mine.maintain()
    assert keyed(mine, "b", until=until) == ("b" if until == "60" and lost != "links" else "a")
    for _ in range(3):
        mine.maintain()
    assert keyed(mine, "c", until=until) == ("b" if until == "60" and lost != "links" else "a")
    mine.close()
    old.close()


def test_a_backup_of_hard_links_keeps_no_key(root: Path) -> None:
    mine = broker(root)
    keyed(mine, "a")
    subprocess.run(["cp", "-al", root, root.with_name("copy")], check=True)
    assert keyed(mine, "b") == "a"
    ack(mine, claim(mine))
    assert not keyed(mine, "c").duplicate
    mine.close()


def test_a_job_that_moves_while_it_is_looked_for_is_found(root: Path) -> None:
    """Others claim it whenever the look comes to its bucket, and release it whenever it comes to claimed/."""
    seam = Seam()
    mine, worker = broker(root, calls=seam), broker(root)
    keyed(mine, "a")
    moving = Moving(lambda: one(worker), lambda lease: worker.release([lease]))
    seam.arm(moving)
    assert keyed(mine, "b") == "a"
    seam.disarm()
    assert moving.moves == 6
    mine.close()
    worker.close()


@pytest.mark.parametrize("garbage", ["torn", "text", "empty", "foreign", "symlink"])
def test_garbage_in_the_place_of_an_entry_holds_no_key(root: Path, garbage: str) -> None:
    mine = broker(root)
    keyed(mine, "a")
    ack(mine, claim(mine))
    keyed(mine, "b")
    (entry,) = entries(root)
    data = entry.read_bytes()
    ack(mine, claim(mine))
    if garbage == "symlink":
        entry.symlink_to("/etc/passwd")
    else:
        foreign = raw(b'{"id":"x","queue":"jobs","enqueued_at":1}')
        entry.write_bytes({"torn": data[:-9], "text": b"hello", "empty": b"", "foreign": foreign}[garbage])
    assert not keyed(mine, "c").duplicate
    assert keyed(mine, "d") == "c"
    assert ids(claim(mine)) == ["c"]
    mine.close()


def test_the_original_of_a_duplicate_is_recovered_first(root: Path) -> None:
    """Its writer died between link and rename. The duplicate's caller is told its id, so it must be there."""
    cut_at(root, "rename", lambda mine: keyed(mine, "a"))
    mine = broker(root)
    assert keyed(mine, "b") == "a"
    assert ids(claim(mine)) == ["a"]
    assert files(root, "jobs/tmp/*") == []
    mine.close()


def test_the_end_of_a_job_does_not_take_the_key_of_the_next_one(root: Path) -> None:
    """Between the two unlinks of an ack the key is enqueued again: it waits for the lock."""
    seam = Seam()
    mine = broker(root, calls=seam)
    keyed(mine, "a")
    lease = one(mine)
    children: list[int] = []

    def rival() -> None:
        if not children:
            children.append(os.fork())
            if children[0] == 0:
                try:
                    keyed(broker(root), "b")
                finally:
                    os._exit(0)

    seam.arm(before("unlink", rival, when=lambda args: str(args[0]).endswith(".key")))
    ack(mine, [lease])
    seam.disarm()
    os.waitpid(children[0], 0)
    assert keyed(mine, "c") == "b"
    mine.close()
