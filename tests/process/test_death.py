"""Processes that die: what they held runs again or is charged, they are replaced, nothing stays behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.processes import alive
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def test_a_killed_worker_is_replaced_and_its_job_is_charged(tree: Tree) -> None:
    tree.start(WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1))
    [line] = tree.wait_ledger("start k 1")
    os.kill(int(line.split()[3]), signal.SIGKILL)
    tree.wait_ledger("end k 2")
    lost = tree.wait_event("attempt_lost")
    assert lost["reason"] == "worker_lost"
    assert "signal SIGKILL" in lost["message"]
    assert tree.stop() == 0


def test_a_worker_that_aborts_is_a_dead_letter_after_its_attempts_with_each_in_its_history(tree: Tree) -> None:
    tree.start()
    tree.enqueue(Torture.sync, Task(do="abort", key="poison"))
    tree.enqueue(Torture.sync, Task(key="neighbour"))
    tree.wait(lambda: tree.letters("sync"), "a dead letter")
    [letter] = tree.letters("sync")
    assert [failure.reason for failure in letter.job.history] == ["worker_lost"] * 3
    assert [failure.attempt for failure in letter.job.history] == [1, 2, 3]
    assert all("SIGABRT" in failure.message for failure in letter.job.history)
    assert tree.wait_ledger("end neighbour") == ["end neighbour 1"]
    assert tree.stop() == 0


def test_one_poison_job_neither_stops_the_service_nor_costs_its_neighbours_an_attempt(tree: Tree) -> None:
    """One worker, claims in batches: what waits behind the poison has not started and is not charged."""
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__WORKERS="1", WORKER_QUEUES__SYNC__RETRY__MAX_RETRIES="10")
    for number in range(300):
        tree.enqueue(Torture.sync, Task(do="exit" if number == 150 else "ok", key=f"k{number}"))
    tree.wait_ledger("start k150 ", 11)
    tree.wait_ledger("end ", 299)
    assert {line.split()[2] for line in tree.ran("start ") if line.split()[1] != "k150"} == {"1"}
    tree.wait(lambda: len(tree.letters("sync")) == 1, "the poison's dead letter")
    assert tree.stop() == 0


def test_unstarted_claims_of_the_dead_run_again_within_a_second_uncharged(tree: Tree) -> None:
    for number in range(20):
        tree.enqueue(Torture.many, Task(do="sleep", seconds=1.5, key=f"k{number}"))
    tree.start("--queue", "many")
    lines = tree.wait_ledger("start ", 20)
    os.kill(int(lines[0].split()[3]), signal.SIGKILL)
    tree.wait_ledger("end ", 20)
    assert len(tree.ran("start ")) == 40
    assert tree.stop() == 0


def test_dying_while_idle_too_often_ends_the_service_with_four(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_RESTART_BUDGET="2", WORKER_QUEUES__SYNC__WORKERS="1")
    for count in range(1, 4):
        pid = tree.pid("sync/0")
        os.kill(pid, signal.SIGKILL)
        tree.wait_event("process_exited", count, slot="sync/0", reason="killed")
        if count < 3:
            tree.wait(lambda: tree.workers("sync")[0].pid != pid and tree.workers("sync")[0].state == 2, "replacement")
    assert tree.exit_code() == 4
    assert not [pid for pid, start in tree.pids if alive(pid, start)]


def test_deaths_under_a_job_do_not_count_for_the_budget(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_RESTART_BUDGET="1", WORKER_QUEUES__SYNC__RETRY__MAX_RETRIES="4")
    tree.enqueue(Torture.sync, Task(do="exit", key="poison"))
    tree.wait_ledger("start poison", 5)
    tree.enqueue(Torture.sync, Task(key="alive"))
    tree.wait_ledger("end alive")
    assert tree.stop() == 0


def test_a_killed_maintenance_is_replaced_and_goes_on_rescuing(tree: Tree) -> None:
    tree.start(WORKER_QUEUES__SYNC__TIMEOUT="60")
    old = tree.pid("maintenance")
    os.kill(old, signal.SIGKILL)
    tree.wait(lambda: tree.pid("maintenance") not in (0, old), "a new maintenance process")
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1))
    [line] = tree.wait_ledger("start k 1")
    os.kill(int(line.split()[3]), signal.SIGKILL)
    tree.wait_ledger("end k 2")
    assert tree.stop() == 0


def test_kill_minus_nine_of_the_supervisor_leaves_no_process_and_loses_no_job(tree: Tree) -> None:
    tree.start(WORKER_DRAIN="3", WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.enqueue(Torture.sync, Task(do="hold_gil", seconds=30, key="deep", until=1))
    tree.enqueue(Torture.sync, Task(do="sleep", seconds=0.5, key="short"))
    tree.enqueue(Torture.many, Task(do="sleep", key="long", until=1))
    tree.wait_ledger("start ", 3)
    tree.slots()
    tree.signal(signal.SIGKILL)
    tree.wait_ledger("end short")
    tree.wait(lambda: not [pid for pid, start in tree.pids if alive(pid, start)], "nothing left of the tree")
    assert tree.stats("sync").ready == 1
    tree.start(WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.wait_ledger("start deep 1", 2)  # handed back, not charged
    tree.wait_ledger("start long 1", 2)


def test_the_next_supervisor_rescues_what_a_vanished_tree_held(tree: Tree) -> None:
    tree.start(WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1))
    tree.wait_ledger("start k 1")
    slots = tree.slots()
    tree.signal(signal.SIGSTOP)  # it must not replace or settle anything
    for slot in slots:
        os.kill(slot.pid, signal.SIGKILL)
    tree.signal(signal.SIGKILL)
    tree.exit_code()
    tree.start(WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.wait_ledger("end k 2")
    assert tree.stop() == 0


def test_what_a_dead_worker_forked_dies_with_it_even_outside_its_group(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__WORKERS="1", WORKER_QUEUES__SYNC__MAX_JOBS_PER_PROCESS="2")
    tree.enqueue(Torture.sync, Task(do="child", key="a"))
    tree.enqueue(Torture.sync, Task(do="escaped_child", key="b"))
    tree.wait_event("process_exited", reason="recycled")
    pids = [int(line.split()[1]) for line in tree.wait_ledger("child ", 2)]
    tree.wait(lambda: not any(alive(pid) for pid in pids), "the children's end")
    assert tree.stop() == 0


def test_what_a_dead_worker_left_dies_and_what_others_started_lives(tree: Tree) -> None:
    """Daemons without any environment: one of each worker; and one of a helper that the entrypoint had started."""
    entrypoint = tree.place / "entrypoint"
    late = '(sleep 0.5; sleep 600 & echo "child $!" >> "$LEDGER"; exec sleep 600)'
    entrypoint.write_text(f'#!/bin/sh\n{late} &\necho "child $!" >> "$LEDGER"\nexec "$@"\n')
    entrypoint.chmod(0o700)
    tree.start(command=str(entrypoint), WORKER_QUEUES__SYNC__WORKERS="1")
    helper, helpers_child = (int(line.split()[1]) for line in tree.wait_ledger("child ", 2))
    os.kill(helper, signal.SIGKILL)  # what it has started comes to the supervisor
    pids = {}
    for queue, do in ((Torture.sync, "daemon"), (Torture.sync, "clean_child"), (Torture.many, "daemon")):
        tree.enqueue(queue, Task(do=do, key=f"{queue.name}-{do}"))
        tree.wait_ledger(f"end {queue.name}-{do}")
        pids[queue.name, do] = int(tree.wait_ledger("child ", 3 + len(pids))[-1].split()[1])
    os.kill(tree.pid("sync/0"), signal.SIGKILL)
    tree.wait(lambda: not any(alive(pid) for (queue, _), pid in pids.items() if queue == "sync"), "their end")
    tree.wait_event("process_ready", 2, slot="sync/0")
    assert alive(pids["many", "daemon"]), "its worker lives"
    assert alive(helpers_child), "no worker has started it"
    assert tree.stop() == 0
    assert not alive(pids["many", "daemon"])
    assert alive(helpers_child)


def test_forks_of_a_handler_do_not_hold_the_lock_of_their_tree(tree: Tree) -> None:
    """It says that something of the tree still lives: the next supervisor would take another number."""
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__WORKERS="1")
    tree.enqueue(Torture.sync, Task(do="forked_child", key="f"))
    [line] = tree.wait_ledger("child ")
    lock = str(tree.root / "instances" / "0.lock")
    assert lock in opened(tree.pid("sync/0")), "what a worker holds"
    child = int(line.split()[1])  # told by its parent: the child itself may not have begun
    tree.wait(lambda: lock not in opened(child), "the child lets go of the lock")
    assert opened(child), "it lives"
    assert tree.stop() == 0


def opened(pid: int) -> set[str]:
    links = (Path(f"/proc/{pid}/fd") / entry for entry in os.listdir(f"/proc/{pid}/fd"))
    return {os.readlink(link) for link in links if link.is_symlink()}


def test_a_forked_child_does_not_keep_its_dead_parents_claims(tree: Tree) -> None:
    """The child of os.fork() inherits the descriptors; the lock that says 'alive' must not be among them."""
    tree.start("--queue", "sync", WORKER_QUEUES__SYNC__TIMEOUT="60", WORKER_QUEUES__SYNC__WORKERS="1")
    tree.enqueue(Torture.sync, Task(do="fork", key="f"))
    tree.wait_ledger("end f")
    tree.enqueue(Torture.sync, Task(do="sleep", key="k", until=1))
    [line] = tree.wait_ledger("start k 1")
    os.kill(int(line.split()[3]), signal.SIGKILL)
    tree.wait_ledger("end k 2")
    assert tree.stop() == 0
