"""Whatever a stored file says, reading it gives a job or a bad file, never another exception.

Checksums are right in all of these: another program wrote them, a bug, or an attacker.
"""

from __future__ import annotations

import json
import math
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.engine.spool.disk import layout
from framework.engine.spool.engine import SpoolEngine
from framework.engine.spool.format import history, job_file, names, runs
from framework.model.errors import EnqueueFailed
from framework.model.job import Job
from framework.model.options import QueueOptions
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.settling import ack, bury, rest, retry
from tests.support.tree import Tree, trees

from . import poison, world
from .world import broker, claim, failure, ids, job, one

PLACES = ("ready", "delayed", "claimed/dead-one", "tmp")


# --- the decoder --------------------------------------------------------------------------------------------------

numbers = st.one_of(st.floats(), st.integers(), st.booleans(), st.integers(10**300, 10**400))
anything = st.recursive(
    st.one_of(st.none(), numbers, st.text(), st.text(alphabet="\ud800\udfff\0é")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def whole(data: bytes) -> Job:
    return job_file.decode(data, job_file.layout(data))


def use(found: Job) -> None:
    """What the rest of the product does with a job's values."""
    for moment in (found.enqueued_at, found.not_before, found.scheduled_for, found.eligible_at):
        if moment is not None:
            datetime.fromtimestamp(moment, UTC)
    for text in (found.queue, *found.headers, *found.headers.values()):
        text.encode()
    layout.QueueDir(QueueOptions(found.queue))
    assert replace(found.extras).said() == found.extras.said(), "what was read can be made"
    assert names.parse(str(names.first(found, "0" * 20, names.tails.next()))) is not None
    for attempt in found.history:
        datetime.fromtimestamp(attempt.started_at, UTC)
        datetime.fromtimestamp(attempt.ended_at, UTC)
        (attempt.message + attempt.error_type + attempt.queue).encode()
        history.encode_record(1, attempt.delivery, attempt, "retried")


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(poison.GOOD, anything)))
def test_headers_of_any_kind_give_a_job_or_damage(fields: dict[str, Any]) -> None:
    try:
        found = whole(poison.raw(json.dumps(poison.GOOD | fields).encode()))
    except job_file.Damaged:
        return
    use(found)
    assert whole(job_file.encode(found)) == found, "what can be read can be stored"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_headers_of_any_bytes_give_a_job_or_damage(headers: bytes, length: int, slots_at: int) -> None:
    for data in (poison.raw(headers), poison.raw(headers, head=length), poison.raw(headers, slots_at=slots_at)):
        with pytest.raises(job_file.Damaged):
            whole(data)


RECORD = (
    "attempt",
    "reason",
    "message",
    "traceback",
    "trace_id",
    "error_type",
    "span_id",
    "queue",
    "started_at",
    "ended_at",
)


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys((*RECORD, "of a later version"), anything)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
)
def test_records_of_any_kind_are_history_or_left_out(fields: dict[str, Any], sequence: int, delivery: int) -> None:
    for number in (0, sequence):
        slot = poison.record(number, delivery, **fields)
        if len(slot) <= history.SLOT:
            use(whole(poison.with_record(slot)))


@pytest.mark.parametrize("slot", range(len(poison.records())))
def test_an_impossible_record_costs_itself_only(slot: int) -> None:
    assert whole(poison.with_record(poison.records()[slot])).history == ()


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=runs._ROW.size, max_size=runs._ROW.size))
def test_a_run_record_of_any_bytes_is_a_run_or_none(body: bytes) -> None:
    row = (b"RUN1" + struct.pack("<I", zlib.crc32(body)) + body).ljust(runs.ROW, b"\0")
    found = runs.decode(row)
    if found is not None:
        assert 0 <= int(found.run.started_at * 1e9) < 2**63
        datetime.fromtimestamp(found.run.started_at, UTC)


@pytest.mark.parametrize("moment", [math.nan, math.inf, -1.0, 1e300, 1e12])
def test_a_run_that_no_clock_could_tell_is_none(moment: float) -> None:
    body = runs._ROW.pack(0, 1, 1, False, moment, 0.0, b"", b"", b"", 50, b"0" * 50)
    assert runs.decode((b"RUN1" + struct.pack("<I", zlib.crc32(body)) + body).ljust(runs.ROW, b"\0")) is None


def test_what_cannot_be_read_is_not_stored(spool: SpoolEngine) -> None:
    """Verified: without the check in `encode`, the job is acknowledged, and bad at its first claim."""
    for name, values in poison.FIELDS.items():
        for value in values if name != "queue" else ():
            wrong = job("a")
            object.__setattr__(wrong, name, value)
            with pytest.raises((EnqueueFailed, TypeError)):
                spool.enqueue([wrong])
    wide = job("a")
    object.__setattr__(wide, "headers", {f"h{number}": "x" * 1000 for number in range(1100)})
    with pytest.raises(EnqueueFailed, match="too large"):
        spool.enqueue([wide])
    assert claim(spool) == []


