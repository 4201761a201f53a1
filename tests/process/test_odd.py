"""Regressions: services that hang, quit, fork or share queues in ways that once broke the tree."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.services import odd
from tests.support.tree import Tree


def start(tree: Tree, app: str, *arguments: str, ready: bool = True, **environ: str) -> None:
    tree.start(*arguments, module=f"tests.support.services.odd:{app}", ready=ready, **environ)


def test_sigterm_however_often_only_drains_also_while_an_async_worker_closes(tree: Tree) -> None:
    start(tree, "SlowExit")
    pid = tree.pid("jobs/0")
    tree.signal(signal.SIGTERM)
    tree.wait_ledger("closing")
    os.kill(pid, signal.SIGTERM)
    assert tree.exit_code() == 0
    assert tree.ran("closed")


def test_max_jobs_per_process_holds_for_concurrent_jobs(tree: Tree) -> None:
    for number in range(4):
        tree.enqueue(odd.OneEach.jobs, str(number))
    start(tree, "OneEach", ready=False)
    lines = tree.wait_ledger("end ", 4)
    assert len({line.split()[2] for line in lines}) == 4
    tree.wait_ready()
    assert tree.stop() == 0


def test_a_worker_that_hangs_while_it_leaves_by_itself_is_replaced(tree: Tree) -> None:
    tree.enqueue(odd.HangsAtExit.jobs, "1")
    tree.enqueue(odd.HangsAtExit.jobs, "2")
    start(tree, "HangsAtExit", ready=False, WORKER_DRAIN="2")
    tree.wait_ledger("end 2")


def test_a_lifespan_that_exits_with_zero_backs_off(tree: Tree) -> None:
    start(tree, "QuitsAtStart", ready=False)
    tree.wait_event("process_exited", 3, slot="jobs/0", reason="failed_to_start")
    assert tree.events("process_exited")[-1]["restart_in"] >= 0.5
    assert tree.stop() == 0


def test_a_constructor_that_fails_in_every_process_backs_off_and_the_drain_ends_at_once(tree: Tree) -> None:
    start(tree, "ConstructsOnce", ready=False)
    tree.wait_event("process_exited", 3, slot="jobs/0", reason="failed_to_start")
    assert any("no second time" in event["event"] for event in tree.events() if event["level"] == "error")
    tree.signal(signal.SIGTERM)
    assert tree.exit_code(patience=5) == 0  # the drain has 25 s
    assert len(tree.events("process_started", slot="maintenance")) == 1


def test_a_death_while_idle_counts_whatever_its_code(tree: Tree) -> None:
    """By os._exit(0) in a thread. That of sys.exit(0) on the event loop ends nothing."""
    start(tree, "QuitsWhileIdle", "--queue", "jobs", ready=False, WORKER_RESTART_BUDGET="2")
    assert tree.exit_code() == 4
    exits = tree.events("process_exited", reason="crashed", slot="jobs/0")
    assert [event["restart_in"] for event in exits] == [0.0, 0.5, 1.0]
    start(tree, "QuitsWhileIdle", "--queue", "many")
    tree.wait_event("many/0: SystemExit in a task or callback that was the service's own: the process goes on")
    assert tree.stop() == 0


def test_a_process_that_leaves_in_vain_again_and_again_backs_off(tree: Tree) -> None:
    """Somebody sends SIGTERM to an idle worker, who is not the supervisor."""
    start(tree, "SlowExit")
    for count in range(1, 3):
        tree.wait(lambda: tree.workers("jobs")[0].state == 2, "a ready worker")
        os.kill(tree.pid("jobs/0"), signal.SIGTERM)
        tree.wait_event("process_exited", count, slot="jobs/0", reason="recycled")
    assert [event["restart_in"] for event in tree.events("process_exited")] == [0.0, 0.5]
    assert tree.stop() == 0


def test_a_failing_teardown_backs_off_and_does_not_stop_the_service(tree: Tree) -> None:
    for number in range(4):
        tree.enqueue(odd.FailsAtExit.jobs, str(number))
    start(tree, "FailsAtExit", ready=False, WORKER_RESTART_BUDGET="1")
    tree.wait_ledger("end ", 4)
    tree.wait_event("process_exited", 3)
    assert {event["reason"] for event in tree.events("process_exited")} == {"failed_to_close"}
    assert tree.stop() == 0


def test_what_a_handler_forks_has_signals_of_its_own(tree: Tree) -> None:
    """The child's SIGTERM must end the child, and must not reach the worker through a shared descriptor."""
    start(tree, "Forks")
    tree.enqueue(odd.Forks.sync, "s")
    tree.enqueue(odd.Forks.many, "a")
    tree.wait_ledger("end ", 2)
    assert sorted(tree.ran("end ")) == ["end a -15", "end s -15"]
    tree.enqueue(odd.Forks.many, "b")
    tree.wait_ledger("end b")
    assert tree.events("worker_leaving") == []
    assert tree.stop() == 0


