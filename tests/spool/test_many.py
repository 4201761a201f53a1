"""Many queues in one process: idle ones cost next to nothing, and nothing that comes to one is overlooked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.engine.spool.claim import notifier
from framework.engine.spool.claim.listing import FEW
from framework.engine.spool.engine import SpoolEngine, connect
from framework.model.options import QueueOptions
from tests.support.processes import wait_until
from tests.support.settling import ack

from .seam import Seam, pass_on
from .world import ids, job

NAMES = [f"small-{number:02}" for number in range(40)]
PATIENCE = 30.0


def opened(root: Path, incarnation: str, seam: Seam | None = None) -> SpoolEngine:
    made = connect(f"spool:{root}", incarnation=incarnation, durability="process", calls=seam)  # type: ignore[arg-type]
    made.open([QueueOptions(name) for name in NAMES])
    return made


def until(happens: Callable[[], object], what: str) -> None:
    assert wait_until(happens, PATIENCE), f"waited {PATIENCE} s for: {what}"


def come_to_rest(broker: SpoolEngine) -> None:
    """All steps have had their turn, and the times of all directories are old enough to be trusted."""
    parts = broker._spool._parts.values()
    until(lambda: broker.maintain() and all(part.maintain.is_idle() for part in parts), "all queues are idle")


def test_idle_queues_cost_a_turn_of_maintenance_a_look_or_two_each(root: Path) -> None:
    """One delayed/ and claimed/ each, and once a second ready/ and segments/; three owners are looked at once."""
    workers = [opened(root, f"w{n}") for n in range(3)]
    for worker in workers:
        assert worker.claim(NAMES, limit=5, wait=0) == []
    seam = Seam()
    house = opened(root, "house", seam)
    come_to_rest(house)
    house.rescue()
    spent = []

    def is_cheap() -> bool:  # now and then all have a full turn
        seam.arm(pass_on)
        for _ in range(2):
            house.maintain()
            house.rescue()
        seam.disarm()
        spent.append(len(seam.names))
        return len(seam.names) <= 2 * 2 * 40 + 2 * 40 + 40

    until(is_cheap, f"few calls: {spent}")
    for broker in (*workers, house):
        broker.close()


def test_a_delayed_job_is_promoted_by_the_next_turn_after_it_is_due(root: Path) -> None:
    house, producer = opened(root, "house"), opened(root, "producer")
    come_to_rest(house)
    late = job("late", queue=NAMES[33], delay=0.2)
    producer.enqueue([late])
    for _ in range(3):
        house.maintain()
    until(lambda: time.time() > (late.not_before or 0), "it is due")
    house.maintain()
    assert (house.stats(NAMES[33]).ready, house.stats(NAMES[33]).delayed) == (1, 0)
    house.close()
    producer.close()


def test_maintenance_rings_for_a_job_whose_producer_died_before_its_ring(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "LOOK_EVERY", 1e9)
    house, producer, worker = opened(root, "house"), opened(root, "producer"), opened(root, "worker")
    come_to_rest(house)
    assert worker.claim(NAMES, limit=5, wait=0) == []
    producer._spool._parts[NAMES[7]].enqueue._ring = lambda: None
    producer.enqueue([job("silent", queue=NAMES[7])])
    assert worker.claim(NAMES, limit=5, wait=0) == [], "nothing has called"
    found: list[str] = []
    until(lambda: house.maintain() and (found.extend(ids(worker.claim(NAMES, limit=5, wait=0))) or found), "a ring")
    assert found == ["silent"]
    for broker in (house, producer, worker):
        broker.close()


def test_a_worker_looks_by_itself_where_nothing_rings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "LOOK_EVERY", 0.2)
    producer, worker = opened(root, "producer"), opened(root, "worker")
    assert worker.claim(NAMES, limit=5, wait=0) == []
    producer._spool._parts[NAMES[7]].enqueue._ring = lambda: None
    producer.enqueue([job("silent", queue=NAMES[7])])
    found: list[str] = []
    until(lambda: found.extend(ids(worker.claim(NAMES, limit=5, wait=1))) or found, "its own look")
    worker.close()
    producer.close()


def test_a_ring_leads_to_the_queue_that_it_is_for_and_no_other_is_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "LOOK_EVERY", 1e9)
    seam = Seam()
    producer, worker = opened(root, "producer"), opened(root, "worker", seam)
    assert worker.claim(NAMES, limit=5, wait=0) == []
    seam.arm(pass_on)
    producer.enqueue([job("a", queue=NAMES[12])])
    leases = worker.claim(NAMES, limit=5, wait=1)
    seam.disarm()
    assert ids(leases) == ["a"]
    assert len(seam.names) < 40
    ack(worker, leases)
    worker.close()
    producer.close()


def test_more_jobs_than_a_claim_takes_call_another_worker(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "LOOK_EVERY", 1e9)
    producer, one, other = (opened(root, name) for name in ("producer", "one", "other"))
    for worker in (one, other):
        assert worker.claim(NAMES, limit=5, wait=0) == []
    producer.enqueue([job("a", queue=NAMES[3]), job("b", queue=NAMES[3])])
    producer.enqueue([job("c", queue=NAMES[4])])
    first = one.claim(NAMES, limit=1, wait=1)
    second = other.claim(NAMES, limit=1, wait=1)
    third = other.claim(NAMES, limit=1, wait=1)
    assert sorted(ids([*first, *second, *third])) == ["a", "b", "c"]
    for broker in (producer, one, other):
        broker.close()


def test_the_dead_are_found_in_all_their_queues_at_the_next_turn(root: Path) -> None:
    house = opened(root, "house")
    house.enqueue([job(name, queue=name) for name in NAMES])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            worker = opened(root, "dead")
            os.write(write, b"%d" % len(worker.claim(NAMES, limit=40, wait=1)))
            time.sleep(PATIENCE)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.read(read, 10) == b"40"
    for _ in range(3):
        assert house.rescue() == []
        time.sleep(0.06)  # by now the times of the directories are trusted
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert sorted(found.lease.queue for found in house.rescue()) == NAMES
    house.close()


def test_a_descriptor_that_is_no_notifier_any_more_is_not_read(root: Path) -> None:
    """A handler has closed all descriptors, and opened a pipe in the place of a notifier."""
    producer, worker = opened(root, "producer"), opened(root, "worker")
    assert worker.claim(NAMES, limit=5, wait=0) == []
    fd = worker._spool._parts[NAMES[0]].notifier._fd
    assert fd is not None
    read, write = os.pipe()
    os.dup2(read, fd)
    os.write(write, b"the handler's")
    assert worker.claim(NAMES, limit=5, wait=0) == []
    assert os.read(fd, 100) == b"the handler's"
    os.close(fd)
    producer.enqueue([job("a", queue=NAMES[0])])
    found: list[str] = []
    until(lambda: found.extend(ids(worker.claim(NAMES, limit=5, wait=1))) or found, "the notifier hangs again")
    for broker in (producer, worker):
        broker.close()
    os.close(read)
    os.close(write)


def test_wake_ends_a_claim_of_many_queues(root: Path) -> None:
    worker = opened(root, "worker")
    assert worker.claim(NAMES, limit=5, wait=0) == []
    seconds: list[float] = []
    listen = worker._spool.claims._listen
    worker._spool.claims._listen = lambda notifiers, wait, keep: (
        seconds.append(wait),
        listen(notifiers, wait, keep=keep),
    )[1]
    worker.wake()
    assert worker.claim(NAMES, limit=5, wait=1) == []
    assert seconds == [0], "it did not wait at all"
    worker.close()


def test_few_queues_are_looked_at_as_ever(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of which nothing told is found at the next claim."""
    monkeypatch.setattr(notifier.Notifier, "ring", lambda self: None)
    worker = opened(root, "worker")
    few = NAMES[:FEW]
    assert worker.claim(few, limit=5, wait=0) == []
    worker.enqueue([job("a", queue=few[-1])])
    assert ids(worker.claim(few, limit=5, wait=0)) == ["a"]
    worker.close()
