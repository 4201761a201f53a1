"""A service whose standard descriptors are closed, or whose reader stands still, runs, supervises and drains."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.processes import readable
from tests.support.services import odd
from tests.support.services.acts import Task
from tests.support.services.torture import Torture
from tests.support.tree import Tree


def through(tree: Tree, redirections: str) -> str:
    """Return a command that runs its arguments so."""
    command = tree.place / "redirected"
    command.write_text(f'#!/bin/sh\nexec "$@" {redirections}\n')
    command.chmod(0o755)
    return str(command)


@pytest.mark.parametrize(
    ("redirections", "method"),
    [(">&-", "fork"), ("2>&-", "fork"), ("<&- >&- 2>&-", "fork"), ("<&- >&- 2>&-", "spawn"), ("<&-", "fork")],
)
def test_closed_descriptors_count_as_dev_null(tree: Tree, redirections: str, method: str) -> None:
    """Verified: a log line on a descriptor that a scoreboard had taken destroyed it."""
    tree.start(
        module="tests.support.services.odd:Prints", command=through(tree, redirections), WORKER_START_METHOD=method
    )
    tree.enqueue(odd.Prints.jobs, "1")
    tree.wait_ledger("printed 1 /dev/null" if ">&- 2" in redirections else "printed 1")
    tree.signal(signal.SIGUSR1)
    tree.enqueue(odd.Prints.jobs, "2")
    tree.wait_ledger("printed 2")
    assert all(slot.state == 2 for slot in tree.slots())
    assert tree.stop() == 0
    for path in filter(Path.is_file, (tree.root / "run").iterdir()):
        assert b'"event"' not in path.read_bytes()


def test_a_service_that_closes_its_descriptors_when_it_is_imported(tree: Tree) -> None:
    tree.start(module="tests.support.services.odd:Prints", CLOSES="0 1 2")
    tree.enqueue(odd.Prints.jobs, "1")
    tree.wait_ledger("printed 1")
    assert tree.stop() == 0


def test_what_an_import_prints_is_printed_once_and_by_no_child(tree: Tree) -> None:
    """Verified: each child printed it again, and died of it where nobody reads any more."""
    tree.start(module="tests.support.services.odd:Prints", IMPORTED="imported", PYTHONUNBUFFERED="")
    tree.enqueue(odd.Prints.jobs, "1")
    tree.wait_ledger("printed 1")
    assert tree.stop() == 0
    tree.wait_event("stopped, exit code 0")
    assert [event["text"] for event in tree.events("raw") if "imported" in event["text"]] == ["imported\n"]


def start(tree: Tree, stdout: int, **environ: str) -> None:
    tree.process = subprocess.Popen(
        [Path(sys.executable).with_name("worker"), "run", "tests.support.services.torture"],
        stdout=stdout,
        stderr=stdout,
        env={**tree.environ, "WORKER_DRAIN": "5", **environ},
        cwd=Path(__file__).parents[2],
    )


def a_full_pipe() -> tuple[int, int, Callable[[], object]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"\n" * 4096)
    return reader, writer, lambda: None


def a_full_socket() -> tuple[int, int, Callable[[], object]]:
    """As systemd's journal."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with suppress(BlockingIOError):
        while theirs.send(b"\n" * 1000):
            pass
    theirs.setblocking(True)
    return ours.detach(), theirs.detach(), lambda: None


def a_held_terminal() -> tuple[int, int, Callable[[], object]]:
    """As after Ctrl-S."""
    main, other = pty.openpty()
    termios.tcflow(other, termios.TCOOFF)
    return main, other, lambda: termios.tcflow(other, termios.TCOON)


def read_until(fd: int, text: bytes) -> bytes:
    found = b""
    while text not in found:
        assert readable(fd, 30), found[-2000:]
        found += os.read(fd, 65536)
    return found


@pytest.mark.parametrize("kind", [a_full_pipe, a_full_socket, a_held_terminal])
def test_a_reader_that_stands_still_holds_nobody_up(
    tree: Tree, kind: Callable[[], tuple[int, int, Callable[[], object]]]
) -> None:
    """Verified: with a blocking write the supervisor heeds neither deaths nor SIGTERM until somebody reads."""
    reader, writer, release = kind()
    start(tree, writer)
    tree.wait_ready()
    process = tree.process
    assert process is not None
    victim = tree.pid("sync/0")
    tree.enqueue(Torture.sync, Task(do="sleep", seconds=0.2, key="k"))
    tree.wait_ledger("start k")
    process.send_signal(signal.SIGUSR1)
    os.kill(victim, signal.SIGUSR1)
    tree.enqueue(Torture.sync, Task(key="l"))
    tree.wait_ledger("end l")
    os.kill(victim, signal.SIGKILL)
    tree.wait(lambda: tree.pid("sync/0") not in (0, victim), "another worker")
    tree.wait_ready()
    release()
    found = read_until(reader, b"log_lines_lost")
    if b"sequential.py" not in found:
        read_until(reader, b"sequential.py")  # the stacks have waited
    if kind is a_held_terminal:
        termios.tcflow(writer, termios.TCOOFF)
    assert tree.stop() == 0
    os.close(reader)
    os.close(writer)


def test_a_handler_that_prints_into_a_full_pipe_does_not_outlast_the_drain(tree: Tree) -> None:
    reader, writer, _ = a_full_pipe()
    tree.process = subprocess.Popen(
        [Path(sys.executable).with_name("worker"), "run", "tests.support.services.odd:Prints"],
        stdout=writer,
        stderr=writer,
        env={**tree.environ, "WORKER_DRAIN": "3"},
        cwd=Path(__file__).parents[2],
    )
    tree.wait_ready()
    tree.enqueue(odd.Prints.jobs, "1")
    tree.wait_ledger("start 1")
    assert tree.stop() == 0
    os.close(reader)
    os.close(writer)
    tree.start(module="tests.support.services.odd:Prints")
    tree.wait_event("job_finished", outcome="succeeded", attempt=1)  # it was given back, not charged
    assert tree.stop() == 0
