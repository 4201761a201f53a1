"""A killed attempt tells where it hung: on its span, in its dead letter, and in the log."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable

import pytest

from framework import Queue
from tests.support.received import SeenSpan
from tests.support.receiver import Receiver
from tests.support.services.hangs import ASYNC, HOGS, NAMED, SYNC, THREADS, Hangs
from tests.support.tree import Tree

MODULE = "tests.support.services.hangs"


def test_a_killed_attempt_names_the_function_in_which_it_hung(tree: Tree) -> None:
    tree.app = Hangs
    wanted: dict[str, str] = {}
    with Receiver() as receiver:

        def hang(queue: Queue[str], kinds: Iterable[str]) -> None:
            wanted.update({tree.enqueue(queue, kind): NAMED.get(kind, kind) for kind in kinds})

        def killed() -> dict[str, SeenSpan]:
            spans = (span for span in receiver.spans() if span.attributes.get("worker.job.outcome") == "lost")
            return {span.attributes["messaging.message.id"]: span for span in spans}

        tree.start(module=MODULE, OTEL_SDK_DISABLED="false", **receiver.env())
        hang(Hangs.sync, SYNC)
        hang(Hangs.many, ASYNC)
        for kind in HOGS:  # one after the other: the other threads of the process would not even start their jobs
            hang(Hangs.threads, [kind])
            receiver.wait_for(lambda: wanted.keys() >= killed().keys() and list(wanted)[-1] in killed())
        hang(Hangs.threads, set(THREADS) - set(HOGS))
        receiver.wait_for(lambda: len(killed()) == len(wanted))
        tree.wait(lambda: len(tree.letters("sync")) == len(SYNC), "dead letters")
        letters = {letter.job.id: letter for letter in tree.letters("sync")}
        lines = tree.events("process_killed")
        shown = tree.run_worker("dead", "show", MODULE, next(iter(letters)))
        assert tree.stop() == 0
    for job_id, span in killed().items():
        [(name, box)] = span.events
        assert name == "worker.black_box"
        assert box["code.function.name"] == wanted[job_id], box
        assert box["code.file.path"].endswith("hangs.py")
        assert box["code.line.number"] > 0
        assert "in hang" in box["code.stacktrace"]
        assert box["worker.process.peak_memory"] > 2**20
        assert any("about to hang" in line for line in box["worker.job.last_log_lines"])
    for job_id, letter in letters.items():
        [failure] = letter.job.history
        assert f"still running in {wanted[job_id]} (hangs.py:" in failure.message
        assert "Where it stood (most recent call last):" in failure.traceback
        assert "about to hang" in failure.traceback
        assert "MiB of memory at most" in failure.traceback
    assert "Where it stood" in shown
    assert all(line["where"] and line["stack"] and line["waited"] < 1 for line in lines)


def test_a_process_that_is_killed_from_outside_leaves_what_its_job_had_logged_and_used(tree: Tree) -> None:
    with Receiver() as receiver:
        tree.start(
            "--queue", "sync", module=MODULE, OTEL_SDK_DISABLED="false", WORKER_QUEUES__SYNC__TIMEOUT="60",
            WORKER_START_METHOD="spawn", **receiver.env(),
        )  # fmt: skip
        tree.enqueue(Hangs.sync, "sleep")
        pid = int(tree.wait_ledger("start sleep")[0].split()[2])
        os.kill(pid, signal.SIGKILL)
        receiver.wait_for(lambda: receiver.spans("process sync"))
        [span] = receiver.spans("process sync")
        [(_, box)] = span.events
        assert tree.stop() == 0
    assert span.attributes["error.type"] == "worker_lost"
    assert "code.function.name" not in box
    assert any("about to hang" in line for line in box["worker.job.last_log_lines"])
    assert box["worker.process.cpu_time"] > 0


def test_the_stacks_of_a_signalled_worker_carry_its_slot_and_pid(tree: Tree) -> None:
    tree.start("--queue", "sync", module=MODULE, WORKER_QUEUES__SYNC__TIMEOUT="60")
    tree.enqueue(Hangs.sync, "sleep")
    pid = int(tree.wait_ledger("start sleep")[0].split()[2])
    slot = next(slot.name for slot in tree.slots() if slot.pid == pid)
    os.kill(pid, signal.SIGUSR1)
    title = f"Stacks of {slot}, pid {pid}"
    tree.wait(lambda: title in [event["text"].strip() for event in tree.events("raw")], "the title")
    tree.wait(lambda: any("in hang" in event["text"] for event in tree.events("raw")), "the handler's stack")
    os.kill(pid, signal.SIGKILL)
    tree.stop()


@pytest.mark.parametrize("queue", [Hangs.sync, Hangs.threads, Hangs.many], ids=lambda queue: str(queue.name))
def test_the_message_of_a_soft_timeout_names_the_line_where_the_handler_stood(tree: Tree, queue: Queue[str]) -> None:
    tree.app = Hangs
    tree.start("--queue", queue.name, module=MODULE, WORKER_START_METHOD="fork")
    tree.enqueue(queue, "slow")
    [failed] = [tree.wait_event("job_finished", outcome="dead_lettered")]
    assert re.fullmatch(
        r"stopped at its timeout of 0\.2 s: its handler stood in slow(_async)? \(hangs\.py:\d+\)", failed["message"]
    )
    assert tree.stop() == 0
