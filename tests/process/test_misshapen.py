"""An engine whose answers break the contract ends no worker with a traceback, and no job is lost by it."""

from __future__ import annotations

import signal

import pytest

from tests.process.misshapen import Service
from tests.support.tree import Tree

MODULE = "tests.process.misshapen:Service"
CLAIMS = {
    "more": r".claim() returned ",
    "none": ".claim() returned None, not a sequence of leases",
    "gap": ".claim() returned None, which is not a Lease",
    "raises": ".claim() returned a Lease whose job raises ZeroDivisionError: no job",
    "twice": " twice: it runs once",
    "foreign": " of 'other', which was not asked for",
}
VERBS = {
    "expired": ("expired", "Misshapen.expired() raises ZeroDivisionError: nothing expires ("),
    "expired-none": ("expired", "Misshapen.expired() returned None, not a Mapping"),
    "stuck": ("stuck", "Misshapen.stuck() returned None, not a Mapping"),
    "unsettled": ("settle", "an answer was lost"),
    "rescue": ("rescue", "Misshapen.rescue() returned None, which is not a Rescued"),
    "maintain": ("maintain", "Misshapen.maintain() returned None, not a number"),
    "stats": ("stats of", "Misshapen.stats() returned an object of type dict, not a QueueStats"),
    "undeclared": ("looking for queues", "Misshapen.undeclared() returned None, not a Mapping"),
}  # fmt: skip
KINDS = pytest.mark.parametrize("environ", [{"LOCAL": "1"}, {}], ids=["local", "far"])


def start(tree: Tree, flaws: str, environ: dict[str, str], jobs: int) -> None:
    tree.app = Service
    tree.environ |= {"WORKER_ENGINE_URL": f"misshapen:{tree.root}", "FLAWS": flaws, **environ}
    for queue in (Service.one, Service.threads, Service.loop, Service.other):
        for number in range(jobs):
            tree.enqueue(queue, f"{queue.name}{number}")
    tree.start(module=MODULE, ready=False)


def said(tree: Tree, verb: str, text: str) -> bool:
    events = tree.events("engine_failed")
    return any(event["verb"].startswith(verb) and text in event["error"] for event in events)


def assert_all_ran_once(tree: Tree, jobs: int) -> None:
    names = [queue.name for queue in (Service.one, Service.threads, Service.loop, Service.other)]
    tree.wait_ledger("end ", jobs * len(names))
    tree.wait(lambda: all(tree.stats(name).in_flight == 0 for name in names), "all are settled")
    assert sorted(tree.ran("end ")) == sorted(f"end {name}{number}" for name in names for number in range(jobs))
    assert {event["attempt"] for event in tree.events("job_finished")} == {1}
    assert not tree.events("raw"), "no traceback beside the log"
    assert not [event for event in tree.events() if "Traceback" in str(event)]


@KINDS
@pytest.mark.parametrize("flaw", CLAIMS)
def test_a_claim_of_odd_shape_is_one_line_and_every_job_runs_once(
    tree: Tree, flaw: str, environ: dict[str, str]
) -> None:
    """Regression: the worker ended by an IndexError, KeyError or TypeError, and its claims waited for a rescue."""
    start(tree, flaw, environ, jobs=8)
    assert_all_ran_once(tree, 8)
    assert tree.ran(f"flaw {flaw} ")
    assert said(tree, "claim", CLAIMS[flaw])
    exits = tree.events("process_exited")
    assert {event["reason"] for event in exits} <= {"recycled"}
    if flaw in ("more", "twice", "foreign"):
        assert exits == [], "the worker goes on"
    else:
        tree.wait_event("worker_leaving", why="its engine failed in an unknown way")
    assert tree.stop() == 0


@KINDS
def test_other_verbs_of_odd_shape_stop_nothing(tree: Tree, environ: dict[str, str]) -> None:
    """Regression: `expired`, `stuck` and `maintain` ended the process, and what `rescue` had returned was forgotten."""
    flaws = [flaw for flaw in VERBS if flaw != "rescue"]
    start(tree, " ".join([*flaws, "wake", "lost", "rescue", "none"]), environ, jobs=8)
    assert_all_ran_once(tree, 8)
    for flaw, (verb, text) in VERBS.items():
        tree.wait(lambda verb=verb, text=text: said(tree, verb, text), flaw)  # type: ignore[misc]
    assert {event["reason"] for event in tree.events("process_exited")} <= {"recycled"}
    assert not tree.events("process_exited", slot="maintenance")
    assert tree.stop() == 0


@KINDS
def test_an_engine_that_always_answers_oddly_makes_no_worker_spin(tree: Tree, environ: dict[str, str]) -> None:
    start(tree, "none+", environ, jobs=2)
    for queue in ("one", "threads", "loop"):
        tree.wait_event("process_exited", 3, slot=f"{queue}/0", reason="recycled")
        waits = [event["restart_in"] for event in tree.events("process_exited", slot=f"{queue}/0")]
        assert waits[:3] == [0.0, 0.5, 1.0]
    assert not tree.events("raw")
    tree.signal(signal.SIGTERM)
    assert tree.exit_code() == 0


@pytest.mark.parametrize("verb", ["refuse", "refuse-maintain"])
def test_an_engine_that_refuses_for_good_is_one_line_of_the_process(tree: Tree, verb: str) -> None:
    """Regression: maintenance wrote a traceback beside the log."""
    start(tree, f"{verb}+", {"WORKER_RESTART_BUDGET": "1"}, jobs=1)
    assert tree.exit_code() == 3
    said = {event["process"] for event in tree.events() if "the store belongs to another" in event["event"]}
    assert "maintenance" in said if verb == "refuse-maintain" else said & {"one/0", "threads/0", "loop/0", "other/0"}
    assert not tree.events("raw")


def test_an_engine_that_fails_to_close_is_one_line_of_each_process(tree: Tree) -> None:
    """Regression: `worker run` ended with a traceback before it had started anything."""
    start(tree, "close+", {}, jobs=1)
    assert_all_ran_once(tree, 1)
    assert tree.stop() == 0
    said = [event["event"] for event in tree.events() if "Misshapen.close() raises" in event["event"]]
    assert len(said) == 1 + 5, said  # the supervisor's look at the engine, maintenance, and four workers
    assert not tree.events("raw")


@KINDS
def test_an_engine_that_does_not_wait_for_jobs_is_asked_with_pauses(tree: Tree, environ: dict[str, str]) -> None:
    start(tree, "idle+", environ, jobs=1)
    tree.wait(lambda: said(tree, "claim", "returns nothing 1000 times in a row without waiting"), "a line about it")
    assert tree.stop() == 0