# --- every verb ---------------------------------------------------------------------------------------------------


def everything(mine: SpoolEngine) -> list[str]:
    """Every verb of a broker; ids of the jobs that could be claimed."""
    mine.maintain()
    for orphan in mine.rescue():
        world.settle_orphan(mine, orphan)
    found = []
    while leases := claim(mine):
        found += ids(leases)
        ack(mine, leases)
    for state in (*world.STATES, "bad"):
        for view in mine.browse("jobs", state):  # type: ignore[arg-type]
            assert mine.find("jobs", view.job.id, state) is not None  # type: ignore[arg-type]
    mine.stats("jobs")
    return found


@pytest.mark.parametrize("place", PLACES)
def test_no_file_keeps_others_from_running_and_each_is_bad(root: Path, place: str) -> None:
    mine = broker(root)
    files = poison.poisons()
    for number, data in enumerate(files.values()):
        poison.plant(root, f"jobs/{place}", data, number)
    mine.enqueue([job("innocent")])
    found: list[str] = []
    for _ in range(3):
        found += everything(mine)
    assert found == ["innocent"]
    stats = mine.stats("jobs")
    assert (stats.bad, stats.jobs) == (len(files), len(files)), "nothing else is left"
    mine.close()


def test_a_dead_file_that_is_no_job_is_bad_once_somebody_looks(root: Path) -> None:
    """Nobody claims what is dead: it would count there for ever, and no list would show it."""
    mine = broker(root)
    poison.plant(root, "jobs/dead", poison.raw(b"[]"), 1)
    assert list(mine.browse("jobs", "dead")) == []
    assert (mine.stats("jobs").dead, mine.stats("jobs").bad) == (0, 1)
    mine.close()


def test_a_letter_that_is_no_job_keeps_no_other_from_its_end(root: Path) -> None:
    mine = broker(root, world.JOBS, QueueOptions("letters", is_dead_letter=True, ttl=0.001))
    for number, data in enumerate(poison.poisons().values()):
        poison.plant(root, "letters/dead", data, number)
    mine.enqueue([job("a")])
    lease = one(mine)
    bury(mine, lease, failure=failure(lease))
    rest(mine, one(mine, "letters"))
    world.pass_time(mine, 1)
    mine.maintain()
    assert mine.counts["letters_over"] == 1
    mine.close()


def test_a_giant_that_says_so_is_not_read(root: Path) -> None:
    mine = broker(root)
    data = poison.raw(json.dumps(poison.GOOD).encode(), size=1 << 42, slots_at=1 << 42)
    path = poison.plant(root, "jobs/ready", data, 1)
    os.truncate(path, 1 << 42)
    assert claim(mine) == []
    assert mine.stats("jobs").bad == 1
    mine.close()


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["999999999.999999999", "0.999999999", "999999999.0"])
def test_numbers_at_the_end_of_their_digits_are_jobs_still(root: Path, said: str) -> None:
    """Verified: one more has ten digits, such a name is nobody's, and the job is in no state."""
    mine = broker(root)
    poison.plant(root, "jobs/ready", poison.raw(json.dumps(poison.GOOD).encode()), 1, said=said)
    for _ in range(3):
        retry(mine, one(mine), delay=0, failure=failure())
    mine.release([one(mine)], delay=1e300)
    assert mine.stats("jobs").delayed == 1
    mine.close()


def test_a_delay_beyond_all_names_is_the_longest_that_fits(root: Path) -> None:
    """Verified: the moment has 19 digits, the name is nobody's, and the job is in no state."""
    mine = broker(root)
    mine.enqueue([job("a"), job("b")])
    first, second = claim(mine)
    mine.release([first], delay=1e12)
    retry(mine, second, delay=math.inf, failure=failure(second))
    assert mine.stats("jobs").delayed == 2
    assert sorted(view.job.id for view in mine.browse("jobs", "delayed")) == ["a", "b"]
    mine.close()


