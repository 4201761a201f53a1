"""`worker top` on a real terminal beside a real tree: numbers that change, keys that act, and what is never shown."""

from __future__ import annotations

import re
import signal

import pytest

from tests.support.screen import Screen
from tests.support.tree import HERE, Tree
from tests.support.warm import WORKER
from tests.top.conftest import MODULE, environ, top
from tests.top.shop import Shop


def _numbers(line: str) -> list[str]:
    """The cells of a line: what stands between two blanks or more."""
    return re.split(r" {2,}", line.strip())


def _says(screen: Screen, name: str, *cells: str) -> None:
    """Wait until the row of this name begins with these cells."""
    wanted = [name, *cells]
    screen.wait(lambda _: _numbers(screen.line(f" {name} "))[: len(wanted)] == wanted, f"{wanted}")


def _mend(tree: Tree) -> None:
    tree.ledger_path.with_name("ledger.mended").touch()


def _acts(tree: Tree) -> list[tuple[str, int, str]]:
    return [(one["verb"], one["count"], one["actor"]) for one in tree.events("operator_acted")]


def test_a_queue_is_paused_and_resumed_and_its_failures_are_replayed(tree: Tree) -> None:
    tree.start(module=MODULE)
    with top(tree) as screen:
        screen.see("Shop (supervisor", "orders")
        _says(screen, "orders", "0")
        screen.press("down", "p")
        screen.see("Pause queue orders?")
        screen.press("y")
        screen.see("paused orders")
        assert tree.wait_event("queue_paused", queue="orders")["by"] == "ada"
        tree.enqueue(Shop.orders, "one")
        tree.enqueue(Shop.orders, "two")
        _says(screen, "orders", "paused", "2")
        screen.press("p")
        screen.see("Resume queue orders?")
        screen.press("y")
        screen.see("3 Failures 2")
        _says(screen, "orders", "0")

        screen.press("3")
        screen.see("ValueError", r"[red]refused[/red] \x1b]0;owned\x07\u202e夜")
        assert _numbers(screen.line("ValueError"))[:4] == ["2", "orders", "error", "ValueError"]
        _mend(tree)
        screen.press("r")
        screen.see("Return all dead letters of orders")
        screen.press("y")
        screen.see("replayed 2 of 2", "no dead letters")
        assert sorted(tree.wait_ledger("end", 2)) == ["end one", "end two"]
        screen.press("q")
        assert screen.ended() == 0
    tree.wait(lambda: ("replay", 2, "ada") in _acts(tree), "the act in the log")
    assert b"\x1b]0;owned" not in screen.raw
    assert "\u202e".encode() not in screen.raw


def test_a_running_job_is_looked_at_and_cancelled(tree: Tree) -> None:
    tree.start(module=MODULE)
    job_id = str(tree.enqueue(Shop.reports, "long"))
    with top(tree) as screen:
        screen.see("2 Running 1")
        screen.press("2")
        screen.see(job_id, "reports/0", "3 of 10 (30 %)", "[red]refused")
        screen.press("enter")
        screen.see(f"{job_id}  job of reports", "    long", "progress    3 of 10")
        screen.press("c")
        screen.see("Cancel job")
        screen.press("enter")  # is no yes
        screen.see("nothing was cancelled")
        screen.press("c")
        screen.see("Cancel job")
        screen.press("y")
        screen.see("it runs until its worker stops it")
        tree.wait_ledger("stopped long")
        screen.see("(cancelled)")
        screen.press("escape")
        screen.see("nothing runs")
    tree.wait(lambda: ("cancel", 1, "ada") in _acts(tree), "the act in the log")


def test_a_dead_letter_is_opened_and_discarded(tree: Tree) -> None:
    tree.start(module=MODULE)
    first = str(tree.enqueue(Shop.orders, "one"))
    with top(tree) as screen:
        screen.see("3 Failures 1")
        screen.press("3")
        screen.see("ValueError")
        screen.press("enter")
        shown = screen.see("Dead letters of orders: error ValueError", first, "esc back", "discard")
        assert "cancel" not in shown, "no dead letter can be cancelled"
        screen.press("d")
        screen.see(f"Delete job {first}", "ever?")  # it takes two lines
        screen.press("y")
        screen.see(f"deleted {first}", "no dead letters")
        screen.press("escape")
        screen.see("3 Failures")
    tree.wait(lambda: ("discard", 1, "ada") in _acts(tree), "the act in the log")


def test_read_only_has_no_acts(spool: Tree) -> None:
    spool.start(module=MODULE)
    with top(spool, "--read-only") as screen:
        text = screen.see("Shop (supervisor", "quit")
        assert "pause" not in text
        screen.press("p", "?")
        assert "Pause queue" not in screen.see("‹ Help")


def test_a_filter_hides_rows_and_what_is_typed_quickly_is_no_key(spool: Tree) -> None:
    spool.start(module=MODULE)
    spool.enqueue(Shop.orders, "one")
    with top(spool) as screen:
        screen.see("orders", "reports", "3 Failures 1")
        screen.press("/", "reports", "enter")
        screen.see("filter: reports")
        screen.gone(" orders ")
        screen.press("escape")
        screen.see("orders")
        screen.press("3")
        screen.see("ValueError")
        screen.press("/", "reason=timeout", "enter")
        screen.see("nothing matches reason=timeout")
        screen.press("/", "reason=x", "enter")  # instead of the one before
        screen.see("reason=x: choose one of error, timeout")
        screen.press("escape")
        screen.gone("choose one of")
        screen.see("ValueError")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_it_fits_the_terminal_and_follows_its_size(spool: Tree, columns: int) -> None:
    spool.start(module=MODULE)
    with top(spool, columns=columns, lines=15, NO_COLOR="1") as screen:
        screen.see("3 Failures", "orders", "ready")
        assert ("done/s" in screen.text) == (columns >= 80)
        # The head is cut, but not its clock, and takes two lines in any width.
        screen.wait(lambda text: re.match(r".* UTC\n.*\n\n", text), "the head")
        screen.press("down")
        screen.wait(lambda _: [text.split()[0] for text in screen.marked] == ["1", "orders"], "the marked row")
        assert not re.search(rb"\x1b\[(?:\d+;)*(?:[34]8|3[0-7]|4[0-7]|9[0-7])(?:;|m)", screen.raw), "a colour"
        screen.resize(240 - columns, 12)
        screen.wait(lambda text: ("done/s" in text) == (240 - columns >= 80) and "orders" in text, "another size")


def test_ctrl_c_and_sigterm_leave_the_terminal_as_it_was(spool: Tree) -> None:
    for leave, code in (("ctrl+c", 130), ("", 143)):
        with top(spool) as screen:
            screen.see("no running service has reported here")
            screen.press(leave) if leave else screen.process.send_signal(signal.SIGTERM)
            assert screen.ended() == code
            screen.wait(lambda _: b"\x1b[?1049l" in screen.raw, "the terminal's own screen")
        assert screen.raw.count(b"\x1b[?1049h") == screen.raw.count(b"\x1b[?1049l") == 1
        assert b"Traceback" not in screen.raw


def test_it_leaves_a_terminal_that_is_gone_where_hangups_are_ignored(spool: Tree) -> None:
    given = (WORKER, "top", MODULE, "--interval", "0.2")
    with Screen("-c", 'trap "" HUP; exec "$@"', "sh", *given, cwd=HERE, env=environ(spool), command="sh") as screen:
        screen.see("no running service has reported here")
        screen.hang_up()
        assert screen.ended() == 129
