"""What others plant, what callers choose, and what must never leave: ids, names, devices, logs, secrets."""

from __future__ import annotations

import ast
import json
import os
import stat
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import framework
from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EnqueueError
from framework.model.options import QueueOptions
from tests.support.receiver import Receiver
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.settling import ack, bury, rest
from tests.support.tree import Tree, trees

from .world import JOBS, broker, claim, failure, files, ids, job, one, pass_time

STAMP = "0000000000{:010d}.e672c630.1.{:012x},0.1,n1"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    yield from trees(tmp_path)


# --- planted ------------------------------------------------------------------------------------------------------


def _device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero never ends


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


ROOT_USER = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mknod")
PLANTS = [_fifo, _link, pytest.param(_device, marks=ROOT_USER)]


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_among_resting_letters_keeps_no_other_from_its_end(
    root: Path, plant: Callable[[Path], None]
) -> None:
    """Regression: it was opened, the error ended the step, and letters stayed for ever."""
    mine = broker(root, JOBS, QueueOptions("letters", is_dead_letter=True, ttl=0.01))
    mine.enqueue([job(f"n{number}") for number in range(3)])
    for lease in claim(mine):
        bury(mine, lease, failure=failure(lease))
    for letter in claim(mine, "letters"):
        rest(mine, letter)
    place = root / "letters" / "dead"
    names = [STAMP.format(0, 1), STAMP.format(10**9, 2)]
    for name in names:
        plant(place / name)
    pass_time(mine, 1)
    mine.maintain()
    assert sorted(path.name for path in place.iterdir()) == names
    mine.close()


@ROOT_USER
@pytest.mark.parametrize("place", ["ready/0000000000", "tmp", "dead", "claimed/w", "delayed/00000000001", "ids/aa"])
def test_a_planted_device_is_never_read(root: Path, place: str) -> None:
    mine = broker(root)
    mine.enqueue([job("a")])
    (root / "jobs" / place).mkdir(exist_ok=True)
    _device(root / "jobs" / place / STAMP.format(0, 1))
    mine.maintain()
    mine.rescue()
    assert ids(claim(mine)) == ["a"]
    mine.close()


