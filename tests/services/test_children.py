"""The demo's processes, with real ones."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.example_worker.children import Child, ChildFailed

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as cleanup:

        def run(code: str, line: Callable[[str], None] = lambda text: None) -> Child:
            log = tmp_path / "child.log"
            child = Child("child", [sys.executable, "-u", "-c", code], environ=os.environ, log=log, line=line)
            cleanup.callback(child.kill)
            return child

        yield run


def test_lines_reach_the_caller_and_the_file(start: Start, tmp_path: Path) -> None:
    lines: list[str] = []
    child = start(
        "import sys; print('one'); print('two', file=sys.stderr); sys.stdout.buffer.write(b'\\xff')", lines.append
    )
    assert child.first_line(20) == "one"
    assert child.stop(20) in (0, -signal.SIGTERM)
    assert lines[0] == "one"
    assert (tmp_path / "child.log").read_bytes().startswith(b"one\n")


def until_it_fails(child: Child) -> None:
    while True:
        child.check()


def test_a_process_that_ends_is_noticed_with_its_last_words(start: Start) -> None:
    child = start("print('no such host'); raise SystemExit(3)")
    assert child.first_line(20) == "no such host"
    with pytest.raises(ChildFailed, match=r"ended with exit code 3(.|\n)*no such host"):
        until_it_fails(child)


def test_a_process_that_says_nothing_is_noticed(start: Start) -> None:
    with pytest.raises(ChildFailed, match="printed nothing"):
        start("raise SystemExit(0)").first_line(20)


def test_stop_asks_first(start: Start) -> None:
    code = "import signal; signal.signal(15, lambda *_: exit(7)); print('ready'); signal.pause()"
    child = start(code)
    child.first_line(20)
    assert child.stop(20) == 7
    assert child.stop(20) == 7  # again: the same answer


def test_stop_does_not_ask_for_ever(start: Start) -> None:
    child = start("import signal; signal.signal(15, signal.SIG_IGN); print('ready'); signal.pause()")
    child.first_line(20)
    assert child.stop(0.1) == -signal.SIGKILL


def test_a_group_of_its_own(start: Start) -> None:
    child = start("import os; print(os.getpgid(0))")
    assert int(child.first_line(20)) != os.getpgid(0)
