"""What Continuum, the seed of this project, did wrong: one test each, against real processes and directories.

Others stand where their subject is: EXDEV in test_layout (a mount below the root is named at start), the lost race in
test_claim, the corrupt file in test_planted, live jobs moved back in test_life, the ttl in test_settle.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from framework.engine.spool.engine import SpoolEngine
from framework.model.errors import EnqueueError, EnqueueUncertain, PayloadTooLarge, QueueFull
from framework.model.options import QueueOptions
from tests.support.settling import ack

from .seam import Seam, fail_calls, pass_on
from .world import broker, census, claim, heal, ids, job


def test_no_failed_push_is_answered_with_ok(root: Path) -> None:
    """Queue full, too large, and EXDEV at the rename were silent loss: the manager ignored the result of the push."""
    small = QueueOptions("small", max_length=1, max_payload_bytes=100)
    seam = Seam()
    mine = broker(root, small, calls=seam)
    with pytest.raises(PayloadTooLarge):
        mine.enqueue([job("big", queue="small", payload=bytes(101))])
    seam.arm(fail_calls(errno.EXDEV, "rename"))
    with pytest.raises(EnqueueUncertain):
        mine.enqueue([job("a", queue="small", payload=b"")])
    seam.disarm()
    mine.maintain()
    with pytest.raises(QueueFull):
        mine.enqueue([job("b", queue="small", payload=b"")])
    mine.close()


def test_temporary_files_are_on_the_roots_file_system(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lay in the system's temporary directory, where TMPDIR pointed."""
    elsewhere = root.parent / "tmpdir"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)
    seam = Seam()
    seam.arm(pass_on)
    mine = broker(root, calls=seam)
    mine.enqueue([job("a")])
    mine.maintain()
    assert list(elsewhere.iterdir()) == []
    mine.close()


def test_what_is_acknowledged_was_synced(root: Path) -> None:
    """There was no fsync at all."""
    seam = Seam()
    mine = broker(root, calls=seam)
    for number in range(3):
        seam.arm(pass_on)
        mine.enqueue([job(f"n{number}")])
        assert "fsync" in seam.names[: seam.names.index("rename")]
    mine.close()


def test_a_second_process_starts_beside_a_working_one(root: Path) -> None:
    """Start-up moved back every claimed file, so a second process stole live jobs."""
    first = broker(root)
    first.enqueue([job(f"n{n}") for n in range(6)])
    leases = claim(first, limit=3)
    second = heal(root)
    assert ids(claim(second)) == ["n3", "n4", "n5"]
    ack(first, leases)
    assert first.counts.get("lost", 0) == 0
    first.close()
    second.close()


def test_the_tenth_job_comes_after_the_ninth(spool: SpoolEngine) -> None:
    """An unpadded counter within a millisecond sorted 10 before 9."""
    wanted = [f"n{n}" for n in range(250)]
    for name in wanted[:120]:
        spool.enqueue([job(name)])
    spool.enqueue([job(name) for name in wanted[120:]])
    assert ids(claim(spool, limit=1000)) == wanted


def test_a_drain_does_not_list_for_each_job(root: Path) -> None:
    """Each push and each pull listed the whole directory: 13 jobs/s at a backlog of 100,000."""
    seam = Seam()
    mine = broker(root, calls=seam)
    mine.enqueue([job(f"n{n}") for n in range(400)])
    seam.arm(pass_on)
    for number in range(100):
        mine.enqueue([job(f"m{number}")])
        (lease,) = claim(mine, limit=1)
        ack(mine, [lease])
    # relisted by age, each 50 ms at most, on however slow a machine
    assert seam.names.count("listdir") < 150
    mine.close()


def test_two_consumers_and_a_producer_lose_and_double_nothing(root: Path) -> None:
    """Everything at once, in three processes that do not know of each other."""
    total = 600
    pipes = [os.pipe() for _ in range(2)]
    children = []
    for _, write in pipes:
        child = os.fork()
        if child == 0:
            try:
                _consume(root, write)
            finally:
                os._exit(0)
        children.append(child)
    producer = broker(root)
    for number in range(0, total, 3):
        producer.enqueue([job(f"n{number + k:04}") for k in range(3)])
    producer.enqueue([job("stop") for _ in range(2)])
    found: list[list[str]] = []
    for child, (read, write) in zip(children, pipes, strict=True):
        os.close(write)
        with open(read) as pipe:
            found.append(pipe.read().split())
        os.waitpid(child, 0)
    assert sorted(found[0] + found[1]) == [f"n{number:04}" for number in range(total)]
    assert all(part == sorted(part) for part in found)  # each one saw the producer's order
    assert not census(producer)
    producer.close()


def _consume(root: Path, write: int) -> None:
    mine = broker(root)
    while True:
        leases = mine.claim(["jobs"], limit=5, wait=1)
        for number, lease in enumerate(leases):
            if lease.job.id == "stop":
                ack(mine, [lease])
                mine.release(leases[number + 1 :])  # the other's "stop"; a close would leave it to a rescuer
                mine.close()
                return
            os.write(write, f"{lease.job.id}\n".encode())
            ack(mine, [lease])


def test_concurrent_pushes_from_threads_of_a_web_process(root: Path) -> None:
    mine = broker(root)
    errors: list[EnqueueError] = []

    def push(number: int) -> None:
        try:
            for k in range(10):
                mine.enqueue([job(f"{number}-{k}")])
        except EnqueueError as error:
            errors.append(error)

    threads: list[Any] = [threading.Thread(target=push, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(ids(claim(mine, limit=500)))) == 120
    mine.close()
