"""Threads that enqueue together share a commit, and each gets the answer to its own job."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from framework.brokers.spool import SpoolBroker
from framework.errors import EnqueueFailed, EnqueueUncertain, QueueFull
from framework.queues import QueueOptions
from framework.spool import blanks, gather

from .seam import Seam, fail_calls
from .world import broker, census, claim, heal, ids, in_child, job

THREADS = 6
Answers = dict[str, BaseException | None]


class Crowd:
    """One thread is held at its sync until the others stand in line; then it goes on."""

    def __init__(self, root: Path, *queues: QueueOptions) -> None:
        self.seam = Seam()
        self.mine = broker(root, *queues, calls=self.seam)
        self.mine.enqueue([job("warm")])
        self.answers: Answers = {}
        self._held = threading.Event()
        self._go_on = threading.Event()
        self.on_call: Callable[[str], None] = lambda name: None
        self.meanwhile: Callable[[], object] = lambda: None

    def _hook(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "fsync" and not self._held.is_set():
            self._held.set()
            assert self._go_on.wait(20)
        elif self._go_on.is_set():
            self.on_call(name)
        return real(*args, **kwargs)

    def _put(self, job_id: str) -> None:
        try:
            self.mine.enqueue([job(job_id)])
            self.answers[job_id] = None
        except BaseException as error:
            self.answers[job_id] = error

    def come(self) -> None:
        """`first` leads alone; n0 to n5 stand in line meanwhile, and are stored together."""
        self.seam.arm(self._hook)
        first = threading.Thread(target=self._put, args=("first",), daemon=True)
        first.start()
        assert self._held.wait(20)
        threads = [threading.Thread(target=self._put, args=(f"n{number}",), daemon=True) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        line = self.mine._spool._parts["jobs"].enqueue._gather
        while len(line._line) < 1 + THREADS:
            threading.Event().wait(0.001)
        self.meanwhile()
        self._go_on.set()
        for thread in (first, *threads):
            thread.join(10)
            assert not thread.is_alive()
        self.seam.disarm()


@pytest.fixture
def crowd(root: Path) -> Iterator[Crowd]:
    found = Crowd(root)
    yield found
    found.mine.close()


def fail(number: int, wanted: str, *, times: int = 1) -> Callable[[str], None]:
    left = [times]

    def on_call(name: str) -> None:
        if name == wanted and left[0]:
            left[0] -= 1
            raise OSError(number, "as asked")

    return on_call


def test_those_in_line_share_one_sync(crowd: Crowd) -> None:
    """Verified: without the line each has a sync of its own."""
    crowd.come()
    assert set(crowd.answers.values()) == {None}
    assert [name for name in crowd.seam.names if "sync" in name] == ["fsync", "syncfs"]
    assert sorted(ids(claim(crowd.mine))) == ["first", *(f"n{number}" for number in range(THREADS)), "warm"]


def test_company_is_waited_for_once_after_a_crowd_and_never_by_one_alone(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(gather, "time", SimpleNamespace(sleep=waits.append))
    for number in range(5):
        crowd.mine.enqueue([job(f"alone{number}")])
    assert waits == []
    crowd.come()
    crowd.mine.enqueue([job("after the crowd")])
    crowd.mine.enqueue([job("alone again")])
    assert waits == [gather.MOMENT]


def test_a_batch_that_is_refused_is_answered_one_by_one(crowd: Crowd) -> None:
    """Its failure says nothing of each: alone, each is stored. Verified: shared out as it is, all six are told no."""
    crowd.on_call = fail(errno.EIO, "syncfs")
    crowd.come()
    assert set(crowd.answers.values()) == {None}
    assert len(claim(crowd.mine)) == THREADS + 2


def test_one_place_left_goes_to_one_of_them(root: Path) -> None:
    crowd = Crowd(root, QueueOptions("jobs", max_length=3))
    crowd.come()
    refused = [error for error in crowd.answers.values() if error is not None]
    assert len(refused) == THREADS - 1
    assert all(type(error) is QueueFull and error.enqueued == () for error in refused)
    assert len(claim(crowd.mine)) == 3
    crowd.mine.close()


def test_behind_an_uncertain_one_all_are_uncertain_and_those_before_it_are_stored(crowd: Crowd) -> None:
    renames = [0]

    def on_call(name: str) -> None:
        if name == "rename":
            renames[0] += 1
            if renames[0] == 4:  # first's own, then the third of the batch
                raise OSError(errno.EIO, "as asked")

    crowd.on_call = on_call
    crowd.come()
    uncertain = {job_id: error for job_id, error in crowd.answers.items() if error is not None}
    assert len(uncertain) == 4
    assert all(isinstance(e, EnqueueUncertain) and e.job_id == job_id for job_id, e in uncertain.items())
    after = heal(crowd.mine.root)
    found = census(after)
    assert all(found[job_id] == 1 for job_id in crowd.answers if job_id not in uncertain)
    after.close()


def test_whoever_leads_and_is_interrupted_leaves_nobody_waiting(crowd: Crowd) -> None:
    """Ctrl-C in the leader. Verified: without the `finally` the others wait for ever."""

    def on_call(name: str) -> None:
        if name == "syncfs":
            raise KeyboardInterrupt

    crowd.on_call = on_call
    crowd.come()
    kinds = sorted(type(error).__name__ for job_id, error in crowd.answers.items() if job_id != "first")
    assert kinds == [*["EnqueueUncertain"] * (THREADS - 1), "KeyboardInterrupt"]
    crowd.seam.disarm()
    crowd.mine.enqueue([job("after")])
    assert "after" in ids(claim(crowd.mine))


def test_a_child_forked_meanwhile_does_not_wait_for_its_parents_threads(crowd: Crowd) -> None:
    """Verified: without `after_fork` it stands in a line that nobody leads."""

    def child() -> None:
        signal.alarm(10)  # kills it
        crowd.mine.enqueue([job("child")])

    crowd.meanwhile = lambda: in_child(child)
    crowd.come()
    assert set(crowd.answers.values()) == {None}
    assert "child" in ids(claim(crowd.mine))


@pytest.mark.timeout(30)
def test_a_signal_handler_may_enqueue_in_the_middle_of_an_enqueue(root: Path) -> None:
    """Verified: without the look at who stands in line already it waits for itself."""
    seam = Seam()
    mine = broker(root, calls=seam)

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "fsync":
            seam.disarm()
            signal.raise_signal(signal.SIGUSR1)
        return real(*args, **kwargs)

    before = signal.signal(signal.SIGUSR1, lambda *_: mine.enqueue([job("handler")]))
    try:
        mine.enqueue([job("warm")])
        seam.arm(hook)
        mine.enqueue([job("main")])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted(ids(claim(mine))) == ["handler", "main", "warm"]
    mine.close()


def test_alone_each_refusal_is_as_it_was(spool: SpoolBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blanks, "WORTH", 1)
    seam = Seam()
    mine = broker(spool.root, calls=seam)
    mine.enqueue([job("warm")])
    seam.arm(fail_calls(errno.EIO, "fdatasync"))
    with pytest.raises(EnqueueFailed) as failed:
        mine.enqueue([job("n")])
    assert failed.value.enqueued == ()
    mine.close()