@pytest.mark.parametrize("stamp", [10**20 - 1, 9 * 10**19, 10**19])
def test_a_stamp_that_no_clock_has_made_runs_and_moves_no_clock(root: Path, stamp: int) -> None:
    """Verified: the next boot takes it for the newest, all stamps get 21 digits, and every job is nobody's; before that
    the file waits until the clock has passed it."""
    mine = broker(root)
    poison.plant(root, "jobs/ready", poison.raw(json.dumps(poison.GOOD).encode()), 1, stamp=stamp)
    poison.plant(root, "jobs/dead", poison.raw(json.dumps(poison.GOOD).encode()), 2, stamp=stamp)
    mine.close()
    for path in root.glob("clock.*"):
        path.unlink()  # as after a reboot
    mine = broker(root)
    mine.enqueue([job("a"), job("b", delay=0.5)])
    world.pass_time(mine, 1)
    found: list[str] = []
    for _ in range(3):
        found += everything(mine)
    assert found[:2] == ["a", "b"]
    assert found[2:] == ["poison"]
    mine.close()


# --- what else is stored ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [b"-\n", b"--5\n", b"", b"\xff\n", b"9" * 19 + b"9" * 30 + b"\n", b"9" * 4000 + b"\n", b"-99999999999999999999\n"],
)
def test_a_clock_that_says_nonsense_is_made_anew(root: Path, text: bytes) -> None:
    broker(root).close()
    (path,) = root.glob("clock.*")
    path.write_bytes(text)
    mine = broker(root)
    mine.enqueue([job("a")])
    assert abs(mine._spool.opened()[1].now() - time.time_ns()) < 10**12
    assert ids(claim(mine)) == ["a"]
    mine.close()


@pytest.mark.parametrize(
    "text", [b"1 2 3", b"-1 -1 -1", b"9" * 60 + b" 0 " + b"9" * 60, b"\xff" * 200, b"nan inf 0", b""]
)
def test_a_depth_that_says_nonsense_refuses_nobody(root: Path, text: bytes) -> None:
    mine = broker(root, QueueOptions("jobs", max_length=2))
    (root / "jobs" / "depth").write_bytes(text)
    mine.enqueue([job("a"), job("b")])
    assert ids(claim(mine)) == ["a", "b"]
    mine.close()


def test_a_lock_file_that_says_nonsense_is_a_dead_owner_of_nothing_started(root: Path) -> None:
    def live(mine: SpoolEngine) -> None:
        mine.enqueue([job("a")])
        one(mine)

    world.dead_owner(root, live)
    (lock,) = (root / "jobs" / "claimed").glob("*.lock")
    body = struct.pack("<IQI?3xdd16s8s16sI128s", 0, 1, 1, True, 1.0, 0.0, b"", b"", b"\xff\xfe", 2**31, b"\xff" * 128)
    rows = [b"RUN1" + struct.pack("<I", zlib.crc32(body)) + body]
    (entry,) = lock.with_suffix("").iterdir()
    found = names.parse(entry.name)
    assert found is not None
    body = struct.pack(
        "<IQI?3xdd16s8s16sI128s", 0, 1, 1, True, 1.0, 0.0, b"", b"", b"unheard of", len(found.stem), found.stem.encode()
    )
    rows.append(b"RUN1" + struct.pack("<I", zlib.crc32(body)) + body)
    lock.write_bytes(b"\xff" * 256 + b"".join(row.ljust(256, b"\0") for row in rows) + os.urandom(1000))
    mine = broker(root)
    (orphan,) = mine.rescue()
    assert (orphan.run is not None, orphan.reported) == (True, None)
    mine.close()


# --- a service ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    yield from trees(tmp_path)


def test_a_service_and_its_commands_live_among_them(tree: Tree) -> None:
    """Regression: worker and maintenance died of each in turn, and the service gave up after eight seconds."""
    tree.broker().close()
    number = 0
    for place in (*PLACES, "dead", "bad"):
        for data in poison.poisons().values():
            poison.plant(tree.root, f"sync/{place}", data, number := number + 1)
    odd = poison.odd_jobs()
    for data in odd:
        poison.plant(tree.root, "sync/ready", data, number := number + 1)
    poison.plant(tree.root, "retired/ready", poison.raw(json.dumps(poison.GOOD).encode()), 0)
    tree.enqueue(Torture.sync, Task(key="innocent"))
    tree.start(OTEL_SDK_DISABLED="false", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    for key in ("innocent", *(f"odd{number}." for number in range(len(odd)))):
        tree.wait_ledger(f"end {key}")
    tree.wait(lambda: tree.stats("sync").bad == len(poison.poisons()) * 5, "all but the dead are bad")
    for command in (("queues",), ("dead", "list"), ("dead", "replay", "--all"), ("dead", "discard", "--all", "--yes")):
        tree.run_worker(
            *command[:2] if command[0] == "dead" else command, "tests.support.services.torture", *command[2:]
        )
    assert tree.stop() == 0
    assert tree.events("process_exited", reason="crashed") == []
    said = tree.events("file_bad", queue="sync")
    assert len(said) == len({event["place"] for event in said}) >= 20
    assert len(tree.events("queue_undeclared", queue="retired", jobs=1)) == 1
