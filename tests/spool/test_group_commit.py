"""Threads and coroutines that enqueue together share a commit of the spool, and each gets the answer to its own job."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from framework import Queue
from framework.model.errors import EnqueueFailed, EnqueueUncertain, QueueFull
from framework.model.options import QueueOptions
from framework.service import grouping
from framework.service.producer import Producer

from .crowd import MEMBERS, PATIENCE, Crowd
from .seam import Seam, fail_calls
from .world import broker, heal, in_child

ALL = sorted(["first", "warm", *(f"n{number}" for number in range(MEMBERS))])
KINDS = {"threads": "t", "coroutines": "c", "a thread first": "tc", "a coroutine first": "ct"}

every_kind = pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)


@pytest.fixture
def crowd(root: Path, kinds: str) -> Iterator[Crowd]:
    found = Crowd(root, kinds)
    yield found
    found.close()


def fail(number: int, wanted: str, *, times: int = 1) -> Callable[[str], None]:
    left = [times]

    def on_call(name: str) -> None:
        if name == wanted and left[0]:
            left[0] -= 1
            raise OSError(number, "as asked")

    return on_call


@every_kind
def test_those_in_line_share_one_sync(crowd: Crowd) -> None:
    """Verified: without the line each has a sync of its own."""
    crowd.come()
    assert set(crowd.answers.values()) == {None}
    assert [name for name in crowd.seam.names if "sync" in name] == ["fsync", "syncfs"]
    assert crowd.stored() == ALL


@pytest.mark.parametrize("kinds", ["t"])
def test_company_is_waited_for_once_after_a_crowd_and_never_by_one_alone(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    real = grouping.time
    monkeypatch.setattr(grouping, "time", SimpleNamespace(sleep=waits.append, perf_counter=real.perf_counter))
    for number in range(5):
        crowd.put(f"alone{number}")
    assert waits == []
    crowd.come()
    crowd.put("after the crowd")
    crowd.put("alone again")
    assert len(waits) == 1
    assert 0 < waits[0] <= grouping.MOMENT


@every_kind
def test_a_call_that_is_refused_is_answered_one_by_one(crowd: Crowd) -> None:
    """Its failure says nothing of each: alone, each is stored. Verified: shared out as it is, all six are told no."""
    crowd.on_call = fail(errno.EIO, "syncfs")
    crowd.come()
    assert set(crowd.answers.values()) == {None}
    assert crowd.stored() == ALL


@every_kind
def test_one_place_left_goes_to_one_of_them(root: Path, kinds: str) -> None:
    crowd = Crowd(root, kinds, QueueOptions("jobs", max_length=3))
    crowd.come()
    refused = [error for error in crowd.answers.values() if error is not None]
    assert len(refused) == MEMBERS - 1
    assert all(type(error) is QueueFull and error.enqueued == () for error in refused)
    assert len(crowd.stored()) == 3
    crowd.close()


@every_kind
def test_behind_an_uncertain_one_all_are_uncertain_and_those_before_it_are_stored(crowd: Crowd) -> None:
    renames = [0]

    def on_call(name: str) -> None:
        if name == "rename":
            renames[0] += 1
            if renames[0] == 4:  # first's own, then the third of the group; an earlier one where a bucket begins
                raise OSError(errno.EIO, "as asked")

    crowd.on_call = on_call
    crowd.come()
    uncertain = {name: error for name, error in crowd.answers.items() if error is not None}
    assert 4 <= len(uncertain) <= MEMBERS
    assert sorted(uncertain) == [f"n{number}" for number in range(MEMBERS - len(uncertain), MEMBERS)]
    assert all(isinstance(error, EnqueueUncertain) for error in uncertain.values())
    ids = {error.job_id for error in uncertain.values() if isinstance(error, EnqueueUncertain)}
    assert len(ids) == len(uncertain)
    after = heal(crowd.mine.root)
    found = [lease.job.payload.decode().strip('"') for lease in after.claim(["jobs"], limit=100, wait=0)]
    assert all(found.count(name) == 1 for name in crowd.answers if name not in uncertain)
    after.close()


@every_kind
def test_a_leader_that_is_interrupted_leaves_none_waiting(crowd: Crowd) -> None:
    """Ctrl-C in the leader. Verified: without `_leave` the others wait for ever."""

    def on_call(name: str) -> None:
        if name == "syncfs":
            raise KeyboardInterrupt

    crowd.on_call = on_call
    crowd.come()
    kinds = sorted(type(error).__name__ for name, error in crowd.answers.items() if name != "first")
    leader_is_a_thread = (crowd.kinds * 2)[1] == "t"  # for coroutines the flusher leads, which goes on
    interrupted = ["KeyboardInterrupt"] if leader_is_a_thread else []
    assert kinds == [*["EnqueueUncertain"] * (MEMBERS - len(interrupted)), *interrupted]
    crowd.put("after")
    assert "after" in crowd.stored()


@pytest.mark.parametrize("kinds", ["t", "c"])
def test_ctrl_c_while_waiting_stores_nothing_and_holds_up_none(crowd: Crowd) -> None:
    """A real SIGINT into the main thread, which would lead next. Verified: without `leave` the line stands for ever."""

    def interrupt() -> None:
        crowd.until_in_line(MEMBERS + 2)
        signal.pthread_kill(main, signal.SIGINT)

    def come_too() -> None:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            crowd.jobs.enqueue("interrupted")
        thread.join()

    main = threading.get_ident()
    crowd.meanwhile = come_too
    crowd.come()
    assert set(crowd.answers.values()) == {None}
    crowd.put("after")
    assert crowd.stored() == sorted(["after", *ALL])


@every_kind
def test_a_child_forked_meanwhile_does_not_wait_for_its_parents_threads(crowd: Crowd) -> None:
    """Verified: without `after_fork` it stands in a line that none leads."""

    def child() -> None:
        signal.alarm(int(PATIENCE))  # kills it
        crowd.put("child")
        asyncio.run(crowd.jobs.aenqueue("child's coroutine"))

    crowd.meanwhile = lambda: in_child(child)
    crowd.come()
    assert set(crowd.answers.values()) == {None}
    assert crowd.stored() == sorted(["child", "child's coroutine", *ALL])


@every_kind
def test_close_stores_what_stands_in_line(crowd: Crowd) -> None:
    closing = threading.Thread(target=crowd.producer.close)

    def close() -> None:
        closing.start()
        crowd.until_in_line(MEMBERS + 2)

    crowd.meanwhile = close
    crowd.come()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert set(crowd.answers.values()) == {None}
    assert crowd.producer._line._state.flusher is None
    after = broker(crowd.mine.root)
    assert after.stats("jobs").ready == len(ALL)
    after.close()
    with pytest.raises(EnqueueFailed):
        crowd.put("late")
    with crowd.jobs.connected(crowd.producer), pytest.raises(EnqueueFailed):
        asyncio.run(crowd.jobs.aenqueue("late"))


def test_jobs_of_two_queues_share_a_call_and_keep_their_order(root: Path) -> None:
    crowd = Crowd(root, "t")

    async def all_of_them() -> None:
        with crowd.jobs.connected(crowd.producer), crowd.other.connected(crowd.producer):
            await asyncio.gather(*((crowd.jobs, crowd.other)[n % 2].aenqueue(f"{n:03}") for n in range(60)))

    crowd.put("warm", crowd.other)
    crowd.seam.arm(lambda name, args, kwargs, real: real(*args, **kwargs))
    asyncio.run(all_of_them())
    syncs = [name for name in crowd.seam.names if "sync" in name]
    assert len(syncs) < 20
    for queue, rest in (("jobs", 0), ("plain", 1)):
        found = [lease.job.payload.decode().strip('"') for lease in crowd.mine.claim([queue], limit=100, wait=0)]
        assert found == ["warm", *(f"{n:03}" for n in range(60) if n % 2 == rest)]
    crowd.close()


@pytest.mark.timeout(90)
def test_a_signal_handler_may_enqueue_in_the_middle_of_an_enqueue(root: Path) -> None:
    """Verified: without the look at who stands in line already it waits for itself."""
    crowd = Crowd(root, "t")

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], real: Callable[..., Any]) -> Any:
        if name == "fsync":
            crowd.seam.disarm()
            signal.raise_signal(signal.SIGUSR1)
        return real(*args, **kwargs)

    before = signal.signal(signal.SIGUSR1, lambda *_: crowd.put("handler"))
    try:
        crowd.seam.arm(hook)
        crowd.put("main")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert crowd.stored() == ["handler", "main", "warm"]
    crowd.close()


def test_alone_each_refusal_is_as_it_was(root: Path) -> None:
    seam = Seam()
    producer = Producer(broker(root, calls=seam), options=lambda queue: queue.options)
    jobs = Queue[str]("jobs")
    with jobs.connected(producer):
        jobs.enqueue("warm")
        seam.arm(fail_calls(errno.EIO, "write"))
        with pytest.raises(EnqueueFailed) as failed:
            jobs.enqueue("n")
        assert failed.value.enqueued == ()
        with pytest.raises(EnqueueFailed, match="was not queued on 'jobs'"):
            asyncio.run(jobs.aenqueue("n"))
    producer.close()


def test_kill_9_in_the_middle_loses_nothing_that_was_acknowledged(root: Path) -> None:
    """Threads and coroutines of one process, killed at some moment, again and again."""
    acknowledged: set[str] = set()
    for round_ in range(6):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _enqueue_until_killed(root, write, f"{round_}")
        os.close(write)
        said = b""
        while said.count(b"\n") < 40 + 53 * round_:
            said += os.read(read, 4096)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while piece := os.read(read, 1 << 16):
            said += piece
        os.close(read)
        acknowledged.update(said[: said.rfind(b"\n")].decode().split("\n"))
    after = heal(root)
    found = [view.job.payload.decode().strip('"') for view in after.browse("jobs", "ready")]
    assert acknowledged <= set(found)
    assert len(found) == len(set(found))
    assert not after.stats("jobs").bad
    after.close()


def _enqueue_until_killed(root: Path, write: int, name: str) -> None:
    try:
        jobs = Queue[str]("jobs", max_length=None)
        producer = Producer(broker(root), options=lambda queue: queue.options)

        def thread(number: int) -> None:
            for n in range(10**9):
                jobs.enqueue(f"{name}.t{number}.{n}")
                os.write(write, f"{name}.t{number}.{n}\n".encode())

        async def coroutine(number: int) -> None:
            for n in range(10**9):
                await jobs.aenqueue(f"{name}.c{number}.{n}")
                os.write(write, f"{name}.c{number}.{n}\n".encode())

        async def coroutines() -> None:
            await asyncio.gather(*(coroutine(number) for number in range(8)))

        with jobs.connected(producer):
            for number in range(8):
                threading.Thread(target=thread, args=(number,), daemon=True).start()
            asyncio.run(coroutines())
    finally:
        os._exit(1)
