"""Sync handlers in threads: side by side, timeouts and who pays for them, drains, and what a job can do to others."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.process.test_drain import drained
from tests.process.test_standstill import still
from tests.support.services.threads import Task, Threads
from tests.support.tree import Tree

MODULE = "tests.support.services.threads:Threads"
jobs = Threads.jobs


def begin(tree: Tree, **environ: str) -> None:
    tree.app = Threads
    tree.start(module=MODULE, **environ)


def at_once(tree: Tree) -> int:
    """Return how many handlers ran at the same time at most, by the moments in the ledger."""
    moments = [(int(line.split()[-1]), 1) for line in tree.ran("start ")]
    moments += [(int(line.split()[-1]), -1) for line in tree.ran("end ")]
    now = most = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


# --- side by side ---------------------------------------------------------------------------------------------------


def test_twenty_handlers_that_sleep_run_side_by_side(tree: Tree) -> None:
    for number in range(60):
        tree.enqueue(jobs, Task(do="sleep", seconds=0.5, key=f"k{number}"))
    begin(tree, WORKER_QUEUES__JOBS__CONCURRENCY="20", WORKER_QUEUES__JOBS__TIMEOUT="30")
    tree.wait_ledger("end ", 60)
    assert len({line.split()[3] for line in tree.ran("start ")}) == 1, "one process"
    assert 15 <= at_once(tree) <= 20
    assert tree.stop() == 0


def test_no_more_than_its_concurrency_and_the_oldest_first(tree: Tree) -> None:
    for number in range(30):
        tree.enqueue(jobs, Task(do="sleep", seconds=0.02, key=str(number)))
    begin(tree, WORKER_QUEUES__JOBS__CONCURRENCY="3", WORKER_QUEUES__JOBS__TIMEOUT="30")
    tree.wait_ledger("end ", 30)
    assert at_once(tree) <= 3
    order = [int(line.split()[1]) for line in tree.ran("start ")]
    for at, number in enumerate(order):
        assert all(earlier in order[:at] for earlier in range(number - 2)), (
            f"{number} overtook more than its neighbours"
        )
    assert tree.stop() == 0


def test_each_run_has_its_own_context_and_log_scope(tree: Tree) -> None:
    ids = {}
    for number in range(12):
        ids[f"k{number}"] = tree.enqueue(jobs, Task(do="who", key=f"k{number}"))
    begin(tree)
    for line in tree.wait_ledger("who ", 12):
        _, _, in_a_thread, found, _ = line.split()
        assert (in_a_thread, found) == ("True", "lifespan")
    tree.wait_ledger("end ", 12)
    for text in ("from the handler", "from a library"):
        tree.wait_event(text, 12)
        said = {(event["key"], event["job_id"]) for event in tree.events(text)}
        assert said == set(ids.items())
    assert tree.stop() == 0


def test_a_thread_keeps_what_it_has_for_its_next_job(tree: Tree) -> None:
    begin(tree)
    for key in ("one", "two"):
        tree.enqueue(jobs, Task(do="local", key=key))
        tree.wait_ledger(f"end {key}")
        tree.wait(lambda: tree.stats("jobs").in_flight == 0, "it is settled")
    assert tree.ran("local") == ["local one none", "local two one"], "few threads where few are needed"
    assert tree.stop() == 0


# --- timeouts -------------------------------------------------------------------------------------------------------


def test_a_handler_is_interrupted_at_its_soft_timeout_and_its_neighbours_are_not(tree: Tree) -> None:
    tree.enqueue(jobs, Task(do="steps", seconds=600, key="late", until=1))
    for number in range(20):
        tree.enqueue(jobs, Task(do="sleep", seconds=0.1, key=f"k{number}"))
    begin(tree)
    tree.wait_ledger("end late 2")
    tree.wait_ledger("end k", 20)
    [finished] = tree.events("job_finished", reason="timeout")
    assert finished["outcome"] == "retried"
    assert {line.split()[2] for line in tree.ran("start k")} == {"1"}
    assert tree.events("process_killed") == []
    assert tree.stop() == 0


@pytest.mark.parametrize("do", ["swallow", "sleep"])
def test_one_hung_job_is_killed_and_charged_alone(tree: Tree, do: str) -> None:
    """`sleep` is one call into C of ten minutes, which nothing interrupts."""
    hung = tree.enqueue(jobs, Task(do=do, key="hung", until=1))
    for number in range(30):
        tree.enqueue(jobs, Task(do="sleep", seconds=0.4, key=f"k{number}"))
    begin(tree)
    tree.wait_ledger("end hung 2")
    tree.wait_ledger("end k", 30)
    assert {line.split()[2] for line in tree.ran("start k")} == {"1"}
    assert len(tree.ran("start k")) == 30, "no neighbour ran twice"
    [lost] = tree.events("attempt_lost")
    assert (lost["job_id"], lost["reason"]) == (hung, "timeout")
    assert tree.events("process_killed", kill_reason="timeout")
    said = [event for event in tree.events() if f"job {hung!r} goes on after its timeout" in event["event"]]
    assert "in Threads.act (threads.py:" in said[0]["event"]
    assert "time.sleep" in said[0]["traceback"]
    assert tree.stop() == 0


def test_a_job_that_hangs_behind_its_handler_is_killed_and_charged_alone_however_much_there_is_to_do(
    tree: Tree,
) -> None:
    """Regression: as long as new jobs came, not all were late, and its thread was lost until they stopped."""
    hung = tree.enqueue(jobs, Task(do="error_text", key="hung", until=1))
    begin(tree)

    def killed() -> bool:
        tree.enqueue(jobs, Task(do="sleep", seconds=0.2, key="k"))
        return tree.events("process_killed") != []

    tree.wait(killed, "its process is killed")
    assert any(f"job {hung!r} goes on after its timeout" in event["event"] for event in tree.events())
    tree.wait_ledger("end hung 2")
    assert [event["job_id"] for event in tree.events("attempt_lost")] == [hung]
    assert tree.stop() == 0


@pytest.mark.parametrize("do", ["regex", "hold_gil"])
def test_a_handler_that_keeps_the_interpreter_from_all_others_is_charged_alone(tree: Tree, do: str) -> None:
    """Its neighbours are as late as it is, through no fault of theirs. `hold_gil` sleeps in C meanwhile."""
    for number in range(4):
        tree.enqueue(jobs, Task(do="sleep", seconds=1, key=f"k{number}"))
    holder = tree.enqueue(jobs, Task(do=do, key="holder", until=1))
    begin(tree, WORKER_QUEUES__JOBS__TIMEOUT="2", WORKER_QUEUES__JOBS__KILL_AFTER="2")
    tree.wait_ledger("end holder 2")
    tree.wait_ledger("end k", 4)
    assert [event["job_id"] for event in tree.events("attempt_lost") if event.get("reason")] == [holder]
    assert {line.split()[2] for line in tree.ran("start k")} == {"1"}
    assert tree.stop() == 0


def test_an_interruption_that_skipped_a_release_ends_the_process(tree: Tree) -> None:
    """The socket's own timeout ends the call into C; the interruption then hits the `__exit__` of a Condition."""
    tree.enqueue(jobs, Task(do="astray", key="astray", until=1))
    begin(tree)
    tree.wait_event("worker_leaving", why="interrupted in a library")
    tree.wait_ledger("end astray 2")
    pids = [line.split()[3] for line in tree.ran("start astray")]
    assert pids[0] != pids[1]
    assert tree.stop() == 0