def test_a_forked_child_that_comes_back_from_the_handler_is_no_second_worker(tree: Tree) -> None:
    start(tree, "ComesBackTwice")
    for queue in (odd.ComesBackTwice.sync, odd.ComesBackTwice.many):
        tree.enqueue(queue, "fork")
        for number in range(5):
            tree.enqueue(queue, str(number))
    lines = tree.wait_ledger("end ", 12)
    assert len({line.split()[2] for line in lines}) == 2, "one process for each queue"
    assert tree.stop() == 0
    assert len(tree.events("job_finished")) == 12


def test_a_blocking_task_that_a_handler_made_is_charged_to_that_handler_alone(tree: Tree) -> None:
    start(tree, "Subtasks")
    for number in range(3):
        tree.enqueue(odd.Subtasks.jobs, f"n{number}")
    blocker = tree.enqueue(odd.Subtasks.jobs, "blocker")
    tree.wait_ledger("end n", 3)
    charged = [event["job_id"] for event in tree.events("attempt_lost") if event.get("reason")]
    assert charged == [blocker]


def test_decorated_code_is_interrupted_softly(tree: Tree) -> None:
    start(tree, "Decorated")
    tree.enqueue(odd.Decorated.jobs, "k")
    assert tree.wait_event("job_finished")["reason"] == "timeout"
    assert tree.events("process_killed") == []
    assert tree.stop() == 0


def test_an_orphan_on_a_dead_letter_queue_of_another_service_is_rescued_by_its_own_policy(
    tree: Tree, tmp_path: Path
) -> None:
    other = Tree(tmp_path)
    try:
        start(tree, "Sender")
        tree.enqueue(odd.Sender.jobs, "x")
        start(other, "Reader", ready=False)
        tree.wait_ledger("start letter")
        for slot in ("maintenance", "letters/0"):  # a worker may run its job before its supervisor has said so
            other.wait_event("process_started", slot=slot)
        assert other.process is not None
        other.process.kill()
        for event in other.events("process_started"):
            os.kill(event["pid"], signal.SIGKILL)
        assert tree.wait_event("attempt_lost")["queue"] == "letters"
        assert tree.events("process_exited") == []
        assert tree.stop() == 0
    finally:
        other.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_text_of_sys_exit_is_in_the_log(tree: Tree, method: str) -> None:
    tree.enqueue(odd.Exits.run, "1")
    tree.enqueue(odd.Exits.hook, "1")
    start(tree, "Exits", ready=False, WORKER_START_METHOD=method, WORKER_RESTART_BUDGET="100")
    for where in ("start/0: text of the lifespan", "many/0: text of alifespan"):
        slot, _, text = where.partition(": ")
        said = tree.wait_event(f"{slot} cannot start: SystemExit: {text}", slot=slot)
        assert said["traceback"].endswith(f"SystemExit: {text}\n"), "not a part of the sentence"
    assert "text of the hook" in tree.wait_event("hook_failed", queue="hook")["error"]
    tree.wait(
        lambda: any("text of the handler" in event["message"] for event in tree.events("job_finished", queue="run")),
        "the text of the handler",
    )
    assert tree.stop() in (0, 4)
    assert not tree.events("raw")


def test_the_text_of_sys_exit_in_a_constructor_is_in_the_log(tree: Tree) -> None:
    start(tree, "FailsInConstructor", ready=False, WORKER_DRAIN="1", WORKER_RESTART_BUDGET="100")
    assert tree.exit_code() == 1
    tree.wait(lambda: any(f"SystemExit: {'x' * 100} (" in event["text"] for event in tree.events("raw")), "the text")
