"""`on_failure` of attempts whose process died: in a process of its own, which nothing else waits for."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes import alive, kill
from tests.support.programs import free_port
from tests.support.receiver import Receiver
from tests.support.services.hooked import Async, Constructed, Crowd, Hooked
from tests.support.tree import Tree, unfinished

LONG = 120.0  # seconds, on a machine that is busy with other tests
FEW = ("--queue", "jobs")  # with spawn each process costs an import


def start(tree: Tree, app: str = "Hooked", *arguments: str, **environ: str) -> None:
    tree.start(*arguments, module=f"tests.support.services.hooked:{app}", **environ)


def lose(tree: Tree, *ids: str) -> None:
    """Enqueue jobs that abort their workers."""
    for each in ids:
        tree.enqueue(Hooked.jobs, "x", job_id=each)


def hooked(tree: Tree) -> dict[str, int]:
    """By the id of a job, the pid of the process in which its hook was called."""
    lines = [line.split() for line in tree.ran("hook ")]
    assert len({line[1] for line in lines}) == len(lines), "a hook is called at most once"
    return {line[1]: int(line[2]) for line in lines}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_hooks_that_hang_delay_no_rescue_and_no_probe(tree: Tree, method: str) -> None:
    """Verified: one that slept delayed two rescues by 30 and 60 s, and maintenance was killed as stuck."""
    port = free_port()
    environ = {"WORKER_HEALTH": f"127.0.0.1:{port}", "WORKER_START_METHOD": method, "PATIENCE": "0.5"}
    start(tree, "Hooked", *FEW, "--queue", "again", WORKER_QUEUES__JOBS__WORKERS="1", **environ)
    maintenance = tree.pid("maintenance")
    sleepers = [f"sleeps-{number}" for number in range(3)]
    lose(tree, *sleepers)
    tree.wait(lambda: hooked(tree), "the first hook")
    for key in "ab":
        tree.enqueue(Hooked.again, key, job_id=key)
    tree.wait_ledger("hold ", 2)
    for slot in tree.workers("again"):
        assert kill(slot)
    tree.wait_ledger("hold a 2")
    tree.wait_ledger("hold b 2")
    assert len(tree.events("hook_failed")) < len(sleepers), "the others have not waited for the hooks"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10) as answer:
        assert answer.status == 200
    for each in sleepers:
        tree.wait(lambda each=each: tree.events("hook_failed", job_id=each), f"the end of {each}", LONG)
    errors = {event["error"] for event in tree.events("hook_failed")}
    assert errors == {"on_failure has not ended within 5 s: its process was killed"}
    assert tree.pid("maintenance") == maintenance
    assert hooked(tree).keys() >= {*sleepers}
    assert len({hooked(tree)[each] for each in sleepers}) == len(sleepers)


ENDS = {
    "raises": "the reporter is down",
    "descriptors": "[Errno 24] Too many open files",
    "quits": "enough",
    "exits": "the hooks process died while on_failure ran: exit code 0",
    "kills": "the hooks process died while on_failure ran: signal SIGKILL",
    "blocks": "on_failure has not ended within 5 s: its process was killed",
}
HARMLESS = ("forks", "daemon", "threads", "closes", "ignores")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_whatever_a_hook_does_the_next_one_is_called_and_the_failure_is_said_once(tree: Tree, method: str) -> None:
    start(tree, "Hooked", *FEW, WORKER_START_METHOD=method)
    # With spawn each death costs an import, so only those that differ from fork by how the process begins and ends.
    ends = {act: ENDS[act] for act in ENDS if method == "fork" or act in ("raises", "exits", "kills")}
    ids = [
        name
        for act in (*ends, *(HARMLESS if method == "fork" else ("forks", "daemon")))
        for name in (f"{act}-1", f"plain-after-{act}")
    ]
    lose(tree, *ids)
    tree.wait(lambda: hooked(tree).keys() >= {*ids}, "a call for each", LONG)
    tree.wait(lambda: len(tree.events("hook_failed")) >= len(ends), "what is said of those that fail")
    tree.wait(lambda: not any(slot.pid for slot in tree.slots() if slot.name == "hooks"), "the end of the process")
    failed = {
        event["job_id"].partition("-")[0]: event["error"].partition(": '")[0] for event in tree.events("hook_failed")
    }
    assert failed == ends
    assert len(tree.events("hook_failed")) == len(ends)
    done = {line.split()[1] for line in tree.ran("done ")}
    assert done == {*ids} - {f"{act}-1" for act in ends}
    children = [int(line.split()[1]) for line in tree.ran("child ")]
    assert len(children) == 2
    tree.wait(lambda: not any(map(alive, children)), "the end of what the hooks have forked")
    assert not tree.events("process_exited", slot="maintenance")
    tree.wait_ready()
    assert tree.stop() == 0


def test_each_of_many_attempts_that_are_lost_at_once_is_told_by_one_process(tree: Tree) -> None:
    start(tree)
    ids = [f"plain-{number}" for number in range(50)]
    for each in ids:
        tree.enqueue(Hooked.many, each, job_id=each)
    tree.wait_ledger("held ", len(ids))
    [slot] = tree.workers("many")
    assert kill(slot)
    tree.wait(lambda: hooked(tree).keys() >= {*ids}, "a call for each")
    assert set(map(len, map(str.split, tree.ran("hook ")))) == {5}
    assert {line.split()[3:5] == ["worker_lost", "None"] for line in tree.ran("hook ")} == {True}
    assert len(set(hooked(tree).values())) == 1
    assert len(tree.events("process_started", slot="hooks")) == 1
    tree.wait_event("process_exited", slot="hooks", reason="drained")
    lose(tree, "plain-later")
    tree.wait(lambda: "plain-later" in hooked(tree), "another process, once one is wanted again")
    assert tree.stop() == 0
    assert not tree.events("hooks_not_called")


def test_what_finds_no_room_to_wait_is_said_with_a_count(tree: Tree) -> None:
    start(tree, "Crowd")
    for number in range(1100):
        tree.enqueue(Crowd.jobs, "x", job_id=f"j-{number}")
    tree.wait(lambda: len(tree.ran("held ")) == 1100, "all jobs at once", LONG)
    assert kill(tree.workers("jobs")[0])
    tree.wait(lambda: len(tree.events("attempt_lost")) == 1100, "the rescue of all", LONG)
    tree.wait_event("hooks_not_called")
    Path(f"{tree.ledger_path}.go").touch()

    def told() -> int:
        return len(hooked(tree)) + sum(event["count"] for event in tree.events("hooks_not_called"))

    tree.wait(lambda: told() == 1100, "each told or counted", LONG)
    assert tree.stop() == 0
    assert told() == 1100
    assert unfinished(Crowd, tree.url) == 0, "the jobs do not depend on it"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_hook_enqueues_and_what_it_says_is_sent(tree: Tree, method: str) -> None:
    with Receiver() as receiver:
        environ = {"OTEL_SDK_DISABLED": "false", "WORKER_START_METHOD": method, "WORKER_QUEUES__JOBS__WORKERS": "1"}
        start(tree, "Hooked", *FEW, "--queue", "told", **environ, **receiver.env())
        lose(tree, "enqueues-1")
        assert tree.wait_ledger("taken ") == ["taken by the hook"]
        said = tree.wait_event("in the hook")
        assert (said["process"], said["queue"], said["job_id"], said["attempt"]) == ("hooks", "jobs", "enqueues-1", 1)
        assert tree.stop() == 0
        [sent], [processed] = receiver.spans("send told"), receiver.spans("process told")
        assert (processed.trace_id, processed.parent_id) == (sent.trace_id, sent.span_id)
        assert len(receiver.spans("process jobs")) == 1, "that of the lost attempt"
    assert not tree.events("hook_failed")


def test_async_hooks_are_cancelled_in_time_and_those_that_swallow_that_are_left_behind(tree: Tree) -> None:
    start(tree, "Async")
    for key in ("hangs", "swallows", "plain"):
        tree.enqueue(Async.jobs, "x", job_id=key)
    tree.wait(lambda: hooked(tree).keys() == {"hangs", "swallows", "plain"}, "a call for each")
    assert hooked(tree)["swallows"] != hooked(tree)["plain"], "its loop still turns"
    assert [event["error"] for event in tree.events("hook_failed")] == ["on_failure has not ended within 2.5 s"] * 2
    assert tree.stop() == 0


def test_a_drain_tells_what_there_is_time_for(tree: Tree) -> None:
    start(tree)
    for each in ("plain-1", "plain-2"):
        tree.enqueue(Hooked.many, each, job_id=each)
    tree.wait_ledger("held ", 2)
    tree.signal(signal.SIGTERM)
    tree.wait_event("draining")
    assert kill(tree.workers("many")[0])
    assert tree.exit_code() == 0
    assert hooked(tree).keys() == {"plain-1", "plain-2"}
    assert not tree.events("hooks_not_called")


@pytest.mark.parametrize("drain", ["2", "8"])
def test_a_drain_does_not_wait_for_hooks_beyond_its_deadline_and_says_how_many_were_not_called(
    tree: Tree, drain: str
) -> None:
    """With 8 s a first hook is killed at its own limit, and the second at the deadline."""
    start(tree, WORKER_DRAIN=drain)
    lose(tree, "sleeps-1")
    tree.wait(lambda: hooked(tree), "the first hook")
    lose(tree, *(f"sleeps-{number}" for number in range(2, 6)))
    tree.wait_event("attempt_lost", 5)
    assert tree.stop() == 0, "every job is settled"
    failed, [left] = tree.events("hook_failed"), tree.events("hooks_not_called")
    assert (left["hook"], left["why"]) == ("on_failure", "the service has ended")
    assert len(hooked(tree)) == len(failed) == 5 - left["count"]
    assert failed[-1]["error"] == "on_failure was still running at the end of the drain: its process was killed"
    assert tree.events("process_exited", slot="hooks")[-1]["reason"] == "drain_timeout"


def test_a_second_signal_waits_for_no_hook(tree: Tree) -> None:
    start(tree, WORKER_DRAIN="none")
    lose(tree, *(f"sleeps-{number}" for number in range(5)))
    tree.wait_event("attempt_lost", 5)
    tree.wait(lambda: hooked(tree), "the first hook")
    tree.signal(signal.SIGTERM)
    tree.wait_event("process_exited", slot="maintenance", reason="drained")
    tree.signal(signal.SIGTERM)
    assert tree.exit_code() == 0, "no worker was killed"
    assert tree.events("hooks_not_called")[-1]["count"] == 5 - len(hooked(tree))


def test_hooks_end_with_their_supervisor(tree: Tree) -> None:
    """And what they have started; maintenance says what is not told any more."""
    start(tree, WORKER_DRAIN="2")
    lose(tree, "daemon-1")
    tree.wait(lambda: tree.ran("child "), "a hook that starts a process")
    lose(tree, *(f"sleeps-{number}" for number in range(5)))
    tree.wait(lambda: any(each.startswith("sleeps") for each in hooked(tree)), "a hook that hangs")
    tree.wait_event("attempt_lost", 6)
    slots = [slot for slot in tree.slots() if slot.pid]
    assert "hooks" in {slot.name for slot in slots}
    assert tree.process is not None
    called = hooked(tree)
    tree.process.kill()
    tree.process.wait()
    tree.wait(lambda: not any(alive(slot.pid, slot.pid_start) for slot in slots), "the end of all processes")
    assert hooked(tree) == called
    [child] = [int(line.split()[1]) for line in tree.ran("child ")]
    tree.wait(lambda: not alive(child), "the end of what a hook has started")
    assert tree.wait_event("hooks_not_called")["count"] == 6 - len(called)
    last = tree.events("hook_failed")[-1]["error"]  # on a busy machine one may have had its time before
    assert last == "the hooks process died while on_failure ran: the service has ended"


def test_no_constructor_runs_in_maintenance_and_one_that_fails_only_delays_the_hooks(tree: Tree) -> None:
    start(tree, "Constructed")
    tree.enqueue(Constructed.jobs, "x", job_id="a")
    tree.wait_event("process_exited", 3, slot="hooks", reason="failed_to_start")
    pauses = [event["restart_in"] for event in tree.events("process_exited", slot="hooks")]
    assert pauses[:3] == [0.0, 0.5, 1.0]
    text = "hooks cannot start: Constructed() fails: OSError: no connection"
    assert any(event["event"].startswith(text) for event in tree.events(slot="hooks"))
    Path(f"{tree.ledger_path}.go").touch()
    tree.wait(lambda: tree.ran("hook a"), "the hook")
    assert f"constructed {tree.pid('maintenance')}" not in tree.ran("constructed ")
    assert not tree.events("process_exited", slot="maintenance")
    assert tree.stop() == 0


def test_a_service_without_a_hook_has_no_place_for_one(tree: Tree) -> None:
    tree.start()
    assert "hooks" not in {slot.name for slot in tree.slots()}
    assert tree.stop() == 0


def test_a_maintenance_that_was_killed_loses_nothing_that_waits(tree: Tree) -> None:
    start(tree, PATIENCE="1")
    lose(tree, "sleeps-1")
    tree.wait(lambda: hooked(tree), "the first hook")
    lose(tree, "plain-1", "plain-2", "plain-3")
    tree.wait_event("attempt_lost", 4)
    os.kill(tree.pid("maintenance"), signal.SIGKILL)
    waiting = [event["job_id"] for event in tree.events("attempt_lost")[:3]]  # the last one may not have got so far
    tree.wait(lambda: hooked(tree).keys() >= {*waiting}, "the others")
    assert tree.stop() == 0


# --- how an end is called ------------------------------------------------------------------------------------------


def test_a_lifespan_that_fails_after_its_yield_has_failed_to_close(tree: Tree) -> None:
    start(tree, "FailsToClose")
    assert tree.stop() == 0
    [exited] = tree.events("process_exited", slot="jobs/0")
    assert (exited["reason"], exited["code"]) == ("failed_to_close", 79)
    assert tree.events("OSError: the pool is closed already", slot="jobs/0")


def test_a_worker_that_the_end_of_a_drain_kills_has_not_drained(tree: Tree) -> None:
    start(tree, "HangsInClosing", WORKER_DRAIN="1")
    assert tree.stop() == 5
    [exited] = tree.events("process_exited", slot="jobs/0")
    assert (exited["reason"], exited["code"], exited["level"]) == ("drain_timeout", -9, "warning")


def test_nor_has_one_that_a_second_signal_kills(tree: Tree) -> None:
    start(tree, "HangsInClosing")
    tree.signal(signal.SIGTERM)
    tree.wait_event("draining")
    tree.signal(signal.SIGTERM)
    assert tree.exit_code() == 5
    [exited] = tree.events("process_exited", slot="jobs/0")
    assert (exited["reason"], exited["code"]) == ("killed", -9)
