"""`worker top` on a store where nothing runs, that is slow, or that is gone for a while."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from framework.admin.processes import Tree as Tree_
from framework.admin.processes import silence
from framework.admin.queues import QueueView
from framework.engine.port import NO_JOBS
from tests.support import postgres
from tests.support.tree import Tree, trees
from tests.top.conftest import MODULE, top
from tests.top.shop import Shop


def test_a_dead_tree_is_told_with_when_it_was_last_seen_and_what_it_left(spool: Tree) -> None:
    spool.start(module=MODULE)
    job_id = str(spool.enqueue(Shop.reports, "long"))
    spool.wait_ledger("start long")
    with top(spool) as screen:
        screen.see("Shop (supervisor", "2 Running 1")
        for slot in spool.slots():
            if slot.pid:
                os.kill(slot.pid, signal.SIGSTOP)  # none may outlive the others and put the job back
        os.kill(spool.life[0], signal.SIGKILL)
        spool.close()
        screen.see("no running service has reported since 20", " ago")
        screen.press("2")
        screen.see(job_id, "(claimed)")


@pytest.mark.parametrize(
    ("board", "told", "silent"),
    [(-60.0, -60.0, True), (-60.0, -58.0, True), (-60.0, -1.0, False), (-600.0, -300.0, True), (-60.0, None, True)],
)
def test_a_dead_tree_here_does_not_silence_a_service_on_another_machine(
    board: float, told: float | None, silent: bool
) -> None:
    now = time.time()
    tree = Tree_("Shop", 1, alive=False, reported=now + board, deadline=None, processes=())
    seen = None if told is None else now + told
    queue = QueueView("orders", NO_JOBS, None, None, False, None, seen)
    assert silence([queue], [tree]) == (silent, now + max(board, board if told is None else told))


@pytest.fixture
def server() -> Iterator[postgres.Server]:
    """One that may be stopped and ended."""
    found = postgres.Server()
    list(postgres.migrated(found))
    yield found
    found.stop()


@pytest.fixture
def far(server: postgres.Server, tmp_path: Path) -> Iterator[Tree]:
    yield from trees(tmp_path, f"{server.url}?local_dir={tmp_path}/spool")


def test_a_store_that_is_gone_is_one_line_and_is_asked_again(far: Tree, server: postgres.Server) -> None:
    far.enqueue(Shop.orders, "one")
    server.stop(signal.SIGKILL)
    with top(far) as screen:
        screen.see("127.0.0.1", "PostgreSQL")
        server.start()
        screen.see("orders", "no running service has reported here")
        server.stop(signal.SIGKILL)
        screen.see("what is shown is", "orders")
        server.start()
        screen.gone("what is shown is")


def test_a_store_that_does_not_answer_holds_up_neither_the_keys_nor_the_end(far: Tree, server: postgres.Server) -> None:
    far.enqueue(Shop.orders, "one")
    with top(far) as screen:
        screen.see("orders", "no running service has reported here")
        main = psutil.Process(server.pid)
        stopped = [main, *main.children(recursive=True)]
        for process in stopped:
            process.suspend()
        try:
            screen.see("the store has not answered for", "what is shown is", "orders")
            screen.press("?")
            screen.see("‹ Help", "Ctrl-C")
            screen.press("q")
            assert screen.ended() == 0
        finally:
            for process in stopped:
                process.resume()
