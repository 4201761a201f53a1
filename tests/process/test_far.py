"""A worker whose engine is far away: 20 ms a verb. One thread calls it, and what ends together is settled together."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.warm import run

KINDS = ["loop", "thread", "threads"]


@cache
def play(*scenario: str) -> dict[str, Any]:
    """What a worker did; each scenario is played once."""
    here = Path(__file__).parents[2]
    done = run("-m", "tests.process.far", *scenario, data=b"", cwd=here, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["in time"], "it did not come to its end"
    assert found["threads"] == [], "its thread has ended with it"
    return found


def made(found: dict[str, Any], verb: str) -> list[dict[str, Any]]:
    return [call for call in found["calls"] if call["verb"] == verb]


@pytest.mark.parametrize(
    "scenario",
    ["together", "many", "while a claim waits", "drain", "behind", "quick", "threads", "threads together"],
)
def test_one_thread_calls_the_engine_one_verb_at_a_time(scenario: str) -> None:
    """Regression: begin, late settlements and leases that were given back ran on the event loop, which stood still up
    to 343 ms, and three verbs were inside the engine at once."""
    found = play(scenario)
    verbs = [call for call in found["calls"] if call["verb"] != "wake"]
    assert len({call["thread"] for call in verbs}) == 1
    assert found["main"] not in {call["thread"] for call in verbs}
    assert [call for call in verbs if not call["alone"]] == []
    assert found["left"] == 0


def test_what_ends_together_is_settled_together() -> None:
    found = play("together")
    assert found["ran"] == 20
    assert [call["count"] for call in made(found, "settle")] == [20]


def test_the_loop_never_waits_for_a_verb() -> None:
    """Each verb ends only once the loop has turned: whatever waits for it on the loop stops both.

    So a verb of 20 ms makes no sleep on the loop late, whatever the machine does meanwhile. What is left is the work of
    the loop itself: no callback makes as many calls as take a millisecond.
    """
    found = play("turning")
    assert found["ran"] == 20
    assert found["watch"]["stood still"] == []
    assert found["watch"]["turns"] >= 2, "of a claim and a settlement at least"
    assert 0 < found["watch"]["most"] < 1000  # 306 today
    assert [call["count"] for call in made(found, "settle")] == [20]


def test_what_ends_together_in_threads_is_settled_together() -> None:
    """All of it, but what a busy machine keeps from its end for a while."""
    found = play("threads together")
    assert found["ran"] == 20
    assert len(made(found, "settle")) <= 10


@pytest.mark.parametrize("scenario", ["many", "threads"])
def test_nothing_is_lost_or_done_twice_where_settlements_stop_in_the_middle_or_are_not_answered(scenario: str) -> None:
    found = play(scenario)
    assert found["lost"] == ["j33"]
    assert found["ran"] == 200 + 1 + found["retried"], "the lost one ran again, and what failed"
    assert len(made(found, "settle")) < 150


def test_a_settlement_does_not_wait_for_a_claim_that_waits() -> None:
    found = play("while a claim waits")
    assert [call["count"] for call in made(found, "settle")] == [1]


def test_a_drain_settles_what_waits_for_others() -> None:
    """Its engine lets settlements wait for five minutes."""
    found = play("drain")
    assert sum(call["count"] for call in made(found, "settle")) == 5


def test_a_sync_worker_settles_while_its_handler_runs() -> None:
    assert play("behind")["ran"] == 2


def test_a_sync_worker_settles_many_at_once() -> None:
    found = play("quick")
    assert found["ran"] == 100
    assert len(made(found, "settle")) <= len(made(found, "claim"))


@pytest.mark.parametrize("scenario", ["taken", "taken, and fails"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_whose_lease_is_lost_is_stopped_neither_settled_nor_charged(scenario: str, kind: str) -> None:
    """Its handler would go on for half a minute; also where cleaning up after the interruption fails."""
    found = play(scenario, kind)
    ended = sorted(zip(found["attempts"], found["outcomes"], strict=True))  # two threads may tell it in either order
    assert ended == [([1, 1], "lease_lost"), ([1, 2], "succeeded")], "the attempt was not spent"
    assert (found["lost"], found["told"], found["retried"]) == (["j0"], [], 0)
    assert [call["count"] for call in made(found, "settle")] == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_another_machine_took_with_it_is_charged_before_the_job_runs_again(kind: str) -> None:
    found = play("elsewhere", kind)
    assert found["lost attempts"] == [["j0", 1, 1, "lost", "retried", "worker_lost"]]
    assert (found["outcomes"], found["attempts"]) == (["succeeded"], [[2, 3]])
    assert found["told"] == ["j0 worker_lost 1"]


def test_the_last_attempt_that_another_machine_took_with_it_leaves_a_dead_letter() -> None:
    found = play("elsewhere", "thread", "0")
    assert found["lost attempts"] == [["j0", 1, 1, "lost", "dead_lettered", "worker_lost"]]
    assert (found["ran"], found["dead"], found["history"]) == (0, 1, [[1, "worker_lost", 1]])
    assert found["told"] == ["j0 worker_lost 1"]