def test_no_job_is_charged_for_the_time_in_which_its_tree_stood_still(tree: Tree) -> None:
    """Beyond the soft and the hard timeouts of all; each needs most of its time after that."""
    for number in range(4):
        tree.enqueue(jobs, Task(do="steps", seconds=0.6, key=f"k{number}"))
    begin(tree)
    tree.wait_ledger("start ", 4)
    with still(tree):
        time.sleep(2.3)
    tree.wait_ledger("end ", 4)
    assert {line.split()[2] for line in tree.ran("start ")} == {"1"}
    assert tree.events("process_killed") == []
    tree.wait_event("job_finished", 4, outcome="succeeded")
    assert tree.stop() == 0


def test_a_handler_that_has_ended_has_no_deadline_while_the_engine_is_busy_with_another_job(tree: Tree) -> None:
    begin(tree, SETTLE="4")
    tree.enqueue(jobs, Task(do="sleep", seconds=0.2, key="slow"))
    tree.enqueue(jobs, Task(do="sleep", seconds=0.4, key="other"))
    tree.wait_ledger("settling")
    tree.wait_ledger("end other 1")
    tree.wait_event("job_finished", 2, outcome="succeeded")
    tree.wait(lambda: tree.stats("jobs").in_flight == tree.stats("jobs").ready == 0, "both are settled")
    assert tree.events("process_killed") == []
    assert len(tree.ran("start ")) == 2
    assert tree.stop() == 0


