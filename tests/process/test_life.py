"""A service from its start to its end, when nothing goes wrong."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from tests.support.processes import alive
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def test_jobs_run_and_sigterm_ends_everything_with_zero(tree: Tree) -> None:
    for number in range(20):
        tree.enqueue(Torture.sync, Task(key=f"s{number}"))
        tree.enqueue(Torture.many, Task(key=f"a{number}"))
    tree.start()
    tree.wait_ledger("end ", 40)
    assert tree.stop() == 0
    assert tree.stats("sync").ready == tree.stats("sync").in_flight == 0
    assert len(tree.ran("start ")) == 40
    assert not [pid for pid, start in tree.pids if alive(pid, start)]


def test_first_attempts_start_in_order_with_one_process(tree: Tree) -> None:
    keys = [f"k{number:03}" for number in range(200)]
    for key in keys:
        tree.enqueue(Torture.sync, Task(key=key))
    tree.start(WORKER_QUEUES__SYNC__WORKERS="1")
    lines = tree.wait_ledger("start ", 200)
    assert [line.split()[1] for line in lines] == keys


def test_serves_only_the_queues_that_were_asked_for(tree: Tree) -> None:
    tree.enqueue(Torture.many, Task(key="other"))
    tree.start("--queue", "sync")
    tree.enqueue(Torture.sync, Task(key="mine"))
    tree.wait_ledger("end mine")
    assert tree.stop() == 0
    assert tree.ran("start other") == []
    assert tree.stats("many").ready == 1


def test_a_process_is_replaced_after_max_jobs_and_none_is_lost(tree: Tree) -> None:
    for number in range(10):
        tree.enqueue(Torture.sync, Task(key=f"k{number}"))
    tree.start(WORKER_QUEUES__SYNC__WORKERS="1", WORKER_QUEUES__SYNC__MAX_JOBS_PER_PROCESS="1")
    lines = tree.wait_ledger("start ", 10)
    assert len({line.split()[3] for line in lines}) == 10, "each job had a process of its own"
    tree.wait_event("process_exited", 9, reason="recycled")
    assert tree.stop() == 0
    assert tree.stats("sync").ready == 0


def test_a_process_that_grew_too_large_is_replaced(tree: Tree) -> None:
    sizes = {"WORKER_QUEUES__SYNC__WORKERS": "1", "WORKER_QUEUES__SYNC__MAX_MEMORY": "150MiB"}
    tree.start(**sizes, WORKER_QUEUES__SYNC__TIMEOUT="60")  # so much memory takes a busy machine seconds
    tree.enqueue(Torture.sync, Task(do="leak", seconds=150, key="fat"))
    tree.wait_event("process_exited", reason="recycled", slot="sync/0")
    tree.enqueue(Torture.sync, Task(key="next"))
    tree.wait_ledger("end next")
    assert len(tree.ran("start fat")) == 1


def test_a_memory_limit_below_the_size_after_boot_is_refused(tree: Tree) -> None:
    tree.start("--queue", "sync", ready=False, WORKER_QUEUES__SYNC__MAX_MEMORY="1MiB", WORKER_READY_WITHIN="2")
    assert tree.exit_code() == 1
    assert any("max_memory" in event["event"] and "raise it" in event["event"] for event in tree.events())


def test_sighup_renews_every_process_one_by_one(tree: Tree) -> None:
    tree.start()
    before = {slot.name: slot.pid for slot in tree.slots()}
    tree.signal(signal.SIGHUP)
    names = [name for name in before if name != "maintenance"]
    tree.wait(
        lambda: all(slot.pid != before[slot.name] and slot.state == 2 for slot in tree.slots() if slot.name in names),
        "all workers renewed",
    )
    exits = [event["slot"] for event in tree.events("process_exited", reason="drained")]
    assert sorted(exits) == sorted(names)
    assert tree.pid("maintenance") == before["maintenance"]
    assert tree.stop() == 0


def test_a_worker_that_does_not_leave_when_it_is_renewed_is_killed_uncharged(tree: Tree) -> None:
    tree.start("--queue", "sync", WORKER_DRAIN="1", WORKER_QUEUES__SYNC__TIMEOUT="60", WORKER_QUEUES__SYNC__WORKERS="1")
    tree.enqueue(Torture.sync, Task(do="ignore_term", key="deaf", until=1))
    tree.wait_ledger("start deaf 1")
    tree.signal(signal.SIGHUP)
    assert tree.wait_event("process_killed")["slot"] == "sync/0"
    tree.wait_ledger("start deaf 1", 2)
    assert tree.events("attempt_lost", reason="worker_lost") == []
    tree.signal(signal.SIGTERM)
    assert tree.exit_code() == 5  # it is deaf again


def titles(tree: Tree) -> set[str]:
    raw = [event.get("text", "") for event in tree.events("raw")]
    return {line.split()[2].rstrip(",") for line in raw if line.startswith("Stacks of ")}


def test_sigusr1_dumps_the_stacks_of_all_processes(tree: Tree) -> None:
    tree.start()
    for slot in ("sync/0", "maintenance"):  # one that is still starting has no stacks to show yet
        tree.wait_event("process_ready", slot=slot)
    tree.enqueue(Torture.sync, Task(do="sleep", seconds=0.9, key="k"))
    tree.wait_ledger("start k")
    tree.signal(signal.SIGUSR1)
    tree.wait(
        lambda: any("in misbehave" in event.get("text", "") for event in tree.events("raw")), "the handler's stack"
    )
    tree.wait(lambda: titles(tree) >= {"supervisor", "sync/0", "maintenance"}, "whose stacks they are")
    assert tree.stop() == 0


def test_systemd_is_told_of_readiness_the_watchdog_and_the_end(tree: Tree, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        channel.settimeout(20)
        tree.start(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="400000")
        heard = [channel.recv(4096).decode()]
        while not any("READY=1" in line for line in heard) or not any("WATCHDOG=1" in line for line in heard):
            heard.append(channel.recv(4096).decode())
        tree.signal(signal.SIGTERM)
        while "STOPPING=1" not in heard[-1]:
            heard.append(channel.recv(4096).decode())
    assert tree.exit_code() == 0


def test_two_supervisors_share_a_store_and_run_each_job_once(tree: Tree, tmp_path: Path) -> None:
    other = Tree(tmp_path)
    try:
        tree.start()
        other.start(ready=False)
        other.wait_event("process_ready", slot="sync/0")
        for number in range(100):
            tree.enqueue(Torture.sync, Task(key=f"k{number}"))
        tree.wait_ledger("end ", 100)
        assert {path.name for path in tree.boards()} == {"0.board", "1.board"}
        assert tree.stop() == other.stop() == 0
        assert len(tree.ran("start ")) == 100
    finally:
        other.close()
