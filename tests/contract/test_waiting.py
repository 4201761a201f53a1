"""A claim that waits: for a job, or until it is woken."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from framework.model.job import Lease
from framework.model.options import QueueOptions
from tests.support.settling import ack, bury, retry

from .engines import Engine, Owner
from .helpers import FAR, JOBS, a_failure, assert_counts, bury_one, found, ids, put, take


@contextmanager
def waiting(broker: Owner, queue: str = "jobs") -> Iterator[Future[Sequence[Lease]]]:
    """One claim, under way in another thread when the block begins."""
    begun = threading.Event()

    def claim() -> Sequence[Lease]:
        begun.set()
        return broker.claim([queue], limit=5, wait=1)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(claim)
        assert begun.wait(10)
        time.sleep(0.05)  # let it fall asleep: were it still awake, the test would only be easier to pass
        yield future


def ends_first(engine: Engine, wake: Callable[[Owner], None]) -> bool:
    """Whether a woken claim ends while one that nobody wakes, and that began before it, still waits."""
    broker, witness = engine.open(JOBS), engine.open()
    with waiting(witness) as other:
        wake(broker)
        leases = broker.claim(["jobs"], limit=5, wait=1)
        still_waiting = not other.done()
    assert ids(leases) == []
    return still_waiting


def a_job_comes(engine: Engine, other: Owner) -> Callable[[], object]:
    return lambda: put(engine, other, "a")


def a_job_is_released(engine: Engine, other: Owner) -> Callable[[], object]:
    put(engine, other, "a")
    leases = take(other)
    return lambda: other.release(leases)


def a_job_is_replayed(engine: Engine, other: Owner) -> Callable[[], object]:
    put(engine, other, "a")
    bury_one(other)
    view = found(other, "a", "dead")
    return lambda: other.replay(view)


def its_holder_is_gone(engine: Engine, other: Owner) -> Callable[[], object]:
    put(engine, other, "a")
    take(other)
    rescuer = engine.open()
    other.close()
    leases = [one.lease for one in rescuer.rescue()]
    return lambda: rescuer.release(leases)


@pytest.mark.parametrize("prepare", [a_job_comes, a_job_is_released, a_job_is_replayed, its_holder_is_gone])
def test_a_job_ends_the_wait(engine: Engine, prepare: Callable[[Engine, Owner], Callable[[], object]]) -> None:
    """Before a claim on another queue ends that began earlier and finds nothing."""
    broker, witness, other = engine.open(JOBS, QueueOptions("others")), engine.open(), engine.open()
    happen = prepare(engine, other)
    with waiting(witness, "others") as nothing, waiting(broker) as claim:
        happen()
        assert ids(claim.result(10)) == ["a"]
        assert not nothing.done()


def test_wake_ends_a_claim_that_waits(engine: Engine) -> None:
    def wake(broker: Owner) -> None:
        timer = threading.Timer(0.05, broker.wake)
        timer.daemon = True
        timer.start()

    assert ends_first(engine, wake)


def test_wake_ends_the_next_claim(engine: Engine) -> None:
    assert ends_first(engine, lambda broker: broker.wake())


def test_wake_is_safe_in_a_signal_handler(engine: Engine) -> None:
    """The handler runs in the thread that claims, wherever it is."""

    def wake(broker: Owner) -> None:
        before.append(signal.signal(signal.SIGUSR2, lambda *_: broker.wake()))
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR2))
        timer.daemon = True
        timer.start()

    before: list[object] = []
    try:
        assert ends_first(engine, wake)
    finally:
        signal.signal(signal.SIGUSR2, before[0])  # type: ignore[arg-type]


def test_wake_wakes_nobody_else(engine: Engine) -> None:
    broker, other = engine.open(JOBS), engine.open()
    with waiting(other) as claim:
        broker.wake()
        put(engine, broker, "a")
        assert ids(claim.result(10)) == ["a"]


def test_many_wakes_end_one_claim(engine: Engine) -> None:
    """A wake that stays behind would cost every later claim its wait."""
    broker, producer = engine.open(JOBS), engine.open()
    for _ in range(5):
        broker.wake()
    assert ids(broker.claim(["jobs"], limit=1, wait=1)) == []
    with waiting(broker) as claim:
        put(engine, producer, "a")
        assert ids(claim.result(10)) == ["a"]


def test_another_thread_settles_while_a_claim_waits(engine: Engine) -> None:
    """The port lets one claim wait in a thread of its own."""
    broker, producer = engine.open(JOBS), engine.open()
    put(engine, broker, "acked", "released", "buried", "retried")
    acked, released, buried, retried = take(broker, 4)
    with waiting(broker) as claim:
        ack(broker, [acked])
        bury(broker, buried, failure=a_failure(buried))
        retry(broker, retried, delay=FAR, failure=a_failure(retried))
        broker.release([released], delay=FAR)
        put(engine, producer, "new")
        assert ids(claim.result(10)) == ["new"]
    assert_counts(broker, in_flight=1, dead=1, delayed=2)