# --- kills and ends -------------------------------------------------------------------------------------------------


def test_kill_9_charges_all_that_ran_and_nothing_that_waited(tree: Tree) -> None:
    for number in range(12):
        tree.enqueue(jobs, Task(do="sleep", key=f"k{number:02}", until=1))
    begin(tree, WORKER_QUEUES__JOBS__CONCURRENCY="4", WORKER_QUEUES__JOBS__TIMEOUT="60")
    tree.wait_ledger("start ", 4)
    os.kill(tree.pid("jobs/0"), signal.SIGKILL)
    tree.wait_event("attempt_lost", 4)
    assert [event["reason"] for event in tree.events("attempt_lost")] == ["worker_lost"] * 4
    tree.wait_ledger("start ", 8)
    assert {line.split()[1] for line in tree.ran("start ")[:4]} == {"k00", "k01", "k02", "k03"}
    tree.close()


def test_a_worker_in_whose_place_a_job_executes_a_program_is_replaced(tree: Tree) -> None:
    """Regression: its jobs were rescued, and nobody ran them until their own deadlines were over."""
    tree.enqueue(jobs, Task(do="execute", key="execute", until=1))
    begin(tree, WORKER_QUEUES__JOBS__TIMEOUT="600")
    tree.wait_ledger("end execute 2")
    [exited] = [event for event in tree.events("process_exited") if event["slot"] == "jobs/0"]
    assert exited["reason"] == "crashed"
    assert tree.events("process_killed", why="another program was executed in its place")
    assert tree.stop() == 0


def test_what_ends_a_process_ends_only_the_job(tree: Tree) -> None:
    began = [tree.enqueue(jobs, Task(do=do, key=do, until=1)) for do in ("sysexit", "signal", "fork_back", "fail")]
    begin(tree, WORKER_QUEUES__JOBS__TIMEOUT="30")
    for do in ("sysexit", "signal", "fail"):
        tree.wait_ledger(f"end {do} 2")
    tree.wait_ledger("end fork_back")
    assert len({line.split()[3] for line in tree.ran("start ")}) == 1, "one process all the time"
    assert [event for event in tree.events() if "signal.signal() works in the main thread only" in event["event"]]
    tree.wait(lambda: tree.stats("jobs").in_flight == 0, "all are settled")
    assert len(tree.events("job_finished", outcome="succeeded")) == len(began)
    assert tree.stop() == 0


def test_a_process_is_recycled_after_its_jobs(tree: Tree) -> None:
    for number in range(40):
        tree.enqueue(jobs, Task(key=f"k{number}"))
    begin(tree, WORKER_QUEUES__JOBS__MAX_JOBS_PER_PROCESS="10")
    tree.wait_ledger("end ", 40)
    counts = [line.split()[3] for line in tree.ran("start ")]
    assert [counts.count(pid) for pid in sorted(set(counts), key=counts.index)] == [10, 10, 10, 10]
    assert tree.events("attempt_lost") == []
    assert tree.stop() == 0
    assert len(tree.ran("closed ")) >= 4, "each has closed its lifespan"


def test_a_process_above_its_memory_is_replaced_once_its_neighbours_have_ended(tree: Tree) -> None:
    begin(tree, WORKER_QUEUES__JOBS__MAX_MEMORY="300MiB", WORKER_QUEUES__JOBS__TIMEOUT="30")
    tree.enqueue(jobs, Task(do="sleep", seconds=1, key="neighbour"))
    tree.wait_ledger("start neighbour")
    tree.enqueue(jobs, Task(do="leak", seconds=300, key="leak"))
    tree.wait_event("worker_leaving", why="max_memory")
    tree.wait_ledger("end neighbour 1")
    tree.wait_event("process_exited", reason="recycled")
    assert tree.events("attempt_lost") == []
    assert tree.stop() == 0


