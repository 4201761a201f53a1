"""One line for threads and coroutines: who shares a call, and what each is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from framework import Duplicate, EnqueueUncertain
from framework.service.grouping import tickets as state
from tests.unit.grouped import PATIENCE, World, worlds


@pytest.fixture
def world() -> Iterator[World]:
    yield from worlds()


@pytest.fixture
def server() -> Iterator[World]:
    yield from worlds(local=False)


@pytest.mark.parametrize(("threads", "coroutines"), [(32, 0), (0, 32), (16, 16)])
def test_each_gets_its_own_answer_and_nothing_is_stored_twice(world: World, threads: int, coroutines: int) -> None:
    ids: list[str] = []

    def thread(number: int) -> None:
        ids.extend(world.items.enqueue(f"t{number}.{n:02}") for n in range(20))

    async def coroutine(number: int) -> None:
        ids.extend([await world.items.aenqueue(f"c{number}.{n:02}") for n in range(20)])

    async def half(first: int) -> None:
        await asyncio.gather(*(coroutine(number) for number in range(first, coroutines, 2)))

    works = [threading.Thread(target=thread, args=(number,)) for number in range(threads)]
    works += [threading.Thread(target=asyncio.run, args=(half(first),)) for first in (0, 1)]  # two loops
    for work in works:
        work.start()
    for work in works:
        work.join(PATIENCE)
        assert not work.is_alive()
    stored = {view.job.id: view.job.payload.decode() for view in world.engine.browse("items", "ready")}
    assert len(ids) == len(set(ids)) == 640
    assert set(ids) <= set(stored)
    assert len(stored) == 641
    payloads = world.engine.payloads()
    for name in {payload.partition(".")[0] for payload in payloads}:  # each in its order
        mine = [payload for payload in payloads if payload.partition(".")[0] == name]
        assert mine == sorted(mine)


async def test_what_comes_during_a_call_goes_into_the_next(world: World) -> None:
    held = world.hold()
    tasks = [asyncio.create_task((world.items, world.others)[n % 2].aenqueue(f"{n}")) for n in range(4)]
    await world.until_in_line(5)
    world.engine.gate.set()
    await asyncio.gather(*tasks)
    held.join()
    assert [len(call) for call in world.engine.calls] == [1, 4]
    assert world.engine.payloads("others") == ["warm", "1", "3"]


async def test_the_loop_never_waits_for_the_engine(world: World) -> None:
    world.engine.threads.clear()
    await world.items.aenqueue("x")
    assert threading.get_ident() not in world.engine.threads


async def test_an_error_is_that_of_its_job_alone(world: World) -> None:
    """`others` has room for two more."""
    held = world.hold()
    tasks = [asyncio.create_task((world.items, world.others)[n % 2].aenqueue(f"{n}")) for n in range(8)]
    await world.until_in_line(9)
    world.engine.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    held.join()
    refused = [n for n, answer in enumerate(answers) if isinstance(answer, Exception)]
    assert [type(answers[n]).__name__ for n in refused] == ["QueueFull", "QueueFull"]
    assert [n % 2 for n in refused] == [1, 1]
    assert len(world.engine.payloads("others")) == 3
    assert world.spans.ends.count(None) == 2 + 1 + 6  # the warm ones, the held one and these


@pytest.mark.parametrize("error", [RuntimeError("a driver's surprise"), KeyboardInterrupt()], ids=repr)
async def test_what_is_no_refusal_is_uncertain_and_the_flusher_goes_on(world: World, error: BaseException) -> None:
    held = world.hold()
    tasks = [asyncio.create_task(world.items.aenqueue(f"{n}")) for n in range(3)]
    await world.until_in_line(4)
    world.engine.errors.append(error)
    world.engine.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    held.join()
    assert [type(answer) for answer in answers] == [EnqueueUncertain] * 3
    assert len({answer.job_id for answer in answers if isinstance(answer, EnqueueUncertain)}) == 3
    assert await world.items.aenqueue("after")


async def test_chosen_ids_share_calls_of_a_server_and_a_duplicate_is_told_to_the_one_that_is_it(server: World) -> None:
    held = server.hold()
    make = server.items.aenqueue
    tasks = [asyncio.create_task(make(f"{n}", job_id=f"id{n % 3}")) for n in range(6)]
    tasks.append(asyncio.create_task(server.others.aenqueue("other", job_id="id0")))
    raising = asyncio.create_task(make("raising", job_id="id1", on_conflict="raise"))
    await server.until_in_line(9)
    server.engine.gate.set()
    answers = await asyncio.gather(*tasks)
    held.join()
    assert [answer.duplicate for answer in answers] == [False] * 3 + [True] * 3 + [False]
    assert answers == ["id0", "id1", "id2"] * 2 + ["id0"]
    with pytest.raises(Duplicate):
        await raising
    assert all(len(call) == len(set(call)) for call in server.engine.calls)  # an error names jobs by their ids
    assert len(server.engine.calls) <= 5


async def test_chosen_ids_of_a_local_engine_stay_out_of_the_line(world: World) -> None:
    """The spool looks each up under its lock, which may be held for seconds."""
    held = world.hold()
    waiting = asyncio.create_task(world.items.aenqueue("x", job_id="chosen"))
    async with asyncio.timeout(PATIENCE):
        while len(world.engine.calls) < 2:
            await asyncio.sleep(0.001)
    assert world.engine.calls[1] == ["chosen"]
    world.engine.gate.set()
    assert not (await waiting).duplicate
    held.join()
    assert (await world.items.aenqueue("x", job_id="chosen")).duplicate
    assert world.items.enqueue("x", job_id="chosen").duplicate


async def test_a_call_has_its_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MOST", 5)
    monkeypatch.setattr(state, "MOST_BYTES", 100)
    held = world.hold()
    tasks = [asyncio.create_task(world.items.aenqueue(text)) for text in ["x"] * 7 + ["y" * 60, "z" * 200, "x"]]
    await world.until_in_line(11)
    world.engine.gate.set()
    await asyncio.gather(*tasks)
    held.join()
    assert [len(call) for call in world.engine.calls] == [1, 5, 3, 1, 1]


async def test_a_cancelled_coroutine_leaves_a_job_that_is_stored_and_a_span_that_says_so(world: World) -> None:
    held = world.hold()
    task = asyncio.create_task(world.items.aenqueue("cancelled"))
    await world.until_in_line(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(world.spans.open) == 2
    world.engine.gate.set()
    held.join()
    await world.items.aenqueue("after")
    assert world.engine.payloads() == ["warm", "held", "cancelled", "after"]
    assert (world.spans.open, set(world.spans.ends)) == (set(), {None})
