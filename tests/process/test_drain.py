"""SIGTERM: one deadline, the right exit code, and jobs that go back without an attempt spent."""

from __future__ import annotations

import os
import signal
import time

from tests.support.processes import alive
from tests.support.receiver import Receiver
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def drained(tree: Tree, within: float) -> int:
    began = time.monotonic()
    tree.signal(signal.SIGTERM)
    code = tree.exit_code()
    # Whoever ignores the deadline is killed at the timeout of 60 s; the margin is for a busy machine.
    assert time.monotonic() - began < within + 15, "the drain deadline"
    assert not [pid for pid, start in tree.pids if alive(pid, start)]
    return code


def test_a_running_job_finishes_and_what_has_not_started_stays(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__WORKERS="1")
    for number in range(5):
        tree.enqueue(Torture.sync, Task(do="sleep", seconds=0.5, key=f"k{number}"))
    tree.wait_ledger("start k0")
    assert drained(tree, 25) == 0
    assert len(tree.ran("end ")) == len(tree.ran("start ")) < 5
    stats = tree.stats("sync")
    assert stats.ready == 5 - len(tree.ran("end "))
    assert stats.in_flight == 0


def test_handlers_are_interrupted_before_the_deadline_and_their_jobs_go_back_uncharged(tree: Tree) -> None:
    environ = {"WORKER_DRAIN": "3", "WORKER_QUEUES__SYNC__TIMEOUT": "60", "WORKER_QUEUES__MANY__TIMEOUT": "60"}
    tree.start(**environ)
    tree.enqueue(Torture.sync, Task(do="sleep", key="sync", until=1))
    tree.enqueue(Torture.many, Task(do="sleep", key="async", until=1))
    tree.wait_ledger("start ", 2)
    assert drained(tree, 3) == 0
    assert [event["outcome"] for event in tree.events("job_finished")] == ["released", "released"]
    tree.start(**environ)
    tree.wait_ledger("start sync 1", 2)
    tree.wait_ledger("start async 1", 2)


def test_hung_handlers_are_killed_at_the_deadline_with_five_and_go_back_uncharged(tree: Tree) -> None:
    environ = {"WORKER_DRAIN": "3", "WORKER_QUEUES__SYNC__TIMEOUT": "60", "WORKER_QUEUES__MANY__TIMEOUT": "60"}
    tree.start(**environ)
    tree.enqueue(Torture.sync, Task(do="swallow", key="swallow", until=1))
    tree.enqueue(Torture.sync, Task(do="ignore_term", key="deaf", until=1))
    tree.enqueue(Torture.many, Task(do="swallow", key="async", until=1))
    tree.wait_ledger("start ", 3)
    assert drained(tree, 3) == 5
    for queue, count in (("sync", 2), ("many", 1)):
        stats = tree.stats(queue)
        assert (stats.ready, stats.in_flight, stats.delayed) == (count, 0, 0)
    tree.start(**environ)
    for key in ("swallow", "deaf", "async"):
        tree.wait_ledger(f"start {key} 1", 2)


def test_a_silent_collector_does_not_make_a_drain_a_failed_one(tree: Tree) -> None:
    """Interrupted handlers have handed back their jobs; that the spans of it cannot leave is no reason for a five."""
    environ = {"WORKER_DRAIN": "3", "WORKER_QUEUES__SYNC__TIMEOUT": "60", "WORKER_QUEUES__MANY__TIMEOUT": "60"}
    with Receiver() as receiver:
        receiver.hang()
        tree.start(OTEL_SDK_DISABLED="false", **environ, **receiver.env())
        tree.enqueue(Torture.sync, Task(do="sleep", key="sync", until=1))
        tree.enqueue(Torture.many, Task(do="sleep", key="async", until=1))
        tree.wait_ledger("start ", 2)
        assert drained(tree, 3) == 0
        assert tree.events("process_killed") == []
        receiver.resume()
    assert tree.stats("sync").ready == tree.stats("many").ready == 1


def test_a_second_signal_ends_it_now(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.enqueue(Torture.sync, Task(do="swallow", key="k", until=1))
    tree.wait_ledger("start k")
    tree.signal(signal.SIGTERM)
    tree.wait_event("draining")
    assert drained(tree, 2) == 5
    assert tree.stats("sync").ready == 1


def test_a_signal_that_comes_when_all_is_over_does_not_change_the_exit_code(tree: Tree) -> None:
    """Verified: it ended the supervisor with -15, as the handlers were gone before the process."""
    tree.start(module="tests.support.services.odd:SlowExit", EXITS_SLOWLY="yes")
    tree.signal(signal.SIGTERM)
    tree.wait_ledger("exiting")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        tree.signal(number)
    assert tree.exit_code() == 0


def test_systemd_signals_the_whole_group_and_workers_still_only_drain(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.enqueue(Torture.sync, Task(do="sleep", seconds=1, key="k"))
    tree.wait_ledger("start k")
    for slot in tree.slots():
        if slot.name != "maintenance":
            os.kill(slot.pid, signal.SIGTERM)
            os.kill(slot.pid, signal.SIGTERM)
    assert drained(tree, 25) == 0
    assert tree.ran("end k 1")


def test_a_handler_sees_should_stop_and_hands_its_job_back(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.enqueue(Torture.sync, Task(do="snooze_when_draining", key="k"))
    tree.wait_ledger("start k")
    assert drained(tree, 25) == 0
    assert tree.stats("sync").ready == 1


def test_sigterm_at_start_up_ends_it_too(tree: Tree) -> None:
    tree.start(ready=False)
    tree.wait_event("process_started")
    assert drained(tree, 25) == 0


def test_maintenance_that_dies_during_a_drain_comes_back_for_the_jobs_of_the_dead(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__TIMEOUT="60", WORKER_QUEUES__SYNC__WORKERS="1")
    tree.enqueue(Torture.sync, Task(do="sleep", key="k"))
    [line] = tree.wait_ledger("start k 1")
    tree.signal(signal.SIGTERM)
    tree.wait_event("draining")
    os.kill(tree.pid("maintenance"), signal.SIGKILL)
    tree.wait_event("process_exited", slot="maintenance")
    tree.wait_event("process_started", 2, slot="maintenance")
    os.kill(int(line.split()[3]), signal.SIGKILL)
    tree.wait_event("process_exited", slot="sync/0")
    assert tree.exit_code() == 0
    assert tree.wait_event("attempt_lost")["reason"] == "worker_lost"
    stats = tree.stats("sync")
    assert (stats.in_flight, stats.ready + stats.delayed) == (0, 1)


def test_maintenance_that_dies_last_is_started_again_while_there_is_time(tree: Tree) -> None:
    """The jobs of the worker that was killed before it are handed back by the next life."""
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__TIMEOUT="60", WORKER_QUEUES__SYNC__WORKERS="1")
    tree.enqueue(Torture.sync, Task(do="sleep", key="k"))
    [line] = tree.wait_ledger("start k 1")
    keeper = tree.pid("maintenance")
    os.kill(keeper, signal.SIGSTOP)  # it must not rescue now
    tree.signal(signal.SIGTERM)
    tree.wait_event("draining")
    tree.signal(signal.SIGSTOP)  # both deaths come at once, before it tells anybody to leave
    dead = (int(line.split()[3]), keeper)
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    tree.wait(lambda: not any(alive(pid) for pid in dead), "both deaths")
    tree.signal(signal.SIGCONT)
    assert tree.exit_code() == 0
    assert tree.wait_event("attempt_lost")["reason"] == "worker_lost"
    assert tree.stats("sync").in_flight == 0
