"""Handlers that leave a process in which nothing works any more: it is replaced, and no job pays for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.services.spoiler import Spoiler, Task
from tests.support.tree import Tree, unfinished

MODULE = "tests.support.services.spoiler"
INNOCENT = 12


def limited(place: Path, descriptors: int) -> str:
    """A command that runs another one with so few descriptors."""
    command = place / "limited"
    command.write_text(f'#!/bin/sh\nulimit -n {descriptors}\nexec "$@"\n')
    command.chmod(0o700)
    return str(command)


def ruined(tree: Tree) -> list[str]:
    """What the supervisor says of the dead."""
    return [event["detail"] for event in tree.events("process_exited", reason="ruined")]


def play(tree: Tree, *acts: str) -> None:
    """Each act ruins a process of its own; then innocent jobs run, each once."""
    tree.start("--queue", "spoil", module=MODULE, WORKER_QUEUES__SPOIL__WORKERS=str(len(acts)), WORKER_DRAIN="4")
    for number, act in enumerate(acts):
        tree.enqueue(Spoiler.spoil, Task(do=act, key=f"meet{number}", meet=len(acts)))
    tree.wait_ledger("start meet", len(acts))
    for number in range(INNOCENT):
        tree.enqueue(Spoiler.spoil, Task(key=f"innocent{number}"))
    tree.wait_ledger("end innocent", INNOCENT)
    assert len(tree.ran("start innocent")) == INNOCENT
    assert not {line.split()[3] for line in tree.ran("end ")} & {line.split()[3] for line in tree.ran("start meet")}


def all_are_finished(tree: Tree) -> None:
    """Each handler that ruined its process has returned: the ledger has its outcome, and nothing is charged."""
    tree.wait(lambda: unfinished(Spoiler, tree.url) == 0, "all is settled")
    assert list((tree.root / "spoil" / "dead").iterdir()) == []
    assert len(tree.ran("start meet")) == len(ruined(tree)), "none of them runs again"
    assert tree.events("attempt_lost") == []


def test_processes_without_their_descriptors_are_replaced(tree: Tree) -> None:
    play(tree, "close", "close_all", "close_and_reuse")
    tree.wait(lambda: len(ruined(tree)) == 3, "all ruins are named")
    assert all("descriptors were closed" in detail for detail in ruined(tree))
    all_are_finished(tree)
    assert tree.stop() == 0


def test_a_leak_is_named_with_its_numbers(tree: Tree, tmp_path: Path) -> None:
    tree.start("--queue", "spoil", module=MODULE, command=limited(tmp_path, 100), WORKER_DRAIN="4")
    tree.enqueue(Spoiler.spoil, Task(do="garbage", key="garbage"))
    tree.enqueue(Spoiler.spoil, Task(do="leak", key="leak"))
    for number in range(INNOCENT):  # they wait already, and would fail in the process that has no descriptors left
        tree.enqueue(Spoiler.spoil, Task(key=f"innocent{number}"))
    tree.wait_ledger("end innocent", INNOCENT)
    assert len(tree.ran("start innocent")) == INNOCENT
    assert ruined(tree) == ["descriptors leak: 100 are open, the limit is 100"]
    assert tree.events("attempt_lost") == [], "it succeeded, and could still be settled"
    assert tree.stop() == 0


def test_limits_that_cannot_be_raised_again(tree: Tree) -> None:
    """As a user who may raise them they are put back, and the process goes on."""
    play(tree, "nofile_hard", "fsize_hard")
    assert all(detail.endswith("for good") for detail in ruined(tree))
    assert tree.stop() == 0


@pytest.mark.root
def test_another_user_and_another_root(tree: Tree) -> None:
    play(tree, "user", "effective_user", "root")
    tree.wait(lambda: len(ruined(tree)) == 3, "all ruins are named")
    assert sorted(ruined(tree)) == [
        "the root directory was changed",
        "user and group were changed from 0:0 to 65534:0",
        "user and group were changed from 0:0 to 65534:0 (real 0:0)",
    ]
    all_are_finished(tree)
    assert tree.stop() == 0


@pytest.mark.parametrize("act", ["close", "close_and_reuse"])
def test_neighbours_on_the_loop_are_not_charged(tree: Tree, act: str) -> None:
    tree.start("--queue", "many", module=MODULE, WORKER_DRAIN="4")
    for number in range(4):
        tree.enqueue(Spoiler.many, Task(key=f"neighbour{number}", seconds=1))
    tree.wait_ledger("start neighbour", 4)
    tree.enqueue(Spoiler.many, Task(do=act, key="spoils"))
    tree.wait_ledger("end neighbour", 4)
    assert tree.events("attempt_lost", outcome="lost") == []
    assert len(tree.ran("start spoils")) == 1, "it has returned: the ledger has its outcome"
    assert {line.split()[2] for line in tree.ran("end neighbour")} == {"1"}
    assert len(ruined(tree)) == 1
    assert tree.stop() == 0


def test_a_ruined_worker_does_not_hold_up_a_drain(tree: Tree) -> None:
    """The signal comes while the only process has just been ruined."""
    tree.start("--queue", "spoil", module=MODULE, WORKER_DRAIN="20")
    tree.enqueue(Spoiler.spoil, Task(do="fsize_hard", key="meet", seconds=0.2))
    tree.wait_ledger("start meet")
    assert tree.stop() == 0
    assert tree.events("process_killed") == []


def test_replacing_ruined_processes_has_a_budget(tree: Tree, tmp_path: Path) -> None:
    """Each of these jobs succeeds and is charged nothing: without a budget it would go on for ever."""
    tree.start(
        "--queue", "spoil", module=MODULE, command=limited(tmp_path, 100), WORKER_DRAIN="4", WORKER_RESTART_BUDGET="1"
    )
    for number in range(4):
        tree.enqueue(Spoiler.spoil, Task(do="leak", key=f"leak{number}"))
    assert tree.exit_code() == 4
    exits = tree.events("process_exited", reason="ruined")
    assert [event.get("restart_in") for event in exits] == [0.0, 0.5]
    assert any("last: spoil/0, descriptors leak: 100 are open" in event["event"] for event in tree.events())


def test_the_ruin_is_on_the_board_of_the_living(tree: Tree) -> None:
    """No descriptor is needed for it: the reason of a process whose log is closed is told by the supervisor."""
    tree.start("--queue", "spoil", module=MODULE, WORKER_DRAIN="4")
    tree.enqueue(Spoiler.spoil, Task(do="close_all", key="meet"))
    exited = tree.wait_event("process_exited", reason="ruined")
    assert exited["detail"]
    assert os.path.exists(f"/proc/{tree.pid('maintenance')}")
    assert not tree.events("process_exited", slot="maintenance")
    assert tree.stop() == 0
