"""What a newer version of the framework has stored, as this one meets it on the same spool; and what an older one does
with what this one stores.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

from framework.engine.spool.format import job_file, names
from framework.engine.spool.upkeep import browse
from framework.maintenance.rescue import Accounts
from framework.model.job import Job, RunRecord
from framework.model.outcome import Kind, Outcome
from tests.support.processes import wait_until
from tests.support.settling import ack, bury, retry

from .older import DRAIN, play
from .poison import make_newer
from .world import broker, claim, dead_owner, failure, files, heal, ids, job, one, pass_time


def only(root: Path, state: str) -> Path:
    (path,) = files(root, f"jobs/{state}")
    return path


def test_a_file_that_needs_a_newer_reader_stays_where_it_is_and_is_told(root: Path) -> None:
    """Regression: it went to bad/, out of the reach of the newer worker beside this one."""
    mine = broker(root)
    mine.enqueue([job("theirs")])
    path = only(root, "ready/*/*")
    data = make_newer(path)
    mine.enqueue([job("ours")])
    for _ in range(3):
        assert ids(claim(mine)) in (["ours"], [])
        mine.maintain()
    assert path.read_bytes() == data
    assert mine.stats("jobs").ready == 1, "it counts"
    assert mine.stats("jobs").bad == 0
    [(place, why)] = mine.stuck().items()
    assert place == str(path)
    assert "format 2 is newer than 1" in why
    mine.close()


@pytest.mark.parametrize("state", ["delayed", "expired", "tmp", "claimed", "dead"])
def test_nor_is_it_moved_out_of_any_other_state(root: Path, state: str) -> None:
    if state == "claimed":
        dead_owner(root, lambda b: (b.enqueue([job("a")]), claim(b)))
    mine = broker(root)
    if state == "delayed":
        mine.enqueue([job("a", delay=0.5)])
    elif state == "expired":
        mine.enqueue([job("a", ttl=0.01)])
    elif state == "dead":
        mine.enqueue([job("a", queue="plain")])
        bury(mine, one(mine, "plain"), failure=failure())
    elif state == "tmp":
        mine.enqueue([job("a")])
        found = only(root, "ready/*/*")
        found.rename(root / "jobs" / "tmp" / found.name)
    pattern = {"delayed": "delayed/*/*", "expired": "ready/*/*", "tmp": "tmp/*", "claimed": "claimed/*/*"}
    path = files(root, "plain/dead/*")[0] if state == "dead" else only(root, pattern[state])
    data = make_newer(path)
    pass_time(mine, 1)
    for _ in range(3):
        mine.maintain()
        assert mine.rescue() == []
        assert claim(mine) == []
    left = [found for found in files(root) if found.name[:20] == path.name[:20]]
    assert [found.read_bytes() for found in left] == [data]
    assert left[0].parts[-2] != "bad"
    assert "bad" not in left[0].parts
    mine.close()


def test_unknown_fields_of_a_name_are_kept_and_mean_nothing(root: Path) -> None:
    mine = broker(root)
    mine.enqueue([job("a", chosen=True)])
    path = only(root, "ready/*/*")
    path.rename(path.with_name(path.name.replace(",i", ",q3,kuser-1,i")))
    lease = one(mine)
    retry(mine, lease, delay=0.01, failure=failure(lease))
    pass_time(mine, 1)
    mine.maintain()
    assert only(root, "ready/*/*").name.endswith(",q3,kuser-1,i")
    assert one(mine).attempt == 2
    mine.close()


def test_a_capital_field_of_a_name_needs_a_newer_reader(root: Path) -> None:
    """Regression: a name with one more field counted as ready and was never claimed, and nothing said so."""
    mine = broker(root)
    mine.enqueue([job("a"), job("b", delay=0.5)])
    for pattern in ("ready/*/*", "delayed/*/*"):
        path = only(root, pattern)
        path.rename(path.with_name(path.name + ",Gkey"))
    pass_time(mine, 1)
    mine.maintain()
    assert claim(mine) == []
    mine.maintain()
    stats = mine.stats("jobs")
    assert (stats.ready, stats.delayed) == (1, 1)
    assert sorted(path[-5:] for path in mine.stuck()) == [",Gkey", ",Gkey"]
    mine.close()


@pytest.mark.parametrize("text", [",g1", ",zz_-9", ",a", ",p5,q1,r2,s3", ",p12", ",p-1", ",pfast"])
def test_names_with_other_fields(text: str) -> None:
    stem = f"{7:020d}.00000001.1.abcdefabcdef,0.0"
    for entry in (f"{stem}{text}", f"{stem},n5,x6{text},i"):
        name = names.parse(entry)
        assert name is not None
        assert name.other == text
        assert str(name) == entry
        assert str(name.claimed()).partition(",")[2].partition(",")[2] == entry.partition(",")[2].partition(",")[2]


@pytest.mark.parametrize("text", [",", ",,a", ",g/1", ",é", ",a1,b2,c3,d4,e5", ",g" + "x" * 17])
def test_no_names(text: str) -> None:
    assert names.parse(f"{7:020d}.00000001.1.abcdefabcdef,0.0{text}") is None


def test_a_reader_ignores_what_it_does_not_know_and_does_without_what_it_does_not_need() -> None:
    whole = job_file.encode(job("a", ttl=5.0, chosen=True))
    where = job_file.layout(whole)
    fields = json.loads(whole[job_file.FIXED_SIZE : job_file.FIXED_SIZE + where.headers])
    read = decoded({**fields, "priority": 7, "group": {"key": "x"}}, whole)
    assert (read.id, read.ttl) == ("a", 5.0)
    least = decoded({name: fields[name] for name in ("id", "queue", "enqueued_at")}, whole)
    assert (least.not_before, least.ttl, least.chosen_id, dict(least.headers)) == (None, None, False, {})


def decoded(fields: dict[str, object], whole: bytes) -> Job:
    """The job of a file whose headers are these."""
    where, headers = job_file.layout(whole), json.dumps(fields).encode()
    body = whole[job_file.FIXED_SIZE + where.headers :]
    end = job_file.FIXED_SIZE + len(headers) + len(body)
    head = struct.pack(
        "<8sHHIQQ16sIII", job_file.MAGIC, 1, 0, len(headers), len(body), -(-end // 4096) * 4096, where.uid,
        zlib.crc32(headers), zlib.crc32(body), 0,
    )  # fmt: skip
    data = head + struct.pack("<I", zlib.crc32(head)) + headers + body
    return job_file.decode(data, job_file.layout(data))


def test_what_needs_a_newer_version_is_listed_with_what_is_known(root: Path) -> None:
    """Regression: it counted, and no list showed it."""
    mine = broker(root)
    mine.enqueue([job("theirs"), job("ours"), job("later", delay=3600)])
    path, _ = files(root, "jobs/ready/*/*")
    make_newer(path)
    (later,) = files(root, "jobs/delayed/*/*")
    named = later.rename(later.with_name(later.name + ",Gkey"))
    shown = [*mine.browse("jobs", "ready")]
    assert [view.job.id for view in shown] == [path.name, "ours"]
    assert [view.newer for view in shown] == [True, False]
    assert (shown[0].place, shown[0].state, shown[0].job.payload) == (str(path), "ready", b"")
    assert shown[0].flaw.startswith(f"{path.stat().st_size:,} bytes; its format 2 is newer than 1")
    assert [view.place for view in mine.newer("jobs")] == [str(path), str(named)]
    assert "its name asks for a newer version" in next(mine.browse("jobs", "delayed")).flaw
    assert not mine.replay(shown[0])
    assert not mine.discard(shown[0])
    assert [*mine.newer("plain")] == []
    mine.close()


def test_a_quick_look_for_newer_jobs_reads_the_oldest_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = broker(root, durability="process")
    mine.enqueue([job(f"{n}") for n in range(10)])
    paths = files(root, "jobs/ready/*/*")
    for path in (paths[0], paths[-1]):
        make_newer(path)
    monkeypatch.setattr(browse, "LOOKED", 5)
    assert [view.place for view in mine.newer("jobs")] == [str(paths[0])]
    mine.close()


# --- two versions side by side ----------------------------------------------------------------------------------------


STORE = """
now = time.time()
headers = {"content-type": "application/json"}
mine.enqueue([Job("o%d" % n, os.urandom(16), "jobs", b"{}", headers, now) for n in range(40)])
mine.enqueue([Job("od", os.urandom(16), "jobs", b"{}", {}, now, not_before=now + 0.01, chosen_id=True)])
lease = mine.claim("jobs", limit=1, wait=0)[0]
mine.retry(lease, delay=0.01, failure=Failure(1, "error", "x", queue="jobs", delivery=lease.delivery))
"""


def test_what_an_older_version_has_stored_runs_here(root: Path, older: Path) -> None:
    play(older, root, STORE)
    mine = heal(root)
    found: list[str] = []
    assert wait_until(lambda: found.extend(ids(claim(mine))) or len(found) == 41, 30), "two are due soon"
    assert sorted(found) == sorted([f"o{n}" for n in range(40)] + ["od"])
    mine.close()


def test_what_this_version_stores_runs_in_an_older_one(root: Path, older: Path) -> None:
    """A rolling deploy, and a downgrade."""
    mine = broker(root)
    mine.enqueue([job(f"n{n}") for n in range(40)])
    mine.enqueue([job("nd", delay=0.01, chosen=True)])
    lease = one(mine)
    retry(mine, lease, delay=0.01, failure=failure(lease))
    mine.close()
    printed = play(older, root, DRAIN).split("\n")
    assert sorted(printed[:-2]) == sorted([f"n{n}" for n in range(40)] + ["nd"])
    assert printed[-2] == "bad 0 left 0"


def test_both_work_on_one_spool_in_turn(root: Path, older: Path) -> None:
    mine = broker(root)
    mine.enqueue([job(f"n{n}") for n in range(10)])
    play(older, root, STORE)
    leases = claim(mine, limit=25)
    ack(mine, leases)
    mine.close()
    printed = play(older, root, DRAIN).split("\n")
    assert sorted([*ids(leases), *printed[:-2]]) == sorted(
        [f"n{n}" for n in range(10)] + [f"o{n}" for n in range(40)] + ["od"]
    )


# --- the claims of a worker that dies in the middle of an upgrade, or of a downgrade ----------------------------------

DIE = """
import signal
from framework.model.job import RunRecord
from framework.model.outcome import Kind, Outcome
mine.enqueue([Job(name, os.urandom(16), "jobs", b"{}", {}, time.time()) for name in "abcd"])
for row, lease in enumerate(mine.claim("jobs", limit=4, wait=0)[:3]):
    mine.start(lease, RunRecord(row, lease.delivery, lease.attempt, 1000.5 + row, "ab" * 16, "cd" * 8, True))
    if lease.job.id == "b":
        mine.reported(lease, Outcome(Kind.SUCCEEDED))
    if lease.job.id == "c":
        failure = Failure(1, "error", "no luck", error_type="E", queue="jobs", delivery=lease.delivery, ended_at=7.0)
        mine.reported(lease, Outcome(Kind.RETRIED, 2.5, failure))