# --- drains ---------------------------------------------------------------------------------------------------------


def test_a_drain_waits_for_what_runs(tree: Tree) -> None:
    for number in range(20):
        tree.enqueue(jobs, Task(do="sleep", seconds=0.5, key=f"k{number}"))
    begin(tree, WORKER_QUEUES__JOBS__TIMEOUT="60")
    tree.wait_ledger("start ", 8)
    assert drained(tree, 25) == 0
    assert len(tree.ran("end ")) == len(tree.ran("start ")) < 20
    stats = tree.stats("jobs")
    assert (stats.ready, stats.in_flight) == (20 - len(tree.ran("end ")), 0)


def test_a_drain_interrupts_all_and_their_jobs_go_back_uncharged(tree: Tree) -> None:
    environ = {"WORKER_DRAIN": "3", "WORKER_QUEUES__JOBS__TIMEOUT": "60"}
    for number in range(5):
        tree.enqueue(jobs, Task(do="steps", seconds=600, key=f"k{number}", until=1))
    begin(tree, **environ)
    tree.wait_ledger("start ", 5)
    assert drained(tree, 3) == 0
    assert [event["outcome"] for event in tree.events("job_finished")] == ["released"] * 5
    assert tree.events("process_killed") == []
    begin(tree, **environ)
    tree.wait_ledger("start ", 10)
    assert {line.split()[2] for line in tree.ran("start ")} == {"1"}


def test_handlers_deep_in_c_code_are_killed_at_the_deadline_and_go_back_uncharged(tree: Tree) -> None:
    environ = {"WORKER_DRAIN": "3", "WORKER_QUEUES__JOBS__TIMEOUT": "60"}
    for do in ("sleep", "swallow", "sleep"):
        tree.enqueue(jobs, Task(do=do, key=do, until=1))
    begin(tree, **environ)
    tree.wait_ledger("start ", 3)
    assert drained(tree, 3) == 5
    stats = tree.stats("jobs")
    assert (stats.ready, stats.delayed, stats.in_flight) == (3, 0, 0)


def test_handlers_see_should_stop_and_snooze(tree: Tree) -> None:
    for number in range(3):
        tree.enqueue(jobs, Task(do="snooze_when_draining", key=f"k{number}"))
    begin(tree, WORKER_QUEUES__JOBS__TIMEOUT="60")
    tree.wait_ledger("start k", 3)
    assert drained(tree, 25) == 0
    assert tree.stats("jobs").ready == 3


# --- what a handler leaves changed ----------------------------------------------------------------------------------


def test_what_a_handler_has_changed_is_put_back(tree: Tree) -> None:
    begin(tree, WORKER_QUEUES__JOBS__TIMEOUT="30")
    for do in ("umask", "chdir"):
        tree.enqueue(jobs, Task(do=do, key=do))
        tree.wait(lambda: tree.stats("jobs").in_flight == tree.stats("jobs").ready == 0, "it is settled")
    tree.enqueue(jobs, Task(do="look", key="look"))
    [line] = tree.wait_ledger("look ")
    assert line.split()[2] == str(Path(__file__).parents[2])
    assert line.split()[1] != "77"
    assert tree.stop() == 0


def test_a_handler_that_closes_the_engines_descriptors_ruins_its_process_and_no_attempt_is_repeated(tree: Tree) -> None:
    """It is finished if it returned before the process ended, and charged if it did not."""
    begin(tree, WORKER_QUEUES__JOBS__TIMEOUT="30")
    tree.enqueue(jobs, Task(do="close", key="close", until=1))
    tree.wait_event("process_exited", reason="ruined")
    tree.enqueue(jobs, Task(key="next"))
    tree.wait_ledger("end next 1")
    tree.wait(lambda: tree.stats("jobs").in_flight == tree.stats("jobs").ready == 0, "all is settled")
    assert len(tree.events("process_exited", reason="ruined")) == 1
    assert [line.split()[2] for line in tree.ran("start close")] in (["1"], ["1", "2"])
    assert tree.stop() == 0
