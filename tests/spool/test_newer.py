"""What a newer version of the framework has stored, as this one meets it on the same spool; and what an older one does
with what this one stores.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from framework.job import Job
from framework.spool import frame, names
from tests.settling import ack, bury, retry

from .poison import make_newer
from .world import broker, claim, dead_owner, failure, files, heal, ids, job, one

PROJECT = Path(__file__).parents[2]
OLDER = "458fd82"  # the last commit before readers were tolerant


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
        mine.enqueue([job("a", delay=0.05)])
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
    time.sleep(0.06)
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
    path.rename(path.with_name(path.name.replace(",i", ",p3,kuser-1,i")))
    lease = one(mine)
    retry(mine, lease, delay=0.01, failure=failure(lease))
    time.sleep(0.02)
    mine.maintain()
    assert only(root, "ready/*/*").name.endswith(",p3,kuser-1,i")
    assert one(mine).attempt == 2
    mine.close()


def test_a_capital_field_of_a_name_needs_a_newer_reader(root: Path) -> None:
    """Regression: a name with one more field counted as ready and was never claimed, and nothing said so."""
    mine = broker(root)
    mine.enqueue([job("a"), job("b", delay=0.01)])
    for pattern in ("ready/*/*", "delayed/*/*"):
        path = only(root, pattern)
        path.rename(path.with_name(path.name + ",Gkey"))
    time.sleep(0.02)
    mine.maintain()
    assert claim(mine) == []
    mine.maintain()
    stats = mine.stats("jobs")
    assert (stats.ready, stats.delayed) == (1, 1)
    assert sorted(path[-5:] for path in mine.stuck()) == [",Gkey", ",Gkey"]
    mine.close()


@pytest.mark.parametrize("text", [",g1", ",zz_-9", ",a", ",p0,q1,r2,s3"])
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
    whole = frame.encode(job("a", ttl=5.0, chosen=True))
    where = frame.layout(whole)
    fields = json.loads(whole[frame.FIXED_SIZE : frame.FIXED_SIZE + where.headers])
    read = decoded({**fields, "priority": 7, "group": {"key": "x"}}, whole)
    assert (read.id, read.ttl) == ("a", 5.0)
    least = decoded({name: fields[name] for name in ("id", "queue", "enqueued_at")}, whole)
    assert (least.not_before, least.ttl, least.chosen_id, dict(least.headers)) == (None, None, False, {})


def decoded(fields: dict[str, object], whole: bytes) -> Job:
    """The job of a file whose headers are these."""
    where, headers = frame.layout(whole), json.dumps(fields).encode()
    body = whole[frame.FIXED_SIZE + where.headers :]
    end = frame.FIXED_SIZE + len(headers) + len(body)
    head = struct.pack(
        "<8sHHIQQ16sIII", frame.MAGIC, 1, 0, len(headers), len(body), -(-end // 4096) * 4096, where.uid,
        zlib.crc32(headers), zlib.crc32(body), 0,
    )  # fmt: skip
    data = head + struct.pack("<I", zlib.crc32(head)) + headers + body
    return frame.read(lambda length, at: data[at : at + length], len(data))[1]


# --- two versions side by side ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The framework of an older commit, to be put on a path."""
    place = tmp_path_factory.mktemp("older")
    archive = subprocess.run(["git", "archive", OLDER, "framework"], cwd=PROJECT, capture_output=True)
    if archive.returncode:
        pytest.skip("no history here: a shallow clone, or no clone at all")
    subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
    return place


def play(older: Path, root: Path, act: str) -> str:
    """What the older version does on a spool; what it prints."""
    code = f"""
import framework, os, time
from framework.brokers.spool import connect
from framework.job import Failure, Job
from framework.queues import QueueOptions
assert framework.__file__.startswith({str(older)!r}), framework.__file__
mine = connect("spool:{root}", incarnation="older-" + os.urandom(4).hex())
queues = [QueueOptions("jobs", dead_letter="letters"), QueueOptions("plain")]
mine.open([*queues, QueueOptions("letters", is_dead_letter=True)])
{act}
mine.close()
"""
    environ = {**os.environ, "PYTHONPATH": str(older)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, cwd=older, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


STORE = """
now = time.time()
headers = {"content-type": "application/json"}
mine.enqueue([Job("o%d" % n, os.urandom(16), "jobs", b"{}", headers, now) for n in range(40)])
mine.enqueue([Job("od", os.urandom(16), "jobs", b"{}", {}, now, not_before=now + 0.01, chosen_id=True)])
lease = mine.claim("jobs", limit=1, wait=0)[0]
mine.retry(lease, delay=0.01, failure=Failure(1, "error", "x", queue="jobs", delivery=lease.delivery))
"""
DRAIN = """
time.sleep(0.05)
for _ in range(3):
    mine.maintain()
    while leases := mine.claim("jobs", limit=100, wait=0):
        print(*(lease.job.id for lease in leases), sep="\\n")
        mine.ack(leases)
print("bad", mine.stats("jobs").bad, "left", mine.stats("jobs").ready + mine.stats("jobs").delayed)
"""


def test_what_an_older_version_has_stored_runs_here(root: Path, older: Path) -> None:
    play(older, root, STORE)
    time.sleep(0.05)
    mine = heal(root)
    assert sorted(ids(claim(mine))) == sorted([f"o{n}" for n in range(40)] + ["od"])
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