def test_a_directory_that_is_a_link_is_refused_or_not_followed(root: Path, tmp_path: Path) -> None:
    """Jobs must not be moved out of the root, nor be read from elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    other = broker(elsewhere, JOBS)
    other.enqueue([job("theirs")])
    (theirs,) = (elsewhere / "jobs" / "ready").iterdir()
    mine = broker(root, JOBS)
    mine.enqueue([job("a")])
    (root / "jobs" / "ready" / "0000000001").symlink_to(theirs)
    assert ids(claim(mine)) == ["a"]
    assert other.stats("jobs").ready == 1
    mine.close()
    other.close()


def test_a_planted_notifier_rings_nobody_elses(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "bell"
    os.mkfifo(elsewhere)
    listening = os.open(elsewhere, os.O_RDONLY | os.O_NONBLOCK)
    mine = broker(root, JOBS)
    notifier = root / "jobs" / "doorbell"
    notifier.unlink()
    notifier.symlink_to(elsewhere)
    mine.enqueue([job("a")])
    with pytest.raises(BlockingIOError):  # somebody writes, and nothing is there; b"" would be: nobody writes
        _read_beside_a_writer(listening, elsewhere)
    mine.close()
    os.close(listening)


def _read_beside_a_writer(listening: int, path: Path) -> None:
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        assert os.read(listening, 10) == b"", "the notifier elsewhere was rung"
    finally:
        os.close(writer)


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_among_ids_is_not_swept(root: Path, plant: Callable[[Path], None]) -> None:
    """Only a regular file with one link is an entry that a finished job left."""
    mine = broker(root, JOBS)
    mine.enqueue([job("a", chosen=True)])
    (place,) = (root / "jobs" / "ids").iterdir()
    planted = place / ("ab" * 16)
    plant(planted)
    for _ in range(3):
        mine.maintain()
    assert os.path.lexists(planted)
    assert len(list(place.iterdir())) == 2, "the entry of a living job stays"
    mine.close()


# --- chosen by callers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job_id", ["../../../../tmp/x", "/etc/passwd", "a/b", "a\0b", "..", ".", "\n{}", "x" * 100_000, "\ud800", "%s%n"]
)
def test_no_id_leaves_the_root(root: Path, job_id: str) -> None:
    mine = broker(root)
    before = set(root.parent.iterdir())
    for _ in range(2):
        mine.enqueue([job(job_id, chosen=True, payload=b"{}")])
    assert [view.job.id for view in mine.browse("jobs", "ready")] == [job_id]
    (entry,) = files(root, "jobs/ids/*/*")
    assert len(entry.name) == 32
    ack(mine, [one(mine)])
    assert set(root.parent.iterdir()) == before
    mine.close()


@pytest.mark.parametrize("name", ["../x", "/etc", "a/../../b", "..", ".ssh", "x\n", "ready/../../y"])
def test_no_queue_name_leaves_the_root(name: str) -> None:
    with pytest.raises(ValueError, match="queue"):
        QueueOptions(name)


def test_a_payload_of_any_depth_is_bytes(spool: SpoolEngine) -> None:
    """The spool never looks inside; what is too large is refused by its length."""
    deep = b"[" * 500_000
    spool.enqueue([job("deep", payload=deep)])
    assert one(spool).job.payload == deep
    with pytest.raises(EnqueueError, match="payloads of 1048576 bytes"):
        spool.enqueue([job("huge", payload=bytes(2**20 + 1))])


# --- what gets out --------------------------------------------------------------------------------------------------

FORGED = '\n{"event": "forged", "level": "info"}\n\x1b[31mred'


def test_no_line_of_the_log_is_written_by_an_id_or_an_error(tree: Tree) -> None:
    """A line break in an id, or in the text of an exception, begins no line of its own.

    A producer refuses such an id; this one is put into the spool past it.
    """
    tree.start("--queue", "sync")
    mine = tree.broker()
    payload = Task(do="fail", key=FORGED).model_dump_json().encode()
    mine.enqueue([job(f"id {FORGED}", queue="sync", payload=payload)])
    tree.wait(lambda: tree.letters("sync"), "a dead letter")
    mine.close()
    assert tree.stop() == 0
    assert tree.events("forged") == []
    assert tree.events("raw") == []
    assert "forged" in json.dumps(tree.events()), "the id is in the log, as text"


def test_a_secret_in_headers_and_payload_is_in_no_log_span_or_error(tree: Tree) -> None:
    """Though the job fails, is retried and becomes a dead letter, at the most talkative level."""
    canary = "canary-5d1f"
    with Receiver() as receiver:
        tree.start("--queue", "sync", OTEL_SDK_DISABLED="false", **receiver.env())
        mine = tree.broker()
        for act in ("fail", "abort"):
            payload = json.dumps({"do": act, "key": "", "secret": canary, "seconds": 0.0}).encode()
            made = job(f"secret {act}", queue="sync", payload=payload)
            made.headers["authorization"] = canary  # type: ignore[index]
            mine.enqueue([made])
        wrong = job("secret wrong", queue="sync", payload=json.dumps({"do": canary}).encode())
        mine.enqueue([wrong])
        tree.wait(lambda: len(tree.letters("sync")) == 3, "three dead letters")
        histories = [repr(failure) for letter in tree.letters("sync") for failure in letter.job.history]
        mine.close()
        assert tree.stop() == 0
        sent = repr(vars(receiver))
    assert histories
    assert len(receiver.spans("process sync")) >= 6
    assert canary not in sent
    assert [line for line in histories if canary in line] == []
    assert canary not in json.dumps(tree.events())


@pytest.mark.parametrize("payload", [{"do": "canary-5d1f"}, {"do": "sleep", "until": "canary-5d1f"}, "canary-5d1f"])
def test_what_is_refused_at_the_enqueue_is_not_quoted(tree: Tree, payload: object) -> None:
    """The caller logs that error, with its traceback."""
    with pytest.raises(EnqueueError) as caught:
        tree.enqueue(Torture.sync, payload)
    said = "".join(traceback.format_exception(caught.value, chain=True))
    last = said[said.rindex("InvalidPayload") :]
    assert "does not fit" in last
    assert "canary-5d1f" not in last
    assert "ValidationError" not in said, "pydantic's error quotes what it was given"


def test_nothing_is_ever_unpickled_or_evaluated() -> None:
    """Data from the disk becomes objects by JSON and struct only."""
    forbidden = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}
    files_, found = 0, []
    for path in Path(framework.__file__).parent.rglob("*.py"):
        files_ += 1
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = ["pickle"] if node.func.id in ("eval", "exec", "compile", "__import__") else []
            found += [f"{path.name}:{node.lineno}" for name in names if name.partition(".")[0] in forbidden]  # type: ignore[attr-defined]
    assert files_ > 50
    assert found == []