os.kill(os.getpid(), signal.SIGKILL)
"""
RESCUE = """
for one in mine.rescue():
    print(one.lease.job.id, one.run, one.reported)
    mine.release([one.lease])
"""


def test_what_a_worker_of_the_version_before_had_started_is_known_here(root: Path, older: Path) -> None:
    """For one version: an upgrade in which it is killed charges and finishes what it would have done itself."""
    play(older, root, DIE, killed=True)
    mine = broker(root)
    found = {one.lease.job.id: one for one in mine.rescue()}
    assert sorted(found) == ["a", "b", "c", "d"]
    assert found["a"].run == RunRecord(0, 1, 1, 1000.5, "ab" * 16, "cd" * 8, True)
    assert (found["a"].reported, found["b"].reported) == (None, Outcome(Kind.SUCCEEDED))
    reported = found["c"].reported
    assert reported is not None
    assert (reported.kind, reported.delay) == (Kind.RETRIED, 2.5)
    assert reported.failure is not None
    assert (reported.failure.message, reported.failure.ended_at) == ("no luck", 7.0)
    assert (found["d"].run, found["d"].reported) == (None, None)
    accounts = Accounts(mine, None)
    known = {name: accounts.of(one) for name, one in found.items()}
    assert [(one.run is not None, one.outcome and one.outcome.kind, one.sent) for one in known.values()] == [
        (True, None, False),
        (True, "succeeded", True),
        (True, "retried", True),
        (False, None, False),
    ]
    mine.close()


def test_the_version_before_takes_what_a_worker_of_this_one_holds_for_not_started(root: Path, older: Path) -> None:
    """A downgrade: nothing is lost and nothing is charged."""
    dead_owner(root, lambda mine: (mine.enqueue([job("a"), job("b")]), claim(mine)))
    assert play(older, root, RESCUE).split("\n")[:2] == ["a None None", "b None None"]
    mine = broker(root)
    assert [(lease.job.id, lease.attempt) for lease in claim(mine)] == [("a", 1), ("b", 1)]
    mine.close()
