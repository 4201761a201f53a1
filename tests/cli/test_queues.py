"""`worker queues`"""

from __future__ import annotations

import importlib
import json
from contextlib import nullcontext
from typing import Any

import pytest

from framework.admin.queues import QueueView
from framework.admin.store import Declared, Store
from framework.cli.operate.queues import _row, queue_object
from framework.cli.service import Look
from framework.engine.port import QueueStats
from framework.model.errors import EngineUnavailable
from framework.model.options import QueueOptions
from framework.service.app import WorkerApp
from tests.support.command import Cli

cli_queues = importlib.import_module("framework.cli.operate.queues")


def test_counts_in_a_pipe(relay: Cli) -> None:
    for number in (1, 2):
        relay.store("digests", number, str(number))
    relay.ok("enqueue", "relay", "digests", "3", "--delay", "60")
    relay.kill_jobs("digests", count=1)
    result = relay.ok("queues", "relay")
    assert result.err == ""
    assert result.out.splitlines()[0] == "queue\tready\toldest\tin flight\tdelayed\tdead\tbad"
    assert [row[0] for row in result.rows] == ["dead-letters", "deliveries", "digests"]
    name, ready, oldest, *rest = result.rows[2]
    assert (name, ready, rest) == ("digests", "1", ["0", "1", "1", "0"])
    assert oldest.endswith("s")
    assert result.rows[1] == ["deliveries", "0", "-", "0", "0", "0", "0"]
    assert "\x1b" not in result.out


def test_json_is_as_promised(relay: Cli) -> None:
    relay.ok("enqueue", "relay", "digests", "1")
    found = relay.ok("queues", "relay", "--json").json
    keys = (
        "queue ready delayed in_flight dead bad oldest_age declared newer handler dead_letters seen max_length paused "
        "held max_running rate group_limit group_order"
    )
    assert [list(queue) for queue in found] == [keys.split()] * 3
    ages = {queue.pop("queue"): queue.pop("oldest_age") for queue in found}
    assert ages["digests"] > 0
    assert ages["deliveries"] == 0
    assert found[2] == {
        "ready": 1, "delayed": 0, "in_flight": 0, "dead": 0, "bad": 0, "declared": True, "newer": [],
        "handler": "digest", "dead_letters": False, "seen": None, "max_length": 3, "paused": False,
        "held": False, "max_running": None, "rate": None, "group_limit": None, "group_order": None,
    }  # fmt: skip


def test_a_queue_that_nobody_declares_is_shown_as_long_as_it_has_jobs(relay: Cli) -> None:
    """Its service has dropped or renamed it. Empty directories are no news, nor queues that a running service keeps."""
    relay.store("digests", 1, "one")
    relay.store("deliveries", {"to": "a"}, "two")
    (relay.spool / "digests").rename(relay.spool / "retired")
    (relay.spool / "deliveries").rename(relay.spool / "others")
    stamp = int(next((relay.spool / "others" / "ready").glob("*/*")).name[:20])
    (relay.spool / "others" / "depth").write_text(f"1 0 {stamp}\n")  # a service has published it a moment ago
    result = relay.ok("queues", "relay")
    assert [row[:2] for row in result.rows[3:]] == [["retired (not declared)", "1"]]
    *_, found = relay.ok("queues", "relay", "--json").json
    assert (found["queue"], found["ready"], found["declared"]) == ("retired", 1, False)
    (relay.spool / "others" / "depth").write_text(f"1 0 {stamp - 2 * 10**11}\n")  # it has stopped since
    shown = {row[0] for row in relay.ok("queues", "relay").rows[3:]}
    assert shown == {"others (not declared)", "retired (not declared)"}
    next((relay.spool / "retired" / "ready").glob("*/*")).unlink()
    assert [row[0] for row in relay.ok("queues", "relay").rows[3:]] == ["others (not declared)"]


def test_looking_makes_no_spool(relay: Cli) -> None:
    """`sudo worker queues` in the wrong directory must not leave a spool there that the service cannot use."""
    for args in (("queues", "relay"), ("dead", "list", "relay")):
        result = relay.ok(*args)
        assert result.err == (
            f"worker: warning: {relay.spool} does not exist yet: no job was ever enqueued there; "
            "set WORKER_ENGINE_URL as in the worker\n"
        )
    assert not relay.spool.exists()
    assert relay.run("dead", "replay", "relay", "x").code == 1
    assert not relay.spool.exists()


def test_a_file_that_cannot_be_read_is_counted(relay: Cli) -> None:
    relay.store("digests", 1, "one")
    (job,) = (relay.spool / "digests" / "ready").glob("*/*")
    job.write_bytes(b"torn")
    assert relay.kill_jobs("digests") == []
    assert relay.queues()["digests"]["bad"] == 1


def test_colours_and_a_table_on_a_terminal(relay: Cli) -> None:
    relay.store("digests", 1, "one")
    relay.kill_jobs("digests")
    shown = relay.terminal("queues", "relay")
    assert shown.code == 0
    assert "\x1b[1;31m" in shown.out  # a dead letter is red
    assert "in flight" in shown.out
    assert "─" in shown.out
    assert "\t" not in shown.out


class PartlyDamaged:
    """An engine with queues that cannot be looked at."""

    def __init__(self, *damaged: str) -> None:
        self.damaged = damaged

    def stats(self, queue: str) -> QueueStats:
        if queue in self.damaged:
            raise EngineUnavailable(f"spool /s/{queue}/dead: looking at {queue!r}: Permission denied: tried again")
        return QueueStats(ready=1, dead=0)

    def stored_queues(self) -> list[str]:
        if self.damaged:
            self.stats(self.damaged[0])
        return []

    def last_seen(self, queue: str) -> float | None:
        return None

    def open(self, options: object) -> None: ...

    def newer(self, queue: str) -> list[object]:
        return []


def looked_at(monkeypatch: pytest.MonkeyPatch, *damaged: str) -> int:
    """The exit code of the command with two queues, `a` and `b`."""
    declared = Declared(WorkerApp, {name: QueueOptions(name) for name in "ab"}, {}, {"a": "work"})
    engine: Any = PartlyDamaged(*damaged)
    look = Look(None, Store(engine, declared))
    monkeypatch.setattr(cli_queues, "looking", lambda given, url: nullcontext((look, [])))
    code = cli_queues.queues.callback(("shop",), url="", as_json=True)  # type: ignore[misc]
    assert isinstance(code, int)
    return code


def test_what_cannot_be_looked_at_hides_no_other_queue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: one directory of another user, and no queue was shown: exit code 3."""
    assert looked_at(monkeypatch, "b") == 1
    shown = capsys.readouterr()
    assert [(queue["queue"], queue["ready"], queue["dead"]) for queue in json.loads(shown.out)] == [
        ("a", 1, 0),
        ("b", None, None),
    ]
    assert shown.err.count("spool /s/b/dead: looking at 'b': Permission denied") == 1
    assert "tried again" not in shown.err
    assert looked_at(monkeypatch) == 0
    with pytest.raises(EngineUnavailable):  # one line, exit code 3
        looked_at(monkeypatch, "a", "b")


def test_what_an_engine_cannot_know_is_no_number() -> None:
    stats = QueueStats(ready=5, dead=0)  # and what it does not say
    view = QueueView("jobs", stats, True, "work", False, None, None)
    assert _row(view) == ("jobs", "5", "-", "-", "-", "0", "-")
    found = queue_object(view)
    assert [found[key] for key in ("ready", "delayed", "in_flight", "dead", "bad", "oldest_age")] == [
        5,
        None,
        None,
        0,
        None,
        None,
    ]
    assert stats.jobs == 5
