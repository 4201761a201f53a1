"""What a handler leaves changed in its process: the next jobs, the drain and the supervisor are none the wiser."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.services.spoiler import Spoiler, Task
from tests.support.tree import Tree

MODULE = "tests.support.services.spoiler"
LEAST = {"WORKER_DRAIN": "2"}


def spoil(tree: Tree, *acts: str) -> None:
    """Runs each act in a process of its own, all of them have ended then."""
    for number, act in enumerate(acts):
        tree.enqueue(Spoiler.spoil, Task(do=act, key=f"meet{number}", meet=len(acts)))
    tree.wait_event("job_finished", len(acts), outcome="succeeded")


def ready(tree: Tree) -> int:
    """Jobs that wait."""
    [spoil] = [queue for queue in json.loads(tree.run_worker("queues", MODULE, "--json")) if queue["queue"] == "spoil"]
    return int(spoil["ready"])


def charged(tree: Tree) -> list[dict[str, object]]:
    return [*tree.events("attempt_lost", outcome="lost"), *tree.events("job_finished", outcome="dead_lettered")]


# --- SIGTERM --------------------------------------------------------------------------------------------------------


def test_a_drain_interrupts_the_job_after_one_that_took_sigterm(tree: Tree) -> None:
    acts = ("term_default", "term_ignored", "term_blocked", "term_own", "loop_signals")
    tree.start("--queue", "spoil", module=MODULE, WORKER_QUEUES__SPOIL__WORKERS=str(len(acts)), **LEAST)
    spoil(tree, *acts)
    for number in range(len(acts)):
        tree.enqueue(Spoiler.spoil, Task(seconds=60, key=f"long{number}"))
    tree.wait_ledger("start long", len(acts))
    assert tree.stop() == 0
    assert len(tree.events("job_finished", outcome="released")) == len(acts)
    assert charged(tree) == []
    assert ready(tree) == len(acts)


def test_a_death_by_the_signal_of_the_supervisor_is_charged_to_nobody(tree: Tree) -> None:
    """The job has SIGTERM for itself at the very moment of the drain."""
    acts = ("term_kills", "term_exits", "term_ends", "term_cancels", "term_lost")
    tree.start("--queue", "spoil", module=MODULE, WORKER_QUEUES__SPOIL__WORKERS=str(len(acts)), **LEAST)
    for number, act in enumerate(acts):
        tree.enqueue(Spoiler.spoil, Task(do=act, key=f"meet{number}", meet=len(acts)))
    tree.wait_ledger("taken", len(acts))
    tree.signal(signal.SIGTERM)
    tree.wait_event("draining")
    with tree.ledger_path.open("a") as ledger:
        ledger.write("draining\n")
    assert tree.exit_code() == 0
    assert charged(tree) == []
    assert len(tree.events("job_finished", outcome="succeeded")) == 1, "the one that let it pass"
    assert ready(tree) == len(acts) - 1
    assert {event["reason"] for event in tree.events("process_exited")} == {"drained"}


def test_stack_dumps_kill_nobody(tree: Tree) -> None:
    tree.start("--queue", "spoil", module=MODULE, **LEAST)
    tree.enqueue(Spoiler.spoil, Task(do="usr1_kills", key="a"))
    tree.wait_ledger("taken")
    tree.signal(signal.SIGUSR1)
    assert tree.wait_event("attempt_lost")["outcome"] == "released"
    tree.wait_ledger("taken", 2)
    assert charged(tree) == []
    assert tree.stop() == 0


def test_the_process_of_a_job_that_ignores_sigterm_leaves_when_the_supervisor_is_gone(tree: Tree) -> None:
    """The death of the parent comes as SIGTERM, too, and only once."""
    tree.start("--queue", "spoil", module=MODULE, **LEAST)
    tree.enqueue(Spoiler.spoil, Task(do="term_lost", key="a"))
    tree.wait_ledger("taken")
    tree.signal(signal.SIGKILL)
    with tree.ledger_path.open("a") as ledger:
        ledger.write("draining\n")
    assert tree.wait_event("worker_leaving")["why"] == "supervisor gone"
    assert len(tree.events("job_finished", outcome="succeeded")) == 1


@pytest.mark.parametrize("act", ["term_default", "loop_signals"])
def test_a_lifespan_that_takes_sigterm(tree: Tree, act: str) -> None:
    tree.start("--queue", "spoil", module=MODULE, LIFESPAN=act, **LEAST)
    tree.enqueue(Spoiler.spoil, Task(seconds=60, key="long"))
    tree.wait_ledger("start long")
    assert tree.stop() == 0
    assert len(tree.events("job_finished", outcome="released")) == 1


# --- SIGALRM --------------------------------------------------------------------------------------------------------


def test_the_soft_timeout_holds_after_a_job_that_used_the_alarm(tree: Tree) -> None:
    acts = ("alarm_own", "alarm_default", "alarm_ignored", "alarm_late", "timer_stopped", "term_blocked")
    environ = {"WORKER_QUEUES__SPOIL__WORKERS": str(len(acts)), "WORKER_QUEUES__SPOIL__TIMEOUT": "1.5"}
    tree.start("--queue", "spoil", module=MODULE, WORKER_QUEUES__SPOIL__KILL_AFTER="20", **environ, **LEAST)
    spoil(tree, *acts)
    for number in range(len(acts)):
        tree.enqueue(Spoiler.spoil, Task(seconds=60, key=f"long{number}"))
    tree.wait_event("job_finished", len(acts), reason="timeout")
    assert tree.events("process_killed") == []
    assert tree.stop() == 0


# --- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["spoil", "many"])
def test_what_a_job_leaves_changed_is_put_back(tree: Tree, queue: str) -> None:
    tree.start("--queue", queue, module=MODULE, **LEAST)
    jobs, part = (Spoiler.spoil, "sequential") if queue == "spoil" else (Spoiler.many, "concurrent")
    tree.enqueue(jobs, Task(do="report", key="before"))
    [before] = tree.wait_ledger("state before")
    acts = ("chdir", "chdir_gone", "umask", "recursion", "std_closed", "std_null", "nofile_soft", "others", "pipe")
    acts += ("interpreter",)
    acts += ("wakeup",) if queue == "spoil" else ()  # an event loop sets its own
    for act in acts:
        tree.enqueue(jobs, Task(do=act, key=act))
        tree.wait_ledger(f"start {act} ")
        tree.enqueue(jobs, Task(do="report", key=f"after_{act}"))
        [after] = tree.wait_ledger(f"state after_{act} ")
        assert after.replace(f"after_{act}", "before") == before
    assert len({line.split()[3] for line in tree.ran("start ")}) == 1, "all in one process"
    tree.signal(signal.SIGUSR1)  # a job had ignored it
    tree.wait(lambda: any(f"framework/worker/{part}" in e.get("text", "") for e in tree.events("raw")), "its stack")
    assert tree.stop() == 0


def test_a_working_directory_that_is_gone_is_named(tree: Tree, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    run = tmp_path / "run"
    run.write_text(f'#!/bin/sh\nexport PYTHONPATH={os.getcwd()}:$PYTHONPATH; cd {place}; exec "$@"\n')
    run.chmod(0o700)
    tree.start("--queue", "spoil", module=MODULE, command=str(run), **LEAST)
    place.rmdir()
    tree.enqueue(Spoiler.spoil, Task(key="a"))
    tree.wait(lambda: any(f"working directory {place} is gone" in e["event"] for e in tree.events()), "the line")
    assert tree.stop() == 0
